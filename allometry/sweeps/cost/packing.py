"""Which runs of a sweep are trained as packs (`allometry.experimental.packs`), how many together, and how long
that takes: pure decisions, from what was measured of packs.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from allometry.experimental import packable
from allometry.sweeps.cost.timing import PROCESS_BYTES, RunCosts, estimated_memory

if TYPE_CHECKING:
    from allometry.sweeps.cost.schedule import Job
    from allometry.train.config import RunConfig

MOST = 64
"""Runs in a pack at most, unless the user asks for more."""

GAIN = 1.1
"""How many times the tokens per second a pack must train, to be worth it: timings scatter."""

_NEAR = 0.93
"""The smallest pack is taken that has this share of the best one's tokens per second."""

_SHARE = 0.8
"""Of a slot's memory that may be planned for packs: memory is estimated roughly, and a pack that does not fit
costs its runs what they did since their last checkpoint."""

Place = TypeVar("Place")


def best_size(step: float, packs: Mapping[int, float]) -> int:
    """Return how many runs are best packed, given the seconds of a step of one alone and of packs by size; 0: none.

    1 is a pack of one run, which on a GPU is replayed as one graph.
    """
    paces = {size: size / seconds for size, seconds in packs.items()}
    best = max(paces.values(), default=0.0)
    if best * step < GAIN:
        return 0
    return min(size for size, pace in paces.items() if pace >= _NEAR * best)


def step_of(count: int, step: float, packs: Mapping[int, float]) -> float:
    """Return the seconds of a step of a pack of `count` runs: between the sizes that were measured, or in proportion to
    the largest; without any, as if the runs took turns.
    """
    if not packs:
        return count * step
    known = sorted(packs)
    if count > known[-1]:
        return packs[known[-1]] * count / known[-1]
    return float(np.interp(count, known, [packs[size] for size in known]))


class Packing:
    """What is packed on a pool whose slots have `room` bytes each (None: no limit known).

    `most` is what the user asked for: 1 is never, a number is packs of up to so many, whether they pay or
    not, and None is as many as were measured to pay.
    """

    def __init__(self, costs: RunCosts, most: int | None = 1, room: float | None = None) -> None:
        self.costs, self.most, self.room = costs, most, room
        self.apart: set[str] = set()
        self._sizes: dict[int, int] = {}
        self._kinds: dict[tuple[str, int], int | None] = {}
        self._numbers: dict[Hashable, int] = {}

    def kind(self, run: RunConfig) -> int | None:
        """Return a number that it shares with the runs that it may be packed with; None if it is trained by itself.

        Runs whose ids are in `apart` have been in a pack that did not work.
        """
        if self.most == 1 or run.id in self.apart:
            return None
        key = run.id, run.devices
        if key not in self._kinds:
            self._kinds[key] = None if packable.alone(run) else self._number(packable.kind(run))
        found = self._kinds[key]
        return found if found is not None and self._size(found, run) > 0 else None

    def _number(self, kind: Hashable) -> int:
        """Number the kinds: hashing a model's configuration is slow where there are many runs."""
        return self._numbers.setdefault(kind, len(self._numbers))

    def size(self, run: RunConfig) -> int:
        """Return how many runs such as this one are trained together, if there are as many."""
        kind = self.kind(run)
        return 1 if kind is None else self._size(kind, run)

    def _size(self, kind: int, run: RunConfig) -> int:
        if kind not in self._sizes:
            best = best_size(*self.costs.steps(run)) if self.most is None else self.most
            self._sizes[kind] = min(best, self.fitting(run))
        return self._sizes[kind]

    def fitting(self, run: RunConfig) -> int:
        """Return how many such runs a slot's memory is predicted to hold; at least one, which is tried anyway."""
        if self.room is None:
            return self.most or MOST
        each = estimated_memory(run) - PROCESS_BYTES
        return max(1, int((_SHARE * self.room - PROCESS_BYTES) / each))

    def worth_measuring(self, run: RunConfig, count: int) -> int:
        """Return the largest pack of such runs that is to be timed if there are `count` of them; 0: none."""
        if self.most == 1 or packable.alone(run) or (self.most is not None and count < 2):
            return 0
        return min(count, self.most or MOST, self.fitting(run))

    def is_pack(self, jobs: Sequence[Job]) -> bool:
        """Return whether these jobs of one slot are trained as a pack: several are, and one if that is quicker."""
        if len(jobs) > 1:
            return True
        if self.kind(jobs[0].config) is None:
            return False
        step, packs = self.costs.steps(jobs[0].config)
        return 1 in packs and GAIN * packs[1] <= step

    def stretch(self, jobs: Sequence[Job]) -> float:
        """Return how many times as long the longest of these jobs takes as it would alone."""
        if not self.is_pack(jobs):
            return 1.0
        step, packs = self.costs.steps(jobs[0].config)
        counts = [job.config.train.steps - job.start for job in jobs]
        alone = [self.costs.seconds(job.config, job.start) for job in jobs]
        besides = sum(alone) - step * sum(counts)  # evaluations and starts, which take turns
        together = max(counts) * step_of(len(jobs), step, packs) + besides
        return together / max(*alone, 1e-9) if max(alone) > 0 else 1.0

    def fill(self, started: Mapping[Place, Job], rest: Iterable[Job]) -> dict[Place, list[Job]]:
        """Return the jobs that start, each with those of the `rest` (the most urgent first) that join it.

        Jobs have been spread over slots before: what is left goes to the smallest pack that suits it.
        """
        packs = {place: [job] for place, job in started.items()}
        by_kind: dict[int | None, list[list[Job]]] = {}
        for pack in packs.values():
            if (kind := self.kind(pack[0].config)) is not None:
                by_kind.setdefault(kind, []).append(pack)
        for job in rest if by_kind else ():
            open_to_it = by_kind.get(self.kind(job.config), [])
            smallest = min(open_to_it, key=len, default=None)
            if smallest is not None and len(smallest) < self.size(job.config):
                smallest.append(job)
        return packs
