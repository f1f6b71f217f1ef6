"""An error says what to do in the language of the place that it is read in."""

import pickle

import pytest

from allometry import cli
from allometry.core.errors import AllometryError


def test_one_hint_serves_both_places() -> None:
    error = AllometryError("wrong", hint="write it like 1e18")
    assert (error.hint, error.cli_hint) == ("write it like 1e18", "write it like 1e18")
    assert str(error) == "wrong\n  hint: write it like 1e18"
    assert AllometryError("wrong").cli_hint is None


def test_the_command_line_shows_its_own_hint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = AllometryError("no column is N", hint="columns={'N': 'params'}", cli_hint="--let N=params")
    copy = pickle.loads(pickle.dumps(error))  # between processes, and through Ray
    assert (copy.message, copy.hint, copy.cli_hint) == (error.message, error.hint, error.cli_hint)

    def failing(*_: object, **__: object) -> None:
        raise copy

    monkeypatch.setattr(cli.app, "main", failing)
    with pytest.raises(SystemExit) as ended:
        cli.main(["laws"])
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: no column is N\n hint: --let N=params\n"
    assert "columns=" in str(copy)
