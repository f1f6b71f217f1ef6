"""Cores or GPUs: where a machine with both trains a sweep sooner, as timed on both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from allometry.errors import AllometryError
from allometry.units import format_duration

if TYPE_CHECKING:
    from allometry.sweeps.pool import Pool
    from allometry.train.config import RunConfig

OpenOn = Callable[[str], "Pool"]
"""Opens the pool of a device, "cpu" or "cuda"."""


def quicker(
    runs: Sequence[RunConfig], open_on: OpenOn, on_shape: Callable[[int, int], None] | None = None
) -> tuple[str, str]:
    """The device, "cpu" or "cuda", whose workers are predicted to be done with the runs first, and why.

    Small models train fast on cores, and GPUs gain with size and with packs. The timings are those of
    `calibrate`, which keeps them. GPUs on which nothing can be timed are not used, and the sentence says so.
    """
    from allometry.sweeps.calibrate import calibrate

    seconds = {}
    for device in ("cpu", "cuda"):
        try:
            with open_on(device) as pool:
                seconds[device] = calibrate(runs, pool=pool, on_shape=on_shape).total(runs).seconds
        except AllometryError as error:
            if device == "cpu":
                raise
            return "cpu", f"training on the cores: the GPUs cannot be used ({error.message})"
    cores, gpus = (format_duration(seconds[device]) for device in ("cpu", "cuda"))
    if seconds["cuda"] < seconds["cpu"]:
        return "cuda", f"training on the GPUs: {gpus} predicted, {cores} on the cores (--device cpu)"
    return "cpu", f"training on the cores: {cores} predicted, {gpus} on the GPUs (--device cuda)"
