"""How long a step of packs of several sizes takes here, as training takes it: each model's loop in a thread
of its own.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from allometry.data.batches import BatchOrder
from allometry.env import generator
from allometry.sweeps.measure import LONGEST, SHORTEST, STEPS
from allometry.sweeps.packing import GAIN, MOST
from allometry.train.config import RunConfig
from allometry.train.schedules import learning_rate

if TYPE_CHECKING:
    from allometry.train.group import Alone
    from allometry.train.packing import Meeting

_WARM_UP = 3
_LEAST = 3
_TOKENS = 1 << 18


def sizes(most: int) -> Iterator[int]:
    """The sizes of packs that are timed: 1, 2, 4, … and `most` itself."""
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
    from allometry.train.engines.packed import Pack
    from allometry.train.packing import Meeting

    configs = [config.replace(train=config.train.replace(seed=seed)) for seed in range(size)]
    pack = Pack(configs, device=device)
    estimate = _turns(Meeting(pack), config, _WARM_UP + 1)[-1]
    count = max(_LEAST, min(round(LONGEST / estimate), max(STEPS, round(SHORTEST / estimate))))
    return statistics.median(_turns(Meeting(pack), config, count))


def _turns(meeting: Meeting, config: RunConfig, count: int) -> list[float]:
    """Seconds of so many steps, one after the other, as the first of the pack's models sees them.

    Batches are gathered as in training: with many small models, what each loop does besides takes a part.
    """
    model, train = config.model, config.train
    tokens = generator(0).integers(0, model.n_vocab, size=max(_TOKENS, 2 * model.n_ctx), dtype=np.uint32)

    def loop(group: Alone) -> list[float]:
        engine = group.engine("packed", config, 1, "")
        order = BatchOrder(tokens, n_ctx=model.n_ctx, batch_tokens=train.batch_tokens, seed=0)
        times = []
        for step in range(1, count + 1):
            began = time.perf_counter()
            engine.step(order.batch(step), lr=learning_rate(train, 1), step=step)
            times.append(time.perf_counter() - began)
        return times

    first, *others = meeting.hold([loop] * len(meeting.pack.members))
    for outcome in (first, *others):
        if isinstance(outcome, BaseException):
            raise outcome.__cause__ or outcome
    assert isinstance(first, list)
    return first
