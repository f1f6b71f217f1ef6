import json
from pathlib import Path

import pytest

from allometry.cli import main
from allometry.runs.store import Store


def examine(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", *arguments])
    assert not ended.value.code
    return capsys.readouterr().out


def test_doctor_reports_machine_engines_and_store(capsys, tmp_path: Path):
    path = tmp_path / "runs"
    found = {
        finding["name"]: finding for finding in json.loads(examine(capsys, "--json", "--store", str(path)))
    }
    assert {"python", "torch", "cores", "engine", "cache", "store", "disk"} <= found.keys()
    assert "none at" in found["store"]["value"]
    Store(path, create=True)
    out = examine(capsys, "--store", str(path))
    assert "reference: available" in out
    assert "0 runs" in out


def test_doctor_says_what_is_wrong(capsys, tmp_path: Path):
    (tmp_path / "letter.txt").write_text("dear")
    out = examine(capsys, "--store", str(tmp_path))
    assert "!!  store" in out
    assert "not a run store" in out
