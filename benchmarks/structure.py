"""Count files, lines, function-local imports, import circles and the first words of docstrings.

Run: python benchmarks/structure.py [--words]
"""

from __future__ import annotations

import argparse
import ast
from collections import Counter
from pathlib import Path

from allometry.core.errors import EXTRAS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "allometry"
FACE = (PACKAGE / "__init__.py", PACKAGE / "api.py")
"""The public names, which load what they need on first use; so do the commands in `allometry/cli`."""

OPTIONAL = {package.split(".")[0] for packages in EXTRAS.values() for package in packages} | {
    *("torch", "datasets", "pyarrow", "zstandard", "openpyxl", "wandb", "trackio", "tensorboard", "aiohttp"),
    *("altair", "vl_convert", "sympy"),
}
"""Packages that only some installations have, or that take long to load."""


def main() -> None:
    """Print the numbers; with --words, the first words of the docstrings of public functions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--words", action="store_true")
    options = parser.parse_args()
    files = sorted(PACKAGE.rglob("*.py"))
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    trees = {path: ast.parse(text) for path, text in texts.items()}
    lines = sum(len(text.splitlines()) for text in texts.values())
    print(f"files {len(files)}, lines {lines}, mean {lines / len(files):.0f}")
    local = {path: local_imports(tree) for path, tree in trees.items()}
    face = [path for path in files if path.parent.name == "cli" or path in FACE]
    behind = [node for path in files if path not in face for node in local[path]]
    extra = [node for node in behind if package_of(node) in OPTIONAL]
    plain = len(behind) - len(extra)
    below = lines - sum(len(texts[path].splitlines()) for path in face)
    print(
        f"function-local imports {sum(map(len, local.values()))}: {sum(len(local[path]) for path in face)} in the "
        f"commands and the public names, {len(extra)} of packages that not every installation has or that load "
        f"slowly, {plain} others ({1000 * plain / below:.1f} per 1,000 lines)"
    )
    circles = import_circles({module_name(path): tree for path, tree in trees.items()})
    print(f"import circles between files: {len(circles)}")
    for circle in circles:
        print("   " + " ".join(circle))
    words = Counter(word for tree in trees.values() for word in first_words(tree))
    if options.words:
        print(*(f"{word} {count}" for word, count in words.most_common()), sep="\n")


def module_name(path: Path) -> str:
    """Return the dotted name of a file of the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def local_imports(tree: ast.Module) -> list[ast.stmt]:
    """Return the import statements inside functions."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found += [n for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom)]
    return list({id(node): node for node in found}.values())


def package_of(node: ast.stmt) -> str:
    """Return the first part of the name that an import statement names."""
    name = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name  # type: ignore[attr-defined]
    return str(name).split(".")[0]


def imports(tree: ast.Module, modules: set[str]) -> set[str]:
    """Return the files of the package that a file imports at any depth, typing-only imports apart."""
    found = set()
    left: list[ast.AST] = [tree]
    while left:
        node = left.pop()
        typing_only = isinstance(node, ast.If) and _names_typing(node.test)
        for field in ("orelse", "finalbody", "handlers", "cases", *(() if typing_only else ("body",))):
            left += getattr(node, field, ())
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found |= {
                    name
                    for name in (inner, node.module)
                    if name in modules and not (name == node.module and inner in modules)
                }
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in modules}
    return found


def _names_typing(test: ast.expr) -> bool:
    """Return whether a condition is about TYPE_CHECKING."""
    return any("TYPE_CHECKING" in (getattr(n, "id", ""), getattr(n, "attr", "")) for n in ast.walk(test))


def import_circles(trees: dict[str, ast.Module]) -> list[list[str]]:
    """Return the groups of files that import each other in a circle (strongly connected components)."""
    edges = {name: imports(tree, set(trees)) - {name} for name, tree in trees.items()}
    reached = {name: _reachable(name, edges) for name in edges}
    seen: set[str] = set()
    circles = []
    for name in sorted(edges):
        if name in seen:
            continue
        circle = sorted(other for other in reached[name] if name in reached[other])
        if name in reached[name]:
            seen |= set(circle)
            circles.append(circle)
    return circles


def _reachable(start: str, edges: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    queue = list(edges[start])
    while queue:
        name = queue.pop()
        if name not in found:
            found.add(name)
            queue += edges[name]
    return found


def first_words(tree: ast.Module) -> list[str]:
    """Return the first word of each docstring of a public function or method, properties apart."""
    words = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            decorators = {ast.unparse(d).rsplit(".", 1)[-1] for d in node.decorator_list}
            text = ast.get_docstring(node)
            if text and not decorators & {"property", "cached_property", "setter"}:
                words.append(text.split()[0].strip(".,:;`'\"()"))
    return words


if __name__ == "__main__":
    main()
