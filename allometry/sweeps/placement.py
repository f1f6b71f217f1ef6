"""Decide where the runs of a sweep are trained: how many devices each has, which job holds which slots of a pool and
which start where, and which part of a sweep a task of a job array begins with.

A run has as many devices as it needs to fit, and, where the user allows it, more for the runs that decide when the
sweep ends. Decisions are pure functions of the table that they are made from.

Every task of a job array sees the whole sweep and begins with its own part; what is left when that is done, and
nobody has claimed, it trains too. So a task that fails or never starts costs time, not runs.
"""

from __future__ import annotations

import heapq
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from allometry.core.errors import AllometryError
from allometry.sweeps import Sweep
from allometry.sweeps.cost import CostModel, estimated_memory
from allometry.sweeps.pool import Pool
from allometry.sweeps.schedule import Job, Seconds, lend, speedup
from allometry.train.config import RunConfig, is_divided

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


def with_devices(sweep: Sweep, cost: CostModel, pool: Pool, most: int | None = None) -> Sweep:
    """Return the sweep, each run with its number of devices on this pool; the identity of runs stays.

    A run keeps the `devices` of its configuration. It gets more where one device has memory of its own and is
    predicted not to hold it (`estimated_memory`): the smallest number on which it fits. With `most` (the
    option --devices) a run that alone would take longer than the whole sweep does if its work were divided
    evenly gets the smallest number, up to `most`, on which it does not.

    Raises AllometryError if no machine has `most` devices.
    """
    require_as_many(most, pool)
    largest = largest_node(pool)
    share = cost.total(sweep.runs, workers=1).work / max(len(pool.slots), 1) if most else 0.0
    return Sweep(
        sweep.name, sweep.question, tuple(_given(run, cost, pool, largest, most, share) for run in sweep)
    )


def _given(
    run: RunConfig, cost: CostModel, pool: Pool, largest: int, most: int | None, share: float
) -> RunConfig:
    possible = [on(run, count) for count in range(1, largest + 1) if not run.undivided(count)]
    chosen = run.devices
    room = pool.device_memory
    if possible and room is not None:
        chosen = max(chosen, _first(possible, lambda each: memory_on(each, room) <= room))
    if most:
        allowed = [each for each in possible if chosen <= each.devices <= most]
        if allowed:
            chosen = _first(allowed, lambda each: cost.seconds(each) <= share)
    return on(run, chosen)


def _first(runs: Sequence[RunConfig], suits: Callable[[RunConfig], bool]) -> int:
    """Devices of the first that suits, else of the last."""
    return next((run.devices for run in runs if suits(run)), runs[-1].devices)


def memory_on(run: RunConfig, room: float) -> float:
    """Return predicted bytes on each of the run's devices, which have `room` bytes."""

    divided = run.devices > 1 and is_divided(run, room)
    return estimated_memory(run, devices=run.devices, divided=divided)


def on(run: RunConfig, devices: int) -> RunConfig:
    """Return the same run on so many devices."""
    return run if run.devices == devices else run.model_copy(update={"devices": devices})


def too_large(runs: Sequence[RunConfig], pool: Pool) -> list[RunConfig]:
    """Return the runs that are predicted not to fit the devices that they have."""
    room = pool.device_memory
    return [] if room is None else [run for run in runs if memory_on(run, room) > room]


def largest_node(pool: Pool) -> int:
    """Return the largest number of devices that a run can have: those of the machine with the most."""
    slots = max(Counter(pool.node(slot) for slot in pool.slots).values(), default=0)
    return max((count for count in range(1, slots + 1) if pool.width(count) <= slots), default=0)


def require_as_many(most: int | None, pool: Pool) -> None:
    """Raise AllometryError if `most` (the option --devices) is more than any machine of the pool has."""
    largest = largest_node(pool)
    if most is not None and most > largest:
        raise AllometryError(
            f"--devices {most}: no machine of the pool has more than {largest}",
            hint=f"--devices {largest}, more --workers, or larger nodes",
        )


def require_devices(runs: Sequence[RunConfig], pool: Pool) -> None:
    """Raise AllometryError, before anything is trained, for a run whose devices no machine of the pool has, or
    among which its batch cannot be divided.
    """
    wide = [run for run in runs if run.devices > 1]
    largest = largest_node(pool) if wide else 0
    for run in wide:
        if run.devices > largest:
            raise AllometryError(
                f"{run.id} is to be trained on {run.devices} devices, and no machine has more than {largest}",
                hint=f"set its devices to {largest} or less, or use larger nodes (here: more --workers)",
            )
        if lack := run.undivided(run.devices):
            raise AllometryError(f"{run.id}: {lack}", hint="choose devices that divide the batch")


def slower_engine(runs: Sequence[RunConfig], device: str) -> list[str]:
    """Return what keeps runs from the quickest engine on this machine, in one sentence, if anything does."""
    from allometry.train.engines.select import why_not_native

    reasons = (why_not_native(run, device) for run in runs if run.engine == "auto")
    return [reason for reason in reasons if reason][:1]


@dataclass(frozen=True)
class Shard:
    """Part `number` (from 1) of `of`."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def parse_shard(text: str) -> Shard:
    """Return the shard that "2/8" names; AllometryError for anything else."""
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise AllometryError(
            f"--shard {text!r} is no part of a whole",
            hint="write --shard 1/8 to --shard 8/8; in a Slurm array of 1-8: --shard $SLURM_ARRAY_TASK_ID/8",
        )
    return Shard(int(match[1]), int(match[2]))


def own_part(runs: Sequence[RunConfig], shard: Shard) -> frozenset[str]:
    """Return the ids of the runs that a shard begins with: whole trunks, the longest first to whoever has least.

    The split depends on the configurations alone (nominal cost, no timings), so all shards agree on it.
    """
    cost = CostModel()
    groups: dict[str, list[RunConfig]] = {}
    for run in (on(run, 1) for run in runs):
        groups.setdefault(run.trunk or run.id, []).append(run)
    seconds = {name: _chain(cost, members) for name, members in groups.items()}
    bins = [(0.0, number) for number in range(1, shard.of + 1)]
    mine: list[RunConfig] = []
    for name in sorted(groups, key=lambda name: (-seconds[name], name)):
        load, number = heapq.heappop(bins)
        heapq.heappush(bins, (load + seconds[name], number))
        if number == shard.number:
            mine += groups[name]
    return frozenset(run.id for run in mine)


def _chain(cost: CostModel, members: Sequence[RunConfig]) -> float:
    """Seconds of runs that share a trunk: the longest, and what the others do after leaving it."""
    longest = max(members, key=lambda run: run.train.steps)
    if longest.trunk is None:
        return sum(cost.seconds(run) for run in members)
    others = (run for run in members if run is not longest)
    return cost.seconds(longest) + sum(cost.seconds(run, run.train.decay_start) for run in others)
