"""A ladder of sizes that are tested on other texts than they are trained on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from allometry.errors import AllometryError
from allometry.studies.designs.base import register, too_little

if TYPE_CHECKING:
    from allometry.models.base import ModelConfig
    from allometry.train.config import DataConfig, RunConfig

WANTED = ("web-bible", "shakespeare", "factbook", "milton", "django", "stdlib")
"""Other distributions, from prose of another kind to code; each needs one small download, but `stdlib`."""

AT_HAND = ("stdlib", "synthetic:zipf,bytes=300k")
"""What is tested on where a study is too small to be worth a download."""

WORTH_FETCHING = 2e12
"""FLOPs from which it is."""

N_AT_REFERENCE = 2e5
"""Parameters of the largest model at REFERENCE compute; N and D grow with its square root."""

REFERENCE = 2e13

SMALLEST = 6e3

SIZES, STEP = 6, 2.3

SEEDS = 3
"""Seeds of one size in the middle."""

EVAL_TOKENS = 32_768
"""Held-out tokens of each distribution: half the recipe's, since there are seven."""

OFTEN = 3
"""Evaluations an octave of the largest model, whose losses are followed while it trains."""

FEWEST_UPDATES = 100


@register
def distributions(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Sizes at one horizon, evaluated on every distribution; the largest often, while it trains (Kaplan et
    al. 2020, figure 8).
    """
    from allometry.studies.recipe import BATCH_TOKENS, small_run, vocabulary

    elsewhere = tuple(name for name in others(compute, data) if name != data.corpus)
    models = _models(compute, vocabulary(data))
    middle = models[len(models) // 2]
    every = [*models, *[middle] * (SEEDS - 1)]
    steps = _steps(compute, every, len(elsewhere) + 1)
    if steps < FEWEST_UPDATES:
        raise too_little(compute, "test on other distributions")
    tested = data.replace(eval_on=elsewhere)
    tokens = steps * BATCH_TOKENS
    runs = [
        small_run(model, tokens=tokens, data=tested, evals_per_octave=OFTEN if model == models[-1] else 1)
        for model in models
    ]
    runs += [small_run(middle, tokens=tokens, data=tested, seed=seed) for seed in range(1, SEEDS)]
    return tuple(run.replace(data={**run.data.model_dump(), "eval_tokens": EVAL_TOKENS}) for run in runs)


def _models(compute: float, n_vocab: int) -> list[ModelConfig]:
    from allometry.studies.recipe import small_model

    largest = max(SMALLEST, N_AT_REFERENCE * math.sqrt(compute / REFERENCE))
    targets = [max(1500, round(largest / STEP**k)) for k in reversed(range(SIZES))]
    return list(dict.fromkeys(small_model(n, n_vocab=n_vocab) for n in targets))


def _steps(compute: float, models: list[ModelConfig], sets: int) -> int:
    """Updates that `compute` pays for; an evaluation costs a third of training on its tokens."""
    from allometry.studies.recipe import BATCH_TOKENS

    per_token = sum(model.counts().flops_per_token("attention") for model in models)
    tokens = compute / per_token
    evaluations = 1 + math.log2(max(2.0, tokens / BATCH_TOKENS))
    return math.floor((tokens - evaluations * sets * EVAL_TOKENS / 3) / BATCH_TOKENS)


def others(compute: float, data: DataConfig) -> tuple[str, ...]:
    """The distributions for `compute` FLOPs that can be had; `studies.readings.distributions` names those
    that could not.
    """
    if compute < WORTH_FETCHING:
        return AT_HAND
    return tuple(name for name in WANTED if to_be_had(name, data.tokenizer))


def to_be_had(corpus: str, tokenizer: str) -> bool:
    """Whether a corpus is there or can be fetched; it is prepared if so. Where nothing may be downloaded,
    what would be counts as there.
    """
    from allometry.data.fetching import downloads_allowed
    from allometry.data.tokens import downloads, prepare

    wanted = tokenizer if "@" in tokenizer or not tokenizer.startswith("bpe:") else "bytes"
    if not downloads_allowed() and downloads(corpus, wanted):
        return True
    try:
        prepare(corpus, wanted)
    except AllometryError:
        return False
    return True
