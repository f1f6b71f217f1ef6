"""Write the tasks that workers are sent, with their claims, and follow the runs that other processes hold."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any, Literal

from allometry.runs.claims import Claims, LeaseMonitor, LeaseState
from allometry.runs.record import FINISHED, Status
from allometry.runs.store import Store
from allometry.sweeps.cost.cost import CostModel
from allometry.sweeps.cost.schedule import Job
from allometry.sweeps.cost.timing import PROCESS_BYTES, estimated_memory

_LOOKS_PER_LEASE = 4


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a sweep is executed: see `execute`. `lease` (seconds) is that of claims; None where nobody else
    writes to the store."""

    checkpoint_every: float = 15.0
    fail_fast: bool = False
    later: float = 0.0
    lease: float | None = None
    first: frozenset[str] = frozenset()


@dataclass
class TaskWriter:
    """Write the tasks of one executor (`allometry.sweeps.workers.worker` says what is in them).

    `over` are claims of others that are gone, by run; `data` the names of token sets; `session` is the owner
    of this executor's claims.
    """

    store: Store
    cost: CostModel
    settings: Settings
    over: dict[str, LeaseState] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    session: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    def to_train(self, jobs: Sequence[Job]) -> dict[str, Any]:
        """Return the task to train these jobs in one slot: one by itself, or as a pack."""
        tasks = [self._one(job) for job in jobs]
        if not self.cost.packing.is_pack(jobs):
            (task,) = tasks
            return task
        models = sum(estimated_memory(job.config) - PROCESS_BYTES for job in jobs[1:])
        memory = max(task["memory"] for task in tasks) + models  # in one process
        return {"do": "pack", "tasks": tasks, "memory": memory}

    def _one(self, job: Job) -> dict[str, Any]:
        claim = None
        if self.settings.lease is not None:
            over = self.over.pop(job.id, None)
            claim = {"owner": self.session, "lease": self.settings.lease, "over": over and astuple(over)}
        return {
            "do": "train",
            "store": self.store.place.location,
            "run": job.id,
            "config": job.config.model_dump(mode="json"),
            "branch_at": list(job.branch_at),
            "source": None if job.source is None else list(job.source),
            "memory": self.cost.memory(job.config),
            "checkpoint_every": self.settings.checkpoint_every,
            "claim": claim,
            "data": self.data,
        }


Outcome = Literal["ended", "failed", "free"]


@dataclass(frozen=True)
class ClaimedRunUpdate:
    """Say what became of a run that another process held: it ended, with its `status`; it failed;
    or it may be taken, `over` the claim of a holder that is gone.
    """

    job: Job
    outcome: Outcome
    status: Status | None = None
    over: LeaseState | None = None


class ClaimedRuns:
    """Follow the jobs of a sweep that other processes hold, until they end or their holder is gone."""

    def __init__(self, store: Store, lease: float) -> None:
        self.store, self.lease = store, lease
        self.jobs: dict[str, Job] = {}
        self._monitor = LeaseMonitor(Claims(store.place, lease))
        self._looked = 0.0

    def add(self, job: Job) -> None:
        """Follow a job that another process holds."""
        self.jobs[job.id] = job

    def updates(self) -> Iterator[ClaimedRunUpdate]:
        """Yield what happened since the last call; looks at most a few times per lease."""
        if not self.jobs or time.monotonic() - self._looked < self.lease / _LOOKS_PER_LEASE:
            return
        self._looked = time.monotonic()
        for job in list(self.jobs.values()):
            update = self._look(job)
            if update is not None:
                del self.jobs[job.id]
                yield update

    def _look(self, job: Job) -> ClaimedRunUpdate | None:
        state, lease = self._monitor.state(job.id)
        if state == "held":
            return None
        self.store.refresh(job.id)
        status = self.store.status(job.id)
        if status in FINISHED:
            return ClaimedRunUpdate(job, "ended", status)
        if status == "failed" and state == "free":
            return ClaimedRunUpdate(job, "failed", status)
        return ClaimedRunUpdate(job, "free", over=lease if state == "stale" else None)
