"""Models that see contexts of three lengths, on the same tokens."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from allometry.studies.core.run_sets import register, too_little

if TYPE_CHECKING:
    from allometry.models.base import ModelConfig
    from allometry.train.config import DataConfig, RunConfig

N_AT_REFERENCE = 1e5
"""Parameters of the largest model at REFERENCE compute; N and D grow with its square root."""

REFERENCE = 1e13

SMALLEST = 6e3

SIZES, STEP = 3, 3.0
"""Sizes, and the factor in N between them."""

CONTEXTS = (8, 64, 256)
"""Tokens of context: that of the dashed lines in Kaplan et al. 2020, figure 21, the recipe's, and a long
one."""

FEWEST_UPDATES = 100


@register
def contexts(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Every size at every context, at equal tokens."""
    from allometry.studies.core.recipe import BATCH_TOKENS, small_run, vocabulary

    models = _models(compute, vocabulary(data))
    flops = sum(model.counts().flops_per_token("attention") for model in models)
    steps = 2 * math.floor(compute / flops / (2 * BATCH_TOKENS))
    if steps < FEWEST_UPDATES:
        raise too_little(compute, "comparison of contexts")
    tokens = steps * BATCH_TOKENS
    return tuple(
        small_run(model, tokens=tokens, data=data, batch_tokens=BATCH_TOKENS * (1 + (model.n_ctx > 64)))
        for model in models
    )


def _models(compute: float, n_vocab: int) -> list[ModelConfig]:
    """The recipe's models of each size, at each context."""
    from allometry.studies.core.recipe import small_model

    largest = max(SMALLEST, N_AT_REFERENCE * math.sqrt(compute / REFERENCE))
    targets = [max(1500, round(largest / STEP**k)) for k in reversed(range(SIZES))]
    usual = dict.fromkeys(small_model(n, n_vocab=n_vocab) for n in targets)
    return [model.replace(n_ctx=n_ctx) for model in usual for n_ctx in CONTEXTS]
