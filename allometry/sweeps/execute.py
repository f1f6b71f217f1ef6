"""Train a sweep: whatever is missing in the store, on all workers, longest first, through failures and kills.

Workers are sent tasks with their claims; the runs that other processes hold are followed until they end."""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import astuple, dataclass, field, replace
from typing import Any, Literal

from allometry.core.errors import AllometryError
from allometry.core.locks import exclusive
from allometry.runs.claims import LEASE, Claims, LeaseMonitor, LeaseState
from allometry.runs.record import FINISHED, Status
from allometry.runs.store import Store
from allometry.sweeps import Sweep
from allometry.sweeps.cost import PROCESS_BYTES, CostModel, estimated_memory
from allometry.sweeps.local import LocalPool
from allometry.sweeps.placement import Placement, Running, require_devices, slower_engine
from allometry.sweeps.pool import Message, Pool
from allometry.sweeps.progress import Event, EventKind, Forecast, OnEvent, Summary
from allometry.sweeps.schedule import (
    BranchPoint,
    Job,
    Survey,
    branch_points,
    drop_branch,
    jobs,
    mend,
    newest_step,
    survey,
    tidy,
    urgency,
)
from allometry.sweeps.worker import keep_failure
from allometry.train.checkpoint import mismatch
from allometry.train.config import RunConfig
from allometry.train.texts import refuse_changed, settle

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
    """Write the tasks of one executor (`allometry.sweeps.worker` says what is in them).

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


DEATHS_ALLOWED = 3
"""How often a run's worker may be killed before the run counts as failed."""

_TICK = 0.5
"""Seconds to wait for a message before looking around again."""


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
    shared: bool = False,
    first: Collection[str] = (),
    lease: float = LEASE,
) -> Summary:
    """Train the runs of a sweep that have no result in `store` yet; the same call continues after any
    interruption.

    A `pool` given stays open for the next call, else one of this machine's cores with `workers` processes is
    opened for this one. Runs that share a constant-rate trunk branch off the longest of them. A run that
    fails keeps its reason in error.txt and the others go on, unless `fail_fast`; the next call tries it
    again. `cost` orders the runs and predicts the end (default: by FLOPs), to which `later` seconds of
    further stages are added. A kill costs at most `checkpoint_every` seconds of each run.

    Where the store is at a URL, the pool is a cluster, or the caller says that it is `shared`, each run is
    claimed before it is trained, for `lease` seconds at a time: other drivers may work on the same store, and
    what they train is waited for. `first` are ids of the runs to begin with.

    Finished runs of a text that has changed since are put aside and trained again (`runs.record`); in a shared
    store they are refused.

    Raises AllometryError if another process writes to the store without claims, the disk is full or, with
    `fail_fast`, a run failed; KeyboardInterrupt after the workers have stopped.
    """
    shared = shared or store.remote or (pool is not None and pool.shared)
    settings = Settings(
        checkpoint_every=checkpoint_every,
        fail_fast=fail_fast,
        later=later,
        lease=lease if shared else None,
        first=frozenset(first),
    )
    with nullcontext() if store.remote else exclusive(store.path, shared=shared):
        if shared:
            notes = refuse_changed(sweep.runs, store.path, where=store.place.location)
        else:
            notes = settle(sweep.runs, store.path)[1]
        state = Execution(sweep, store, cost or CostModel(), on_event or (lambda event: None), settings)
        state.notes += notes
        if state.finished:
            state.announce()
            return state.summary()
        own = pool is None
        pool = pool or LocalPool(workers)
        try:
            state.run(pool)
        except BaseException:
            pool.stop()
            raise
        if own:
            pool.close()
        store.pull()
        if not state.elsewhere:  # else the others may still need what lies there
            tidy(sweep.runs, store)
        return state.summary()


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
        self.placement = Placement(cost)
        self.running = self.placement.running
        self.claimed = ClaimedRuns(store, settings.lease) if settings.lease is not None else None
        self.tasks = TaskWriter(store, cost, settings)
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
        return not (self.ready or self.waiting or self.running or (self.claimed and self.claimed.jobs))

    def run(self, pool: Pool) -> None:
        """Feed the pool until nothing is left."""
        self.cost.on(pool)
        self.placement.look(pool)
        self.notes += [] if pool.shared else slower_engine(self.before.pending, pool.device)
        self.announce()
        require_devices(self.before.pending, pool)
        self.tasks.data = pool.settle(self.sweep, self.store)
        while not self.finished:
            began = time.monotonic()
            self.placement.look(pool)
            self._dispatch(pool)
            for slot, count in self.placement.lend(pool, reserved=bool(self.ready)).items():
                pool.send(slot, {"do": "threads", "count": count})
            for slot, message in pool.messages(_TICK):
                self._handle(slot, message)
            for update in self.claimed.updates() if self.claimed else ():
                self._from_elsewhere(update)
            self.offered += (time.monotonic() - began) * len(self.placement.speeds)
            if self.settings.fail_fast and self.failed:
                run, reason = next(iter(self.failed.items()))
                raise AllometryError(f"{run} failed: {reason}", hint="the same command tries it again")
        self._emit("end")

    def announce(self) -> None:
        """Say what there is to do, and what had to be set aside."""
        self._emit("begin", text="; ".join([self.before.sentence, *self.notes]))

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
        started = self.placement.start(self._in_order, pool)
        self.ready = [job for job in self.ready if job.id not in self.running]
        for slots, pack in started.items():
            pool.send(slots[0], {**self.tasks.to_train(pack), "slots": list(slots)})
            for job in pack:
                self._emit("start", job.config, step=job.start)
        if self.ready and self.placement.speeds and not self.running:  # the nodes that were large enough left
            require_devices([job.config for job in self.ready], pool)

    def _in_order(self) -> list[Job]:
        """Jobs that may start: those to be trained `first`, then the longest chains."""
        if any(job.id not in self._urgent for job in self.ready):
            self._urgent = urgency([*self.ready, *self.waiting], self.cost.between)
        first = self.settings.first
        return sorted(self.ready, key=lambda job: (job.id in first, self._urgent[job.id]), reverse=True)

    def _handle(self, slot: int, message: Message) -> None:
        """A message is about one run of a pack, if it names one, else about all that is in the slot."""
        for current in self.placement.on(slot):
            if message.get("run", current.job.id) == current.job.id:
                self._on_message(current, message)

    def _on_message(self, current: Running, message: Message) -> None:
        kind = message["is"]
        if kind == "progress":
            self._progress(current, message)
        elif kind == "left":
            self.left.add((current.job.id, message["step"]))
            self._release()
        elif kind == "branched":
            self._used(current.job)
        elif kind == "restarted":
            self._restarted(current.job, message)
        elif kind in ("done", "failed", "died", "elsewhere", "unpacked"):
            self.worked += self.placement.leave(current.job.id)
            self._over(current.job, kind, message)
            self._orphans(current.job)

    def _over(self, job: Job, kind: str, message: Message) -> None:
        """A job has left its worker."""
        if kind == "done":
            self._finish(job, message["result"])
        elif kind == "elsewhere":
            assert self.claimed is not None
            self.claimed.add(job)
            self._emit("elsewhere", job.config, text="another process trains it")
        elif kind == "failed":
            if message["full"]:
                raise AllometryError(message["error"], hint=message["hint"])
            self._fail(job, message["error"])
        elif kind == "unpacked":
            self.cost.packing.apart.add(job.id)
            self._again(job, f"it could not go on in a pack ({message['error']})")
        else:
            self._died(job, message)

    def _progress(self, current: Running, message: Message) -> None:
        now = time.monotonic()
        current.now_on(message["threads"])
        predicted = self.cost.between(current.job.config, current.step, message["step"])
        self.cost.learn(predicted * current.stretch, now - current.seen)
        current.step, current.seen = message["step"], now
        self._emit(
            "progress", current.job.config, step=current.step, loss=message["loss"], pace=message["pace"]
        )

    def _used(self, job: Job) -> None:
        """The run has its copy of the branch point; the last one to take it removes it."""
        others = (*self.ready, *self.waiting, *(self.claimed.jobs.values() if self.claimed else ()))
        if job.source is not None and all(other.source != job.source for other in others):
            drop_branch(self.store, *job.source)

    def _finish(self, job: Job, result: Message) -> None:
        self.ended[job.id] = result["status"]
        text = "; ".join(result.get("notes", ()))
        step = int(result.get("step", job.config.train.steps))
        self._emit("done", job.config, step=step, loss=result.get("loss"), text=text)

    def _fail(self, job: Job, reason: str) -> None:
        self.failed[job.id] = reason
        self._emit("failed", job.config, text=reason)

    def _restarted(self, job: Job, message: Message) -> None:
        """The pool itself started the job again after its worker was lost."""
        self.deaths[job.id] = message["times"]
        step = newest_step(self.store, job.id)
        self._emit("retry", job.config, step=step, text="its worker was lost")

    def _died(self, job: Job, message: Message) -> None:
        """The worker was killed from outside: the run continues from its checkpoint, a few times."""
        self.deaths[job.id] = self.deaths.get(job.id, 0) + 1
        cause = f"its worker was killed ({message['signal'] or 'exit'})"
        if self.deaths[job.id] > DEATHS_ALLOWED:
            reason = f"{cause} {self.deaths[job.id]} times; the machine may be short of memory"
            keep_failure(self.store.directory(job.id), reason)
            self.store.push(job.id)
            self._fail(job, reason)
            return
        if self.deaths[job.id] > 1:
            self.cost.packing.apart.add(job.id)  # which would take more memory
        self._again(job, cause, certain=message.get("certain", True))

    def _again(self, job: Job, cause: str, *, certain: bool = True) -> None:
        """Continue from the checkpoint; where the run may live on unseen, once its claim tells that."""
        again = self._from_checkpoint(job)
        self._emit("retry", job.config, step=again.start if again.source is None else 0, text=cause)
        if self.claimed is not None and not certain:
            self.claimed.add(again)
        else:
            self.ready.append(again)

    def _from_checkpoint(self, job: Job) -> Job:
        step = newest_step(self.store, job.id)
        return replace(job, start=step, source=None) if step else job

    def _from_elsewhere(self, update: ClaimedRunUpdate) -> None:
        job = update.job
        if update.outcome == "ended":
            self.elsewhere.append(job.id)
            result = self.store.get(job.id).result
            self._finish(job, {**result, "status": update.status, "notes": ["trained by another process"]})
        elif update.outcome == "failed":
            self._fail(job, (self.store.get(job.id).error or "it failed").splitlines()[0])
        else:
            if update.over is not None:
                self.tasks.over[job.id] = update.over
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

    def _emit(self, kind: EventKind, run: RunConfig | None = None, **fields: Any) -> None:
        fraction, seconds = self.forecast.now(
            self._left, self.placement.speeds.values(), fresh=kind in ("begin", "end")
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
        others = list(self.claimed.jobs.values()) if self.claimed else []
        return [*under_way, *others, *self.ready, *self.waiting], self.placement.packs()

    def summary(self) -> Summary:
        """Return how it ended."""
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


def check_parents(pending: Sequence[RunConfig], store: Store) -> None:
    """Refuse runs that start from a run that is neither among the `pending` ones nor in the store, or that
    has another shape.

    Whether that run ends well is not known yet: if it does not, training says so.
    """
    known = {run.id: run for run in pending}
    for run in pending:
        parent = run.train.init_from
        if parent is None:
            continue
        if parent in known:
            model = known[parent].model.model_dump(mode="json")
        elif store.status(parent) is not None:
            model = dict(store.get(parent).config.get("model", {}))
        else:
            raise AllometryError(
                f"{run.id} starts from {parent}, which is neither in the sweep nor in {store.path}",
                hint="add that run to the sweep, or train it first",
            )
        if reason := mismatch(run, model):
            raise AllometryError(
                f"{run.id} cannot start from {parent}: {reason}",
                hint="start from a run of the same shape, or leave init_from out",
            )
