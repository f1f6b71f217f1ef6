"""The batch scan: two sizes at many batches and several rates, for the critical batch and the noise scale."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from allometry.studies.core.run_sets import register, too_little

if TYPE_CHECKING:
    from allometry.models.base import ModelConfig
    from allometry.train.config import DataConfig, RunConfig

BATCHES: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 8192, 16_384)
"""Batches in tokens, a factor of 64 apart: B_crit was near 2,000 tokens at a loss of 2.4 nats, and near
14,000 at 2.0."""

RATES: tuple[float, ...] = (0.3, 0.75, 1.8)
"""Learning rates over the rule for their batch: at a constant rate the best one is about twice the rule's
early in training, and half of it or less in the end."""

FEW_BATCHES: tuple[int, ...] = (128, 512, 2048)
"""What a small budget tries: a factor of 16 in three batches, which is as few as determine two constants."""

FEW_RATES: tuple[float, ...] = (0.4, 1.0)

EXPECTED_CRITICAL = 6000.0
"""Tokens at which B_crit is expected, for nothing but the horizons: batch B sees (1 + B/B_crit) times the
tokens of the smallest (Kaplan et al. 2020, eq. 5.1), so that all batches end near one loss."""

RATE_SATURATES = 8000.0
"""Tokens of batch from which Adam's best rate no longer grows as the square root of the batch."""

WARMUP_STEPS, WARMUP_TOKENS = 20, 25_600
"""The warm-up of batch B takes WARMUP_STEPS + WARMUP_TOKENS/B steps: a trade of the same form as that of
steps against tokens, which it then does not bend."""

NOISE_AT: tuple[int, ...] = (512, 2048, 8192)
"""Batches at which the gradient noise scale is measured along the way, at the middle rate."""

NOISE_TOKENS, FEW_NOISE_TOKENS = 32_768, 4096
"""Tokens of a measurement of the noise: several times B_crit, or |G|^2 is lost in it."""

REFERENCE, N_AT_REFERENCE, RATIO = 5e13, 14_000, 4
"""FLOPs at which the smaller model has N_AT_REFERENCE parameters, and the larger over the smaller."""

FEWEST_UPDATES = 60
"""Updates of the largest batch below which there is no scan."""

ENOUGH = 3e12
"""FLOPs from which the whole scan is affordable; less buys the small one."""


@register
def batches(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Two sizes, every batch at every rate, at a constant rate: at how many steps and tokens each reaches a
    loss gives S_min, E_min and B_crit (Kaplan et al. 2020, figures 10 and 18).
    """
    from allometry.studies.core.recipe import small_model, vocabulary

    scale, n_vocab = (compute / REFERENCE) ** 0.5, vocabulary(data)
    small = small_model(max(1500, round(N_AT_REFERENCE * scale)), n_vocab=n_vocab)
    models = [small, small_model(RATIO * small.counts().N, n_vocab=n_vocab)]
    whole = compute >= ENOUGH
    tried, rates = (BATCHES, RATES) if whole else (FEW_BATCHES, FEW_RATES)
    noise = NOISE_TOKENS if whole else FEW_NOISE_TOKENS
    least, middle = _least_tokens(compute, models, tried, rates), rates[len(rates) // 2]
    if least * _longer(tried[-1]) < FEWEST_UPDATES * tried[-1]:
        raise too_little(compute, "batch scan")

    def run(model: ModelConfig, batch: int, rate: float) -> RunConfig:
        measured = noise // batch if batch in NOISE_AT and rate == middle else 0
        return _run(model, batch, rate, data, tokens=least * _longer(batch), noise_batches=measured)

    return tuple(run(model, batch, rate) for model in models for batch in tried for rate in rates)


def rate_for_batch(rate: float, batch: float, *, at: float) -> float:
    """The rate for batch `batch` that `rate` is for batch `at` (tokens): it grows as the square root of the
    batch and saturates, McCandlish et al. 2018's form for Adam with exponent 1/2."""
    return rate * math.sqrt((1 + RATE_SATURATES / at) / (1 + RATE_SATURATES / batch))


def _run(
    model: ModelConfig, batch: int, rate: float, data: DataConfig, *, tokens: float, noise_batches: int
) -> RunConfig:
    from allometry.studies.core.recipe import BATCH_TOKENS, learning_rate, small_run

    rule = learning_rate(model)
    return small_run(
        model,
        tokens=batch * round(tokens / batch),
        data=data,
        batch_tokens=batch,
        lr=round(rate * rate_for_batch(rule, batch, at=BATCH_TOKENS), 6),
        schedule="constant",
        warmup=WARMUP_STEPS + round(WARMUP_TOKENS / batch),
        evals_per_octave=4,
        noise_batches=noise_batches,
    )


def _longer(batch: float) -> float:
    """Tokens of a batch over those of a vanishing batch, at about the same loss."""
    return 1 + batch / EXPECTED_CRITICAL


def _least_tokens(
    compute: float, models: list[ModelConfig], tried: tuple[int, ...], rates: tuple[float, ...]
) -> float:
    """Tokens of a vanishing batch with which the whole scan costs `compute`."""
    each = sum(model.counts().flops_per_token("attention") for model in models)
    return compute / (each * len(rates) * sum(_longer(batch) for batch in tried))
