"""What a run of the recipe leaves along its way: finished horizons, and the constant-rate points before them.

A horizon's last fifth lowers the rate, and with it the loss; a point of the trunk before it is what Kaplan et
al. 2020 read off their learning curves, but at a constant rate where theirs was already falling. The two are
never mixed in one fit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from allometry.errors import AllometryError
from allometry.studies.core.recipe import BATCH_TOKENS, HIGHEST_RATE, RATE_TIMES_WIDTH
from allometry.train.config import TrainConfig

if TYPE_CHECKING:
    import pandas as pd

_RULE = 0.01
"""Relative difference from the rule's learning rate up to which a run is of the recipe."""


def recipe_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Of finished runs (columns of `Store.frame()`), those of the recipe as the grid trains it: transformers
    at its batch, rate, warm-up and schedule, on all the text, without dropout.

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
        raise AllometryError("none of the runs follows the recipe", hint="train the grid: allometry run size")
    return runs[keep].reset_index(drop=True)


def _is(runs: pd.DataFrame, column: str, value: Any) -> Any:
    """Rows where the column has the value, or was not recorded."""
    if column not in runs:
        return True
    return ((runs[column] == value) | runs[column].isna()).to_numpy()


def longest(runs: pd.DataFrame) -> pd.DataFrame:
    """The longest run of every trunk (one size and one seed): its curve holds the whole trunk."""
    order = runs.sort_values("D", kind="stable")
    return order.drop_duplicates(["N", "seed"], keep="last").sort_values(["N", "seed"], ignore_index=True)


def trunk_points(runs: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Evaluations at the constant rate, once for each trunk, with the columns of `along`.

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
        raise AllometryError("no run was evaluated at its constant rate", hint="train longer horizons")
    return points


def along(runs: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Every evaluation of these runs: columns run, S (steps so far), D (tokens so far), loss, what `runs`
    knows of N, N_head, N_total, seed and B, and C, C_head and C_attention so far.
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
