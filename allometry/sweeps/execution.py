"""A sweep under way: which job is where, and what follows from each report of a worker."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from allometry.errors import AllometryError
from allometry.runs.store import Store
from allometry.sweeps.cost import CostModel
from allometry.sweeps.devices import require_devices, slower_engine
from allometry.sweeps.elsewhere import News, Watch
from allometry.sweeps.events import Event, EventKind, OnEvent, Summary
from allometry.sweeps.forecast import Forecast
from allometry.sweeps.orders import Orders, Settings
from allometry.sweeps.parents import check_parents
from allometry.sweeps.places import Places, Running
from allometry.sweeps.pool import Pool, Report
from allometry.sweeps.schedule import BranchPoint, Job, jobs, urgency
from allometry.sweeps.service import keep_failure
from allometry.sweeps.survey import Survey, branch_points, drop_branch, mend, newest_step, survey
from allometry.sweeps.sweep import Sweep
from allometry.train.config import RunConfig

DEATHS_ALLOWED = 3
"""How often a run's worker may be killed before the run counts as failed."""

_TICK = 0.5
"""Seconds to wait for a report before looking around again."""


class Execution:
    """The state of a sweep and the decisions about it; `run` feeds a pool until nothing is left."""

    def __init__(
        self, sweep: Sweep, store: Store, cost: CostModel, on_event: OnEvent, settings: Settings
    ) -> None:
        self.sweep, self.store, self.cost, self.on_event = sweep, store, cost, on_event
        self.settings = settings
        shared = settings.lease is not None
        self.notes = [] if shared else [note for run in sweep for note in mend(store.directory(run.id))]
        self.before: Survey = survey(sweep.runs, store)
        check_parents(self.before.pending, store)
        self.unfinished = {run.id for run in self.before.pending}
        self.ready: list[Job] = []
        self.waiting: list[Job] = []
        self.places = Places(cost)
        self.running = self.places.running
        self.watch = Watch(store, settings.lease) if settings.lease is not None else None
        self.orders = Orders(store, cost, settings)
        self.left: set[BranchPoint] = {
            (run, step) for steps in self.before.branches.values() for step, run in steps.items()
        }
        self.deaths: dict[str, int] = {}
        self.ended: dict[str, str] = {}
        self.elsewhere: list[str] = []
        self.failed: dict[str, str] = {}
        self.began = time.monotonic()
        self.worked = self.offered = 0.0
        self._urgent: dict[str, float] = {}
        self._add(self.before.jobs())
        planned = sum(self.cost.seconds(job.config, job.start) for job in self.ready + self.waiting)
        self.forecast = Forecast(cost, planned)

    @property
    def finished(self) -> bool:
        """Whether there is nothing to do, here or elsewhere."""
        return not (self.ready or self.waiting or self.running or (self.watch and self.watch.jobs))

    def run(self, pool: Pool) -> None:
        """Feed the pool until nothing is left."""
        self.cost.on(pool)
        self.places.look(pool)
        self.notes += [] if pool.shared else slower_engine(self.before.pending, pool.device)
        self.announce()
        require_devices(self.before.pending, pool)
        self.orders.data = pool.settle(self.sweep, self.store)
        while not self.finished:
            began = time.monotonic()
            self.places.look(pool)
            self._dispatch(pool)
            for slot, count in self.places.lend(pool, reserved=bool(self.ready)).items():
                pool.send(slot, {"do": "threads", "count": count})
            for slot, report in pool.reports(_TICK):
                self._handle(slot, report)
            for news in self.watch.news() if self.watch else ():
                self._from_elsewhere(news)
            self.offered += (time.monotonic() - began) * len(self.places.speeds)
            if self.settings.fail_fast and self.failed:
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
        self._urgent.clear()

    def _may_start(self, job: Job) -> bool:
        if job.source is not None and job.source not in self.left:
            return False
        return job.parent not in self.unfinished or job.parent in self.ended or job.parent in self.failed

    def _dispatch(self, pool: Pool) -> None:
        if not self.ready:
            return
        started = self.places.start(self._in_order, pool)
        self.ready = [job for job in self.ready if job.id not in self.running]
        for slots, pack in started.items():
            pool.send(slots[0], {**self.orders.to_train(pack), "slots": list(slots)})
            for job in pack:
                self._tell("start", job.config, step=job.start)
        if self.ready and self.places.speeds and not self.running:  # the nodes that were large enough left
            require_devices([job.config for job in self.ready], pool)

    def _in_order(self) -> list[Job]:
        """Jobs that may start: those to be trained `first`, then the longest chains."""
        if any(job.id not in self._urgent for job in self.ready):
            self._urgent = urgency([*self.ready, *self.waiting], self.cost.between)
        first = self.settings.first
        return sorted(self.ready, key=lambda job: (job.id in first, self._urgent[job.id]), reverse=True)

    def _handle(self, slot: int, report: Report) -> None:
        """A report is about one run of a pack, if it names one, else about all that is in the slot."""
        for current in self.places.on(slot):
            if report.get("run", current.job.id) == current.job.id:
                self._hear(current, report)

    def _hear(self, current: Running, report: Report) -> None:
        kind = report["is"]
        if kind == "progress":
            self._progress(current, report)
        elif kind == "left":
            self.left.add((current.job.id, report["step"]))
            self._release()
        elif kind == "branched":
            self._used(current.job)
        elif kind == "restarted":
            self._restarted(current.job, report)
        elif kind in ("done", "failed", "died", "elsewhere", "unpacked"):
            self.worked += self.places.leave(current.job.id)
            self._over(current.job, kind, report)
            self._orphans(current.job)

    def _over(self, job: Job, kind: str, report: Report) -> None:
        """A job has left its worker."""
        if kind == "done":
            self._finish(job, report["result"])
        elif kind == "elsewhere":
            assert self.watch is not None
            self.watch.add(job)
            self._tell("elsewhere", job.config, text="another process trains it")
        elif kind == "failed":
            if report["full"]:
                raise AllometryError(report["error"], hint=report["hint"])
            self._fail(job, report["error"])
        elif kind == "unpacked":
            self.cost.packing.apart.add(job.id)
            self._again(job, f"it could not go on in a pack ({report['error']})")
        else:
            self._died(job, report)

    def _progress(self, current: Running, report: Report) -> None:
        now = time.monotonic()
        current.now_on(report["threads"])
        predicted = self.cost.between(current.job.config, current.step, report["step"])
        self.cost.learn(predicted * current.stretch, now - current.seen)
        current.step, current.seen = report["step"], now
        self._tell(
            "progress", current.job.config, step=current.step, loss=report["loss"], pace=report["pace"]
        )

    def _used(self, job: Job) -> None:
        """The run has its copy of the branch point; the last one to take it removes it."""
        others = (*self.ready, *self.waiting, *(self.watch.jobs.values() if self.watch else ()))
        if job.source is not None and all(other.source != job.source for other in others):
            drop_branch(self.store, *job.source)

    def _finish(self, job: Job, result: Report) -> None:
        self.ended[job.id] = result["status"]
        text = "; ".join(result.get("notes", ()))
        step = int(result.get("step", job.config.train.steps))
        self._tell("done", job.config, step=step, loss=result.get("loss"), text=text)

    def _fail(self, job: Job, reason: str) -> None:
        self.failed[job.id] = reason
        self._tell("failed", job.config, text=reason)

    def _restarted(self, job: Job, report: Report) -> None:
        """The pool itself started the job again after its worker was lost."""
        self.deaths[job.id] = report["times"]
        step = newest_step(self.store, job.id)
        self._tell("retry", job.config, step=step, text="its worker was lost")

    def _died(self, job: Job, report: Report) -> None:
        """The worker was killed from outside: the run continues from its checkpoint, a few times."""
        self.deaths[job.id] = self.deaths.get(job.id, 0) + 1
        cause = f"its worker was killed ({report['signal'] or 'exit'})"
        if self.deaths[job.id] > DEATHS_ALLOWED:
            reason = f"{cause} {self.deaths[job.id]} times; the machine may be short of memory"
            keep_failure(self.store.directory(job.id), reason)
            self.store.push(job.id)
            self._fail(job, reason)
            return
        if self.deaths[job.id] > 1:
            self.cost.packing.apart.add(job.id)  # which would take more memory
        self._again(job, cause, certain=report.get("certain", True))

    def _again(self, job: Job, cause: str, *, certain: bool = True) -> None:
        """Continue from the checkpoint; where the run may live on unseen, once its claim tells that."""
        again = self._from_checkpoint(job)
        self._tell("retry", job.config, step=again.start if again.source is None else 0, text=cause)
        if self.watch is not None and not certain:
            self.watch.add(again)
        else:
            self.ready.append(again)

    def _from_checkpoint(self, job: Job) -> Job:
        step = newest_step(self.store, job.id)
        return replace(job, start=step, source=None) if step else job

    def _from_elsewhere(self, news: News) -> None:
        job = news.job
        if news.outcome == "ended":
            self.elsewhere.append(job.id)
            result = self.store.get(job.id).result
            self._finish(job, {**result, "status": news.status, "notes": ["trained by another process"]})
        elif news.outcome == "failed":
            self._fail(job, (self.store.get(job.id).error or "it failed").splitlines()[0])
        else:
            if news.over is not None:
                self.orders.over[job.id] = news.over
            self._add([self._from_checkpoint(job)])
            return
        self._orphans(job)

    def _release(self) -> None:
        """Move jobs whose branch point has come into being to the queue."""
        if any(self._may_start(job) for job in self.waiting):
            waiting, self.waiting = self.waiting, []
            self._add(waiting)

    def _orphans(self, job: Job) -> None:
        """Jobs that waited for this one to end may start; those that waited for a branch point which it did
        not leave find another way.
        """
        if job.id not in self.ended and job.id not in self.failed:
            return
        self._release()
        orphans = [other for other in self.waiting if other.source is not None and other.source[0] == job.id]
        if not orphans:
            return
        self.waiting = [other for other in self.waiting if other not in orphans]
        points = branch_points([job.config], self.store)
        self.left |= {(run, step) for steps in points.values() for step, run in steps.items()}
        self._add(jobs([other.config for other in orphans], {}, points))

    def _tell(self, kind: EventKind, run: RunConfig | None = None, **fields: Any) -> None:
        fraction, seconds = self.forecast.now(
            self._left, self.places.speeds.values(), fresh=kind in ("begin", "end")
        )
        self.on_event(
            Event(
                kind=kind,
                sweep=self.sweep.name,
                finished=len(self.before.finished) + len(self.ended) + len(self.failed),
                total=len(self.sweep),
                fraction=fraction,
                eta=self.settings.later * self.cost.stretch + seconds,
                run=run,
                **fields,
            )
        )

    def _left(self) -> tuple[list[Job], list[list[str]]]:
        under_way = [replace(at.job, start=at.step, source=None) for at in self.running.values()]
        others = list(self.watch.jobs.values()) if self.watch else []
        return [*under_way, *others, *self.ready, *self.waiting], self.places.packs()

    def summary(self) -> Summary:
        """How it ended."""
        by = {
            status: tuple(run for run, end in self.ended.items() if end == status)
            for status in ("done", "diverged")
        }
        return Summary(
            **by,
            failed=self.failed,
            skipped=self.before.finished,
            seconds=time.monotonic() - self.began,
            busy=self.worked / self.offered if self.offered > 0 else 0.0,
            elsewhere=tuple(self.elsewhere),
        )
