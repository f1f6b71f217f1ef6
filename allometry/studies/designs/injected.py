"""One batch of passages that is trained on once, and how it is forgotten (Tirumala et al. 2022)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from allometry.studies.core.run_sets import register, too_little

if TYPE_CHECKING:
    from allometry.train.config import DataConfig, RunConfig

REFERENCE = 5e12
"""FLOPs at which the largest model has N_AT_REFERENCE parameters; N and D grow with the root of compute."""

N_AT_REFERENCE = 2e5

STEPS_DOWN = (16, 4, 1)
"""The largest model over each of the sizes."""

SEEDS = 2

FEWEST_UPDATES = 120


@register
def injected(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Three sizes at a constant rate (a decay would remember on its own account); halfway through, one batch
    consists of passages from held-out text and of nothing else. As many others are never trained on.
    """
    from allometry.studies.core.recipe import BATCH_TOKENS, CONTEXT, small_model, small_run, vocabulary
    from allometry.train.plant import Plant

    n_vocab = vocabulary(data)
    largest = N_AT_REFERENCE * math.sqrt(compute / REFERENCE)
    models = [small_model(max(1, round(largest / down)), n_vocab=n_vocab) for down in STEPS_DOWN]
    models = list(dict.fromkeys(models))
    flops = SEEDS * sum(model.counts().flops_per_token("attention") for model in models)
    steps = math.floor(compute / flops / BATCH_TOKENS)
    if steps < FEWEST_UPDATES:
        raise too_little(compute, "injection of a batch")
    runs = []
    for model in models:
        for seed in range(SEEDS):
            plant = Plant(
                repeats=(0, 1),
                canaries=0,
                passages=BATCH_TOKENS // CONTEXT,
                prompts=(),
                seed=seed,
                at=steps // 2,
            )
            run = small_run(
                model, tokens=steps * BATCH_TOKENS, data=data.replace(plant=plant, probe="planted"),
                seed=seed, schedule="constant",
            )  # fmt: skip
            runs.append(run.replace(data=run.data.replace(eval_tokens=16_384)))
    return tuple(runs)
