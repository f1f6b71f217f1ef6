"""What is kept: listed with its size, deleted on demand, and nothing else with it."""

import json
from pathlib import Path

import pytest

from allometry.cli import main
from allometry.data.tokens import prepare
from allometry.runs.store import Store


@pytest.fixture
def allometry(capsys: pytest.CaptureFixture[str]):
    """Run the command line: exit status, output and errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with a prepared corpus, beside which a user keeps files of his own."""
    monkeypatch.setenv("ALLOMETRY_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Path("my.txt").write_text("\n\n".join(f"sentence {i} of a text that is long enough" for i in range(300)))
    prepare("files:my.txt", "bpe:260")
    mine = [tmp_path / "cache" / name for name in ("thesis.tex", "tokens/mine/notes.txt", "hub/a.parquet")]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "manifest.json").write_text("mine")
    (tmp_path / "cache" / "tokens" / "link").symlink_to(tmp_path / "precious", target_is_directory=True)
    return tmp_path / "cache"


def test_the_cache_is_listed_with_sizes(allometry, cache: Path) -> None:
    rows = json.loads(allometry("cache", "list", "--json")[1])
    assert {row["kind"] for row in rows} == {"tokens", "tokenizers"}
    (tokens,) = (row for row in rows if row["kind"] == "tokens")
    folder = cache / "tokens" / tokens["name"]
    assert tokens["size"] == sum(path.stat().st_size for path in folder.iterdir())
    assert str(cache) in allometry("cache", "list")[1]


def test_cleaning_deletes_what_can_be_made_again_and_nothing_else(allometry, cache: Path) -> None:
    assert "did you mean 'tokens'" in allometry("cache", "clean", "tokns")[2]
    assert len(json.loads(allometry("cache", "list", "--json")[1])) == 2
    assert "1 deleted" in allometry("cache", "clean", "tokenizers")[1]
    assert "1 deleted" in allometry("cache", "clean")[1]
    assert json.loads(allometry("cache", "list", "--json")[1]) == []
    left = sorted(str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file())
    assert left == ["hub/a.parquet", "thesis.tex", "tokens/link/manifest.json", "tokens/mine/notes.txt"] or (
        left == ["hub/a.parquet", "thesis.tex", "tokens/mine/notes.txt"]
    )
    assert (cache.parent / "precious" / "manifest.json").read_text() == "mine"


def a_run(store: Store, run: str) -> None:
    directory = store.directory(run)
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"format": 1, "id": run, "config": {}}))
    (directory / "weights").write_bytes(b"w" * 1000)


def test_purged_runs_free_their_disk(allometry, tmp_path: Path) -> None:
    store = Store(tmp_path / "runs", create=True)
    for run in ("a-1", "a-2", "a-3"):
        a_run(store, run)
    at = ["--store", str(store.path)]
    sizes = json.loads(allometry("runs", "size", "--json", *at)[1])
    (partial,) = sizes
    assert partial["size"] > 3000
    allometry("runs", "rm", "a-1", *at)
    assert (store.path / ".removed").exists()
    assert "1 deleted, " in allometry("runs", "rm", "a-2", "--purge", *at)[1]
    assert not list(store.path.rglob("a-2"))
    assert "a-1" in allometry("runs", "undo", *at)[1]
    assert {path.name for path in store.path.glob("a-*")} == {"a-1", "a-3"}
    allometry("runs", "rm", "a-1", *at)
    allometry("runs", "purge", *at)
    assert not list((store.path / ".removed").glob("*"))
    assert allometry("runs", "undo", *at)[0] == 1
    assert (store.directory("a-3") / "weights").exists()
