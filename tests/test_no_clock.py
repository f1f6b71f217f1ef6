"""No test may depend on how quick the machine is: what it waits for must be an event, never a time."""

import ast
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

CLOCKS = {
    "sleep",
    "monotonic",
    "perf_counter",
    "process_time",
    "thread_time",
    "time",
    "monotonic_ns",
    "time_ns",
}
CALENDAR = {"gmtime", "strftime"}
"""Of `time`, what tells the date: outcomes may be compared with it, in order."""

ALLOWED = {
    "waiting.py": "the pause between two looks at an event, without a limit",
    "sweeps/test_slurm_script.py": "the same, in a program that runs elsewhere",
    "experimental/test_devices.py": "the same, in a program that runs elsewhere",
    "data/webtext/webtext_server.py": "answers that never end, and the times at which pages were asked for",
    "data/webtext/test_webtext_manners.py": "the time limit that the crawler is given for pages that never end",
    "data/webtext/test_webtext_fetch.py": "the time limit that the crawler is given for pages that never end",
    "test_no_clock.py": "examples of what is forbidden",
}
"""Files that may use a clock, and why."""


def clocks(source: str) -> Iterator[str]:
    """Yield every use of a clock, and every limit on waiting, with its line."""
    tree = ast.parse(source)
    modules, functions = {"time"}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {each.asname or each.name for each in node.names if each.name == "time"}
        elif isinstance(node, ast.ImportFrom) and node.module in ("time", "timeit"):
            functions |= {each.asname or each.name for each in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = node.value.id
            if (name in modules and node.attr in CLOCKS) or (name, node.attr) == ("asyncio", "sleep"):
                yield f"{node.lineno}: {name}.{node.attr}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in functions:
            yield f"{node.lineno}: {node.func.id}()"
        if isinstance(node, ast.Call):
            yield from (
                f"{node.lineno}: {each.arg}=" for each in node.keywords if _limit(each.arg, each.value)
            )
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and _limit(key.value, value):
                    yield f"{node.lineno}: {key.value}="
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "import " in node.value:
            with contextlib.suppress(SyntaxError):  # prose, or a program for another process
                yield from clocks(node.value)


def _limit(name: object, value: ast.expr) -> bool:
    if isinstance(value, ast.Constant) and not isinstance(value.value, int | float):
        return False
    return name in ("timeout", "timeout_s", "deadline", "kill_after")


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import time\ntime.sleep(1)", ["2: time.sleep"]),
        ("import time as t\nassert t.perf_counter() - a < 5", ["2: t.perf_counter"]),
        ("from time import monotonic as now\nnow()", ["2: now()"]),
        ("process.wait(timeout=30)", ["1: timeout="]),
        ("options = {'timeout': 6.0}", ["1: timeout="]),
        ("program = 'import time\\ntime.sleep(1)'", ["2: time.sleep"]),
        ("import asyncio\nawait asyncio.sleep(1)", ["2: asyncio.sleep"]),
        ("settings(deadline=None)\nprocess.wait()\nself.times['a']\nclock.sleep(1)", []),
        ("import time\ntime.strftime('%Y', time.gmtime())", []),
    ],
)
def test_clocks_are_found(source: str, found: list[str]) -> None:
    assert list(clocks(source)) == found


def test_no_test_uses_a_clock_without_a_reason() -> None:
    found = {}
    for path in sorted(TESTS.rglob("*.py")):
        name = path.relative_to(TESTS).as_posix()
        uses = list(clocks(path.read_text()))
        if uses and name not in ALLOWED:
            found[name] = uses
    assert not found, "wait for an event with tests/waiting.py instead"


def test_reasons_are_given_for_files_that_need_them() -> None:
    for name in ALLOWED:
        assert list(clocks((TESTS / name).read_text())), f"{name} needs no exception any more"
