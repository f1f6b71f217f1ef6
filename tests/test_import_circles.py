"""No two files of the package need each other: whoever changes one has to know only what it imports."""

import ast
import importlib.util
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent


def benchmark() -> ModuleType:
    """The benchmark that counts imports, as a module."""
    spec = importlib.util.spec_from_file_location("structure_benchmark", ROOT / "benchmarks" / "structure.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


STRUCTURE = benchmark()


def circles(sources: dict[str, str]) -> list[set[str]]:
    """Groups of modules that reach each other, from the source text of each."""
    return [
        set(c) for c in STRUCTURE.import_circles({name: ast.parse(text) for name, text in sources.items()})
    ]


def test_files_do_not_import_each_other_in_circles() -> None:
    files = (ROOT / "allometry").rglob("*.py")
    found = circles({STRUCTURE.module_name(path): path.read_text() for path in files})
    assert not [sorted(circle) for circle in found]


def test_a_circle_through_a_function_is_found_and_one_for_types_is_not() -> None:
    source = {
        "p.a": "def f():\n    from p.b import g",
        "p.b": "from p import c",
        "p.c": "import p.a",
        "p.d": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.e import E",
        "p.e": "from p.d import D",
    }
    assert circles(source) == [{"p.a", "p.b", "p.c"}]
