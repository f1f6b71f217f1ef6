"""Several laws into one forecast, weighted by how well each predicted what it had not seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

from allometry.laws.estimate import Array
from allometry.laws.result import FitResult


@dataclass(frozen=True, kw_only=True, eq=False)
class Forecast:
    """Combined prediction, its interval and each law's own prediction, one row a point."""

    value: Array
    low: Array
    high: Array
    level: float
    by_law: pd.DataFrame
    weights: dict[str, float]


def weigh(predictions: pd.DataFrame, sharpness: float = 4.0) -> dict[str, float]:
    """Return the weight of each law, summing to 1: its typical held-out error to the power -`sharpness`.

    The typical error is the median over cuts of the mean absolute log error: one cut where a law went
    astray does not decide. Only laws that survived every cut take part (all, where none did). 0.1 % is
    added to every error: below it they are luck or seed noise.
    """
    cuts = predictions.groupby("law")["cut"].nunique()
    able = cuts[cuts == cuts.max()].index
    table = predictions[predictions["law"].isin(able)]
    log_error = (np.log(table["predicted"]) - np.log(table["measured"])).abs()
    typical = log_error.groupby([table["law"], table["cut"]]).mean().groupby("law").median()
    raw = (typical + 1e-3) ** -sharpness
    return {str(name): float(w) for name, w in (raw / raw.sum()).items()}


def combine(
    fits: Mapping[str, FitResult],
    weights: Mapping[str, float],
    predictions: pd.DataFrame,
    points: pd.DataFrame | Mapping[str, Any],
    level: float,
) -> Forecast:
    """Return the weighted geometric mean of the laws' predictions at `points`.

    The variance of the log forecast is that of a mixture: each law's own prediction interval plus the laws'
    disagreement. It is widened to the size of the combination's held-out errors, where those were larger.
    """
    used = {name: w for name, w in weights.items() if w > 1e-4}
    total = sum(used.values())
    used = {name: w / total for name, w in used.items()}
    table = pd.DataFrame(points)
    centre = pd.DataFrame({name: np.log(fits[name].predict(table)) for name in used})
    own = {name: _half_width(fits[name], table) for name in used}
    w = np.array(list(used.values()))
    mean = centre.to_numpy() @ w
    variance = ((np.column_stack(list(own.values())) ** 2) + (centre.to_numpy() - mean[:, None]) ** 2) @ w
    sigma = np.sqrt(np.maximum(variance, _held_out_square(predictions, used)))
    reach = NormalDist().inv_cdf((1 + level) / 2) * sigma
    return Forecast(
        value=np.exp(mean), low=np.exp(mean - reach), high=np.exp(mean + reach), level=level,
        by_law=centre.apply(np.exp), weights=used,
    )  # fmt: skip


def _half_width(result: FitResult, table: pd.DataFrame) -> Array:
    """Return standard deviation of the log prediction of a new run, from its 68 % interval; zero without
    draws.
    """
    if not len(result.samples):
        return np.full(len(table), result.rms)
    low, high = result.prediction_interval(table, 0.6827)
    return np.asarray(np.log(high / low) / 2)


def _held_out_square(predictions: pd.DataFrame, weights: Mapping[str, float]) -> float:
    """Return the mean square log error that the combination would have made on the held-out runs."""
    table = predictions[predictions["law"].isin(list(weights))]
    log_error = (np.log(table["predicted"]) - np.log(table["measured"])) * table["law"].map(dict(weights))
    summed = log_error.groupby([table["cut"], table["row"]]).sum()
    return float((summed**2).mean())
