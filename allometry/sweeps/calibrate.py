"""Time a few steps of a few shapes of a sweep, on every kind of machine that the workers have."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from allometry.core import __version__
from allometry.core.env import cache_dir, cores, package_version
from allometry.core.errors import AllometryError
from allometry.core.files import read_json, write_json
from allometry.core.units import format_duration
from allometry.sweeps.cost import CostModel, Timing, estimated_memory, shape_key
from allometry.sweeps.local import LocalPool
from allometry.sweeps.pool import Message, Pool, measure_all
from allometry.train.config import RunConfig
from allometry.train.engines.bindings import native_build

MAX_OF_A_KIND = 10
"""Shapes of one family, batch and context that are timed at most; the others are interpolated."""

MAX_SHAPES = 40
"""Shapes that are timed at most, of all kinds together."""

DOUBTFUL = 3.0
"""How many times as long as a larger model a smaller one may take before its timing is not believed."""

Timings = dict[str, Timing]
"""Timings of one kind of machine by `shape_key`."""


def calibrate(
    runs: Iterable[RunConfig],
    *,
    pool: Pool | None = None,
    workers: int | None = None,
    refresh: bool = False,
    measure: bool = True,
    on_shape: Callable[[int, int], None] | None = None,
) -> CostModel:
    """Time a few steps of the shapes of `runs` with all workers busy, and keep the result for next time.

    At most MAX_SHAPES are timed, of each kind spread evenly from the smallest to the largest (see `spread`);
    the others, and those that a device does not hold, are interpolated. Timings are kept per kind of machine,
    device, number of workers and versions in the cache folder; `refresh` takes them anew; without `measure`,
    those that are there must do. `on_shape` is given how many of how many are done. Where the pool has
    machines of several kinds, the cost model is that of the most frequent one, and the pool learns how fast
    the others are. Where the pool packs, packs of each shape are timed too, as large as there are runs for.
    """
    if pool is None:
        with LocalPool(workers) as own:
            return calibrate(runs, pool=own, refresh=refresh, measure=measure, on_shape=on_shape)
    paths = {kind: _path(kind, count, pool.device) for kind, count in pool.kinds.items()}
    known = {kind: {} if refresh else _load(path) for kind, path in paths.items()}
    runs = list(runs)
    packs = _largest_packs(runs, pool)
    chosen = [run for run in spread(runs) if fits_one(run, pool)]
    missing = [
        run for run in chosen if measure and any(_untimed(timings, run, packs) for timings in known.values())
    ]
    for number, run in enumerate(missing):
        for kind, timing in _time(run, pool, packs[shape_key(run)]).items():
            known.setdefault(kind, {})[shape_key(run)] = timing
        if on_shape:
            on_shape(number + 1, len(missing))
    for kind, path in paths.items() if missing else ():
        write_json(path, {key: asdict(timing) for key, timing in known[kind].items()})
    first = next(iter(pool.kinds))
    pool.paces.update({kind: _speed(known[kind], known[first]) for kind in known})
    return CostModel(known[first]).on(pool)


def _largest_packs(runs: Iterable[RunConfig], pool: Pool) -> dict[str, int]:
    """The largest pack of each shape that is worth timing, by `shape_key`."""
    counts = Counter(map(shape_key, runs))
    packing = CostModel().on(pool).packing
    shapes = {shape_key(run): run for run in runs}
    return {key: packing.worth_measuring(run, counts[key]) for key, run in shapes.items()}


def _untimed(timings: Timings, run: RunConfig, packs: Mapping[str, int]) -> bool:
    """Whether the run's shape, or a pack of it that there are runs for, has not been timed."""
    timing = timings.get(shape_key(run))
    return timing is None or timing.packs_to < packs[shape_key(run)]


def _speed(timings: Timings, reference: Timings) -> float:
    """How many times faster than the reference a kind of machine is: the geometric mean over shapes."""
    ratios = [math.log(timings[key].pace / reference[key].pace) for key in timings.keys() & reference.keys()]
    return math.exp(sum(ratios) / len(ratios)) if ratios else 1.0


def spread(runs: Iterable[RunConfig]) -> list[RunConfig]:
    """Return one run of each shape to be timed, smallest first.

    Speed depends on the family, the batch and the context besides the size; of each such kind with too many
    shapes those are taken that are evenly spread over its sizes, with both ends.
    """
    kinds: dict[tuple[str, int, int], list[RunConfig]] = {}
    for run in {shape_key(run): run for run in runs}.values():
        family = getattr(run.model, "family", "")
        kinds.setdefault((family, run.train.batch_tokens, run.model.n_ctx), []).append(run)
    most = MAX_OF_A_KIND
    while most > 2 and sum(min(most, len(kind)) for kind in kinds.values()) > MAX_SHAPES:
        most -= 1
    return sorted((run for kind in kinds.values() for run in _evenly(kind, most)), key=_flops)


def _evenly(runs: list[RunConfig], most: int) -> list[RunConfig]:
    ordered = sorted(runs, key=_flops)
    if len(ordered) <= most:
        return ordered
    return [ordered[round(k * (len(ordered) - 1) / (most - 1))] for k in range(most)]


def _flops(run: RunConfig) -> float:
    return run.model.counts().flops_per_token("attention")


def _time(run: RunConfig, pool: Pool, packs: int) -> Timings:
    """For each kind of machine the mean over its workers, all of which measure the shape at the same time."""
    found: dict[str, list[Message]] = {}
    for slot, message in measure_all(pool, run, packs):
        found.setdefault(pool.kind(slot), []).append(message)
    return {kind: _timing(run, messages) for kind, messages in found.items()}


def _timing(run: RunConfig, measured: list[Message]) -> Timing:
    return Timing(
        family=getattr(run.model, "family", ""),
        engine=measured[0]["engine"],
        flops_per_token=float(run.model.counts().flops_per_token("attention")),
        batch_tokens=run.train.batch_tokens,
        **{
            key: sum(message[key] for message in measured) / len(measured)
            for key in ("step", "evaluation", "start", "memory")
        },
        packs=_packs(measured),
        packs_to=min(message["packs_to"] for message in measured),
    )


def _packs(measured: list[Message]) -> dict[int, float]:
    """Seconds of a step of the packs that all workers have timed, by size."""
    common = set.intersection(*(set(message["packs"]) for message in measured))
    return {
        int(size): sum(message["packs"][size] for message in measured) / len(measured)
        for size in sorted(common, key=int)
    }


def _path(kind: str, count: int, device: str) -> Path:
    """The file of the timings of `count` workers on a kind of machine; its name says what they depend on."""
    parts = [kind, cores(), count, device, package_version("torch"), __version__, native_build()]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
    return cache_dir("timings") / f"{digest}.json"


def _load(path: Path) -> Timings:
    """Timings from the cache; damaged, outdated and doubtful ones are taken anew."""
    try:
        stored: Mapping[str, dict[str, Any]] = read_json(path) or {}
        timings = {key: _read(value) for key, value in stored.items()}
    except (AllometryError, TypeError, ValueError):
        return {}
    return {key: timing for key, timing in timings.items() if not _doubtful(timing, timings)}


def _read(value: Mapping[str, Any]) -> Timing:
    """A timing from its JSON, whose keys are text."""
    packs = {int(size): seconds for size, seconds in value.get("packs", {}).items()}
    return Timing(**{**value, "packs": packs})


def _doubtful(timing: Timing, others: Timings) -> bool:
    """Whether a larger model of the same kind took far less: then the machine did something else too."""
    kind = (timing.family, timing.engine, timing.batch_tokens)
    return any(
        (larger.family, larger.engine, larger.batch_tokens) == kind
        and larger.flops_per_token > timing.flops_per_token
        and (timing.step > DOUBTFUL * larger.step or timing.evaluation > DOUBTFUL * larger.evaluation)
        for larger in others.values()
    )


def fits_one(run: RunConfig, pool: Pool) -> bool:
    """Return whether a slot's device is predicted to hold the run."""
    return pool.device_memory is None or estimated_memory(run) <= pool.device_memory


OpenOn = Callable[[str], Pool]
"""Opens the pool of a device, "cpu" or "cuda"."""


def choose_device(
    runs: Sequence[RunConfig], open_on: OpenOn, on_shape: Callable[[int, int], None] | None = None
) -> tuple[str, str]:
    """Return the device, "cpu" or "cuda", whose workers are predicted to end the runs first, and why.

    Small models train fast on cores, and GPUs gain with size and with packs. The timings are those of
    `calibrate`, which keeps them. GPUs on which nothing can be timed are not used, and the sentence says so.
    """
    seconds = {}
    for device in ("cpu", "cuda"):
        try:
            with open_on(device) as pool:
                seconds[device] = calibrate(runs, pool=pool, on_shape=on_shape).total(runs).seconds
        except AllometryError as error:
            if device == "cpu":
                raise
            return "cpu", f"training on the cores: the GPUs cannot be used ({error.message})"
    on_cores, on_gpus = (format_duration(seconds[device]) for device in ("cpu", "cuda"))
    if seconds["cuda"] < seconds["cpu"]:
        return "cuda", f"training on the GPUs: {on_gpus} predicted, {on_cores} on the cores (--device cpu)"
    return "cpu", f"training on the cores: {on_cores} predicted, {on_gpus} on the GPUs (--device cuda)"
