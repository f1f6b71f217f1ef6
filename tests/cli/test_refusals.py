"""What the operating system refuses about a file is said with its remedy, by every command: it is no defect
of Allometry."""

from __future__ import annotations

from pathlib import Path

import pytest

from allometry.cli import main

LONG = "x" * 300  # file systems take 255


@pytest.mark.parametrize(
    "arguments",
    [
        ["fit", LONG, "--law", "kaplan"],
        ["isoflop", LONG],
        ["audit", LONG],
        ["plan", "1e18", "--from", LONG],
        ["runs", "list", "--store", LONG],
        ["report", "--store", LONG],
        ["report", "--from", LONG],
        ["watch", LONG],
        ["doctor", "--store", LONG],
        ["train", LONG],
        ["run", "quickstart", "--compute", "0", "--dry-run", "--store", LONG],
        ["data", "prepare", f"files:{LONG}"],
        ["data", "prepare", f"webtext:{LONG}"],
        ["webtext", "status", LONG],
    ],
    ids=" ".join,
)
def test_a_name_that_is_too_long_is_refused(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert "File name too long" in said
    assert "defect" not in said
    assert " hint: " in said


def test_a_folder_that_may_not_be_entered_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def denied(self: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "is_dir", denied)
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "theirs/runs.csv", "--law", "kaplan"])
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert "theirs/runs.csv: Permission denied" in said
    assert "permissions" in said
