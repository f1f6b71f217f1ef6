"""Predict what a sweep takes on a pool of workers: seconds, memory and disk.

What one run takes follows from timed steps of some shapes; which runs are trained as packs
(`allometry.experimental.packs`), how many together and how long that takes, from what was measured of packs."""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_right
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
import pandas as pd

from allometry.core.env import cores
from allometry.experimental import packable
from allometry.runs.store import Store
from allometry.sweeps.schedule import Job, makespan, makespan_when_lent, survey
from allometry.train.config import RunConfig, evaluation_steps

if TYPE_CHECKING:
    from allometry.sweeps.pool import Pool

_NOMINAL_FLOPS = 2e10
"""FLOP/s of one core, assumed where nothing was measured."""

PROCESS_BYTES = 3.5e8
"""Resident size of a worker with torch loaded."""

_TOGETHER = 0.9
"""Share of the sum of their speeds that several devices are assumed to reach together: it is not measured."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What was measured of one shape: training FLOPs per token and tokens per step, seconds per step and per
    evaluated token, seconds to start, peak memory in bytes, with all workers busy at the same time.

    `packs` are the seconds of a step of packs by size, which were timed for up to `packs_to` runs.
    """

    family: str
    engine: str
    flops_per_token: float
    batch_tokens: int
    step: float
    evaluation: float
    start: float
    memory: float
    packs: Mapping[int, float] = field(default_factory=dict)
    packs_to: int = 0

    @property
    def pace(self) -> float:
        """FLOPs a second in training."""
        return self.flops_per_token * self.batch_tokens / self.step


@dataclass(frozen=True)
class _Rates:
    """What one configuration costs: seconds per step, per evaluation and once; bytes of memory; seconds per
    step of packs."""

    step: float
    evaluation: float
    start: float
    memory: float
    evaluations: tuple[int, ...]
    packs: Mapping[int, float]
    engine: str


class RunCosts:
    """Predict seconds and bytes of single runs from timings of some shapes.

    A shape that was not timed gets the speed (FLOP/s) of its neighbours in FLOPs per token, of the same
    family if there are any; without any timing, a nominal speed.
    """

    def __init__(self, timings: Mapping[str, Timing] | None = None) -> None:
        """Take timings by `shape_key`; see `allometry.sweeps.calibrate`."""
        self.timings = dict(timings or {})
        self._known: dict[tuple[str, int], _Rates] = {}

    @property
    def measured(self) -> bool:
        """Whether anything was timed."""
        return bool(self.timings)

    def steps(self, config: RunConfig) -> tuple[float, Mapping[int, float]]:
        """Return the seconds of a step of the run alone, and of packs of such runs by size, if any were timed."""
        rates = self._rates(config)
        return rates.step, rates.packs

    def between(self, config: RunConfig, start: int, stop: int) -> float:
        """Return the seconds of a run from step `start` to `stop` on one core, or on its `devices`, while
        the others are busy.

        Evaluations are those of the log grid in between; what a run costs once is counted at its end.
        """
        if stop <= start:
            return 0.0
        rates = self._rates(config)
        count = bisect_right(rates.evaluations, stop) - bisect_right(rates.evaluations, start)
        once = rates.start if stop >= config.train.steps else 0.0
        return (stop - start) * rates.step + count * rates.evaluation + once

    def seconds(self, config: RunConfig, start: int = 0) -> float:
        """Return the seconds of the whole run on one core, or on its `devices`, from step `start`."""
        return self.between(config, start, config.train.steps)

    def memory(self, config: RunConfig) -> float:
        """Return peak bytes of the processes that train the run, all together."""
        return self._rates(config).memory * config.devices

    def disk(self, config: RunConfig) -> float:
        """Return the bytes that the finished run keeps: its fp32 weights and small text files."""
        return 4.0 * config.model.counts().N_total + 1e5

    def takes_threads(self, config: RunConfig) -> bool:
        """Return whether the run has an engine that computes the same bits on several threads."""
        return config.devices == 1 and self._rates(config).engine.startswith("native")

    def _rates(self, config: RunConfig) -> _Rates:
        key = config.id, config.devices
        if key not in self._known:
            self._known[key] = self._derive(config)
        return self._known[key]

    def _derive(self, config: RunConfig) -> _Rates:
        flops = config.model.counts().flops_per_token("attention")
        tokens = config.data.eval_tokens * (1 + len(config.data.eval_on))
        timing = self.timings.get(shape_key(config)) or self._interpolate(config, flops)
        together = config.devices * _TOGETHER if config.devices > 1 else 1.0
        evaluation = tokens * timing.evaluation + 2 * config.train.noise_batches * timing.step
        return _Rates(
            step=timing.step / together,
            evaluation=evaluation / together,
            start=timing.start,
            memory=timing.memory,
            evaluations=tuple(evaluation_steps(config)),
            packs=timing.packs,
            engine=timing.engine,
        )

    def _near(self, family: str, batch: int) -> list[Timing]:
        """The timings that say most of a family at a batch, by FLOPs per token: its own at the batch nearest
        to it where two sizes were timed.
        """
        timings = list(self.timings.values())
        own = [timing for timing in timings if timing.family == family] or timings
        batches = sorted({timing.batch_tokens for timing in own}, key=lambda b: abs(math.log(b / batch)))
        kinds = [[timing for timing in own if timing.batch_tokens == b] for b in batches]
        several = [kind for kind in kinds if len({timing.flops_per_token for timing in kind}) > 1]
        return sorted(several[0] if several else own, key=lambda timing: timing.flops_per_token)

    def _interpolate(self, config: RunConfig, flops: float) -> Timing:
        """A timing for a shape that has none: the neighbours' speed, linear in the logarithm of FLOPs per
        token.
        """
        family, batch = getattr(config.model, "family", ""), config.train.batch_tokens
        near = self._near(family, batch)

        def at(value: Callable[[Timing], float], default: float) -> float:
            if not near:
                return default
            x = [math.log(timing.flops_per_token) for timing in near]
            return float(np.exp(np.interp(math.log(flops), x, [math.log(value(timing)) for timing in near])))

        step = flops * batch / at(lambda timing: timing.pace, _NOMINAL_FLOPS)
        return Timing(
            family=family,
            engine=near[0].engine if near else config.engine,
            flops_per_token=flops,
            batch_tokens=batch,
            step=step,
            evaluation=flops
            / at(lambda timing: timing.flops_per_token / timing.evaluation, 3 * _NOMINAL_FLOPS),
            start=at(lambda timing: timing.start, 0.1),
            memory=estimated_memory(config),
            packs=_packs_like(near, flops, batch, step),
        )


def _packs_like(near: Sequence[Timing], flops: float, batch: int, step: float) -> dict[int, float]:
    """Packs of a shape that was not timed gain what those of the next larger one do, timed at the same batch:
    the larger a model, the less they gain."""
    larger = (each for each in near if each.flops_per_token >= flops and each.batch_tokens == batch)
    like = next(larger, None)
    return {} if like is None else {size: step * packed / like.step for size, packed in like.packs.items()}


def estimated_memory(config: RunConfig, *, devices: int = 1, divided: bool = False) -> float:
    """Return the bytes that a run takes on each of so many devices, without any measurement: the process, parameters
    with gradients and moments (`divided` among the devices or copied to each), and its share of the
    activations.
    """
    counts, batch = config.model.counts(), config.train.batch_tokens
    activations = 0.2 * batch * math.sqrt(counts.flops_per_token("attention")) / devices
    return PROCESS_BYTES + 24.0 * counts.N_total / (devices if divided else 1) + activations


def shape_key(config: RunConfig) -> str:
    """Return what decides the speed of a step: model, batch and engine, as a hash."""
    train = config.train
    parts = [config.model.model_dump(mode="json"), train.batch_tokens, train.clip is None, config.engine]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


MOST = 64
"""Runs in a pack at most, unless the user asks for more."""

GAIN = 1.1
"""How many times the tokens per second a pack must train, to be worth it: timings scatter."""

_NEAR = 0.93
"""The smallest pack is taken that has this share of the best one's tokens per second."""

_SHARE = 0.8
"""Of a slot's memory that may be planned for packs: memory is estimated roughly, and a pack that does not fit
costs its runs what they did since their last checkpoint."""

Place = TypeVar("Place")


def best_size(step: float, packs: Mapping[int, float]) -> int:
    """Return how many runs are best packed, given the seconds of a step of one alone and of packs by size; 0: none.

    1 is a pack of one run, which on a GPU is replayed as one graph.
    """
    paces = {size: size / seconds for size, seconds in packs.items()}
    best = max(paces.values(), default=0.0)
    if best * step < GAIN:
        return 0
    return min(size for size, pace in paces.items() if pace >= _NEAR * best)


def step_of(count: int, step: float, packs: Mapping[int, float]) -> float:
    """Return the seconds of a step of a pack of `count` runs: between the sizes that were measured, or in proportion to
    the largest; without any, as if the runs took turns.
    """
    if not packs:
        return count * step
    known = sorted(packs)
    if count > known[-1]:
        return packs[known[-1]] * count / known[-1]
    return float(np.interp(count, known, [packs[size] for size in known]))


class Packing:
    """What is packed on a pool whose slots have `room` bytes each (None: no limit known).

    `most` is what the user asked for: 1 is never, a number is packs of up to so many, whether they pay or
    not, and None is as many as were measured to pay.
    """

    def __init__(self, costs: RunCosts, most: int | None = 1, room: float | None = None) -> None:
        self.costs, self.most, self.room = costs, most, room
        self.apart: set[str] = set()
        self._sizes: dict[int, int] = {}
        self._kinds: dict[tuple[str, int], int | None] = {}
        self._numbers: dict[Hashable, int] = {}

    def kind(self, run: RunConfig) -> int | None:
        """Return a number that it shares with the runs that it may be packed with; None if it is trained by itself.

        Runs whose ids are in `apart` have been in a pack that did not work.
        """
        if self.most == 1 or run.id in self.apart:
            return None
        key = run.id, run.devices
        if key not in self._kinds:
            self._kinds[key] = None if packable.alone(run) else self._number(packable.kind(run))
        found = self._kinds[key]
        return found if found is not None and self._size(found, run) > 0 else None

    def _number(self, kind: Hashable) -> int:
        """Number the kinds: hashing a model's configuration is slow where there are many runs."""
        return self._numbers.setdefault(kind, len(self._numbers))

    def size(self, run: RunConfig) -> int:
        """Return how many runs such as this one are trained together, if there are as many."""
        kind = self.kind(run)
        return 1 if kind is None else self._size(kind, run)

    def _size(self, kind: int, run: RunConfig) -> int:
        if kind not in self._sizes:
            best = best_size(*self.costs.steps(run)) if self.most is None else self.most
            self._sizes[kind] = min(best, self.fitting(run))
        return self._sizes[kind]

    def fitting(self, run: RunConfig) -> int:
        """Return how many such runs a slot's memory is predicted to hold; at least one, which is tried anyway."""
        if self.room is None:
            return self.most or MOST
        each = estimated_memory(run) - PROCESS_BYTES
        return max(1, int((_SHARE * self.room - PROCESS_BYTES) / each))

    def worth_measuring(self, run: RunConfig, count: int) -> int:
        """Return the largest pack of such runs that is to be timed if there are `count` of them; 0: none."""
        if self.most == 1 or packable.alone(run) or (self.most is not None and count < 2):
            return 0
        return min(count, self.most or MOST, self.fitting(run))

    def is_pack(self, jobs: Sequence[Job]) -> bool:
        """Return whether these jobs of one slot are trained as a pack: several are, and one if that is quicker."""
        if len(jobs) > 1:
            return True
        if self.kind(jobs[0].config) is None:
            return False
        step, packs = self.costs.steps(jobs[0].config)
        return 1 in packs and GAIN * packs[1] <= step

    def stretch(self, jobs: Sequence[Job]) -> float:
        """Return how many times as long the longest of these jobs takes as it would alone."""
        if not self.is_pack(jobs):
            return 1.0
        step, packs = self.costs.steps(jobs[0].config)
        counts = [job.config.train.steps - job.start for job in jobs]
        alone = [self.costs.seconds(job.config, job.start) for job in jobs]
        besides = sum(alone) - step * sum(counts)  # evaluations and starts, which take turns
        together = max(counts) * step_of(len(jobs), step, packs) + besides
        return together / max(*alone, 1e-9) if max(alone) > 0 else 1.0

    def fill(self, started: Mapping[Place, Job], rest: Iterable[Job]) -> dict[Place, list[Job]]:
        """Return the jobs that start, each with those of the `rest` (the most urgent first) that join it.

        Jobs have been spread over slots before: what is left goes to the smallest pack that suits it.
        """
        packs = {place: [job] for place, job in started.items()}
        by_kind: dict[int | None, list[list[Job]]] = {}
        for pack in packs.values():
            if (kind := self.kind(pack[0].config)) is not None:
                by_kind.setdefault(kind, []).append(pack)
        for job in rest if by_kind else ():
            open_to_it = by_kind.get(self.kind(job.config), [])
            smallest = min(open_to_it, key=len, default=None)
            if smallest is not None and len(smallest) < self.size(job.config):
                smallest.append(job)
        return packs


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What is left to do of a sweep: `seconds` on the clock with `workers` cores (or GPUs: `device`), `work`
    in core-seconds of runs trained one by one, FLOPs by the 6ND convention, peak `memory` and final `disk` in
    bytes, and whether all of it was measured on this machine.
    """

    seconds: float
    work: float
    flops: float
    memory: float
    disk: float
    workers: int
    measured: bool
    device: str = "cpu"


class CostModel:
    """Predict what sweeps take: `runs` says what single runs do, `packing` which of them are packed.

    It is made for one core after the other; `on` adapts it to a pool, and `learn` to how long the work that
    was predicted has taken.
    """

    def __init__(self, timings: Mapping[str, Timing] | None = None) -> None:
        """Take timings by `shape_key`; see `allometry.sweeps.calibrate`."""
        self.runs = RunCosts(timings)
        self.packing = Packing(self.runs)
        self.device, self.workers, self.lends = "cpu", 0, False
        self.predicted = self.actual = 5.0

    def on(self, pool: Pool) -> Self:
        """Adapt the model to a pool and return it: how many slots there are, and what is packed there."""
        most = pool.pack
        if most is None and not pool.device.startswith("cuda"):
            most = 1  # on cores, runs trained one by one have a faster engine
        self.packing = Packing(self.runs, most, pool.device_memory)
        self.device, self.workers, self.lends = pool.device, pool.workers, pool.lends
        return self

    def learn(self, predicted: float, actual: float) -> None:
        """Record that work which was predicted to take so many seconds took `actual` seconds."""
        self.predicted += predicted
        self.actual += actual

    @property
    def stretch(self) -> float:
        """Return how many times as long as predicted the work has taken so far."""
        return self.actual / self.predicted

    @property
    def timings(self) -> dict[str, Timing]:
        """Return the timings that the predictions rest on, by `shape_key`."""
        return self.runs.timings

    @property
    def measured(self) -> bool:
        """Return whether anything was timed."""
        return self.runs.measured

    def between(self, config: RunConfig, start: int, stop: int) -> float:
        """Return the seconds of a run from step `start` to `stop` (`RunCosts.between`)."""
        return self.runs.between(config, start, stop)

    def seconds(self, config: RunConfig, start: int = 0) -> float:
        """Return the seconds of the whole run from step `start` (`RunCosts.seconds`)."""
        return self.runs.seconds(config, start)

    def memory(self, config: RunConfig) -> float:
        """Return the peak bytes of the processes that train the run, all together."""
        return self.runs.memory(config)

    def makespan(self, todo: Sequence[Job], workers: int, running: Iterable[Collection[str]] = ()) -> float:
        """Return the predicted seconds until all jobs are done on so many workers (see `cost.makespan`).

        Idle workers are lent to others where the pool does that.
        """
        if self.lends and self.packing.most == 1:
            return makespan_when_lent(todo, self.between, workers, self._takes_threads, running)
        return makespan(todo, self.between, workers, running, self.packing)

    def _takes_threads(self, config: RunConfig) -> bool:
        return self.runs.takes_threads(config)

    def total(
        self, runs: Sequence[RunConfig], store: Store | None = None, workers: int | None = None
    ) -> Cost:
        """Return what is left to do of `runs`, with trunks shared, on `workers` slots.

        Default: the slots of the pool that the model is adapted to, else all cores.
        """
        workers = workers or self.workers or cores()
        left = survey(runs, store)
        todo = left.jobs()
        memory = sorted((self.memory(run) for run in left.pending), reverse=True)
        return Cost(
            seconds=self.makespan(todo, workers),
            work=sum(self.seconds(job.config, job.start) * job.config.devices for job in todo),
            flops=float(sum(_flops_left(job.config, job.start) for job in todo)),
            memory=sum(memory[:workers]),
            disk=sum(self.runs.disk(run) for run in left.pending),
            workers=workers,
            measured=self.measured,
            device=self.device,
        )


def _flops_left(config: RunConfig, start: int) -> float:
    steps = config.train.steps - start
    return float(config.model.counts().flops_per_token()) * steps * config.train.batch_tokens


PLAN_COLUMNS = (
    *("run", "family", "shape", "N", "D", "S", "C", "lr", "seed", "devices", "seconds", "memory", "state"),
)
"""Columns of `plan_frame`."""


def plan_frame(
    runs: Iterable[RunConfig], store: Store | None = None, cost: CostModel | None = None
) -> pd.DataFrame:
    """Return a table of planned runs, a row each, with the columns PLAN_COLUMNS; C is 6ND.

    `seconds` (alone, on one core or its `devices`) and `memory` (bytes, of all) need a cost model, `state`
    ("done", "diverged", "failed", "partial", "new") a store; without, they are missing values.
    """
    return pd.DataFrame([_plan_row(run, store, cost) for run in runs], columns=list(PLAN_COLUMNS))


def _plan_row(run: RunConfig, store: Store | None, cost: CostModel | None) -> dict[str, Any]:
    counts = run.model.counts()
    tokens = run.train.steps * run.train.batch_tokens
    return {
        "run": run.id,
        "family": getattr(run.model, "family", None),
        "shape": run.model.shape,
        "N": counts.N,
        "D": tokens,
        "S": run.train.steps,
        "C": float(counts.flops_per_token()) * tokens,
        "lr": run.train.lr,
        "seed": run.train.seed,
        "devices": run.devices,
        "seconds": cost.seconds(run) if cost else None,
        "memory": cost.memory(run) if cost else None,
        "state": (store.status(run.id) or "new") if store else None,
    }
