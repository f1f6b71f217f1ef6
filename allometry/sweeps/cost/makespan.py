"""Predict how long a set of jobs takes on some workers: one by one, in packs, or with idle cores lent.

Cores that have no run of their own work on the runs that are under way, only towards the end of a sweep, or
in one of fewer runs than cores: a run for each core trains more than threads within one. The native engine
computes the same bits on any number of threads (`Engine.use_threads`), so what is lent changes nothing but
the time.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from allometry.sweeps.cost.schedule import Job, Seconds, following, urgency
from allometry.train.config import RunConfig

if TYPE_CHECKING:
    from allometry.sweeps.cost.packing import Packing

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
