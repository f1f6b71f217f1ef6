"""Cores that have no run of their own work on the runs that are under way.

Only towards the end of a sweep, or in one of fewer runs than cores: a run for each core trains more than
threads within one. The native engine computes the same bits on any number of threads (`Engine.use_threads`),
so what is lent changes nothing but the time.
"""

from __future__ import annotations

from collections.abc import Mapping

MOST_THREADS = 8
"""More do not help one run: `parts.h` of the native engine cuts a batch into so many parts at most."""

_WORTH = 0.75
"""What another thread adds, of a core with a run of its own."""


def speedup(threads: int) -> float:
    """How many times as fast as on one thread a run is expected to be."""
    return 1 + _WORTH * (threads - 1)


def lend(left: Mapping[str, float], idle: int) -> dict[str, int]:
    """Threads for each run that may have several: `left` gives the seconds that it would take alone, `idle`
    the number of cores without a run.

    Each core in turn goes to the run that would end last.
    """
    threads = dict.fromkeys(left, 1)
    for _ in range(idle):
        able = [run for run, count in threads.items() if count < MOST_THREADS]
        if not able:
            break
        last = max(able, key=lambda run: left[run] / speedup(threads[run]))
        threads[last] += 1
    return threads
