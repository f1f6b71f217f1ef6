"""The grid of sizes and horizons that most laws are read from.

Analysis: what a run of the recipe leaves along its way: finished horizons, and the constant-rate points
before them.

A horizon's last fifth lowers the rate, and with it the loss; a point of the trunk before it is what Kaplan et
al. 2020 read off their learning curves, but at a constant rate where theirs was already falling. The two are
never mixed in one fit.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from allometry.studies.core.sections import TooFewRuns
from allometry.studies.core.study import (
    BATCH_TOKENS,
    HIGHEST_RATE,
    RATE_TIMES_WIDTH,
    run_set,
    small_model,
    small_run,
    too_little,
    vocabulary,
)
from allometry.train.config import TrainConfig

if TYPE_CHECKING:
    import pandas as pd

    from allometry.models.base import ModelConfig
    from allometry.train.config import DataConfig, RunConfig

SIZES = 8
"""Model sizes along the ladder."""

SPAN = 110
"""N of the largest model over N of the smallest: two orders of magnitude, and a little for rounding to real
shapes."""

PER_OCTAVE = 3
"""Horizons D in a doubling of D; with a shared trunk a further horizon costs a fifth of its D."""

COMMON = 4
"""Horizons that every size is trained to: one doubling. Still shorter ones would end in the plateau before a
model uses its context, where losses say when it leaves and not how large it is."""

LONGER = 0.35
"""Smaller models are trained longer, to (N_max / N)^LONGER times the horizon of the largest: slices of equal
compute through the grid then cross several sizes, and a small model's tokens are cheap."""

SEEDS = 4
"""Seeds at one size, so that the noise of a run is measured and not assumed."""

CURVE_EVALS = 2
"""Evaluations in a doubling of steps. L(N, S) is fitted to points past the plateau, which on the largest
models' trunks is one doubling or two; the second evaluation of each costs them about 3 % more time."""

SHORTER = 3
"""Further horizons below the common ones, where they still lie past the plateau: they widen the window of
compute in which the best size has measured neighbours."""

PLATEAU_UPDATES = 2000
"""Updates below which a run measures when it left its plateau more than its size (`docs/log.md`)."""

REFERENCE = 5.3e13
"""FLOPs at which the largest model has N_AT_REFERENCE parameters."""

CONVERGED_REFERENCE = 1.8e14
"""The same for the grid of the laws: half the size for the same compute and twice the tokens, since L(N) is a
law of converged models, and the largest ones bend it by being far from that (`docs/log.md`)."""

N_AT_REFERENCE = 7e5

LEAST_LARGEST, LEAST_LARGEST_BARE = 55_296, 98_304
"""Largest model of the smallest grids, which only show that everything works. Without runs of its own below,
the bare one needs more sizes that differ."""

FEWEST_UPDATES = 110
"""Updates of the shortest run: with fewer, warm-up and decay are all there is."""

FEWEST_SIZES = 5
"""Sizes without which no law is asked for: two are predicted, and three parameters fitted to the others."""


@run_set
def grid(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Return sizes in equal steps of log N, each trained to several horizons from one constant-rate trunk,
    with several seeds at one size: L(N), L(D), L(N, D), L(C) and N_opt(C) are all read from it, and L(N, S)
    from the points along its trunks.
    """
    models = _ladder(compute / CONVERGED_REFERENCE, data, LEAST_LARGEST)
    return _grid(compute, data, models, evals_per_octave=CURVE_EVALS, shorter=SHORTER)


@run_set
def bare_grid(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Return the grid with fewer horizons, and fewer points along its trunks: the least that the basic laws
    need.
    """
    models = _ladder(compute / REFERENCE, data, LEAST_LARGEST_BARE)
    return _grid(compute, data, models, evals_per_octave=1, shorter=0)


def _grid(
    compute: float,
    data: DataConfig,
    models: list[ModelConfig],
    *,
    evals_per_octave: int,
    shorter: int,
) -> tuple[RunConfig, ...]:
    """Return the grid's runs, evaluated so often in a doubling of steps, with up to `shorter` further
    horizons.
    """
    if len(models) < FEWEST_SIZES:
        raise too_little(compute, "grid of sizes and horizons")
    levels = [_levels(model, models[-1]) for model in models]
    repeated = models[2]
    shortest = _shortest(compute, models, levels, repeated)
    below = _below(shortest, shorter)
    if below:
        shortest = _shortest(compute, models, levels, repeated, below)
    if shortest < FEWEST_UPDATES * BATCH_TOKENS:
        raise too_little(compute, "grid of sizes and horizons")

    def run(model: ModelConfig, level: int, seed: int = 0) -> RunConfig:
        steps = round(shortest * 2 ** (level / PER_OCTAVE) / BATCH_TOKENS)
        return small_run(
            model, tokens=steps * BATCH_TOKENS, data=data, seed=seed, evals_per_octave=evals_per_octave
        )

    runs = [
        run(model, level)
        for model, count in zip(models, levels, strict=True)
        for level in range(-below, count)
    ]
    runs += [run(repeated, level, seed) for seed in range(1, SEEDS) for level in range(COMMON)]
    return tuple(runs)


def largest_sizes(run: RunConfig, runs: tuple[RunConfig, ...]) -> bool:
    """Return whether a run is of one of the two largest sizes, which studies of the grid predict before
    training.
    """
    sizes = sorted({other.model.counts().N for other in runs})
    return sizes[-2] <= run.model.counts().N


def _ladder(share: float, data: DataConfig, least: int) -> list[ModelConfig]:
    """Return sizes in equal steps of log N; the largest grows with the square root of the compute, as the
    horizon does. `share` is the compute over that of N_AT_REFERENCE.
    """
    n_vocab = vocabulary(data)
    largest = max(least, N_AT_REFERENCE * share**0.5)
    targets = [largest / SPAN ** (1 - i / (SIZES - 1)) for i in range(SIZES)]
    return list(dict.fromkeys(small_model(max(1, round(n)), n_vocab=n_vocab) for n in targets))


def _shortest(
    compute: float, models: list[ModelConfig], levels: list[int], repeated: ModelConfig, below: int = 0
) -> float:
    """Return the shortest common horizon (tokens) with which trunks and decays of the whole grid cost
    `compute`.
    """
    cost = sum(_relative_cost(model, count, below) for model, count in zip(models, levels, strict=True))
    return compute / (cost + (SEEDS - 1) * _relative_cost(repeated, COMMON))


def _below(shortest: float, most: int) -> int:
    """Return horizons that fit between the plateau's end and the common ones, which shrink by a tenth to pay
    for them.
    """
    octaves = math.log2(0.87 * shortest / (PLATEAU_UPDATES * BATCH_TOKENS))
    return min(most, max(0, math.floor(PER_OCTAVE * octaves)))


def _levels(model: ModelConfig, largest: ModelConfig) -> int:
    """Return how many horizons a size is trained to."""
    return COMMON + round(PER_OCTAVE * LONGER * math.log2(largest.counts().N / model.counts().N))


def _relative_cost(model: ModelConfig, levels: int, below: int = 0) -> float:
    """Return the FLOPs of one size's trunk and decays, over the shortest horizon in tokens."""
    decay = TrainConfig.model_fields["decay"].default
    horizons = [2 ** (level / PER_OCTAVE) for level in range(-below, levels)]
    return model.counts().flops_per_token("attention") * (horizons[-1] + decay * sum(horizons[:-1]))


_RULE = 0.01
"""Relative difference from the rule's learning rate up to which a run is of the recipe."""


def recipe_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Return those finished runs (columns of `Store.frame()`) that follow the recipe as the grid trains it:
    transformers at its batch, rate, warm-up and schedule, on all the text, without dropout.

    Raises AllometryError if there is none.
    """
    default = TrainConfig.model_fields
    wanted = {
        "family": "transformer",
        "schedule": "wsd",
        "B": BATCH_TOKENS,
        "warmup": default["warmup"].default,
        "decay": default["decay"].default,
    }
    keep = np.ones(len(runs), dtype=bool)
    for column, value in wanted.items():
        keep &= _is(runs, column, value)
    for column in ("limit", "early_stop"):
        keep &= runs[column].isna().to_numpy() if column in runs else True
    if "dropout" in runs:
        keep &= ~(runs["dropout"].astype(float).to_numpy() > 0)
    if {"lr", "d_model"} <= set(runs.columns):
        rule = np.minimum(HIGHEST_RATE, RATE_TIMES_WIDTH / runs["d_model"].to_numpy(float))
        keep &= np.abs(runs["lr"].astype(float).to_numpy() / rule - 1) < _RULE
    if not keep.any():
        raise TooFewRuns("none of the runs follows the recipe")
    return runs[keep].reset_index(drop=True)


def _is(runs: pd.DataFrame, column: str, value: Any) -> Any:
    """Return rows where the column has the value, or was not recorded."""
    if column not in runs:
        return True
    return ((runs[column] == value) | runs[column].isna()).to_numpy()


def longest(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the longest run of every trunk (one size and one seed): its curve holds the whole trunk."""
    order = runs.sort_values("D", kind="stable")
    return order.drop_duplicates(["N", "seed"], keep="last").sort_values(["N", "seed"], ignore_index=True)


def trunk_points(runs: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Return evaluations at the constant rate, once for each trunk, with the columns of `along`.

    Branches of a trunk share its points, so they are read from its longest run. Raises AllometryError where
    no run was evaluated on its trunk.
    """
    default = TrainConfig.model_fields
    table = longest(runs)
    points = along(table, curves)
    own = points[["run"]].merge(table, on="run", how="left")
    decay = _filled(own, "decay", default["decay"].default)
    last = (own["S"] - np.maximum(1, np.round(decay * own["S"]))).to_numpy()
    warmup = _filled(own, "warmup", default["warmup"].default)
    steps = points["S"].to_numpy()
    points = points[(steps > warmup) & (steps <= last)].reset_index(drop=True)
    if not len(points):
        raise TooFewRuns("no run was evaluated at its constant rate")
    return points


def along(runs: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Return every evaluation of these runs: columns run, S (steps so far), D (tokens so far), loss, what
    `runs` knows of N, N_head, N_total, seed and B, and C, C_head and C_attention so far.
    """
    kept = [c for c in ("N", "N_head", "N_total", "seed", "B") if c in runs]
    counted = [c for c in ("C", "C_head", "C_attention") if c in runs]
    ends = runs[["run", "D", *kept, *counted]].rename(columns={"D": "end"})
    points = curves[["run", "step", "tokens", "loss"]].dropna().merge(ends, on="run")
    for column in counted:
        points[column] = points[column] * points["tokens"] / points["end"]
    return points.rename(columns={"step": "S", "tokens": "D"}).drop(columns="end")


def _filled(points: pd.DataFrame, column: str, default: float) -> Any:
    if column not in points:
        return default
    return points[column].astype(float).fillna(default).to_numpy()
