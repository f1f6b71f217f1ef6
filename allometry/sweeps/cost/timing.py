"""Predict what one run takes from timed steps of some shapes: seconds, memory and disk."""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from allometry.train.config import RunConfig, evaluation_steps

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
        """Take timings by `shape_key`; see `allometry.sweeps.cost.calibrate`."""
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
