"""A store at a URL whose server means harm: nothing is written outside the mirror, and nothing is endless."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from allometry.core.errors import AllometryError
from allometry.runs import mirror, place
from allometry.runs.place import is_file_name
from allometry.runs.store import Store

pytest.importorskip("aiohttp")
Answer = Callable[[BaseHTTPRequestHandler], None]

RUN = "transformer-2x16-sotu-512-s0-aaaaaaaa"


def page(*names: str) -> Answer:
    """A listing, as web servers write them."""
    html = "".join(f'<a href="{name}">{name}</a>\n' for name in names)
    return body(html.encode(), "text/html")


def body(content: bytes, kind: str = "application/json", length: int | None = None) -> Answer:
    """An answer, with a true or a wrong length."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(content) if length is None else length))
        request.send_header("Connection", "close")
        request.end_headers()
        request.wfile.write(content)

    return answer


def endless(kind: str) -> Answer:
    """An answer that ends only when the reader has gone."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", kind)
        request.send_header("Connection", "close")
        request.end_headers()
        while True:
            request.wfile.write(b" " * 65_536)

    return answer


def moved(target: str) -> Answer:
    """A redirection."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", target)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


@contextmanager
def serving(answers: dict[str, Answer], otherwise: Answer | None = None) -> Iterator[str]:
    """A server on the loopback address; yields the URL of the store."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers.get(self.path.removeprefix("/store").strip("/"), otherwise)
            if answer is None:
                self.send_error(404)
                return
            try:
                answer(self)
            except OSError:  # the reader has had enough
                self.close_connection = True

        def do_HEAD(self) -> None:
            self.send_error(405)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/store"
    finally:
        server.shutdown()
        server.server_close()


def a_store(**further: Answer) -> dict[str, Answer]:
    config = {"format": 1, "id": RUN, "config": {"model": {}, "data": {}, "train": {}}, "counts": {}}
    return {
        "": page("store.json", f"{RUN}/"),
        "store.json": body(b'{"format": 1}'),
        RUN: page("config.json", *further),
        f"{RUN}/config.json": body(json.dumps(config).encode()),
        **{f"{RUN}/{name}": answer for name, answer in further.items()},
    }


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], set[str]]:
    """What lies beside the cache: an attacker may add nothing to it."""
    monkeypatch.setenv("ALLOMETRY_CACHE", str(tmp_path / "deep" / "er" / "cache"))
    return lambda: {
        path.relative_to(tmp_path).as_posix()
        for path in tmp_path.rglob("*")
        if path.is_file() and "cache/stores/" not in path.as_posix()
    }


def test_a_store_of_a_web_server_is_read(outside: Callable[[], set[str]]):
    with serving(a_store()) as url:
        store = Store(url)
        assert store.frame()["run"].tolist() == [RUN]
        assert store.notes == ()
    assert outside() == set()


@pytest.mark.parametrize(
    "name",
    [
        "../../../../evil",
        "../evil",
        "x/../../../evil",
        f"{RUN}/../../../../evil",
        "..\\..\\evil",
        "%2e%2e/evil",
        "C:evil",
        "/store/../../evil",
        "a/" * 20 + "evil",
    ],
)
def test_no_name_leads_out_of_the_mirror(name: str, outside: Callable[[], set[str]]):
    answers = a_store()
    answers[""] = page("store.json", f"{RUN}/", name)
    with serving(answers, otherwise=body(b"evil")) as url:
        store = Store(url)
        assert store.frame()["run"].tolist() == [RUN]
    assert outside() == set()
    assert not [path for path in store.path.rglob("*") if path.is_symlink()]
    if ".." in name:
        assert "evil" in store.notes[0]


def test_names_in_an_object_store_do_not_lead_out_either(outside: Callable[[], set[str]], tmp_path: Path):
    import fsspec

    url = f"memory://{tmp_path.name}/store"
    Store(url, create=True)
    files = fsspec.filesystem("memory").store
    root = f"/{tmp_path.name}/store"
    files[f"{root}/../../../../evil"] = files[f"{root}/store.json"]
    files[f"{root}/run/../../../evil"] = files[f"{root}/store.json"]
    store = Store(url)
    store.frame()
    assert outside() == set()
    assert "evil" in store.notes[0]


def test_a_file_that_is_also_a_folder_is_left_out(outside: Callable[[], set[str]]):
    answers = a_store()
    answers[""] = page("store.json", f"{RUN}/", "odd", "odd/")
    answers["odd"] = page("config.json")
    with serving(answers) as url:
        store = Store(url)
        assert store.frame()["run"].tolist() == [RUN]
        assert "odd/config.json" in store.notes[0]


def test_folders_without_end_are_not_followed(outside: Callable[[], set[str]]):
    asked: list[str] = []

    def deeper(request: BaseHTTPRequestHandler) -> None:
        asked.append(request.path)
        page("on/")(request)

    answers = a_store()
    answers[""] = page("store.json", f"{RUN}/", "on/")
    with serving(answers, otherwise=deeper) as url:
        assert Store(url).frame()["run"].tolist() == [RUN]
    assert len(asked) <= place.MOST_LEVELS + 1


def test_a_listing_that_is_too_wide_is_refused(outside, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(place, "MOST_FOLDERS", 20)
    monkeypatch.setattr(place, "MOST_NAMES", 50)
    folders = page("store.json", *(f"run-{number}/" for number in range(30)))
    with serving({"": folders}, otherwise=page()) as url, pytest.raises(AllometryError, match="20 folders"):
        Store(url)
    names = page("store.json", *(f"file-{number}" for number in range(60)))
    with serving({"": names}) as url, pytest.raises(AllometryError, match="50 files"):
        Store(url)


def test_what_has_no_end_is_cut_off(outside, monkeypatch: pytest.MonkeyPatch):
    for module in (place, mirror):
        monkeypatch.setattr(module, "MOST_BYTES", 1_000_000)
    with (
        serving({"": endless("text/html")}) as url,
        pytest.raises(AllometryError, match="more than 1,000,000"),
    ):
        Store(url)
    with serving(a_store(**{"curve.jsonl": endless("text/plain")})) as url:
        store = Store(url)
        assert store.frame()["run"].tolist() == [RUN]
        assert "more than 1,000,000 bytes" in store.notes[0]
        assert not (store.path / RUN / "curve.jsonl").exists()


def test_a_store_does_not_fill_the_disk(outside, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mirror, "MOST_MIRRORED", 300_000)
    files = {f"file-{number}": body(b"x" * 100_000) for number in range(40)}
    with serving(a_store(**files)) as url:
        store = Store(url)
        assert store.frame()["run"].tolist() == [RUN]
        assert "more than 300,000 bytes" in store.notes[0]
        kept = sum(path.stat().st_size for path in store.path.rglob("*") if path.is_file())
        assert kept < 300_000 + 16 * 100_000 + 20_000  # those that travelled when it was full
        held = set(store.path.rglob("file-*"))
        Store(url)
        assert set(store.path.rglob("file-*")) == held


def test_a_file_of_a_place_is_read_up_to_a_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(place, "MOST_BYTES", 1000)
    there = place.place(f"memory://{tmp_path.name}/store")
    there.write("small", b"x" * 1000)
    there.write("large", b"x" * 1001)
    there.write("empty", b"")
    assert (there.read("small"), there.read("empty"), there.read("absent")) == (b"x" * 1000, b"", None)
    with pytest.raises(AllometryError, match="more than 1,000 bytes"):
        there.read("large")
    with serving({"x": endless("text/plain")}) as url, pytest.raises(AllometryError, match="1,000"):
        place.place(url).read("x")


@pytest.mark.parametrize("length", [1_000_000_000, -1])
def test_wrong_lengths_are_no_files(length: int, outside):
    answers = a_store(**{"result.json": body(b"{}", length=length)})
    with serving(answers) as url, pytest.raises(AllometryError, match="cannot reach"):
        Store(url)


def test_circles_of_redirections_end(outside):
    with serving({}, otherwise=moved("/store/again")) as url, pytest.raises(AllometryError, match="cannot"):
        Store(url)


def test_a_server_that_says_nothing_is_given_up(outside, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(place, "_SECONDS", 0.2)
    ended = threading.Event()
    with serving({"": lambda request: ended.wait() and None}) as url:
        with pytest.raises(AllometryError, match="cannot reach"):
            Store(url)
        ended.set()


def test_which_names_stay_below():
    for good in ("store.json", "a/b", "a/.b", "run with spaces/config.json", "a..b/c", "ü/x"):
        assert is_file_name(good)
    for bad in (
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/../b",
        "./a",
        "a\\b",
        "C:x",
        "a\0",
        "a\nb",
        "x" * 256,
    ):
        assert not is_file_name(bad)
