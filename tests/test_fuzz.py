"""A short fuzz: random command lines and damaged files end in a sentence, never in an internal error."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from allometry.cli import app

PATH = Path(__file__).parent.parent / "benchmarks" / "fuzz.py"


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "kind", ["commands", "tables", "configurations", "stores", "expressions", "checkpoints"]
)
def test_nothing_ends_in_an_internal_error(kind: str, fuzz: ModuleType, tmp_path: Path) -> None:
    work = fuzz.fuzz(tmp_path, 25, 0, kinds=(kind,))
    assert sum(work.done.values()) >= 25
    assert work.defects == {}


def planted(words: tuple[str, ...]) -> Callable[..., None]:
    """A command that ends in an internal error of its own name."""
    error = type(" ".join(words), (Exception,), {})

    def fails(*_: object, **__: object) -> None:
        raise error

    return fails


def test_an_internal_error_in_any_command_would_be_seen(
    fuzz: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = dict(fuzz.leaves(app))
    monkeypatch.setattr(fuzz.Fuzz, "call", lambda *_: None)  # commands alone
    for words, command in commands.items():
        monkeypatch.setattr(command, "callback", planted(words))
    driven = {
        "commands": {*commands},
        "tables": {words[:1] for words in fuzz.OF_TABLES},
        "configurations": {("train",)},
        "stores": {words[: 2 if words[0] == "runs" else 1] for words in fuzz.OF_STORES},
    }
    for kind, expected in driven.items():
        found: set[str] = set()
        for start in range(60):
            found |= {key.split(" at ")[0] for key in fuzz.fuzz(tmp_path, 40, start, kinds=(kind,)).defects}
            if len(found) == len(expected):
                break
        assert found == {" ".join(words) for words in expected}, kind


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        ("expressions", "allometry.laws.law._arithmetic"),
        ("expressions", "allometry.runs.query.parse"),
        ("stores", "allometry.runs.store.Store.frame"),
        ("stores", "allometry.watch.page.Page.update"),
        ("checkpoints", "allometry.train.checkpoint.read_newest"),
    ],
)
def test_an_internal_error_in_what_is_called_would_be_seen(
    kind: str, target: str, fuzz: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, planted(("defect",)))
    assert "defect" in {key.split(" at ")[0] for key in fuzz.fuzz(tmp_path, 5, 0, kinds=(kind,)).defects}
