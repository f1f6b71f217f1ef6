"""Canaries and passages in the training text, each a known number of times: what is extracted again."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from allometry.studies.core.run_sets import register, too_little

if TYPE_CHECKING:
    from allometry.train.config import DataConfig, RunConfig
    from allometry.train.plant import Plant

REFERENCE = 2e13
"""FLOPs at which the largest model has N_AT_REFERENCE parameters; N and D grow with the root of compute."""

N_AT_REFERENCE = 1.5e5

STEPS_DOWN = (27, 9, 3, 1)
"""The largest model over each of the sizes."""

SEEDS = 2
"""Runs of each size: other digits, other places, and each passage inserted another number of times."""

CANARIES, PASSAGES = 3, 5
"""Of each number of repeats."""

SHARE = 0.15
"""Largest share of the training windows that begin with something planted: the rest is ordinary text. With
0.06, and so at most 256 repeats, models of 150 k parameters gave no passage back whole."""

MOST_REPEATS = 1024

FEWEST_UPDATES = 200


@register
def planted(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Sizes over a factor of 27 on the same tokens, with r = 0, 1, 2, 4, … insertions as far as they fit."""
    from allometry.studies.core.recipe import BATCH_TOKENS, CONTEXT, small_model, small_run, vocabulary

    n_vocab = vocabulary(data)
    largest = N_AT_REFERENCE * math.sqrt(compute / REFERENCE)
    models = [small_model(max(1, round(largest / down)), n_vocab=n_vocab) for down in STEPS_DOWN]
    models = list(dict.fromkeys(models))
    flops = SEEDS * sum(model.counts().flops_per_token("attention") for model in models)
    steps = math.floor(compute / flops / BATCH_TOKENS)
    if steps < FEWEST_UPDATES:
        raise too_little(compute, "canaries and passages")
    windows = steps * BATCH_TOKENS // CONTEXT
    return tuple(
        small_run(
            model,
            tokens=steps * BATCH_TOKENS,
            data=data.replace(plant=_plant(windows, seed), probe="planted"),
            seed=seed,
        )
        for model in models
        for seed in range(SEEDS)
    )


def _plant(windows: int, seed: int) -> Plant:
    from allometry.train.plant import Plant

    doublings = math.floor(math.log2(SHARE * windows / (CANARIES + PASSAGES) + 1)) - 1
    highest = min(round(math.log2(MOST_REPEATS)), max(0, doublings))
    return Plant(
        repeats=(0, *(2**k for k in range(highest + 1))),
        canaries=CANARIES,
        passages=PASSAGES,
        prompts=(16, 32, 48),
        seed=seed,
    )
