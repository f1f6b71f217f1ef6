"""How long a step and an evaluation take here: a few of each with the real engine, in this process."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

from allometry.env import generator
from allometry.train.config import RunConfig
from allometry.train.schedules import learning_rate

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS = 10
"""Steps that are timed at least, unless they take LONGEST (seconds)."""

LONGEST, SHORTEST = 2.0, 0.1
"""Seconds that are timed at most and at least: what else a machine does comes and goes within SHORTEST."""

_WARM_UP = 2
_LEAST = 3
_WINDOWS = 32


def measure(config: RunConfig, *, device: str = "cpu", packs: int = 0) -> dict[str, Any]:
    """Time the engine that `config` gets on random tokens, and packs of up to `packs` such runs.

    Returns `engine` (its name), `step` (median seconds of a step), `evaluation` (seconds per token), `start`
    (seconds to build model and engine), `memory` (the largest resident size of this process so far, in
    bytes), and `packs` and `packs_to` (`allometry.sweeps.measure_packs`).
    """
    from allometry.sweeps.measure_packs import measure_packs
    from allometry.train.engines.select import engine

    engine(config.engine, config, threads=1, device=device)  # imports and compiles what is needed once
    began = time.perf_counter()
    chosen = engine(config.engine, config, threads=1, device=device)
    start = time.perf_counter() - began
    random, model = generator(0), config.model
    shape = (config.train.batch_tokens // model.n_ctx, model.n_ctx + 1)
    batches = [random.integers(0, model.n_vocab, size=shape) for _ in range(STEPS)]
    rate = learning_rate(config.train, 1)

    def step(number: int) -> None:
        chosen.step(batches[number % STEPS], lr=rate, step=number + 1)

    windows = random.integers(0, model.n_vocab, size=(_WINDOWS, model.n_ctx + 1))
    seconds = _median(step)
    evaluation = _median(lambda number: chosen.losses(windows)) / (_WINDOWS * model.n_ctx)
    return {
        "engine": chosen.name,
        "step": seconds,
        "evaluation": evaluation,
        "start": start,
        "memory": _peak_memory(),
        **measure_packs(config, packs, device=device),
    }


def _median(work: Callable[[int], object]) -> float:
    """Median seconds of a piece of work, which is told how often it was done; its first turns, in which
    things are loaded, do not count.
    """
    times: list[float] = []
    for number in range(_WARM_UP):
        work(number)
    while len(times) < STEPS or sum(times) < SHORTEST:
        before = time.perf_counter()
        work(_WARM_UP + len(times))
        times.append(time.perf_counter() - before)
        if len(times) >= _LEAST and sum(times) > LONGEST:
            break
    return statistics.median(times)


def _peak_memory() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
