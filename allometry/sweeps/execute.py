"""Train a sweep: whatever is missing in the store, on all cores, longest first, through failures and
kills.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from allometry.errors import AllometryError
from allometry.runs.lock import exclusive
from allometry.runs.store import Store
from allometry.sweeps.cost import CostModel
from allometry.sweeps.pool import Pool, open_pool
from allometry.sweeps.schedule import Job, jobs, makespan, urgency
from allometry.sweeps.survey import (
    Survey,
    branch_points,
    drop_branch,
    mend,
    newest_step,
    survey,
    tidy,
)
from allometry.sweeps.sweep import Sweep
from allometry.sweeps.worker import keep_failure
from allometry.train.config import RunConfig

DEATHS_ALLOWED = 3
"""How often a run's worker may be killed before the run counts as failed."""

_TICK = 0.5
"""Seconds to wait for a report before looking around again."""

EventKind = Literal["begin", "start", "progress", "done", "failed", "retry", "end"]


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

    `skipped` were finished before. `busy` is the share of the workers' time that was spent in runs.
    """

    done: tuple[str, ...]
    diverged: tuple[str, ...]
    failed: dict[str, str]
    skipped: tuple[str, ...]
    seconds: float
    busy: float


@dataclass
class _Running:
    """A job on a worker, and how far it is."""

    job: Job
    step: int
    since: float
    seen: float


def execute(
    sweep: Sweep,
    store: Store,
    *,
    workers: int | None = None,
    pool: Pool | None = None,
    cost: CostModel | None = None,
    on_event: OnEvent | None = None,
    fail_fast: bool = False,
    later: float = 0.0,
    checkpoint_every: float = 15.0,
) -> Summary:
    """Train the runs of a sweep that have no result in `store` yet; the same call continues after any
    interruption.

    Workers are single-thread processes; a `pool` given stays open for the next call, else one with `workers`
    (default: the cores) is opened for this one. Runs that share a constant-rate trunk branch off the longest
    of them. A run that fails keeps its reason in error.txt and the others go on, unless `fail_fast`; the
    next call tries it again. `cost` orders the runs and predicts the end (default: by FLOPs), to which
    `later` seconds of further stages are added. A kill costs at most `checkpoint_every` seconds of each run.

    Raises AllometryError if another process writes to the store, the disk is full or, with `fail_fast`, a
    run failed; KeyboardInterrupt after the workers have stopped.
    """
    with exclusive(store.path):
        state = _Execution(sweep, store, cost or CostModel(), on_event or (lambda event: None), later)
        if not state.ready and not state.waiting:
            state.announce()
            return state.summary()
        own = pool is None
        pool = pool or open_pool(None, workers)
        try:
            state.workers, state.checkpoint_every = pool.workers, checkpoint_every
            state.run(pool, fail_fast=fail_fast)
        except BaseException:
            pool.stop()
            raise
        if own:
            pool.close()
        tidy(sweep.runs, store)
        return state.summary()


class _Execution:
    """A sweep under way."""

    def __init__(self, sweep: Sweep, store: Store, cost: CostModel, on_event: OnEvent, later: float) -> None:
        self.sweep, self.store, self.cost, self.on_event, self.later = sweep, store, cost, on_event, later
        self.notes = [note for run in sweep for note in mend(store.directory(run.id))]
        self.before: Survey = survey(sweep.runs, store)
        self.ready: list[Job] = []
        self.waiting: list[Job] = []
        self.running: dict[int, _Running] = {}
        self.deaths: dict[str, int] = {}
        self.ended: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self.began = time.monotonic()
        self.worked = 0.0
        self.workers = 1
        self.checkpoint_every = 15.0
        self.eta = _Eta()
        self._add(self.before.jobs())
        self.planned = sum(self.cost.seconds(job.config, job.start) for job in self.ready + self.waiting)

    def run(self, pool: Pool, *, fail_fast: bool) -> None:
        """Feed the pool until nothing is left."""
        self.announce()
        while self.ready or self.waiting or self.running:
            self._dispatch(pool)
            for worker, report in pool.reports(_TICK):
                self._handle(worker, report)
                if fail_fast and self.failed:
                    run, reason = next(iter(self.failed.items()))
                    raise AllometryError(f"{run} failed: {reason}", hint="the same command tries it again")
        self._tell("end")

    def announce(self) -> None:
        """Say what there is to do, and what had to be set aside."""
        self._tell("begin", text="; ".join([self.before.sentence, *self.notes]))

    def _add(self, found: list[Job]) -> None:
        """Queue jobs: at once, or when their branch point exists."""
        for job in found:
            (self.ready if self._may_start(job) else self.waiting).append(job)

    def _may_start(self, job: Job) -> bool:
        if job.source is None:
            return True
        run, step = job.source
        return step in branch_points([self._config(run)], self.store).get(job.config.trunk or "", {})

    def _config(self, run: str) -> RunConfig:
        return next(config for config in self.sweep if config.id == run)

    def _dispatch(self, pool: Pool) -> None:
        idle = [worker for worker in range(pool.workers) if worker not in self.running]
        if not idle or not self.ready:
            return
        urgent = urgency([*self.ready, *self.waiting], self.cost.between)
        self.ready.sort(key=lambda job: urgent[job.id])
        for worker in idle[: len(self.ready)]:
            job = self.ready.pop()
            pool.send(worker, self._order(job))
            now = time.monotonic()
            self.running[worker] = _Running(job, job.start, now, now)
            self._tell("start", job.config, step=job.start)

    def _order(self, job: Job) -> dict[str, Any]:
        source = None
        if job.source is not None:
            source = [str(self.store.directory(job.source[0]).absolute()), job.source[1]]
        return {
            "do": "train",
            "config": job.config.model_dump(mode="json"),
            "directory": str(self.store.directory(job.id).absolute()),
            "branch_at": job.branch_at,
            "source": source,
            "threads": 1,
            "checkpoint_every": self.checkpoint_every,
        }

    def _handle(self, worker: int, report: dict[str, Any]) -> None:
        current = self.running.get(worker)
        if current is None:
            return
        kind = report["is"]
        if kind == "progress":
            self._progress(current, report)
        elif kind == "branched":
            self._used(current.job)
        elif kind == "done":
            self._leave(worker)
            self._finish(current, report["result"])
        elif kind == "failed":
            self._leave(worker)
            if report["full"]:
                raise AllometryError(report["error"], hint=report["hint"])
            self._fail(current.job, report["error"])
        elif kind == "died":
            self._leave(worker)
            self._died(current.job, report["signal"])
        if kind != "ready":
            self._release()

    def _progress(self, current: _Running, report: dict[str, Any]) -> None:
        now = time.monotonic()
        predicted = self.cost.between(current.job.config, current.step, report["step"])
        self.eta.learn(predicted, now - current.seen)
        current.step, current.seen = report["step"], now
        self._tell(
            "progress", current.job.config, step=current.step, loss=report["loss"], pace=report["pace"]
        )

    def _used(self, job: Job) -> None:
        """The run has its copy of the branch point; the last one to take it removes it."""
        if job.source is not None and all(
            other.source != job.source for other in (*self.ready, *self.waiting)
        ):
            run, step = job.source
            drop_branch(self.store.directory(run), step)

    def _leave(self, worker: int) -> None:
        self.worked += time.monotonic() - self.running.pop(worker).since

    def _finish(self, current: _Running, result: dict[str, Any]) -> None:
        self.ended[current.job.id] = result["status"]
        text = "; ".join(result.get("notes", ()))
        step = int(result.get("step", current.job.config.train.steps))
        self._tell("done", current.job.config, step=step, loss=result.get("loss"), text=text)
        self._orphans(current.job)

    def _fail(self, job: Job, reason: str) -> None:
        self.failed[job.id] = reason
        self._tell("failed", job.config, text=reason)
        self._orphans(job)

    def _died(self, job: Job, signal: str | None) -> None:
        """The worker was killed from outside: the run continues from its checkpoint, a few times."""
        self.deaths[job.id] = self.deaths.get(job.id, 0) + 1
        cause = f"its worker was killed ({signal or 'exit'})"
        if self.deaths[job.id] > DEATHS_ALLOWED:
            reason = f"{cause} {self.deaths[job.id]} times; the machine may be short of memory"
            keep_failure(self.store.directory(job.id), reason)
            self._fail(job, reason)
            return
        step = newest_step(self.store.directory(job.id))
        self._tell("retry", job.config, step=step, text=cause)
        self.ready.append(replace(job, start=step, source=None) if step else job)

    def _release(self) -> None:
        """Move jobs whose branch point has come into being to the queue."""
        waiting, self.waiting = self.waiting, []
        self._add(waiting)

    def _orphans(self, job: Job) -> None:
        """Jobs that waited for a trunk which ended without leaving their branch point find another way."""
        self._release()
        orphans = [other for other in self.waiting if other.source is not None and other.source[0] == job.id]
        self.waiting = [other for other in self.waiting if other not in orphans]
        if orphans:
            self._add(jobs([other.config for other in orphans], {}, branch_points(self.sweep, self.store)))

    def _tell(self, kind: EventKind, run: RunConfig | None = None, **fields: Any) -> None:
        under_way = [replace(at.job, start=at.step, source=None) for at in self.running.values()]
        at_work = {job.id for job in under_way}
        left = [*under_way, *self.ready, *self.waiting]
        remaining = sum(self.cost.between(job.config, job.start, job.config.train.steps) for job in left)
        self.on_event(
            Event(
                kind=kind,
                sweep=self.sweep.name,
                finished=len(self.before.finished) + len(self.ended) + len(self.failed),
                total=len(self.sweep),
                fraction=1 - remaining / self.planned if self.planned > 0 else 1.0,
                eta=self.later + self.eta.scale(makespan(left, self.cost.between, self.workers, at_work)),
                run=run,
                **fields,
            )
        )

    def summary(self) -> Summary:
        """How it ended."""
        seconds = time.monotonic() - self.began
        by = {
            status: tuple(run for run, end in self.ended.items() if end == status)
            for status in ("done", "diverged")
        }
        return Summary(
            **by,
            failed=self.failed,
            skipped=self.before.finished,
            seconds=seconds,
            busy=self.worked / (seconds * self.workers) if seconds > 0 else 0.0,
        )


@dataclass
class _Eta:
    """Corrects predictions by how long predicted work has taken so far."""

    predicted: float = 5.0
    actual: float = 5.0

    def learn(self, predicted: float, actual: float) -> None:
        """Predicted work of so many seconds took `actual` seconds."""
        self.predicted += predicted
        self.actual += actual

    def scale(self, seconds: float) -> float:
        """The prediction, corrected."""
        return seconds * self.actual / self.predicted
