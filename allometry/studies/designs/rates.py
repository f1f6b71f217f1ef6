"""Learning rates about the rule of each family, at two sizes: is the rule that every study uses the best?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from allometry.studies.core.run_sets import register, too_little

if TYPE_CHECKING:
    from allometry.models.base import ModelConfig
    from allometry.train.config import DataConfig, RunConfig

FAMILIES = ("transformer", "lstm", "universal")

FACTORS: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Rates over the rule's. A parabola in the log of the rate is good for about a factor of four."""

FEW_FACTORS: tuple[float, ...] = (0.4, 1.0, 2.5)

REPEATED = 1.0
"""The factor that has a second seed at the smaller size of each family."""

RATIO = 4
"""N of the larger size over N of the smaller."""

REFERENCE, N_AT_REFERENCE = 1.6e13, 14_000
"""FLOPs at which the smaller size has N_AT_REFERENCE parameters."""

SMALLEST = 1536

ENOUGH = 2e12
"""FLOPs from which all factors are affordable; less buys the few."""

FEWEST_UPDATES = 100


@register
def rates(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Each family at two sizes, all at one horizon, with rates from a quarter of the recipe's to four times
    it, in the recipe's own schedule.
    """
    from allometry.studies.core.recipe import BATCH_TOKENS, learning_rate, small_run, vocabulary

    models = _models(compute, vocabulary(data))
    factors = FACTORS if compute >= ENOUGH else FEW_FACTORS
    runs = [(model, factor, 0) for model in models for factor in factors]
    if compute >= ENOUGH:
        runs += [(model, REPEATED, 1) for model in models[::2]]
    tokens = compute / sum(model.counts().flops_per_token("attention") for model, _, _ in runs)
    steps = round(tokens / BATCH_TOKENS)
    if steps < FEWEST_UPDATES:
        raise too_little(compute, "learning rates of every family")

    def run(model: ModelConfig, factor: float, seed: int) -> RunConfig:
        lr = learning_rate(model)
        lr = lr if factor == 1 else float(f"{factor * lr:.4g}")
        return small_run(model, tokens=steps * BATCH_TOKENS, data=data, seed=seed, lr=lr)

    return tuple(run(*each) for each in runs)


def _models(compute: float, n_vocab: int) -> list[ModelConfig]:
    """Smaller and larger model of each family, in the order of FAMILIES."""
    from allometry.studies.core.recipe import small_model

    small = max(SMALLEST, round(N_AT_REFERENCE * (compute / REFERENCE) ** 0.5))
    return [
        small_model(size, n_vocab=n_vocab, family=family)
        for family in FAMILIES
        for size in (small, RATIO * small)
    ]
