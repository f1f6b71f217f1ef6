import http.client
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT

import pytest
from chromium import Chromium, binary
from halfway import STUDY, row

from allometry.cli import main
from allometry.core.errors import AllometryError
from allometry.runs.store import Store
from allometry.watch.page import Page
from allometry.watch.server import STREAMS, Server


@contextmanager
def serving(store: Store, host: str = "127.0.0.1") -> Iterator[Server]:
    server = Server(store, host=host, port=0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.stop()
        thread.join()


def get(server: Server, path: str = "/", **headers: str) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
    connection.request(
        "GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, dict(answer.headers), text


def events(server: Server, study: str, count: int) -> list[tuple[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
    connection.request("GET", f"/events?study={study}")
    answer = connection.getresponse()
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    found = []
    while len(found) < count:
        kind = answer.readline().decode().removeprefix("event: ").strip()
        data = answer.readline().decode().removeprefix("data: ")
        assert answer.readline() == b"\n"
        found.append((kind, data))
    connection.close()
    return found


def test_the_page_its_scripts_and_a_policy_that_allows_no_others(store: Store) -> None:
    with serving(store) as server:
        status, headers, html = get(server)
        assert status == 200
        assert "script-src 'self'" in headers["Content-Security-Policy"]
        assert "http" not in html.split("<body>")[1].replace("http-equiv", "")
        assert get(server, "/watch.js")[1]["Content-Type"].startswith("text/javascript")
        assert get(server, "/../pyproject.toml")[0] == 404
        kinds = events(server, STUDY, 6)
        assert {json.loads(data)["name"] for kind, data in kinds if kind == "part"} >= {"progress", "curves"}


def test_foreign_names_are_refused(store: Store) -> None:
    with serving(store) as server:
        assert get(server, Host=f"evil.example:{server.server_port}")[0] == 403
        assert get(server, "/events", Host="127.0.0.1")[0] == 403
        assert get(server, Host=f"localhost:{server.server_port}")[0] == 200


def test_another_address_wants_the_token(store: Store) -> None:
    with serving(store, "0.0.0.0") as server:
        assert get(server)[0] == 403
        assert get(server, "/?token=wrong")[0] == 403
        assert get(server, Cookie=f"allometry-{server.server_port}=wrong")[0] == 403
        status, headers, _ = get(server, f"/?token={server.token}", Host="anything")
        assert (status, headers["Location"]) == (303, "/")
        assert "HttpOnly; SameSite=Strict" in headers["Set-Cookie"]
        assert get(server, Cookie=headers["Set-Cookie"].split(";")[0])[0] == 200
        assert server.token in server.url


def test_a_port_that_is_taken(store: Store) -> None:
    with serving(store) as server, pytest.raises(AllometryError, match="is taken") as refused:
        Server(store, port=server.server_port)
    assert "--port" in (refused.value.hint or "")


def test_the_command_ends_with_ctrl_c_and_tells_of_a_missing_store(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-m", "allometry", "watch"]
    with subprocess.Popen(
        [*command, str(store.path), "--port", "0"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert "http://127.0.0.1:" in process.stdout.readline()
        process.send_signal(SIGINT)
        assert "training goes on" in process.stdout.read()
    assert process.returncode == 0
    with pytest.raises(SystemExit) as ended:
        main(["watch", str(tmp_path / "none")])
    assert ended.value.code == 1
    assert "there is no run store" in capsys.readouterr().err


@pytest.mark.skipif(binary() is None, reason="Chromium is not installed")
def test_a_browser_draws_it_and_follows(store: Store, tmp_path: Path) -> None:
    with serving(store) as server, Chromium(tmp_path / "profile", server.url, width=390, dark=True) as page:
        page.wait("['curves', 'joint'].every((name) => document.querySelector(`[data-figure=${name}] svg`))")
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.evaluate("document.querySelectorAll('[data-part=failures] pre').length") == 1
        page.evaluate("document.querySelector('[data-part=failures] details').open = true")
        with (store.directory("t-growing") / "curve.jsonl").open("a") as file:
            file.write(json.dumps(row(64000, 240)) + "\n")
        page.wait("document.querySelector('table.running').innerText.includes('240 of 320')")
        assert page.evaluate("document.querySelector('[data-part=failures] details').open")
        page.wait("document.querySelectorAll('[data-figure=curves] .chart').length === 1")
        assert page.log == []


def test_streams_are_few_and_for_the_own_page(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(store) as server:
        assert get(server, "/events?study=", Sec_Fetch_Site="cross-site")[0] == 403
        assert get(server, "/events?study=nothing")[0] == 404
        assert get(server, "/events?study=../../etc")[0] == 404
        for _ in range(STREAMS):
            assert server.streams.acquire(blocking=False)
        assert get(server, "/events?study=")[0] == 503
        assert get(server)[0] == 200
        server.streams.release()
        assert events(server, "", 1)[0][0] == "part"
        assert server.page._views.keys() == {""}


def test_a_store_that_somebody_damaged_is_still_shown(store: Store, tmp_path: Path) -> None:
    damaged = store.directory("t-growing")
    (damaged / "curve.jsonl").write_text(
        '{"step": NaN}\n{"step": 5, "loss": "x"}\n{"step": 7, "loss": 2.0}\n'
    )
    store.directory("t-1000-80").rename(store.directory("renamed"))
    (store.directory("t-1000-160") / "config.json").write_text("[" * 5000)
    folder = store.path / "studies" / STUDY
    (folder / "plan.json").write_text('{"seconds": "long", "runs": [3]}')
    (folder / "prediction.json").write_text('{"predictions": 3, "registered": "now"}')
    (store.path / "studies" / "loop.json").symlink_to("loop.json")
    secret = tmp_path / "secret"
    secret.write_text("a secret text")
    (store.directory("t-4000-80") / "error.txt").symlink_to(secret)
    (store.directory("t-4000-80") / "result.json").unlink()
    page = Page(store, fits=False)
    for study in ("", STUDY, page.newest()):
        text = json.dumps(page.update(study))
        assert "t-growing" in text
        assert "a secret text" not in text
        assert "no list of predictions" in text
        assert "t-1000-160" in text
