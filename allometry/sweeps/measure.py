"""Time a few steps and evaluations of a run here, with its real engine, alone and in packs of several sizes."""

from __future__ import annotations

import gc
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from allometry.core.env import generator
from allometry.data.batches import BatchOrder
from allometry.sweeps.cost import GAIN, MOST
from allometry.train.config import RunConfig, learning_rate

if TYPE_CHECKING:
    from allometry.experimental.packs import PackRunner
    from allometry.train.loop import SingleProcess

STEPS = 10
"""Steps that are timed at least, unless they take LONGEST (seconds)."""

LONGEST, SHORTEST = 2.0, 0.1
"""Seconds that are timed at most and at least: what else a machine does comes and goes within SHORTEST."""

_WARM_UP, _PACK_WARM_UP = 2, 3
_LEAST = 3
_WINDOWS = 32
_TOKENS = 1 << 18


def measure(config: RunConfig, *, device: str = "cpu", packs: int = 0) -> dict[str, Any]:
    """Time the engine that `config` gets on random tokens, and packs of up to `packs` such runs.

    Returns `engine` (its name), `step` (median seconds of a step), `evaluation` (seconds per token), `start`
    (seconds to build model and engine), `memory` (the largest resident size of this process so far, in
    bytes), and `packs` and `packs_to` (`measure_packs`).
    """
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


def sizes(most: int) -> Iterator[int]:
    """Return the sizes of packs that are timed: 1, 2, 4, … and `most` itself."""
    size = 1
    while size < most:
        yield size
        size *= 2
    if most >= 1:
        yield most


def measure_packs(config: RunConfig, most: int, *, device: str = "cpu") -> dict[str, Any]:
    """Time packs of up to `most` runs such as `config`, until twice as many gain less than GAIN.

    Returns `packs`, seconds of a step by size (as text, for JSON), and `packs_to`, the number of runs for
    which that is all there is to know: MOST once larger packs gain nothing, do not fit the device or do not
    work there (why, is said on standard error).
    """
    import torch

    found: dict[int, float] = {}
    known = most
    for size in sizes(most):
        try:
            found[size] = _step(config, size, device)
        except Exception as error:
            if not isinstance(error, torch.OutOfMemoryError):
                print(f"no packs of {size} of {config.id}: {error}", file=sys.stderr)
            known = MOST
            break
        if size % 2 == 0 and size // 2 in found and 2 * found[size // 2] < GAIN * found[size]:
            known = MOST
            break
        gc.collect()  # its memory, before a larger one takes twice as much
    return {"packs": {str(size): seconds for size, seconds in found.items()}, "packs_to": known}


def _step(config: RunConfig, size: int, device: str) -> float:
    """Median seconds of a step of a pack, with what its loops' waiting for each other costs."""
    from allometry.experimental.packs import Pack, PackRunner

    configs = [config.replace(train=config.train.replace(seed=seed)) for seed in range(size)]
    pack = Pack(configs, device=device)
    estimate = _turns(PackRunner(pack), config, _PACK_WARM_UP + 1)[-1]
    count = max(_LEAST, min(round(LONGEST / estimate), max(STEPS, round(SHORTEST / estimate))))
    return statistics.median(_turns(PackRunner(pack), config, count))


def _turns(runner: PackRunner, config: RunConfig, count: int) -> list[float]:
    """Seconds of so many steps, one after the other, as the first of the pack's models sees them.

    Batches are gathered as in training: with many small models, what each loop does besides takes a part.
    """
    model, train = config.model, config.train
    tokens = generator(0).integers(0, model.n_vocab, size=max(_TOKENS, 2 * model.n_ctx), dtype=np.uint32)

    def loop(group: SingleProcess) -> list[float]:
        engine = group.engine("packed", config, 1, "")
        order = BatchOrder(tokens, n_ctx=model.n_ctx, batch_tokens=train.batch_tokens, seed=0)
        times = []
        for step in range(1, count + 1):
            began = time.perf_counter()
            engine.step(order.batch(step), lr=learning_rate(train, 1), step=step)
            times.append(time.perf_counter() - began)
        return times

    first, *others = runner.run([loop] * len(runner.pack.members))
    for outcome in (first, *others):
        if isinstance(outcome, BaseException):
            raise outcome.__cause__ or outcome
    assert isinstance(first, list)
    return first
