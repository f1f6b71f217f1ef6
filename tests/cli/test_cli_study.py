"""What a user can mistype at `allometry run` and `allometry report`, and what they are told."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pytest

from allometry.cli import main
from allometry.cli.study import Terminal
from allometry.report.build import Analysis, Constant
from allometry.sweeps.progress import Display as Progress
from allometry.sweeps.progress import Event


def told(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a failing command prints to its error stream; it must fail with 1 and without a traceback."""
    with pytest.raises(SystemExit) as exit_:
        main(argv)
    assert exit_.value.code == 1
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert "hint: " in text
    assert "Traceback" not in text
    return text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["quikstart"], "did you mean 'quickstart'"),
        (["quickstart", "--budget", "10 parsecs"], "write it like 90s, 10m"),
        (["quickstart", "--compute", "lots"], "write it like 1e18"),
        (["quickstart", "--data", "sotoo"], "did you mean 'sotu'"),
        (["quickstart", "--tokenizer", "byte"], "did you mean 'bytes'"),
        (["quickstart", "--data", "files:nowhere.txt"], "nowhere.txt"),
        (["quickstart", "--device", "cpu", "--per-gpu", "4"], "here runs are trained on cores"),
        (["quickstart", "--workers", "1", "--devices", "2"], "no machine of the pool has more than 1"),
    ],
)
def test_mistyped(
    words: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in told(["run", *words, "--store", str(tmp_path / "runs")], capsys)


def test_texts_that_cannot_be_used_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"caf\xe9 au lait\n" * 3000)
    tiny = tmp_path / "tiny.txt"
    tiny.write_text("hello")
    for path, expected in ((latin, "not UTF-8"), (tiny, "too little")):
        argv = ["run", "quickstart", "--data", f"files:{path}", "--store", str(tmp_path / "runs")]
        assert expected in told(argv, capsys)


def test_a_foreign_folder_is_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    assert "not a run store" in told(["run", "quickstart", "--store", str(tmp_path)], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_report_without_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "allometry run quickstart" in told(["report", "--store", str(tmp_path / "runs")], capsys)


def test_results_that_are_none_and_folders_that_hold_something_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "holds no results" in told(["report", "--from", str(tmp_path / "nowhere")], capsys)
    assert "no study and no --save" in told(["report", "kaplan", "--from", str(tmp_path)], capsys)
    (tmp_path / "study.json").write_text('{"format": 99}')
    assert "reads formats up to 2" in told(["report", "--from", str(tmp_path)], capsys)


def test_unknown_commands_and_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["runz"])
    assert exit_.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "did you mean 'run' or 'runs'" in said
    with pytest.raises(SystemExit) as exit_:
        main(["run"])
    assert exit_.value.code == 2
    assert "Missing argument 'STUDY'" in capsys.readouterr().err


def test_studies_are_listed_with_their_questions(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["studies"])
    assert "quickstart" in capsys.readouterr().out


def test_quiet_leaves_out_no_warning(capsys: pytest.CaptureFixture[str]) -> None:
    display = Terminal(Progress(quiet=True), quiet=True)
    display.say("not shown")
    display.warn("size could not predict its larger runs")
    assert capsys.readouterr().out == "warning: size could not predict its larger runs\n"


class Console(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_answer_is_printed_once_the_bars_are_gone_and_has_no_interval_of_nan(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    known = {"published": {"Kaplan": 0.095}, "level": 0.95, "verdict": "cannot tell", "why": ""}
    constants = (
        Constant(name="from one trunk", symbol="α_D", ours=0.242, low=math.nan, high=math.nan, **known),
        Constant(name="from many", symbol="α_N", ours=0.068, low=0.054, high=0.08, **known),
    )
    analysis = Analysis(
        study="quickstart", question="?", answer="So it is.", command="", sections=(), constants=constants
    )
    with Progress(stream=Console()) as progress:
        terminal = Terminal(progress)
        terminal.event(Event(kind="end", sweep="quickstart", finished=1, total=1, fraction=1.0, eta=0.0))
        assert progress._bars is not None
        terminal.answer(analysis, Path("report.html"), 60.0)
        assert progress._bars is None
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.split()}
    assert "none" in rows["α_D"]
    assert "nan" not in rows["α_D"]
    assert "[0.054, 0.08] 95 %" in rows["α_N"]
