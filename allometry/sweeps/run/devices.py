"""How many devices train a run of a sweep: as many as it needs to fit, and, where the user allows it, more
for the runs that decide when the sweep ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from allometry.core.errors import AllometryError
from allometry.sweeps.cost.cost import CostModel
from allometry.sweeps.cost.timing import estimated_memory
from allometry.sweeps.sweep import Sweep
from allometry.sweeps.workers.pool import Pool
from allometry.train.config import RunConfig


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
    from allometry.train.config import is_divided

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
