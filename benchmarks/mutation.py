"""Change the code in one place at a time and count how many changes the tests notice.

    python benchmarks/mutation.py [--count 40] [--seed 0] [--tests tests/laws …] [allometry/laws …]

Mutants are drawn at random, with a seed, from all places in the named files and folders where a comparison,
an operator, a sign, a boolean or a number can be changed. Each is made in a copy of the package, on which the
tests run until one fails. A mutant that no test notices has survived; some survivors are equivalent to the
original, which a reader must decide. Prints the survivors, and the share of the others with a 95 % interval
(Wilson). Exit status 1 if that share is below `--least`, 2 if the tests fail without any change.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 1200
"""Seconds after which the tests of a mutant are stopped: it does not end, which counts as noticed."""

COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Pow: ast.Mult, ast.Mod: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.MatMult: ast.Mult,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change: the file (relative to the repository), the line, what stood there, and what stands now."""

    file: str
    line: int
    before: str
    after: str
    source: str


class _Place(ast.NodeTransformer):
    """Changes the place of a given number, counted in the order of the walk; or only counts places."""

    def __init__(self, number: int | None = None) -> None:
        self.number, self.places = number, 0
        self.done: tuple[ast.AST, ast.AST] | None = None

    def _maybe(self, node: ast.expr, changed: ast.expr | None) -> ast.expr:
        self.generic_visit(node)
        if changed is None:
            return node
        self.places += 1
        if self.number != self.places - 1:
            return node
        self.done = (node, changed)
        return ast.copy_location(changed, node)

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        kind = COMPARED.get(type(node.ops[0]))
        changed = ast.Compare(node.left, [kind(), *node.ops[1:]], node.comparators) if kind else None
        return self._maybe(node, changed)

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        kind = COMPUTED.get(type(node.op))
        text = any(isinstance(side, ast.Constant | ast.JoinedStr) and _is_text(side)
                   for side in (node.left, node.right))  # fmt: skip
        return self._maybe(node, ast.BinOp(node.left, kind(), node.right) if kind and not text else None)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        kind = ast.Or if isinstance(node.op, ast.And) else ast.And
        return self._maybe(node, ast.BoolOp(kind(), node.values))

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        return self._maybe(node, node.operand)

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if isinstance(node.value, bool):
            return self._maybe(node, ast.Constant(not node.value))
        if isinstance(node.value, int | float):
            other = node.value + 1 if isinstance(node.value, int) else node.value * 2 or 1.0
            return self._maybe(node, ast.Constant(other))
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.body = [self.visit(each) for each in node.body]
        node.args.defaults = [self.visit(each) for each in node.args.defaults]
        node.args.kw_defaults = [each and self.visit(each) for each in node.args.kw_defaults]
        return node

    def visit_If(self, node: ast.If) -> ast.AST:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return node
        return self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        return node  # numbers in sentences are formats and percentages: not of interest here


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or isinstance(getattr(node, "value", None), str)


def files(paths: list[str]) -> list[Path]:
    """Return the Python files at these paths, in order."""
    found: set[Path] = set()
    for path in map(Path, paths):
        found |= set((ROOT / path).rglob("*.py")) if (ROOT / path).is_dir() else {ROOT / path}
    return sorted(found)


def mutants(paths: list[str], count: int, seed: int) -> Iterator[Mutant]:
    """Yield `count` different mutants of the files at these paths, drawn with a seed."""
    places = []
    for file in files(paths):
        counted = _Place()
        counted.visit(ast.parse(file.read_text()))
        places += [(file, number) for number in range(counted.places)]
    for file, number in random.Random(seed).sample(places, min(count, len(places))):
        tree, place = ast.parse(file.read_text()), _Place(number)
        tree = ast.fix_missing_locations(place.visit(tree))
        assert place.done is not None
        before, after = place.done
        yield Mutant(
            file=file.relative_to(ROOT).as_posix(),
            line=getattr(before, "lineno", 0),
            before=_written(file.read_text(), before),
            after=ast.unparse(after),
            source=ast.unparse(tree),
        )


def _written(source: str, node: ast.AST) -> str:
    return " ".join((ast.get_source_segment(source, node) or ast.unparse(node)).split())


def require_copy(copy: Path) -> None:
    """Make sure that the package in the folder `copy` is the one that tests import."""
    command = [sys.executable, "-P", "-c", "import allometry; print(allometry.__file__)"]
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).is_relative_to(copy), done.stdout


def nearest_first(tests: list[str], file: str) -> list[str]:
    """Return the files of these tests: those named as the file `file` first, then those of its folder."""
    stem, folder = Path(file).stem, Path(file).parent.name

    def distance(test: Path) -> int:
        return 0 if stem in test.stem else 1 if folder in test.parts else 2

    found = {path for each in tests for path in ([ROOT / each] if each.endswith(".py") else
                                                 (ROOT / each).rglob("test_*.py"))}  # fmt: skip
    return [path.relative_to(ROOT).as_posix() for path in sorted(sorted(found), key=distance)]


def noticed(copy: Path, tests: list[str]) -> bool:
    """Return whether a test fails on the package in the folder `copy`, or does not end."""
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return True
    assert done.returncode not in (4, 5), f"no tests ran: {done.stderr.decode()}{done.stdout.decode()}"
    return done.returncode != 0


def wilson(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95 % interval of a share."""
    share, slack = successes / trials, z**2 / trials
    middle = (share + slack / 2) / (1 + slack)
    half = z * np.sqrt(share * (1 - share) / trials + slack / (4 * trials)) / (1 + slack)
    return float(middle - half), float(middle + half)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", default=["allometry/laws", "allometry/studies"])
    parser.add_argument(
        "--tests",
        nargs="+",
        default=["tests/laws", "tests/golden", "tests/contracts/test_laws.py", "tests/studies"],
    )
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--least", type=float, default=0.85)
    options = parser.parse_args()
    survivors = []
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        copy = Path(folder)
        shutil.copytree(ROOT / "allometry", copy / "allometry", ignore=shutil.ignore_patterns("__pycache__"))
        require_copy(copy)
        if noticed(copy, options.tests):
            print("the tests fail without any change", file=sys.stderr)
            sys.exit(2)
        tried = 0
        for mutant in mutants(options.paths, options.count, options.seed):
            original = (copy / mutant.file).read_text()
            (copy / mutant.file).write_text(mutant.source)
            killed = noticed(copy, nearest_first(options.tests, mutant.file))
            (copy / mutant.file).write_text(original)
            tried += 1
            print(
                f"{'noticed ' if killed else 'SURVIVED'} {mutant.file}:{mutant.line}  "
                f"{mutant.before}  ->  {mutant.after}",
                flush=True,
            )
            if not killed:
                survivors.append(mutant)
    share = 1 - len(survivors) / tried
    low, high = wilson(tried - len(survivors), tried)
    print(f"{tried - len(survivors)} of {tried} noticed: {share:.0%} [{low:.0%}, {high:.0%}]")
    sys.exit(share < options.least)


if __name__ == "__main__":
    main()
