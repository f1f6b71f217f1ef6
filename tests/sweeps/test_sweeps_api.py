"""`allometry.run` and `allometry.sweep` do what the command line does."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

import allometry
from allometry.cli import main
from allometry.studies.core import run as running
from allometry.studies.core.run import StudyRequest


def test_a_sweep_is_trained_once_and_comes_back_as_a_table(make_run, tmp_path: Path) -> None:
    runs = [make_run(20), make_run(10)]
    table = allometry.sweep(runs, store=tmp_path / "runs", workers=1, quiet=True)
    assert list(table["run"]) == [run.id for run in runs]
    assert list(table["D"]) == [20 * 128, 10 * 128]
    assert (table["status"] == "done").all()
    assert table["loss"].between(0.5, 6).all()
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/result.json")}
    again = allometry.sweep(reversed(runs), store=allometry.Store(tmp_path / "runs"), quiet=True)
    assert list(again["loss"]) == list(table["loss"])[::-1]
    assert written == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/result.json")}
    assert len(written) == 2


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[StudyRequest]:
    """The requests that reach `run_study`, in place of studies."""
    asked: list[StudyRequest] = []
    monkeypatch.setattr(running, "run_study", lambda request, display, *, dry_run: asked.append(request))
    return asked


@pytest.mark.parametrize(
    ("options", "typed"),
    [
        ({}, ""),
        ({"budget": "3m", "store": "a b"}, "--budget 3m --store 'a b'"),
        ({"budget": 90}, "--budget 90s"),
        ({"compute": 5e13, "device": "cpu", "workers": 3}, "--compute 5e13 --device cpu --workers 3"),
        ({"data": "stdlib", "tokenizer": "bpe:300"}, "--data stdlib --tokenizer bpe:300"),
    ],
)
def test_a_study_is_asked_for_as_on_the_command_line(
    options: dict[str, object], typed: str, requests: list[StudyRequest]
) -> None:
    allometry.run("size", quiet=True, **options)  # type: ignore[arg-type]
    with pytest.raises(SystemExit) as ended:
        main(["run", "size", "--quiet", *shlex.split(typed)])
    assert not ended.value.code
    ours, theirs = requests
    assert replace(ours, command="") == replace(theirs, command="")
    with pytest.raises(SystemExit):
        main(shlex.split(ours.command)[1:])
    assert requests[-1].key == ours.key
    assert (requests[-1].store, requests[-1].data) == (ours.store, ours.data)


def test_an_unknown_study_is_refused_before_anything(requests: list[StudyRequest], tmp_path: Path) -> None:
    with pytest.raises(allometry.AllometryError, match="unknown study 'quickstat'") as refused:
        allometry.run("quickstat", store=tmp_path / "runs")
    assert "'quickstart'" in str(refused.value.hint)
    assert not requests
    assert not (tmp_path / "runs").exists()
