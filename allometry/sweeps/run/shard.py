"""Dividing a sweep among the tasks of a job array, without anything that they talk through but the store.

Every task sees the whole sweep and begins with its own part; what is left when that is done, and nobody has
claimed, it trains too. So a task that fails or never starts costs time, not runs.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Sequence
from dataclasses import dataclass

from allometry.core.errors import AllometryError
from allometry.sweeps.cost.cost import CostModel
from allometry.sweeps.run.devices import on
from allometry.train.config import RunConfig


@dataclass(frozen=True)
class Shard:
    """Part `number` (from 1) of `of`."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def parse_shard(text: str) -> Shard:
    """Return the shard that "2/8" names; AllometryError for anything else."""
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise AllometryError(
            f"--shard {text!r} is no part of a whole",
            hint="write --shard 1/8 to --shard 8/8; in a Slurm array of 1-8: --shard $SLURM_ARRAY_TASK_ID/8",
        )
    return Shard(int(match[1]), int(match[2]))


def own_part(runs: Sequence[RunConfig], shard: Shard) -> frozenset[str]:
    """Return the ids of the runs that a shard begins with: whole trunks, the longest first to whoever has least.

    The split depends on the configurations alone (nominal cost, no timings), so all shards agree on it.
    """
    cost = CostModel()
    groups: dict[str, list[RunConfig]] = {}
    for run in (on(run, 1) for run in runs):
        groups.setdefault(run.trunk or run.id, []).append(run)
    seconds = {name: _chain(cost, members) for name, members in groups.items()}
    bins = [(0.0, number) for number in range(1, shard.of + 1)]
    mine: list[RunConfig] = []
    for name in sorted(groups, key=lambda name: (-seconds[name], name)):
        load, number = heapq.heappop(bins)
        heapq.heappush(bins, (load + seconds[name], number))
        if number == shard.number:
            mine += groups[name]
    return frozenset(run.id for run in mine)


def _chain(cost: CostModel, members: Sequence[RunConfig]) -> float:
    """Seconds of runs that share a trunk: the longest, and what the others do after leaving it."""
    longest = max(members, key=lambda run: run.train.steps)
    if longest.trunk is None:
        return sum(cost.seconds(run) for run in members)
    others = (run for run in members if run is not longest)
    return cost.seconds(longest) + sum(cost.seconds(run, run.train.decay_start) for run in others)
