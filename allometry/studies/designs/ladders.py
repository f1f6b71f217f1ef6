"""Ladders of small models that differ in how they are trained: from the practice of 2020 to that of today."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from allometry.studies.core.run_sets import register, too_little

if TYPE_CHECKING:
    from allometry.models.base import ModelConfig
    from allometry.train.config import DataConfig, RunConfig

SIZES, STEP = 7, 1.5
"""Sizes of a ladder at most, and N of each over the next smaller one, but for rounding to real shapes."""

SMALLEST, LEAST_LARGEST = 1536, 13_824
"""N of d_model = 8, below which there is no shape, and of d_model = 24, which leaves three sizes."""

TOKENS_PER_PARAMETER = 80
"""The long horizon over N of the largest model. Best sizes of this range take 30 to 60 tokens a parameter,
and must lie inside the ladder: at 30, the smallest size that was measured at a budget was always the best."""

HORIZONS: tuple[float, ...] = (1.0, 0.5, 0.25, 0.125)
"""Budgets, over the long horizon, to which rates decay once decay is matched to the budget."""

LONG_WARMUP = 1 / 8
"""The long warm-up over the long horizon, the same for all sizes. Kaplan et al. 2020 warmed up for 3,000
steps, as many as the compute-optimal runs of their smaller models take in all."""

FEWEST_UPDATES = 240
"""Updates of the long horizon without which its shortest part is all warm-up."""

CURVE_EVALS = 3


@register
def ladders(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """One ladder of sizes under four ways of training, after Porian et al. 2024: one long cosine with a long
    warm-up and one rate for all; a warm-up in proportion to N; a cosine for each budget; and the recipe,
    whose rate goes with width and whose decay goes with the budget.
    """
    from allometry.studies.core.recipe import BATCH_TOKENS, learning_rate, small_run, vocabulary

    models = _models(compute, vocabulary(data))
    steps = _steps(compute, models)
    if steps < FEWEST_UPDATES:
        raise too_little(compute, "ladders of sizes")
    long = round(LONG_WARMUP * steps)
    middle = learning_rate(models[len(models) // 2])

    def run(model: ModelConfig, share: float, warmup: int, schedule: str, lr: float) -> RunConfig:
        tokens = round(share * steps) * BATCH_TOKENS
        return small_run(
            model, tokens=tokens, data=data, schedule=schedule, warmup=warmup, lr=lr,
            evals_per_octave=CURVE_EVALS,
        )  # fmt: skip

    runs = []
    for model in models:
        short = short_warmup(model.counts().N, long)
        runs.append(run(model, 1.0, long, "cosine", middle))
        runs += [run(model, share, short, "cosine", middle) for share in HORIZONS]
        runs += [run(model, share, short, "wsd", learning_rate(model)) for share in HORIZONS]
    return tuple(runs)


def short_warmup(n: int, long: int) -> int:
    """Steps of a warm-up of N tokens (Porian et al. 2024), and never half of the long one; not the recipe's
    own number, by which its runs are known.
    """
    from allometry.studies.core.recipe import BATCH_TOKENS
    from allometry.train.config import TrainConfig

    steps = max(1, min(round(n / BATCH_TOKENS), long // 2))
    return steps - 1 if steps == TrainConfig.model_fields["warmup"].default else steps


def _models(compute: float, n_vocab: int) -> list[ModelConfig]:
    """Sizes in equal steps of log N; the largest grows with the square root of the compute."""
    from allometry.studies.core.recipe import small_model

    # compute = cost · flops per token · tokens, with 20 N FLOPs a token for all sizes together
    largest = math.sqrt(compute / (20 * TOKENS_PER_PARAMETER * _cost()))
    targets = [max(largest, LEAST_LARGEST) / STEP**i for i in range(SIZES)]
    kept = [small_model(round(n), n_vocab=n_vocab) for n in reversed(targets) if n > 0.7 * SMALLEST]
    return list(dict.fromkeys(kept))


def _steps(compute: float, models: list[ModelConfig]) -> int:
    """Updates of the long horizon with which all ladders cost `compute`."""
    from allometry.studies.core.recipe import BATCH_TOKENS

    flops = sum(model.counts().flops_per_token("attention") for model in models)
    return round(compute / (flops * _cost() * BATCH_TOKENS))


def _cost() -> float:
    """Tokens that a size is trained on, over the long horizon: cosines apart, horizons of a trunk
    together.
    """
    from allometry.train.config import TrainConfig

    decay = TrainConfig.model_fields["decay"].default
    return 1 + sum(HORIZONS) + HORIZONS[0] + decay * sum(HORIZONS[1:])
