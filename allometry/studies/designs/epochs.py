"""Sizes trained on nested sets of text for many passes, and never stopped: what repetition costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allometry.studies.designs.base import register, too_little

if TYPE_CHECKING:
    from allometry.models.base import ModelConfig
    from allometry.train.config import DataConfig, RunConfig

SIZES, FEW_SIZES = 5, 4
SPAN, FEW_SPAN = 45, 16
"""N of the largest model over N of the smallest."""

HALVINGS, FEW_HALVINGS = (2, 3, 4, 5, 6, 8), (3, 5, 7)
"""Sets are about the horizon over 2^k, so that they are seen 2^k times: up to four passes are as good as
fresh text (Muennighoff et al. 2023), and a hundred are enough for a set to be learnt by heart."""

BLOCK = 1024
"""Tokens of the blocks that sets are made of, spread over the corpus."""

SMALLEST_SET = 1024

RATE = 0.5
"""Of the recipe's rate: at a constant one half of it ends lower."""

EVALS_PER_OCTAVE = 3

EVAL_TOKENS = 32_768

SMALLEST = 1536
"""N of the smallest model at any compute, two layers of width 8."""

REFERENCE, N_AT_REFERENCE = 6e13, 200_000
"""FLOPs at which the largest model has N_AT_REFERENCE parameters."""

ENOUGH = 3e12
"""FLOPs from which all sizes, sets and regularisers are affordable; less buys the few."""

FEWEST_UPDATES = 100

SEEDS = 3
"""Seeds of the middle size on all the text and on one set: what a loss may differ by for no reason."""

DECAYS, DROPOUTS = (0.0, 1.0), (0.1, 0.3)
"""Weight decays beside the recipe's 0.1, and dropouts beside none, of one size on one set and on all text."""


@register
def epochs(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Every size on all the text and on subsets of it, at a constant rate to one horizon, without dropout:
    losses with and without early stopping are read from the same curves. One size is regularised, too.
    """
    from allometry.data.tokens import manifest_of
    from allometry.studies.recipe import BATCH_TOKENS

    text = manifest_of(data.corpus, data.tokenizer)
    plenty = compute >= ENOUGH
    models = _ladder(compute, text.n_vocab)
    halvings = HALVINGS if plenty else FEW_HALVINGS
    horizon = BATCH_TOKENS * round(_horizon(compute, models, len(halvings), plenty) / BATCH_TOKENS)
    if len(models) < FEW_SIZES or horizon < FEWEST_UPDATES * BATCH_TOKENS:
        raise too_little(compute, "sizes on repeated text")
    limits = _limits(horizon, text.train_tokens, halvings)
    runs = [_run(model, horizon, data, limit) for model in models for limit in (None, *limits)]
    if plenty and limits:
        repeated = (None, limits[len(limits) // 2])
        middle, large = models[len(models) // 2], models[-2]
        runs += [_run(middle, horizon, data, limit, seed) for seed in range(1, SEEDS) for limit in repeated]
        runs += [_run(large, horizon, data, repeated[1], decay=decay) for decay in DECAYS]
        dropped = [large.replace(dropout=dropout) for dropout in DROPOUTS]
        runs += [_run(model, horizon, data, repeated[1]) for model in dropped]
    return tuple(runs)


def _run(
    model: ModelConfig,
    horizon: int,
    data: DataConfig,
    limit: int | None,
    seed: int = 0,
    *,
    decay: float | None = None,
) -> RunConfig:
    from allometry.studies.recipe import learning_rate, small_run

    run = small_run(
        model,
        tokens=horizon,
        data=data.replace(limit=limit, spread=BLOCK if limit else 0),
        seed=seed,
        lr=round(RATE * learning_rate(model), 6),
        schedule="constant",
        evals_per_octave=EVALS_PER_OCTAVE,
        **({} if decay is None else {"weight_decay": decay}),
    )
    return run.replace(data={**run.data.model_dump(), "eval_tokens": EVAL_TOKENS})


def _limits(horizon: int, available: int, halvings: tuple[int, ...]) -> list[int]:
    """Tokens of the sets: the text over powers of two, so that sets of all budgets are nested."""
    power = 0
    while available / 2**power > horizon:
        power += 1
    sets = [round(available / 2 ** (power + k)) for k in halvings]
    return [limit for limit in sets if limit >= SMALLEST_SET]


def _ladder(compute: float, n_vocab: int) -> list[ModelConfig]:
    """Sizes in equal steps of log N; the largest grows with the square root of the compute."""
    from allometry.studies.recipe import small_model

    count, span = (SIZES, SPAN) if compute >= ENOUGH else (FEW_SIZES, FEW_SPAN)
    largest = max(SMALLEST * span, N_AT_REFERENCE * (compute / REFERENCE) ** 0.5)
    targets = [round(largest / span ** (1 - i / (count - 1))) for i in range(count)]
    return list(dict.fromkeys(small_model(n, n_vocab=n_vocab) for n in targets))


def _horizon(compute: float, models: list[ModelConfig], sets: int, plenty: bool) -> float:
    """The horizon (tokens) with which all runs together cost `compute`."""
    flops = [model.counts().flops_per_token("attention") for model in models]
    extra = 2 * (SEEDS - 1) * flops[len(flops) // 2] + (len(DECAYS) + len(DROPOUTS)) * flops[-2]
    return compute / ((sets + 1) * sum(flops) + (extra if plenty else 0))


def largest_size(run: RunConfig, runs: tuple[RunConfig, ...]) -> bool:
    """Whether a run is of the largest size among runs on text, which is predicted before it is trained."""
    if run.data.loss_on != "all":
        return False
    largest = max(other.model.counts().N for other in runs if other.data.loss_on == "all")
    return largest == run.model.counts().N
