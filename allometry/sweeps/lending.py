"""Cores that have no run of their own work on the runs that are under way.

Only towards the end of a sweep, or in one of fewer runs than cores: a run for each core trains more than
threads within one. The native engine computes the same bits on any number of threads (`Engine.use_threads`),
so what is lent changes nothing but the time.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from allometry.sweeps.schedule import Job, Seconds, following, urgency
from allometry.train.config import RunConfig

MOST_THREADS = 8
"""More do not help one run: `parts.h` of the native engine cuts a batch into so many parts at most."""

_WORTH = 0.75
"""What another thread adds, of a core with a run of its own."""


def speedup(threads: int) -> float:
    """How many times as fast as on one thread a run is expected to be."""
    return 1 + _WORTH * (threads - 1)


def lend(left: Mapping[str, float], idle: int) -> dict[str, int]:
    """Threads for each run that may have several: `left` gives the seconds that it would take alone, `idle`
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
        """The job may start."""
        self.opened += 1
        heapq.heappush(self.ready, (-self.urgent[job.id], self.opened, job))

    def start(self, job: Job) -> None:
        """The job is under way."""
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
    """Seconds until all jobs are done on so many cores, each with a run or lent to one: those under way
    first, then the longest.

    As `schedule.makespan`, which knows no lending; `able` says which runs several threads help.
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
