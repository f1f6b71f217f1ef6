"""Fractional factorial designs of two levels (Box and Hunter 1961): many factors in few runs, with what is
mixed up with what said beforehand.

A factor is -1 or +1. Further factors are products of an odd number of base columns, so that no main effect is
mixed up with a two-factor interaction (resolution IV); interactions are mixed up with each other in groups.

Runs: many dials at two settings each, in fractional factorial designs: on equations and on text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, product
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError
from allometry.data.tokens import manifest_of
from allometry.models.transformer import TransformerConfig
from allometry.studies.core.study import (
    CONTEXT,
    heads,
    learning_rate,
    run_set,
    small_run,
    too_little,
    vocabulary,
)
from allometry.studies.shared.equations import DIVISION, WIDTH, equations_run

if TYPE_CHECKING:
    from allometry.train.config import DataConfig, RunConfig

_GENERATORS = {3: ((0, 1, 2),), 4: ((0, 1, 2), (1, 2, 3), (0, 2, 3), (0, 1, 3))}
"""Base columns whose products make the further factors, by the number of base columns."""


def fractional(factors: Sequence[str]) -> pd.DataFrame:
    """Return the runs: a row each, a column of -1 and +1 for each factor; 8 runs for 4 factors, 16 for up to
    8.

    Up to three factors get the full design. AllometryError for more than eight.
    """
    if not 0 < len(factors) <= 8:
        raise AllometryError(f"{len(factors)} factors: designs are for 1 to 8", hint="leave some out")
    base = len(factors) if len(factors) < 4 else 3 if len(factors) == 4 else 4
    full = np.array(list(product((-1, 1), repeat=base)))
    further = [full[:, list(columns)].prod(axis=1) for columns in _GENERATORS.get(base, ())]
    table = np.column_stack([full, *further])[:, : len(factors)]
    return pd.DataFrame(table, columns=list(factors))


def aliases(levels: pd.DataFrame) -> list[tuple[tuple[str, str], ...]]:
    """Return two-factor interactions in groups that these runs cannot tell apart (equal columns, up to sign).

    Interactions that equal a main effect or are constant are left out: see `confounded`.
    """
    groups: dict[tuple[int, ...], list[tuple[str, str]]] = {}
    taken = {_direction(levels[name].to_numpy()) for name in levels}
    for a, b in combinations(levels.columns, 2):
        column = (levels[a] * levels[b]).to_numpy()
        key = _direction(column)
        if key not in taken and len(np.unique(column)) > 1:
            groups.setdefault(key, []).append((a, b))
    return [tuple(pairs) for pairs in groups.values()]


def confounded(levels: pd.DataFrame) -> list[tuple[str, tuple[str, str]]]:
    """Return the main effects that these runs cannot tell from a two-factor interaction: none in resolution
    IV.
    """
    mains = {_direction(levels[name].to_numpy()): str(name) for name in levels}
    pairs = combinations(levels.columns, 2)
    found = [(mains.get(_direction((levels[a] * levels[b]).to_numpy())), (a, b)) for a, b in pairs]
    return [(name, pair) for name, pair in found if name is not None]


def _direction(column: np.ndarray) -> tuple[int, ...]:
    """Return the column with its sign chosen so that it begins with +1."""
    return tuple(int(v) for v in column * column[0])


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
    """Return the combinations of a set of dials, a row each, as -1 and +1: 16 for seven dials, resolution
    IV.
    """
    return fractional(tuple(dials))


@run_set
def grokking_factors(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Return seven dials on modular division, each combination until it generalises or its horizon ends.
    `data` is not read: the text is equations.
    """
    seeds = SEEDS if compute >= ENOUGH else FEW_SEEDS
    updates = _updates(
        compute, [_on_equations(row, 1, seed) for row in _rows(ON_EQUATIONS) for seed in range(seeds)]
    )
    if updates < FEWEST_UPDATES:
        raise too_little(compute, "factorial on equations")
    return tuple(_on_equations(row, updates, seed) for row in _rows(ON_EQUATIONS) for seed in range(seeds))


def _rows(dials: dict[str, tuple[float | str, float | str]]) -> list[dict[str, float | str]]:
    """Return the combinations, as settings."""
    return [
        {str(name): dials[str(name)][int(level > 0)] for name, level in row.items()}
        for row in coded(dials).to_dict("records")
    ]


def _updates(compute: float, runs: list[RunConfig]) -> int:
    """Return updates of every run that `compute` pays for."""
    flops = [run.model.counts().flops_per_token("attention") * run.train.batch_tokens for run in runs]
    return math.floor(compute / sum(flops))


def _on_equations(row: dict[str, float | str], updates: int, seed: int) -> RunConfig:

    deep = row["depth"] != 1
    width = WIDTH // 2 if deep else WIDTH
    return equations_run(
        DIVISION, SHARE, steps=updates, width=width, depth=int(row["depth"]),
        decay=float(row["weight decay"]), seed=seed, rate=float(row["learning rate"]),
        equations=int(row["batch"]),
        dropout=float(row["dropout"]), init=str(row["initialisation"]), noise=float(row["wrong answers"]),
    )  # fmt: skip


@run_set
def text_factors(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Return seven dials on one small set of text, every combination for the same text and PASSES passes, at
    a constant rate; the best test loss counts, in bits per byte.
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

    return manifest_of(data.corpus, str(row["tokenizer"])).bytes_per_token


def _shape(row: dict[str, float | str], compute: float, data: DataConfig) -> TransformerConfig:
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
    """Return one combination that sees `seen` bytes of text, of which a PASSES-th are different."""
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
