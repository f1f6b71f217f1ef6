"""Runs of a sweep that another process trains: watched until they end, or until their holder is gone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from allometry.runs.claims import Claims, Lookout, Sight
from allometry.runs.record import FINISHED, Status
from allometry.runs.store import Store
from allometry.sweeps.schedule import Job

_LOOKS_PER_LEASE = 4

Outcome = Literal["ended", "failed", "free"]


@dataclass(frozen=True)
class News:
    """What became of a run elsewhere: it ended, with its `status`; it failed; or it may be taken, `over` the
    claim of a holder that is gone."""

    job: Job
    outcome: Outcome
    status: Status | None = None
    over: Sight | None = None


class Watch:
    """The jobs of a sweep that others hold."""

    def __init__(self, store: Store, lease: float) -> None:
        self.store, self.lease = store, lease
        self.jobs: dict[str, Job] = {}
        self._lookout = Lookout(Claims(store.place, lease))
        self._looked = 0.0

    def add(self, job: Job) -> None:
        """Watch a job that another process holds."""
        self.jobs[job.id] = job

    def news(self) -> Iterator[News]:
        """What happened since the last look; looks at most a few times per lease."""
        if not self.jobs or time.monotonic() - self._looked < self.lease / _LOOKS_PER_LEASE:
            return
        self._looked = time.monotonic()
        for job in list(self.jobs.values()):
            news = self._look(job)
            if news is not None:
                del self.jobs[job.id]
                yield news

    def _look(self, job: Job) -> News | None:
        state, sight = self._lookout.state(job.id)
        if state == "held":
            return None
        self.store.refresh(job.id)
        status = self.store.status(job.id)
        if status in FINISHED:
            return News(job, "ended", status)
        if status == "failed" and state == "free":
            return News(job, "failed", status)
        return News(job, "free", over=sight if state == "stale" else None)
