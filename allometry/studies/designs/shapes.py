"""Models of one size and many shapes: the feed-forward width, the depth and the heads, one at a time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from allometry.studies.core.run_sets import register, too_little

if TYPE_CHECKING:
    from allometry.models.transformer import TransformerConfig
    from allometry.train.config import DataConfig, RunConfig

N_AT_REFERENCE = 1e5
"""Parameters of every shape at REFERENCE compute; both N and D grow with its square root."""

REFERENCE = 3e13

SMALLEST = 4e3
"""N below which widths are too coarse to hold N fixed."""

FEWEST_UPDATES = 100

LAYERS = 2
"""Depth of the baseline, that of the recipe."""

RATIOS = (0.5, 1.0, 2.0, 8.0, 16.0)
"""d_ff / d_model beside the baseline's 4 (Kaplan et al. 2020, figure 5a)."""

DEPTHS = (1, 3, 4, 6, 8)
"""Layers beside the baseline's 2, at the same N: aspect ratios over a factor of about 20 (figure 5b)."""

SIZES = (0.5, 2.0)
"""Baseline shapes of other sizes, whose losses say what a difference in N is worth."""

SEEDS = 4
"""Seeds of the baseline: the noise that the differences are held against."""


@register
def shapes(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Variants of one model at fixed N, with the protocol of Kaplan et al. 2020, section 3.1: heads vary
    alone; depth and feed-forward width vary together with d_model.
    """
    from allometry.studies.core.recipe import BATCH_TOKENS, small_run, vocabulary

    n_vocab = vocabulary(data)
    N = max(SMALLEST, N_AT_REFERENCE * math.sqrt(compute / REFERENCE))
    models = variants(N, n_vocab)
    baseline = models[0]
    flops = sum(model.counts().flops_per_token("attention") for model in models)
    flops += (SEEDS - 1) * baseline.counts().flops_per_token("attention")
    steps = math.floor(compute / flops / BATCH_TOKENS)
    if steps < FEWEST_UPDATES:
        raise too_little(compute, "shapes at one size")
    tokens = steps * BATCH_TOKENS
    runs = [small_run(model, tokens=tokens, data=data) for model in models]
    runs += [small_run(baseline, tokens=tokens, data=data, seed=seed) for seed in range(1, SEEDS)]
    return tuple({run.id: run for run in runs}.values())


def variants(N: float, n_vocab: int) -> list[TransformerConfig]:
    """Every shape, the baseline first: all of about N parameters but the two of SIZES."""
    found = [shape(N, n_vocab)]
    found += [shape(N, n_vocab, ratio=ratio) for ratio in RATIOS]
    found += [shape(N, n_vocab, layers=layers) for layers in DEPTHS]
    found += [found[0].replace(n_head=n_head) for n_head in head_counts(found[0].d_model)]
    found += [shape(N * factor, n_vocab) for factor in SIZES]
    return list(dict.fromkeys(found))


def shape(N: float, n_vocab: int, *, layers: int = LAYERS, ratio: float = 4.0) -> TransformerConfig:
    """The model of `layers` layers with d_ff / d_model near `ratio`: d_model is a multiple of 8, and d_ff
    makes N = 2 d_model layers (2 d_model + d_ff) come out as nearly as it can.
    """
    from allometry.models.transformer import TransformerConfig
    from allometry.studies.core.recipe import CONTEXT, heads

    width = 8 * max(1, round(math.sqrt(N / (2 * layers * (2 + ratio))) / 8))
    d_ff = 8 * max(1, round((N / (2 * width * layers) - 2 * width) / 8))
    return TransformerConfig(
        n_layer=layers, d_model=width, n_head=heads(width), d_ff=d_ff, n_ctx=CONTEXT, n_vocab=n_vocab
    )


def head_counts(d_model: int) -> list[int]:
    """Numbers of heads of a width: heads of 8, 16, 32, … up to d_model."""
    widths = [8 * 2**k for k in range(8) if d_model % (8 * 2**k) == 0]
    return sorted({d_model // width for width in widths} | {1})
