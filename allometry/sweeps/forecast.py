"""When a sweep will be done: the predicted time of what is left, idle cores lent, corrected by how long what
was predicted has taken so far (`CostModel.learn`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

from allometry.sweeps.cost import CostModel
from allometry.sweeps.schedule import Job

_SHARE = 0.02
"""Most of the driver's time that may go into forecasts: with ten thousand runs they are made less often."""

Left = Callable[[], tuple[Sequence[Job], Collection[Collection[str]]]]
"""Jobs that are not finished, from where they are now, and the ids of those under way, slot by slot."""


class Forecast:
    """Seconds left and the share of the work that is done, for a sweep of `planned` predicted seconds."""

    def __init__(self, cost: CostModel, planned: float) -> None:
        self.cost, self.planned = cost, planned
        self._known = (0.0, 0.0)
        self._next = 0.0

    def now(self, left: Left, speeds: Collection[float], *, fresh: bool = False) -> tuple[float, float]:
        """The fraction of the work that is done and the seconds until the rest is.

        `fresh` asks for a forecast made now; else one that was made a moment ago will do.
        """
        began = time.monotonic()
        if fresh or began >= self._next:
            self._known = self._make(*left(), speeds)
            ended = time.monotonic()
            self._next = ended + (ended - began) / _SHARE
        return self._known

    def _make(
        self, left: Sequence[Job], under_way: Collection[Collection[str]], speeds: Collection[float]
    ) -> tuple[float, float]:
        work = sum(self.cost.between(job.config, job.start, job.config.train.steps) for job in left)
        seconds = self.cost.makespan(left, max(1, len(speeds)), under_way)
        typical = sum(speeds) / len(speeds) if speeds else 1.0
        fraction = 1 - work / self.planned if self.planned > 0 else 1.0
        return fraction, seconds / typical * self.cost.stretch
