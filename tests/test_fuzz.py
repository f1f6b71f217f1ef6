"""A short fuzz: random command lines and damaged files end in a sentence, never in an internal error."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

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


def test_an_internal_error_would_be_seen(
    fuzz: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise KeyError("a defect")

    monkeypatch.setattr("allometry.laws.expressions._parse", fails)
    work = fuzz.fuzz(tmp_path, 5, 0, kinds=("expressions",))
    assert [key.split(":")[0] for key in work.defects] == ["KeyError at laws/expressions.py"] or work.defects
