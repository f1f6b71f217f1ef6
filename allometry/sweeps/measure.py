"""How long a step and an evaluation take here: a few of each with the real engine, in this process."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from typing import Any

from allometry.env import generator
from allometry.train.config import RunConfig
from allometry.train.schedules import learning_rate

STEPS = 10
"""Steps that are timed."""

_WARM_UP = 2
_LEAST = 3
_LONGEST = 2.0
_WINDOWS = 32


def measure(config: RunConfig, *, device: str = "cpu") -> dict[str, Any]:
    """Time the engine that `config` gets on random tokens.

    Returns `engine` (its name), `step` (median seconds of STEPS steps, or of fewer if they take over two
    seconds), `evaluation` (seconds per token), `start` (seconds to build model and engine) and `memory` (the
    largest resident size of this process so far, bytes).
    """
    from allometry.train.engines.select import engine

    engine(config.engine, config, threads=1, device=device)  # imports and compiles what is needed once
    began = time.perf_counter()
    chosen = engine(config.engine, config, threads=1, device=device)
    start = time.perf_counter() - began
    random, model = generator(0), config.model
    shape = (config.train.batch_tokens // model.n_ctx, model.n_ctx + 1)
    batches = [random.integers(0, model.n_vocab, size=shape) for _ in range(_WARM_UP + STEPS)]
    times: list[float] = []
    for number, batch in enumerate(batches, start=1):
        rate = learning_rate(config.train, min(number, config.train.steps))
        before = time.perf_counter()
        chosen.step(batch, lr=rate, step=number)
        if number > _WARM_UP:
            times.append(time.perf_counter() - before)
        if len(times) >= _LEAST and sum(times) > _LONGEST:
            break
    windows = random.integers(0, model.n_vocab, size=(_WINDOWS, model.n_ctx + 1))
    before = time.perf_counter()
    chosen.losses(windows)
    evaluation = (time.perf_counter() - before) / (_WINDOWS * model.n_ctx)
    return {
        "engine": chosen.name,
        "step": statistics.median(times),
        "evaluation": evaluation,
        "start": start,
        "memory": _peak_memory(),
    }


def _peak_memory() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
