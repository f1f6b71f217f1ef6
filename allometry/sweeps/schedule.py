"""Turn runs into jobs: which waits for which, which is most urgent, how far a sweep is, how long the rest takes.

What lies in the store says which runs are finished, where others can continue and which branch points lie ready.
Jobs are done one by one, in packs, or with idle cores lent: cores that have no run of their own work on the runs
that are under way, only towards the end of a sweep, or in one of fewer runs than cores, for a run for each core
trains more than threads within one. The native engine computes the same bits on any number of threads
(`Engine.use_threads`), so what is lent changes nothing but the time."""

from __future__ import annotations

import contextlib
import heapq
import math
import re
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from allometry.core.errors import AllometryError
from allometry.core.files import read_json, writing
from allometry.runs.record import FINISHED
from allometry.runs.store import Store
from allometry.train.config import RunConfig

if TYPE_CHECKING:
    from allometry.sweeps.cost import Packing

BranchPoint = tuple[str, int]
"""A run's id and the step at which it leaves a state behind for other runs."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run to be trained: where it starts, and the steps at which it must leave a branch point for others.

    `start` is the step of its last checkpoint (0 for a new run) or of its branch point; `source` is the
    branch point that it starts from, if it is to start from another run's trunk. A new run may also start
    from the end of another, its `parent`.
    """

    config: RunConfig
    start: int = 0
    source: BranchPoint | None = None
    branch_at: tuple[int, ...] = ()

    @property
    def id(self) -> str:
        """The run's id."""
        return self.config.id

    @property
    def parent(self) -> str | None:
        """The run whose final weights are needed to start this one; None if it starts or goes on without."""
        return self.config.train.init_from if self.start == 0 else None

    @property
    def awaits(self) -> str | None:
        """The run that must get somewhere, or end, before this one starts."""
        return self.parent if self.source is None else self.source[0]

    def until(self, other: Job) -> int:
        """Return how far `other`, which this one awaits, must get."""
        return other.config.train.steps if self.source is None else self.start


def jobs(
    runs: Sequence[RunConfig],
    progress: Mapping[str, int],
    branches: Mapping[str, Mapping[int, str]],
) -> list[Job]:
    """Return the jobs for runs that are not finished, with trunks shared wherever that is possible.

    `progress` gives the step of a run's last checkpoint; `branches` the branch points on disk, as
    trunk -> step -> id of the run that left it. Among new runs with the same trunk, the longest trains it
    and the others start where they leave it (`decay_start`). A run with a checkpoint of its own continues
    from that.
    """
    found: list[Job] = []
    groups: dict[str | None, list[RunConfig]] = {}
    for run in runs:
        groups.setdefault(run.trunk, []).append(run)
    for trunk, members in groups.items():
        if trunk is None:
            found += [Job(config=run, start=progress.get(run.id, 0)) for run in members]
        else:
            found += _group(members, progress, branches.get(trunk, {}))
    return found


def _group(
    members: Sequence[RunConfig], progress: Mapping[str, int], branches: Mapping[int, str]
) -> list[Job]:
    """The jobs of runs that share one trunk."""
    found, rest = [], []
    for run in members:
        leaves = run.train.decay_start
        if progress.get(run.id, 0) == 0 and leaves in branches:
            found.append(Job(config=run, start=leaves, source=(branches[leaves], leaves)))
        else:
            rest.append(run)
    rest.sort(key=lambda run: run.train.steps, reverse=True)
    while rest:
        leader, *others = rest
        begun = progress.get(leader.id, 0)
        rest, steps = [], set()
        for run in others:
            leaves = run.train.decay_start
            if progress.get(run.id, 0) == 0 and begun < leaves <= leader.train.decay_start and leaves > 0:
                found.append(Job(config=run, start=leaves, source=(leader.id, leaves)))
                steps.add(leaves)
            else:
                rest.append(run)
        found.append(Job(config=leader, start=begun, branch_at=tuple(sorted(steps))))
    return found


Seconds = Callable[[RunConfig, int, int], float]
"""(run, from step, to step) -> seconds on one core."""


def urgency(todo: Sequence[Job], seconds: Seconds) -> dict[str, float]:
    """Return the seconds until the last run that depends on a job could end: the longest goes first."""
    after = following(todo)
    times: dict[str, float] = {}
    for job in reversed(_leaders_first(todo, after)):
        chains = [seconds(job.config, job.start, job.config.train.steps)]
        for other in after.get(job.id, ()):
            chains.append(seconds(job.config, job.start, other.until(job)) + times[other.id])
        times[job.id] = max(chains)
    return times


def following(todo: Sequence[Job]) -> dict[str, list[Job]]:
    """Return the jobs among `todo` that await another of them, by the id of that."""
    ids = {job.id for job in todo}
    found: dict[str, list[Job]] = {}
    for job in todo:
        if job.awaits is not None and job.awaits in ids:
            found.setdefault(job.awaits, []).append(job)
    return found


def _leaders_first(todo: Sequence[Job], after: Mapping[str, Sequence[Job]]) -> list[Job]:
    """The jobs in an order in which each comes after the one that it awaits."""
    behind = {job.id for others in after.values() for job in others}
    found = [job for job in todo if job.id not in behind]
    for job in found:  # grows as it is gone through
        found += after.get(job.id, ())
    return found


_STEP = re.compile(r"step-(\d+)(?:\.safetensors|\.dcp/position\.json)")
_BRANCH = re.compile(r"branch-(\d+)\.safetensors")


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The state of a sweep in its store.

    `finished` are the ids of runs with a result (done or diverged), `failed` those that ended in an error
    and will be tried again, `resumes` maps a run to the step of its last checkpoint, `new` are those without
    one. `pending` are the runs to be trained, `branches` the branch points on disk as trunk -> step -> run.
    """

    finished: tuple[str, ...]
    failed: tuple[str, ...]
    resumes: dict[str, int]
    new: tuple[str, ...]
    pending: tuple[RunConfig, ...]
    branches: dict[str, dict[int, str]] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """For the user: "12 done, 1 resumes at step 3,400, 5 new"."""
        parts = [f"{len(self.finished)} done"] if self.finished else []
        if len(self.resumes) == 1:
            parts.append(f"1 resumes at step {next(iter(self.resumes.values())):,}")
        elif self.resumes:
            steps = self.resumes.values()
            parts.append(f"{len(self.resumes)} resume at steps {min(steps):,} to {max(steps):,}")
        if self.failed:
            parts.append(f"{len(self.failed)} failed before and will be tried again")
        fresh = [run for run in self.new if run not in self.failed]
        if fresh:
            parts.append(f"{len(fresh)} new")
        return ", ".join(parts) or "nothing to do"

    def jobs(self) -> list[Job]:
        """Return what is to be trained, with trunks shared."""
        return jobs(self.pending, self.resumes, self.branches)


def survey(runs: Sequence[RunConfig], store: Store | None) -> Survey:
    """Look up how far the runs are; without a store, all of them are new."""
    finished, failed, pending = [], [], []
    resumes: dict[str, int] = {}
    begun = []
    for run in runs:
        status = store.status(run.id) if store else None
        if status is not None:
            begun.append(run)
        if status in FINISHED:
            finished.append(run.id)
            continue
        pending.append(run)
        if status == "failed":
            failed.append(run.id)
        step = newest_step(store, run.id) if store and status else 0
        if step:
            resumes[run.id] = step
    return Survey(
        finished=tuple(finished),
        failed=tuple(failed),
        resumes=resumes,
        new=tuple(run.id for run in pending if run.id not in resumes),
        pending=tuple(pending),
        branches=branch_points(begun, store) if store else {},
    )


def newest_step(store: Store, run: str) -> int:
    """Return the step of a run's newest checkpoint; 0 if it has none."""
    folder = f"{run}/checkpoints"
    names = (name.removeprefix(f"{folder}/") for name in store.place.names(folder))
    return max(_numbers(names, _STEP), default=0)


def branch_points(runs: Iterable[RunConfig], store: Store) -> dict[str, dict[int, str]]:
    """Return branch points that lie in the runs' directories: trunk -> step -> run."""
    found: dict[str, dict[int, str]] = {}
    for run in runs:
        if run.trunk is not None and store.directory(run.id).exists():
            for step in _numbers(store.checkpoints(run.id), _BRANCH):
                found.setdefault(run.trunk, {})[step] = run.id
    return found


def _numbers(names: Iterable[str], pattern: re.Pattern[str]) -> list[int]:
    return [int(match[1]) for name in names if (match := pattern.fullmatch(name))]


def mend(directory: Path) -> list[str]:
    """Set damaged files of an unfinished run aside, so that training it again can write them; returns
    notes.
    """
    notes = []
    for name in ("config.json", "result.json"):
        path = directory / name
        try:
            read_json(path)
        except AllometryError as error:
            with writing(path):
                path.replace(path.with_name(f"{name}.damaged"))
            notes.append(f"{error.message}; set aside as {name}.damaged")
    return notes


def drop_branch(store: Store, run: str, step: int) -> None:
    """Remove a branch point that nothing waits for any more."""
    with contextlib.suppress(OSError, AllometryError):
        store.place.remove(f"{run}/checkpoints/branch-{step}.safetensors")


def tidy(runs: Iterable[RunConfig], store: Store) -> None:
    """Remove what only served while the runs went on: branch points, and half-written files that kills
    left."""
    for run in runs:
        directory = store.directory(run.id)
        if not directory.exists():
            continue
        for step in _numbers(store.checkpoints(run.id), _BRANCH):
            drop_branch(store, run.id, step)
        for path in (*directory.glob("checkpoints/*.tmp"), *directory.glob(".*.tmp")):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
                continue
            with contextlib.suppress(OSError):
                path.unlink()


MOST_THREADS = 8
"""More do not help one run: `parts.h` of the native engine cuts a batch into so many parts at most."""

_WORTH = 0.75
"""What another thread adds, of a core with a run of its own."""


def speedup(threads: int) -> float:
    """Return how many times as fast as on one thread a run is expected to be."""
    return 1 + _WORTH * (threads - 1)


def lend(left: Mapping[str, float], idle: int) -> dict[str, int]:
    """Return the threads for each run that may have several: `left` gives the seconds that it would take alone, `idle`
    the number of cores without a run.

    Each core in turn goes to the run that would end last.
    """
    threads = dict.fromkeys(left, 1)
    for _ in range(idle):
        able = [run for run, count in threads.items() if count < MOST_THREADS]
        if not able:
            break
        last = max(able, key=lambda run: left[run] / speedup(threads[run]))
        threads[last] += 1
    return threads


def makespan(
    todo: Sequence[Job],
    seconds: Seconds,
    workers: int,
    running: Iterable[Collection[str]] = (),
    packing: Packing | None = None,
) -> float:
    """Return the seconds until all jobs are done on `workers` single-thread workers: those under way first, then the
    longest.

    `running` are the ids of jobs under way, worker by worker: several if they are a pack. A job that awaits
    none of `todo` may start at once; one of n `devices` takes n workers, or all there are. What can be packed
    is, once every worker has something.
    """
    running = list(running)
    future = _Future(todo, seconds, workers, packing, {run for pack in running for run in pack})
    by_id = {job.id: job for job in todo}
    for pack in running:
        future.begin([by_id[run] for run in pack], 0.0)
    return future.end()


class _Future:
    """When each worker will be free, and which jobs may start then: all but those that have `begun`."""

    def __init__(
        self, todo: Sequence[Job], seconds: Seconds, workers: int, packing: Packing | None, begun: set[str]
    ) -> None:
        self.seconds, self.packing = seconds, packing
        self.order = {job.id: number for number, job in enumerate(todo)}
        self.urgent = urgency(todo, seconds)
        self.following = following(todo)
        self.free = [0.0] * workers
        self.last = 0.0
        self.begun = begun
        self.ready: list[_Entry] = []
        self.alike: dict[int, list[_Entry]] = {}
        self.count: Counter[int] = Counter()
        self.opens: list[tuple[float, int, Job]] = []
        for job in todo:
            if job.awaits not in self.order:
                self._open(job)

    def end(self) -> float:
        """Let everything happen; the time at which the last job is done."""
        while True:
            self._drop_begun(self.ready)
            if not (self.ready or self.opens):
                return self.last
            now = self.free[0] if self.ready else max(self.free[0], self.opens[0][0])
            while self.opens and self.opens[0][0] <= now:
                self._open(heapq.heappop(self.opens)[-1])
            self._drop_begun(self.ready)
            if self.ready:
                self.begin(self._next(now), now)

    def begin(self, pack: Sequence[Job], now: float) -> None:
        """Start jobs on one worker (or one job on several), no earlier than `now`."""
        held = min(pack[0].config.devices, len(self.free))
        now = max(now, *(heapq.heappop(self.free) for _ in range(held)))
        stretch = self.packing.stretch(pack) if self.packing else 1.0
        finish = now
        for job in pack:
            self.begun.add(job.id)
            for other in self.following.get(job.id, ()):
                until = stretch * self.seconds(job.config, job.start, other.until(job))
                heapq.heappush(self.opens, (now + until, self.order[other.id], other))
            whole = stretch * self.seconds(job.config, job.start, job.config.train.steps)
            finish = max(finish, now + whole)
        for _ in range(held):
            heapq.heappush(self.free, finish)
        self.last = max(self.last, finish)

    def _open(self, job: Job) -> None:
        if job.id in self.begun:
            return
        entry = (-self.urgent[job.id], self.order[job.id], job)
        heapq.heappush(self.ready, entry)
        if self.packing and (kind := self.packing.kind(job.config)) is not None:
            heapq.heappush(self.alike.setdefault(kind, []), entry)
            self.count[kind] += 1

    def _next(self, now: float) -> list[Job]:
        """The most urgent job, and those that join it: their share if other workers are idle too."""
        pack = [heapq.heappop(self.ready)[-1]]
        kind = self.packing.kind(pack[0].config) if self.packing else None
        if kind is None or self.packing is None:
            return pack
        idle = sum(until <= now for until in self.free)
        share = math.ceil(self.count[kind] / max(idle, 1))
        size = min(share, self.packing.size(pack[0].config))
        self.begun.add(pack[0].id)
        entries = self.alike[kind]
        while len(pack) < size:
            self._drop_begun(entries)
            pack.append(heapq.heappop(entries)[-1])
            self.begun.add(pack[-1].id)
        self.count[kind] -= len(pack)
        return pack

    def _drop_begun(self, entries: list[_Entry]) -> None:
        while entries and entries[0][-1].id in self.begun:
            heapq.heappop(entries)


_Entry = tuple[float, int, Job]
"""What sorts a job that may start: the most urgent first, then in the order of the sweep."""


@dataclass
class _Running:
    """A job under way: seconds of work that are done and that there are, counted on one core, and the jobs
    that may start after so many (the nearest last).
    """

    job: Job
    work: float
    opens: list[tuple[float, Job]]
    done: float = 0.0

    @property
    def next(self) -> float:
        """Seconds of work until something happens: another job may start, or this one ends."""
        return (self.opens[-1][0] if self.opens else self.work) - self.done


@dataclass
class _Simulation:
    """Jobs on the cores of one machine, of which those without a run of their own are lent to others.

    `able` says which runs have an engine that several threads help.
    """

    seconds: Seconds
    cores: int
    able: Callable[[RunConfig], bool]
    urgent: Mapping[str, float]
    behind: Mapping[str, Sequence[Job]]
    running: dict[str, _Running] = field(default_factory=dict)
    ready: list[tuple[float, int, Job]] = field(default_factory=list)
    opened: int = 0

    def open(self, job: Job) -> None:
        """Note that the job may start."""
        self.opened += 1
        heapq.heappush(self.ready, (-self.urgent[job.id], self.opened, job))

    def start(self, job: Job) -> None:
        """Note that the job is under way."""
        opens = [
            (self.seconds(job.config, job.start, other.until(job)), other)
            for other in self.behind.get(job.id, ())
        ]
        opens.sort(key=lambda each: each[0], reverse=True)
        work = self.seconds(job.config, job.start, job.config.train.steps)
        self.running[job.id] = _Running(job, work, opens)

    def end(self) -> float:
        """Let everything happen; the time at which the last job is done."""
        now = 0.0
        while self.running or self.ready:
            idle = self.cores - sum(self._width(at.job) for at in self.running.values())
            while self.ready and (idle >= self._width(self.ready[0][-1]) or not self.running):
                job = heapq.heappop(self.ready)[-1]
                self.start(job)
                idle -= self._width(job)
            speeds = self._speeds(0 if self.ready else idle)
            step = min(max(at.next, 0.0) / speeds[run] for run, at in self.running.items())
            now += step
            for run, at in list(self.running.items()):
                at.done += step * speeds[run]
                self._happen(at)
        return now

    def _happen(self, at: _Running) -> None:
        """Let those start that this job was awaited by; it leaves when its work is done."""
        near = 1e-9 * max(at.work, 1.0)
        while at.opens and at.opens[-1][0] <= at.done + near:
            self.open(at.opens.pop()[1])
        if at.done + near >= at.work:
            del self.running[at.job.id]

    def _width(self, job: Job) -> int:
        return min(job.config.devices, self.cores)

    def _speeds(self, idle: int) -> dict[str, float]:
        """How fast each job goes while nothing starts or ends."""
        speeds = dict.fromkeys(self.running, 1.0)
        if idle > 0:
            alone = {run: at.work - at.done for run, at in self.running.items() if at.job.config.devices == 1}
            for run, count in lend(alone, idle).items():
                if self.able(self.running[run].job.config):
                    speeds[run] = speedup(count)
        return speeds


def makespan_when_lent(
    todo: Sequence[Job],
    seconds: Seconds,
    cores: int,
    able: Callable[[RunConfig], bool],
    running: Iterable[Collection[str]] = (),
) -> float:
    """Return the seconds until all jobs are done on so many cores, each with a run or lent to one: those under way
    first, then the longest.

    As `makespan`, which knows no lending; `able` says which runs several threads help.
    """
    under_way = {run for ids in running for run in ids}
    simulation = _Simulation(seconds, cores, able, urgency(todo, seconds), following(todo))
    known = {job.id for job in todo}
    for job in todo:
        if job.id in under_way:
            simulation.start(job)
        elif job.awaits not in known:
            simulation.open(job)
    return simulation.end()
