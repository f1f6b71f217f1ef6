"""Which job holds which slots of a pool, and which start where: pure decisions, and the table that they are
made from.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from allometry.sweeps.cost.cost import CostModel
from allometry.sweeps.cost.makespan import lend, speedup
from allometry.sweeps.cost.schedule import Job, Seconds
from allometry.sweeps.workers.pool import Pool

Slots = tuple[int, ...]
"""The slots that train one run together; the first is sent the task."""


@dataclass
class Running:
    """A job on its slots, how far it is, since when, and when it last sent a message (seconds, monotonic).

    It takes `stretch` times as long as it would alone on one core: others may be in a pack with it, on the
    same slot, or several `threads` work on it, of which there are to be as many as were `lent`.
    """

    job: Job
    slots: Slots
    step: int
    since: float
    seen: float
    stretch: float = 1.0
    threads: int = 1
    lent: int = 1

    def seconds(self, cost: CostModel) -> float:
        """Return what is left of it, from its last message."""
        return cost.between(self.job.config, self.step, self.job.config.train.steps) * self.stretch

    def now_on(self, threads: int) -> None:
        """Note that so many threads work on it."""
        self.stretch *= speedup(self.threads) / speedup(threads)
        self.threads = threads


class Placement:
    """The slots of a pool and what is on them: `speeds` by slot, `running` by run."""

    def __init__(self, cost: CostModel) -> None:
        self.cost = cost
        self.speeds: dict[int, float] = {}
        self.running: dict[str, Running] = {}

    def look(self, pool: Pool) -> None:
        """Learn which slots there are now."""
        self.speeds = dict(pool.slots)

    def on(self, slot: int) -> list[Running]:
        """Return what a task sent to `slot` has started and is not over."""
        return [at for at in self.running.values() if at.slots[0] == slot]

    def packs(self) -> list[list[str]]:
        """Return the ids of what is running, slot by slot."""
        found: dict[int, list[str]] = {}
        for run, at in self.running.items():
            found.setdefault(at.slots[0], []).append(run)
        return list(found.values())

    def start(self, ready: Callable[[], Sequence[Job]], pool: Pool) -> dict[Slots, list[Job]]:
        """Place those of the `ready` jobs, the most urgent first, that are to start now: alone where slots
        are free, then in packs.
        """
        now = time.monotonic()
        free = self._free(now)
        if all(free.values()):
            return {}
        order = ready()
        first = assign(
            order,
            free,
            self.speeds,
            self.cost.between,
            width=lambda job: pool.width(job.config.devices),
            node=pool.node,
        )
        taken = {job.id for job in first.values()}
        started = self.cost.packing.fill(first, (job for job in order if job.id not in taken))
        for slots, jobs in started.items():
            stretch = self.cost.packing.stretch(jobs)
            for job in jobs:
                self.running[job.id] = Running(job, slots, job.start, now, now, stretch)
        return started

    def leave(self, run: str) -> float:
        """Take a run off, whose job is over; return the seconds that it held, of all its slots together. Those
        of a pack count when the last of it leaves.
        """
        left = self.running.pop(run)
        return 0.0 if self.on(left.slots[0]) else (time.monotonic() - left.since) * len(left.slots)

    def lend(self, pool: Pool, *, reserved: bool = False) -> dict[int, int]:
        """Lend the cores that have no run to those that run, unless they are `reserved` for others, or take
        them back: the new numbers of threads, by slot.
        """
        if not pool.lends:
            return {}
        taken = Counter(slot for at in self.running.values() for slot in at.slots)
        idle = 0 if reserved else len(self.speeds) - len(taken)
        if idle == 0 and all(at.lent == 1 for at in self.running.values()):
            return {}
        alone = {
            run: at.seconds(self.cost) * speedup(at.threads)
            for run, at in self.running.items()
            if len(at.slots) == 1 and taken[at.slots[0]] == 1
        }
        changed = {}
        for run, count in lend(alone, idle).items():
            at = self.running[run]
            if at.lent != count:
                at.lent = changed[at.slots[0]] = count
        return changed

    def _free(self, now: float) -> dict[int, float]:
        """Seconds until each slot is free."""
        free = dict.fromkeys(self.speeds, 0.0)
        for at in self.running.values():
            rest = at.seconds(self.cost)
            for slot in at.slots:
                if slot in free:
                    free[slot] = max(free[slot], rest / self.speeds[slot] - (now - at.seen), 0.1)
        return free


def assign(
    ready: Iterable[Job],
    free: Mapping[int, float],
    speeds: Mapping[int, float],
    seconds: Seconds,
    *,
    width: Callable[[Job], int] = lambda job: 1,
    node: Callable[[int], str] = lambda slot: "",
) -> dict[Slots, Job]:
    """Return which slots start which job now. `ready` has the most urgent first; `free` gives the seconds until each
    slot is free (0: idle), `speeds` how fast it is, `width` how many slots of one `node` a job takes.

    Each job in turn goes where it would end first; if a slot there is still busy, the job waits for it, so
    that a slow slot is not given work that would end sooner elsewhere. An idle slot that waits for others of
    its node takes what ends before they are free. With equal speeds the most urgent jobs simply take the idle
    slots.
    """
    plan = _Plan(dict(free), dict(speeds), {slot: node(slot) for slot in free})
    started: dict[Slots, Job] = {}
    for job in ready:
        if not plan.idle:
            break
        alone = seconds(job.config, job.start, job.config.train.steps)
        wanted = width(job)
        slots = plan.one(alone) if wanted == 1 else plan.several(alone, wanted)
        if slots:
            started[slots] = job
    return started


@dataclass
class _Plan:
    """When each slot will be free, as jobs are given to them; `gaps` are the seconds for which idle slots
    wait for others of their node."""

    until: dict[int, float]
    speeds: dict[int, float]
    nodes: dict[int, str]
    gaps: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.idle = {slot for slot, seconds in self.until.items() if seconds <= 0}

    def one(self, alone: float) -> Slots:
        """Plan a job of `alone` seconds where it ends first: that slot, or nothing if it starts later."""

        def between(slot: int) -> bool:
            return alone / self.speeds[slot] <= self.gaps.get(slot, 0.0)

        def end(slot: int) -> tuple[float, float, int]:
            begin = 0.0 if between(slot) else self.until[slot]
            return begin + alone / self.speeds[slot], -self.speeds[slot], slot

        best = min(self.until, key=end)
        now = between(best) or self.until[best] <= 0
        if between(best):
            del self.gaps[best]
        else:
            self.until[best] += alone / self.speeds[best]
        if not now:
            return ()
        self.idle.remove(best)
        return (best,)

    def several(self, alone: float, wanted: int) -> Slots:
        """Return the same for a job that takes several slots of one node; nothing if no node has as many."""
        nodes: dict[str, list[int]] = {}
        for slot in sorted(self.until, key=lambda slot: (self.until[slot], -self.speeds[slot], slot)):
            nodes.setdefault(self.nodes[slot], []).append(slot)
        ends = [self._together(slots[:wanted], alone) for slots in nodes.values() if len(slots) >= wanted]
        if not ends:
            return ()
        end, begin, slots = min(ends)
        for slot in slots:
            if begin > 0 and slot in self.idle:
                self.gaps.setdefault(slot, begin)
            self.until[slot] = end
        if begin > 0:
            return ()
        self.idle -= set(slots)
        return slots

    def _together(self, slots: Sequence[int], alone: float) -> tuple[float, float, Slots]:
        """When a job on these slots ends and begins; the slowest decides."""
        begin = max(self.until[slot] for slot in slots)
        return begin + alone / min(self.speeds[slot] for slot in slots), begin, tuple(slots)
