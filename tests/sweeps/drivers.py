"""Several drivers at work on one store."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from allometry.runs.store import Store
    from allometry.sweeps.events import Summary
    from allometry.train.config import RunConfig


def two_drivers(runs: Sequence[RunConfig], store: Store, **pool: int) -> list[Summary]:
    """How each of two drivers ended that train the same sweep, each beginning with a half of its own."""
    from allometry.runs.store import Store
    from allometry.sweeps.execute import execute
    from allometry.sweeps.local import LocalPool
    from allometry.sweeps.shard import Shard, own_part
    from allometry.sweeps.sweep import Sweep

    def work(number: int) -> Summary:
        first = own_part(runs, Shard(number, 2))
        with LocalPool(1, **pool) as own:
            return execute(
                Sweep("s", "?", tuple(runs)), Store(store.path), pool=own, shared=True, first=first, lease=2.0
            )

    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(work, (1, 2)))
