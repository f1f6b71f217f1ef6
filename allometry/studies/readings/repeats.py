"""Runs on repeated text: what a set of U tokens costs a model of N parameters over fresh text, stopped at the
best test loss or not stopped at all, and the set D* from which it costs less than a given share of the loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from allometry.errors import AllometryError

if TYPE_CHECKING:
    from allometry.laws.estimate import Array

_HINT = "train them: allometry run least_data"

USUAL_DECAY = 0.1
"""Weight decay of the recipe."""

NOISE = 0.005
"""Relative noise between seeds that is assumed where none was measured (`docs/log.md`)."""

RESAMPLES = 400


def repeated(runs: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Runs on text at a constant rate that were not stopped: `loss` at their end, `best` test loss and its
    update `best_step`, `gap` (test less training loss at the end), `U` (tokens of the set), `infinite` (all
    the text), `R` (repeats), and `usual` (no dropout, the recipe's weight decay).

    Raises AllometryError if there are none.
    """
    wanted = (runs["tokenizer"] != "symbols") & (runs["schedule"] == "constant") & runs["early_stop"].isna()
    table = runs[wanted].reset_index(drop=True)
    if not len(table):
        raise AllometryError("no run on repeated text has finished", hint=_HINT)
    ends = [_end(curves[curves["run"] == run]) for run in table["run"]]
    table[["best", "best_step", "gap"]] = pd.DataFrame(ends, index=table.index)
    usual = (table["dropout"].astype(float) == 0) & np.isclose(table["weight_decay"], USUAL_DECAY)
    return table.assign(
        U=table["unique"], infinite=table["limit"].isna(), usual=usual,
        R=np.maximum(table["D"] / table["unique"] - 1, 0.0),
    )  # fmt: skip


def _end(curve: pd.DataFrame) -> tuple[float, float, float]:
    known = curve[np.isfinite(curve["loss"].astype(float))].sort_values("step")
    if not len(known):
        return float("nan"), float("nan"), float("nan")
    best, last = known.iloc[int(known["loss"].to_numpy(float).argmin())], known.iloc[-1]
    return float(best["loss"]), float(best["step"]), float(last["loss"] - last["train_loss"])


def noise_of(table: pd.DataFrame) -> float:
    """Relative standard deviation between seeds, pooled over sizes and sets; NOISE where none is repeated."""
    groups = table[table["usual"]].assign(log=np.log(table["loss"])).groupby(["N", "U"])["log"]
    spread, count = groups.var(), groups.count()
    known = count > 1
    if not known.any():
        return NOISE
    freedom = count[known] - 1
    return float(np.sqrt((spread[known] * freedom).sum() / freedom.sum()))


@dataclass(frozen=True, kw_only=True, eq=False)
class LeastData:
    """D*(N) at one tolerance: a row a size with N, `D`, its interval `low` and `high`, and `note` where the
    sets do not reach it; the exponent of N with draws of it.
    """

    tolerance: float
    table: pd.DataFrame
    exponent: float
    draws: Array

    def interval(self, level: float) -> tuple[float, float]:
        """The exponent's interval; NaN where fewer than three sizes have a D*."""
        kept = self.draws[np.isfinite(self.draws)]
        if len(kept) < RESAMPLES / 4:
            return float("nan"), float("nan")
        low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)


def excess(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """`column` ("loss" or "best") of each size and set over that of the size on all the text, less one: mean
    over seeds, a row a size (index N), a column a set (U rising). Raises AllometryError without partners.
    """
    own = table[table["usual"]]
    on_all = own[own["infinite"]].groupby("N")[column].mean()
    sets = own[~own["infinite"]].pivot_table(index="N", columns="U", values=column)
    both = sets.index.intersection(on_all.index)
    if not len(both) or not sets.shape[1]:
        raise AllometryError("no size was trained on sets and on all the text", hint=_HINT)
    return sets.loc[both].div(on_all.loc[both], axis=0) - 1


def least_data(table: pd.DataFrame, column: str, tolerance: float, seed: int = 0) -> LeastData:
    """D* by interpolation in log U, with intervals from the noise between seeds: losses are redrawn, those on
    all the text too. The exponent is the slope of log D* over log N of the sizes that have one.
    """
    frame = excess(table, column)
    noise = noise_of(table)
    rng = np.random.default_rng(seed)
    n, u = frame.index.to_numpy(float), frame.columns.to_numpy(float)
    values = frame.to_numpy(float)
    shape = (RESAMPLES, *values.shape)
    on_all = noise * rng.standard_normal((RESAMPLES, len(n), 1))
    drawn = (1 + values) * np.exp(noise * rng.standard_normal(shape) - on_all) - 1
    found = [crossing(u, row, tolerance) for row in values]
    draws = np.array([[crossing(u, row, tolerance) for row in each] for each in drawn])
    inside = np.where(np.isfinite(draws) & (draws > 0), draws, np.nan)
    rows = []
    for i, size in enumerate(n):
        known = inside[:, i][np.isfinite(inside[:, i])]
        usable = np.isfinite(found[i]) and found[i] > 0 and len(known) > RESAMPLES / 2
        low, high = np.quantile(known, [0.025, 0.975]) if usable else (np.nan, np.nan)
        note = "" if usable else "below the smallest set" if found[i] == 0 else "above the largest set"
        rows.append({"N": size, "D": found[i] if usable else np.nan, "low": low, "high": high, "note": note})
    answered = pd.DataFrame(rows)
    known_sizes = answered["D"].notna().to_numpy()
    return LeastData(
        tolerance=tolerance, table=answered,
        exponent=_slope(n, answered["D"].to_numpy(float)),
        draws=np.array([_slope(n[known_sizes], row[known_sizes]) for row in inside]),
    )  # fmt: skip


def crossing(u: Array, excess: Array, tolerance: float) -> float:
    """The set above which the excess stays below the tolerance; 0 where it always does, infinity where the
    largest set still costs more.
    """
    known = np.isfinite(excess)
    x, y = np.log(u[known]), excess[known]
    above = np.flatnonzero(y > tolerance)
    if not len(above):
        return 0.0
    last = int(above[-1])
    if last == len(y) - 1:
        return float("inf")
    part = (y[last] - tolerance) / (y[last] - y[last + 1])
    return float(np.exp(x[last] + part * (x[last + 1] - x[last])))


def _slope(n: Array, d: Array) -> float:
    """d log D / d log N; NaN for fewer than three sizes."""
    known = np.isfinite(d) & (d > 0)
    if known.sum() < 3:
        return float("nan")
    return float(np.polyfit(np.log(n[known]), np.log(d[known]), 1)[0])
