"""Several drivers at work on one store."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

    from allometry.runs.store import Store
    from allometry.sweeps.progress import Summary
    from allometry.train.config import RunConfig


LEASE = 120.0
"""Seconds: no busy machine keeps a living worker from renewing its claim for so long."""


def two_drivers(
    runs: Sequence[RunConfig], store: Store, monkeypatch: pytest.MonkeyPatch, **pool: int
) -> list[Summary]:
    """Return how each of two drivers ended that train the same sweep, each beginning with its own half."""
    from allometry.runs.store import Store
    from allometry.sweeps import Sweep
    from allometry.sweeps.execute import execute
    from allometry.sweeps.local import LocalPool
    from allometry.sweeps.placement import Shard, own_part

    def work(number: int) -> Summary:
        first = own_part(runs, Shard(number, 2))
        with LocalPool(1, **pool) as own:
            return execute(
                Sweep("s", "?", tuple(runs)),
                Store(store.path),
                pool=own,
                shared=True,
                first=first,
                lease=LEASE,
            )

    monkeypatch.setattr("allometry.sweeps.execute._LOOKS_PER_LEASE", 10 * LEASE)  # ten a second
    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(work, (1, 2)))
