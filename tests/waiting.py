"""Wait for events in tests. No wait has a limit of its own, so that no speed of a machine decides an outcome.

What never happens is ended by the guard of the whole suite (`timeout` in pyproject.toml), which shows where
the test stood.
"""

import subprocess
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

import psutil

Value = TypeVar("Value")
PAUSE = 0.02
"""Seconds between two looks. It decides how soon an event is seen, never whether it is."""


def until(condition: Callable[[], Value], *, alive: subprocess.Popen | None = None) -> Value:
    """Return the first true value of `condition()`. Fails if the process `alive` ends before there is one."""
    while not (value := condition()):
        if alive is not None and alive.poll() is not None:
            value = condition()  # it may have come true just before the end
            assert value, f"the process ended with status {alive.returncode} before the event"
            return value
        time.sleep(PAUSE)
    return value


def is_running(process: psutil.Process) -> bool:
    """Return whether the process computes or could; one that only waits to be reaped does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until_ended(processes: Iterable[psutil.Process]) -> None:
    """Return when none of the processes runs any more."""
    waited = list(processes)
    until(lambda: not any(map(is_running, waited)))
