"""Which run waits for which, and who is next: pure decisions, shared by the executor and by its forecast."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from allometry.train.config import RunConfig

if TYPE_CHECKING:
    from allometry.sweeps.packing import Packing

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
        """How far `other`, which this one awaits, must get."""
        return other.config.train.steps if self.source is None else self.start


def jobs(
    runs: Sequence[RunConfig],
    progress: Mapping[str, int],
    branches: Mapping[str, Mapping[int, str]],
) -> list[Job]:
    """The jobs for runs that are not finished, with trunks shared wherever that is possible.

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
    """Seconds until the last run that depends on a job could end: the longest goes first."""
    after = following(todo)
    times: dict[str, float] = {}
    for job in reversed(_leaders_first(todo, after)):
        chains = [seconds(job.config, job.start, job.config.train.steps)]
        for other in after.get(job.id, ()):
            chains.append(seconds(job.config, job.start, other.until(job)) + times[other.id])
        times[job.id] = max(chains)
    return times


def following(todo: Sequence[Job]) -> dict[str, list[Job]]:
    """The jobs among `todo` that await another of them, by the id of that."""
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


def makespan(
    todo: Sequence[Job],
    seconds: Seconds,
    workers: int,
    running: Iterable[Collection[str]] = (),
    packing: Packing | None = None,
) -> float:
    """Seconds until all jobs are done on `workers` single-thread workers: those under way first, then the
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
