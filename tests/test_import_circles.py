"""No two files of the package need each other: whoever changes one has to know only what it imports."""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "allometry"


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    names = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imported(node: ast.AST) -> Iterator[str]:
    """Dotted names that code imports at any depth, those that only type checkers see apart."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        yield from imported(child)


def graph(known: dict[str, str]) -> dict[str, set[str]]:
    """Which modules each module imports, from the source text of each."""
    edges = {}
    for name, source in known.items():
        found = {n if n in known else n.rpartition(".")[0] for n in imported(ast.parse(source))}
        edges[name] = (found & set(known)) - {name}
    return edges


def circles(edges: dict[str, set[str]]) -> list[set[str]]:
    """Groups of modules that reach each other (strongly connected components of more than one)."""
    reached: dict[str, set[str]] = {}
    for start in edges:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for module in edges[waiting.pop()] - seen:
                seen.add(module)
                waiting.append(module)
        reached[start] = seen
    groups = {frozenset({a} | {b for b in reached[a] if a in reached[b]}) for a in edges if a in reached[a]}
    return [set(group) for group in groups]


def test_files_do_not_import_each_other_in_circles() -> None:
    found = circles(graph({name: path.read_text() for name, path in modules().items()}))
    assert not [sorted(circle) for circle in found]


def test_a_circle_through_a_function_is_found_and_one_for_types_is_not() -> None:
    source = {
        "p.a": "def f():\n    from p.b import g",
        "p.b": "from p import c",
        "p.c": "import p.a",
        "p.d": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.e import E",
        "p.e": "from p.d import D",
    }
    assert circles(graph(source)) == [{"p.a", "p.b", "p.c"}]
