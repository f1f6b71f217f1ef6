"""Report on a sweep under way: events with a forecast of its end, and a summary of how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from allometry.sweeps.cost.cost import CostModel
from allometry.sweeps.cost.schedule import Job
from allometry.train.config import RunConfig

EventKind = Literal["begin", "start", "progress", "done", "failed", "retry", "elsewhere", "end"]


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened in a sweep, for whoever watches.

    `run`, `step`, `loss` and `pace` (tokens per second) concern one run; `finished` of `total` runs have
    ended; `fraction` of the sweep's predicted seconds are spent; `eta` is the seconds until the sweep and
    what comes `later` are done; `text` is for people.
    """

    kind: EventKind
    sweep: str
    finished: int
    total: int
    fraction: float
    eta: float
    run: RunConfig | None = None
    step: int = 0
    loss: float | None = None
    pace: float | None = None
    text: str = ""


OnEvent = Callable[[Event], None]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How a sweep ended: ids of runs by outcome, why some failed, and the seconds it took.

    `skipped` were finished before, `elsewhere` are those of the others that another process trained
    meanwhile. `busy` is the share of the workers' time that was spent in runs.
    """

    done: tuple[str, ...]
    diverged: tuple[str, ...]
    failed: dict[str, str]
    skipped: tuple[str, ...]
    seconds: float
    busy: float
    elsewhere: tuple[str, ...] = ()


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
        """Return the fraction of the work that is done and the seconds until the rest is.

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
