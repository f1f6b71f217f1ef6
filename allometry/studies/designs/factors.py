"""Many dials at two settings each, in fractional factorial designs: on equations and on text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from allometry.studies.designs.base import register, too_little

if TYPE_CHECKING:
    import pandas as pd

    from allometry.models.transformer import TransformerConfig
    from allometry.train.config import DataConfig, RunConfig

SEEDS, FEW_SEEDS = 2, 1
"""Replicates of every combination: their scatter is the noise that effects are held against."""

ENOUGH = 1e12
"""FLOPs from which combinations are replicated."""

FEWEST_UPDATES = 12

ON_EQUATIONS: dict[str, tuple[float | str, float | str]] = {
    "weight decay": (0.1, 1.0),
    "dropout": (0.0, 0.1),
    "learning rate": (0.5, 1.5),
    "batch": (64, 256),
    "depth": (1, 4),
    "initialisation": ("fan_in", "gpt2"),
    "wrong answers": (0.0, 0.05),
}
"""Low and high setting of each dial; the learning rate as a multiple of the rule's, the batch in equations,
the depth at equal N (width 64 or 32). Most combinations do not generalise within an hour's horizon (7 of 32
runs; with decays of 0.3 and 3 at twice these rates, 3 of 32), so how far they come is read too."""

ON_TEXT: dict[str, tuple[float | str, float | str]] = {
    "weight decay": (0.1, 1.0),
    "dropout": (0.0, 0.1),
    "learning rate": (0.7, 1.4),
    "batch": (256, 1024),
    "depth": (2, 8),
    "initialisation": ("fan_in", "gpt2"),
    "tokenizer": ("bytes", "bpe:512"),
}
"""The same for text; the batch in tokens, the depth at equal N. Text has no answers to get wrong."""

SHARE = 0.6
"""Of the table: with half of it and 5 % wrong answers some combinations would take too long to be seen."""

PASSES = 8
"""Passes over the set of text: enough for regularisation to matter, few enough that it is no memory test."""

BLOCK = 1024

EVAL_BYTES = 32_768
"""Held-out text of an evaluation, at most: the same for both tokenizers."""

EVALS_PER_OCTAVE = 3

_WIDTHS = ((1e14, 32), (1e13, 16), (0.0, 8))
"""Compute from which the deep shape has a width; the shallow one has twice that, and a quarter of its
depth."""


def coded(dials: dict[str, tuple[float | str, float | str]]) -> pd.DataFrame:
    """The combinations of a set of dials, a row each, as -1 and +1: 16 for seven dials, resolution IV."""
    from allometry.studies.factorial import fractional

    return fractional(tuple(dials))


@register
def grokking_factors(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Seven dials on modular division, each combination until it generalises or its horizon ends. `data` is
    not read: the text is equations.
    """
    seeds = SEEDS if compute >= ENOUGH else FEW_SEEDS
    updates = _updates(
        compute, [_on_equations(row, 1, seed) for row in _rows(ON_EQUATIONS) for seed in range(seeds)]
    )
    if updates < FEWEST_UPDATES:
        raise too_little(compute, "factorial on equations")
    return tuple(_on_equations(row, updates, seed) for row in _rows(ON_EQUATIONS) for seed in range(seeds))


def _rows(dials: dict[str, tuple[float | str, float | str]]) -> list[dict[str, float | str]]:
    """The combinations, as settings."""
    return [
        {str(name): dials[str(name)][int(level > 0)] for name, level in row.items()}
        for row in coded(dials).to_dict("records")
    ]


def _updates(compute: float, runs: list[RunConfig]) -> int:
    """Updates of every run that `compute` pays for."""
    flops = [run.model.counts().flops_per_token("attention") * run.train.batch_tokens for run in runs]
    return math.floor(compute / sum(flops))


def _on_equations(row: dict[str, float | str], updates: int, seed: int) -> RunConfig:
    from allometry.studies.designs.grokking import DIVISION, WIDTH, equations_run

    deep = row["depth"] != 1
    width = WIDTH // 2 if deep else WIDTH
    return equations_run(
        DIVISION, SHARE, steps=updates, width=width, depth=int(row["depth"]),
        decay=float(row["weight decay"]), seed=seed, rate=float(row["learning rate"]),
        equations=int(row["batch"]),
        dropout=float(row["dropout"]), init=str(row["initialisation"]), noise=float(row["wrong answers"]),
    )  # fmt: skip


@register
def text_factors(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Seven dials on one small set of text, every combination for the same text and PASSES passes, at a
    constant rate; the best test loss counts, in bits per byte.
    """
    seeds = SEEDS if compute >= ENOUGH else FEW_SEEDS
    rows = _rows(ON_TEXT)
    flops = seeds * sum(_per_byte(row, compute, data) for row in rows)
    seen = compute / flops
    if seen < FEWEST_UPDATES * float(max(ON_TEXT["batch"])):
        raise too_little(compute, "factorial on text")
    return tuple(_on_text(row, compute, data, seen, seed) for row in rows for seed in range(seeds))


def _per_byte(row: dict[str, float | str], compute: float, data: DataConfig) -> float:
    model = _shape(row, compute, data)
    return model.counts().flops_per_token("attention") / _bytes_per_token(row, data)


def _bytes_per_token(row: dict[str, float | str], data: DataConfig) -> float:
    from allometry.data.tokens import manifest_of

    return manifest_of(data.corpus, str(row["tokenizer"])).bytes_per_token


def _shape(row: dict[str, float | str], compute: float, data: DataConfig) -> TransformerConfig:
    from allometry.models.transformer import TransformerConfig
    from allometry.studies.recipe import CONTEXT, heads, vocabulary

    narrow = next(width for least, width in _WIDTHS if compute >= least)
    depth = int(row["depth"])
    width = narrow if depth == max(ON_TEXT["depth"]) else 2 * narrow
    n_vocab = vocabulary(data.replace(tokenizer=str(row["tokenizer"])))
    return TransformerConfig.model_validate(
        {
            "n_layer": depth, "d_model": width, "n_head": heads(width), "d_ff": 4 * width, "n_ctx": CONTEXT,
            "n_vocab": n_vocab, "dropout": float(row["dropout"]), "init": str(row["initialisation"]),
        }
    )  # fmt: skip


def _on_text(
    row: dict[str, float | str], compute: float, data: DataConfig, seen: float, seed: int
) -> RunConfig:
    """One combination that sees `seen` bytes of text, of which a PASSES-th are different."""
    from allometry.data.tokens import manifest_of
    from allometry.studies.recipe import learning_rate, small_run

    model = _shape(row, compute, data)
    batch, tokens = int(row["batch"]), seen / _bytes_per_token(row, data)
    limit = min(round(tokens / PASSES), manifest_of(data.corpus, str(row["tokenizer"])).train_tokens)
    run = small_run(
        model,
        tokens=batch * max(1, round(tokens / batch)),
        data=data.replace(tokenizer=str(row["tokenizer"]), limit=limit, spread=BLOCK),
        seed=seed,
        batch_tokens=batch,
        lr=float(f"{float(row['learning rate']) * learning_rate(model):.3g}"),
        schedule="constant",
        weight_decay=float(row["weight decay"]),
        evals_per_octave=EVALS_PER_OCTAVE,
    )
    held_out = round(min(EVAL_BYTES, seen / 16) / _bytes_per_token(row, data) / model.n_ctx) * model.n_ctx
    return run.replace(data={**run.data.model_dump(), "eval_tokens": held_out})
