"""The batch scan: two sizes at many batches and several rates, for the critical batch and the noise scale."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from allometry.studies.designs.base import register, too_little

if TYPE_CHECKING:
    from allometry.models.base import ModelConfig
    from allometry.train.config import DataConfig, RunConfig

BATCHES: tuple[int, ...] = (128, 256, 512, 1024, 2048, 4096)
"""Batches in tokens: a factor of 32 about the best batch of these sizes at equal tokens (`docs/log.md`)."""

FEW_BATCHES = BATCHES[::2]
"""What a small budget tries: a factor of 16 in three batches, which is as few as determine two constants."""

RATES: tuple[float, ...] = (0.5, 1.0, 2.0)
"""Learning rates over the rule for their batch: the best one differs with batch and with target loss."""

FEW_RATES = (0.7, 1.4)

EXPECTED_CRITICAL = 1500.0
"""Tokens at which B_crit is expected, for nothing but the horizons: batch B sees (1 + B/B_crit) times the
tokens of the smallest (Kaplan et al. 2020, eq. 5.1), so that all batches end near one loss."""

RATE_SATURATES = 2000.0
"""Tokens of batch from which Adam's best rate no longer grows as the square root of the batch."""

WARMUP_STEPS, WARMUP_TOKENS = 20, 25_600
"""The warm-up of batch B takes WARMUP_STEPS + WARMUP_TOKENS/B steps: a trade of the same form as that of
steps against tokens, which it then does not bend."""

REFERENCE, N_AT_REFERENCE, RATIO = 5e13, 14_000, 4
"""FLOPs at which the smaller model has N_AT_REFERENCE parameters, and the larger over the smaller."""

FEWEST_UPDATES, ENOUGH_UPDATES = 100, 400
"""Updates of the largest batch below which there is no scan, and below which it is the small one."""


@register
def batches(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Two sizes, every batch at every rate, at a constant rate: at how many steps and tokens each reaches a
    loss gives S_min, E_min and B_crit (Kaplan et al. 2020, figures 10 and 18).
    """
    from allometry.studies.recipe import small_model, vocabulary

    scale, n_vocab = (compute / REFERENCE) ** 0.5, vocabulary(data)
    small = small_model(max(1500, round(N_AT_REFERENCE * scale)), n_vocab=n_vocab)
    models = [small, small_model(RATIO * small.counts().N, n_vocab=n_vocab)]
    tried, rates = BATCHES, RATES
    if _updates(compute, models, tried, rates) < ENOUGH_UPDATES:
        tried, rates = FEW_BATCHES, FEW_RATES
    if _updates(compute, models, tried, rates) < FEWEST_UPDATES:
        raise too_little(compute, "batch scan")
    least = _least_tokens(compute, models, tried, rates)
    return tuple(
        _run(model, batch, rate, least, data) for model in models for batch in tried for rate in rates
    )


def rate_for_batch(rate: float, batch: float, *, at: float) -> float:
    """The rate for batch `batch` that `rate` is for batch `at` (tokens): it grows as the square root of the
    batch and saturates, McCandlish et al. 2018's form for Adam with exponent 1/2."""
    return rate * math.sqrt((1 + RATE_SATURATES / at) / (1 + RATE_SATURATES / batch))


def _run(model: ModelConfig, batch: int, rate: float, least: float, data: DataConfig) -> RunConfig:
    from allometry.studies.recipe import BATCH_TOKENS, learning_rate, small_run

    rule = learning_rate(model.d_model)  # type: ignore[attr-defined]
    return small_run(
        model,
        tokens=batch * round(least * _longer(batch) / batch),
        data=data,
        batch_tokens=batch,
        lr=round(rate * rate_for_batch(rule, batch, at=BATCH_TOKENS), 6),
        schedule="constant",
        warmup=WARMUP_STEPS + round(WARMUP_TOKENS / batch),
        evals_per_octave=4,
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


def _updates(
    compute: float, models: list[ModelConfig], tried: tuple[int, ...], rates: tuple[float, ...]
) -> float:
    """Updates of the largest batch, the shortest run of all."""
    return _least_tokens(compute, models, tried, rates) * _longer(tried[-1]) / tried[-1]
