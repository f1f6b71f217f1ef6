"""Many models of one size, each on a random half of the documents (Feldman and Zhang 2020)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from allometry.studies.designs.base import register, too_little

if TYPE_CHECKING:
    from allometry.train.config import DataConfig, RunConfig

REFERENCE = 2e13
"""FLOPs at which there are MODELS_AT_REFERENCE models of N_AT_REFERENCE parameters."""

MODELS_AT_REFERENCE, N_AT_REFERENCE = 40, 3e4

FEWEST_MODELS, MOST_MODELS = 12, 120

BLOCK, BLOCKS = 512, 128
"""Tokens of a document and how many documents there are: blocks from all over the corpus, so few that a small
model sees each of them tens of times."""

FEWEST_UPDATES = 40


@register
def halves(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Models that differ in their half of the documents, and in their seed."""
    from allometry.studies.recipe import BATCH_TOKENS, small_model, small_run, vocabulary

    share = compute / REFERENCE
    count = min(MOST_MODELS, max(FEWEST_MODELS, 2 * round(MODELS_AT_REFERENCE / 2 * share**0.25)))
    model = small_model(max(1, round(N_AT_REFERENCE * share**0.25)), n_vocab=vocabulary(data))
    steps = math.floor(compute / count / model.counts().flops_per_token("attention") / BATCH_TOKENS)
    if steps < FEWEST_UPDATES:
        raise too_little(compute, "models of random halves")
    limited = data.replace(limit=BLOCK * _blocks(data), spread=BLOCK, probe="documents")
    return tuple(
        small_run(model, tokens=steps * BATCH_TOKENS, data=limited.replace(half=seed), seed=seed)
        for seed in range(count)
    )


def _blocks(data: DataConfig) -> int:
    """As many blocks as the training text holds, up to BLOCKS."""
    from allometry.data.tokens import manifest_of

    return max(1, min(BLOCKS, manifest_of(data.corpus, data.tokenizer).train_tokens // BLOCK))
