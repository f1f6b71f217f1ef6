"""Early-stopped runs on subsets of the text: what the studies of L(D) and of overfitting read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from allometry.errors import AllometryError
from allometry.studies.core.sections import percent

if TYPE_CHECKING:
    from allometry.laws.estimate import Array

_HINT = "train the subsets: allometry run overfitting"


def early_stopped(runs: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Finished transformers with dropout that stop early, at a constant rate, with the columns of `stopped`.

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
        raise AllometryError("no run was stopped early on a subset of the text", hint=_HINT)
    return stopped(own, curves)


def stopped(runs: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Early-stopped runs (columns of `Store.frame()`) with where they stopped.

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
    """Update of the best test loss, whether at least two later ones are worse, and the training loss
    there."""
    known = curve[np.isfinite(curve["loss"].astype(float))].sort_values("step")
    if not len(known):
        return float("nan"), False, float("nan")
    best = int(known["loss"].to_numpy(float).argmin())
    row = known.iloc[best]
    return float(row["step"]), len(known) - 1 - best >= 2, float(row["train_loss"])


def infinite(table: pd.DataFrame) -> pd.Series:
    """Loss of each size N on all the text, mean over seeds. Raises AllometryError if no size has it."""
    found = table[table["infinite"]].groupby("N")["loss"].mean()
    if not len(found):
        raise AllometryError(
            "no size was trained on all the text, which stands for infinite data", hint=_HINT
        )
    return found


def excess(table: pd.DataFrame) -> Array:
    """L(N, D)/L(N, all) - 1 of each row; NaN where the size was not trained on all the text (Kaplan et al.
    2020, eq. 4.2)."""
    return (table["loss"] / table["N"].map(infinite(table)) - 1).to_numpy(float)


def limits(table: pd.DataFrame) -> tuple[str, ...]:
    """What the sets and horizons could not show."""
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
