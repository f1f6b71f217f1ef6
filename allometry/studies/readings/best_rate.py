"""The best learning rate of a family at a size: a parabola of log loss in the log of the rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from allometry.laws.estimate import Array, Estimate
from allometry.studies.core.recipe import rule_rate
from allometry.units import format_count

NEAR = 1.12
"""Loss over the lowest one up to which a rate belongs to the parabola; beyond it the curve is none."""

ASSUMED_NOISE = 0.005
"""Relative standard deviation of a loss, where neither spare rates nor seeds measure it (`docs/log.md`)."""

DRAWS = 400


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """One family at one size: the parabola's best rate, the rule's rate, and what the rule costs in relative
    loss. `inside`: whether the best rate lies between those tried, or is the lowest or highest of them.
    """

    family: str
    N: float
    d_model: float
    D: float
    rule: float
    points: pd.DataFrame
    coefficients: Array
    best: Estimate
    cost: Estimate
    inside: bool

    @property
    def label(self) -> str:
        """Such as "transformer, N = 13.8k"."""
        return f"{self.family}, N = {format_count(self.N)}"


def optima(runs: pd.DataFrame) -> list[Optimum]:
    """The optimum of every family and size that was trained with at least three rates near its best."""
    table = runs.assign(log_loss=np.log(runs["loss"].astype(float)), x=np.log(runs["lr"].astype(float)))
    groups = [part for _, part in table.groupby(["family", "N", "D", "schedule", "B"], sort=True)]
    groups = [_near(part) for part in groups]
    groups = [part for part in groups if part["lr"].nunique() >= 3]
    noise = _noise(groups)
    return [each for each in (_optimum(part, noise) for part in groups) if each is not None]


def _near(part: pd.DataFrame) -> pd.DataFrame:
    """The rates near the best, or the three about it where fewer are near."""
    means = part.groupby("lr")["log_loss"].mean()
    best = int(means.to_numpy().argmin())
    start = min(max(best - 1, 0), max(len(means) - 3, 0))
    kept = set(means.index[means < means.min() + math.log(NEAR)]) | set(means.index[start : start + 3])
    return part[part["lr"].isin(kept)]


def _noise(groups: list[pd.DataFrame]) -> float:
    """Relative standard deviation of a loss about its parabola, pooled over all groups."""
    squares, freedom = 0.0, 0
    for part in groups:
        x, y = part["x"].to_numpy(float), part["log_loss"].to_numpy(float)
        if len(x) > 3:
            residual = y - np.polyval(np.polyfit(x - x.mean(), y, 2), x - x.mean())
            squares, freedom = squares + float((residual**2).sum()), freedom + len(x) - 3
    return math.sqrt(squares / freedom) if freedom >= 3 else ASSUMED_NOISE


def _optimum(part: pd.DataFrame, noise: float) -> Optimum | None:
    """The parabola of one family and size with draws of its losses; None where it has no minimum."""
    family, width = str(part["family"].iloc[0]), float(part["d_model"].iloc[0])
    rule = rule_rate(family, width)
    x, y = part["x"].to_numpy(float) - math.log(rule), part["log_loss"].to_numpy(float)
    solve = np.linalg.pinv(np.vander(x, 3))
    wobble = noise * np.random.default_rng(0).standard_normal((DRAWS, len(y)))
    value, samples = solve @ y, (y + wobble) @ solve.T
    if value[0] <= 0:
        return None
    tried = float(x.min()), float(x.max())
    best, cost = _vertex(value[None], *tried)
    bests, costs = _vertex(samples, *tried)
    return Optimum(
        family=family, N=float(part["N"].iloc[0]), d_model=width, D=float(part["D"].iloc[0]), rule=rule,
        points=part, coefficients=value, inside=tried[0] < best[0] < tried[1],
        best=Estimate(value=rule * math.exp(best[0]), samples=rule * np.exp(bests)),
        cost=Estimate(value=float(cost[0]), samples=costs),
    )  # fmt: skip


def _vertex(coefficients: Array, lowest: float, highest: float) -> tuple[Array, Array]:
    """Log of the best rate over the rule's, at most at the edge of those tried, and the rule's relative cost.

    `coefficients`: (draws, 3), of log loss in the log of the rate over the rule's. NaN for parabolas that
    open down.
    """
    a, b = coefficients[:, 0], coefficients[:, 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        best = np.where(a > 0, np.clip(-b / (2 * a), lowest, highest), np.nan)
    return best, np.exp(-(a * best**2 + b * best)) - 1
