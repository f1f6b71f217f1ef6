"""Files of a store in a folder and at a URL: the same operations, the same promises."""

import threading
from pathlib import Path

import pytest

from allometry.core.errors import AllometryError
from allometry.runs.place import Place, place, url_of


@pytest.fixture(params=["folder", "memory"])
def somewhere(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return place(tmp_path / "store" if request.param == "folder" else f"memory://{tmp_path.name}/store")


def test_files_are_written_read_listed_and_removed(somewhere: Place, tmp_path: Path):
    assert somewhere.read("a/b.json") is None
    assert somewhere.names("a") == {}
    somewhere.write("a/b.json", b"one")
    before = somewhere.names("a")
    assert set(before) == {"a/b.json"}
    somewhere.write("a/b.json", b"other")
    assert somewhere.names("a") != before
    assert somewhere.read("a/b.json") == b"other"
    somewhere.download("a/b.json", tmp_path / "copy")
    somewhere.upload(tmp_path / "copy", "c")
    assert somewhere.read("c") == b"other"
    assert set(somewhere.names()) == {"a/b.json", "c"}
    somewhere.remove("c")
    somewhere.remove("c")
    assert somewhere.read("c") is None
    with pytest.raises(FileNotFoundError):
        somewhere.download("c", tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_only_one_of_many_creates_a_file(tmp_path: Path):
    here = place(tmp_path)
    won: list[int] = []

    def attempt(number: int) -> None:
        if here.create("claim", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert here.read("claim") == str(won[0]).encode()
    assert set(here.names()) == {"claim"}


def test_creating_twice_at_a_url(tmp_path: Path):
    there = place(f"memory://{tmp_path.name}")
    assert there.create("x", b"1")
    assert not there.create("x", b"2")
    assert there.read("x") == b"1"


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("s3://bucket/runs/", "s3://bucket/runs"),
        (Path("s3://bucket/runs"), "s3://bucket/runs"),
        ("runs", None),
        (Path("/tmp/runs"), None),
        ("file:///tmp/runs", None),
    ],
)
def test_what_is_a_url(location: Path | str, url: str | None):
    assert url_of(location) == url


def test_an_unknown_kind_of_url_says_so():
    with pytest.raises(AllometryError, match="bogus"):
        place("bogus://bucket/runs")
