"""A store at a URL: what one machine writes, another reads."""

from pathlib import Path

import pytest

from allometry.core.errors import AllometryError
from allometry.runs.mirror import Scratch
from allometry.runs.place import place
from allometry.runs.store import Store, store_exists


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("ALLOMETRY_CACHE", str(tmp_path / "cache"))
    return f"memory://{tmp_path.name}/runs"


def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on this is another machine, with a cache of its own."""
    monkeypatch.setenv("ALLOMETRY_CACHE", str(tmp_path / "another-cache"))


def test_a_store_at_a_url(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert not store_exists(url)
    with pytest.raises(AllometryError, match="no run store at memory://"):
        Store(url)
    store = Store(Path(url), create=True)  # a Path loses a slash
    assert store.remote
    assert store_exists(url)
    store.enroll("study", ["a", "b"], question="?")
    elsewhere(tmp_path, monkeypatch)
    other = Store(url)
    assert other.path != store.path
    assert other.studies()["study"].runs == ("a", "b")
    store.enroll("study", ["c"])
    other.pull()
    assert other.studies()["study"].runs == ("c",)
    with pytest.raises(AllometryError, match="not removed"):
        other.undo()


def test_a_file_that_is_written_once(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = Store(url, create=True)
    assert store.publish(store.path / "studies" / "plan.json", "first")
    elsewhere(tmp_path, monkeypatch)
    other = Store(url)
    assert not other.publish(other.path / "studies" / "plan.json", "second")
    assert (other.path / "studies" / "plan.json").read_text() == "first"


def test_scratch_sends_what_changed_and_nothing_once_lost(url: str):
    there = place(url)
    there.write("run/log.txt", b"before\n")
    holds = True
    with Scratch(there, "run", every=60, held=lambda: holds) as scratch:
        assert (scratch.path / "log.txt").read_text() == "before\n"
        (scratch.path / "checkpoints").mkdir()
        (scratch.path / "checkpoints" / "step-1.safetensors").write_bytes(b"1")
        (scratch.path / "error.txt").write_text("x")
        scratch.send()
        assert set(there.names("run")) == {
            "run/log.txt",
            "run/checkpoints/step-1.safetensors",
            "run/error.txt",
        }
        (scratch.path / "error.txt").unlink()
        (scratch.path / "checkpoints" / "step-1.safetensors").unlink()
        scratch.send()
        assert set(there.names("run")) == {"run/log.txt"}
        holds = False
        (scratch.path / "result.json").write_text("{}")
    assert set(there.names("run")) == {"run/log.txt"}
