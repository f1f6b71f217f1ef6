"""How good registered predictions were: proper scores beside a naive competitor, coverage, and what the errors share.

"Nine of nine inside" says little: wide intervals hold everything, runs of one trunk hit or miss together, and errors
of one sign that grow are a law that bends. So a prediction is scored by the interval score and the continuous ranked
probability score (Gneiting & Raftery 2007, "Strictly proper scoring rules, prediction, and estimation"), which punish
width and misses alike, against the nearest smaller run carried on along a fitted slope. All scores are of log losses,
so they are shares of the loss.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from allometry.core.units import counted
from allometry.laws.uncertainty import plain
from allometry.runs.trunks import TRUNK, with_trunks

Array = NDArray[np.float64]

LEVELS = (0.5, 0.8, 0.95)
"""Levels at which coverage is counted."""

_ALIKE = (
    *("family", "n_layer", "n_ctx", "B", "schedule", "warmup", "decay", "weight_decay", "dropout"),
    *("limit", "init_from", "corpus", "tokenizer"),
)
"""Settings in which a run must agree with the predicted one for the naive competitor to use it."""

_LEAST_SIGMA = 1e-4


@dataclass(frozen=True, kw_only=True)
class Score:
    """Scores of predictions of log losses: means over trunks, so that the horizons of one count once.

    `interval_score` at 95 % and `crps` are shares of the loss, lower is better; `half_width` of the 95 % interval
    and `mean_error` likewise. `coverage` by level; `rms_z` is the root mean square of errors over their predicted
    standard deviation, 1 where intervals are as wide as errors say. `trend` is how much the error (measured over
    predicted) grows with each doubling of D along a trunk, nan for one horizon. `bias` is the mean error with its sign.
    """

    runs: int
    trunks: int
    mean_error: float
    bias: float
    half_width: float
    interval_score: float
    crps: float
    coverage: dict[float, float]
    rms_z: float
    trend: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        values = {k: plain(v) if isinstance(v, float) else v for k, v in asdict(self).items()}
        return values | {"coverage": {f"{100 * level:g}": plain(v) for level, v in self.coverage.items()}}


def assess(scored: pd.DataFrame) -> Score:
    """Return the score of predictions: columns predicted, low, high (at `level`, 0.95 without one), measured, trunk
    and, for the trend, D. A forecast is taken as normal in the log loss, with the width of its interval.
    """
    z, sigma, error = _standard(scored)
    trunk = scored[TRUNK] if TRUNK in scored else pd.Series(range(len(scored)), scored.index)

    def mean(values: Array) -> float:
        return float(pd.Series(values, scored.index).groupby(trunk).mean().mean())

    normal = NormalDist()
    return Score(
        runs=len(scored),
        trunks=int(trunk.nunique()),
        mean_error=mean(np.abs(np.expm1(error))),
        bias=mean(np.expm1(error)),
        half_width=mean(np.expm1(normal.inv_cdf(0.975) * sigma)),
        interval_score=mean(interval_score(z, sigma)),
        crps=mean(crps(z, sigma)),
        coverage={v: mean((np.abs(z) <= normal.inv_cdf((1 + v) / 2)).astype(float)) for v in LEVELS},
        rms_z=float(np.sqrt(mean(z**2))),
        trend=_trend(error, scored, trunk),
    )


def _standard(scored: pd.DataFrame) -> tuple[Array, Array, Array]:
    """Return (n,) each: errors over their standard deviation, that deviation, and the errors, all of log losses."""
    level = scored["level"].fillna(0.95).to_numpy(float) if "level" in scored else np.full(len(scored), 0.95)
    reach = np.array([NormalDist().inv_cdf((1 + v) / 2) for v in level])
    sigma = np.log(scored["high"].to_numpy(float) / scored["low"].to_numpy(float)) / (2 * reach)
    error = np.log(scored["measured"].to_numpy(float) / scored["predicted"].to_numpy(float))
    sigma = np.maximum(sigma, _LEAST_SIGMA)
    return error / sigma, sigma, error


def interval_score(z: Array, sigma: Array, level: float = 0.95) -> Array:
    """Return the interval score (n,) of normal forecasts: the width of the interval, and 2/(1 − level) times what a
    measurement lies beyond it (Gneiting & Raftery 2007, eq. 43). `z` are errors over `sigma`.
    """
    reach = NormalDist().inv_cdf((1 + level) / 2)
    return np.asarray(sigma * (2 * reach + 2 / (1 - level) * np.maximum(np.abs(z) - reach, 0)))


def crps(z: Array, sigma: Array) -> Array:
    """Return the continuous ranked probability score (n,) of normal forecasts (Gneiting & Raftery 2007, eq. 21)."""
    normal = NormalDist()
    density, below = (np.array([f(v) for v in np.atleast_1d(z)]) for f in (normal.pdf, normal.cdf))
    return np.asarray(sigma * (z * (2 * below - 1) + 2 * density - 1 / np.sqrt(np.pi)))


def _trend(error: Array, scored: pd.DataFrame, trunk: pd.Series) -> float:
    """Return the slope of the errors in log2 D within trunks; nan where no trunk has two horizons."""
    if "D" not in scored or scored["D"].isna().any():
        return float("nan")
    doublings = pd.Series(np.log2(scored["D"].to_numpy(float)), scored.index)
    x = (doublings - doublings.groupby(trunk).transform("mean")).to_numpy()
    errors = pd.Series(error, scored.index)
    y = (errors - errors.groupby(trunk).transform("mean")).to_numpy()
    return float(x @ y / (x @ x)) if x @ x > 1e-12 else float("nan")


def naive(scored: pd.DataFrame, runs: pd.DataFrame, made_from: Iterable[str]) -> pd.DataFrame | None:
    """Return what a naive competitor says of the same runs (columns as `scored`), from the same smaller runs.

    It carries the loss of the nearest smaller run on: log L = log L' − a log(N/N') − b log(D/D'), with the slopes of
    a plane through the logarithms of the runs. Its spread is that of its errors when it predicts each size from the
    smaller ones. None where fewer than three sizes of the same recipe were known.
    """
    known = runs[runs["run"].isin(set(made_from)) & (runs["status"] == "done")]
    known = _recipe(known, runs[runs["run"].isin(set(scored["run"]))])
    sizes = np.sort(known["N"].unique())
    if len(sizes) < 3 or not {"N", "D"} <= set(scored):
        return None
    errors = [
        np.log(part["loss"].to_numpy(float)) - _carried(known[known["N"] < n], part)
        for n in sizes[2:]
        if len(part := known[known["N"] == n])
    ]
    sigma = max(float(np.sqrt(np.mean(np.concatenate(errors) ** 2))), _LEAST_SIGMA)
    centre = _carried(known, scored)
    reach = NormalDist().inv_cdf(0.975) * sigma
    return scored.assign(
        predicted=np.exp(centre), low=np.exp(centre - reach), high=np.exp(centre + reach), level=0.95
    )


def _recipe(known: pd.DataFrame, target: pd.DataFrame) -> pd.DataFrame:
    """Return known runs that agree with the predicted ones in all settings, and have their size's usual rate."""
    for name in _ALIKE:
        if name in known and len(target):
            values = target[name]
            kept = known[name].isin(values.dropna().unique())
            known = known[kept | known[name].isna()] if values.isna().any() else known[kept]
    if "lr" in known and len(known):
        usual = known.groupby("N")["lr"].transform(lambda rates: rates.mode().iloc[0])
        known = known[known["lr"] == usual]
    return known


def _carried(known: pd.DataFrame, wanted: pd.DataFrame) -> Array:
    """Return log losses (n,) of `wanted` (columns N, D), each carried on from the nearest smaller run in `known`."""
    n, d, loss = (np.log(known[c].to_numpy(float)) for c in ("N", "D", "loss"))
    design = np.column_stack([np.ones(len(n)), n, d])
    _, of_n, of_d = np.linalg.lstsq(design, loss, rcond=None)[0]
    found = []
    for at_n, at_d in zip(
        np.log(wanted["N"].to_numpy(float)), np.log(wanted["D"].to_numpy(float)), strict=True
    ):
        smaller = np.flatnonzero(n < at_n - 1e-9)
        rows = smaller if len(smaller) else np.arange(len(n))
        nearest = rows[n[rows] >= n[rows].max() - 1e-9]
        here = nearest[np.argmin(np.abs(d[nearest] - at_d))]
        found.append(loss[here] + of_n * (at_n - n[here]) + of_d * (at_d - d[here]))
    return np.array(found)


def compared(
    scored: pd.DataFrame, runs: pd.DataFrame, made_from: Iterable[str]
) -> tuple[Score, Score | None]:
    """Return the scores of the predictions and of the naive competitor (None where it has nothing to go by)."""
    named = scored.drop(columns=[TRUNK], errors="ignore").merge(with_trunks(runs)[["run", TRUNK]], on="run")
    if {"N", "D"} <= set(runs.columns):
        named = named.drop(columns=["N", "D"], errors="ignore").merge(runs[["run", "N", "D"]], on="run")
        other = naive(named, runs, made_from)
    else:
        other = None
    return assess(named), assess(other) if other is not None else None


def sentence(score: Score, other: Score | None) -> str:
    """Return the scores in words."""
    parts = [
        f"The 95 % intervals reach ± {_share(score.half_width)} on average; counted by trunk "
        f"({counted(score.trunks, 'trunk')}), intervals of 50, 80 and 95 % hold "
        + ", ".join(f"{100 * score.coverage[v]:.0f}" for v in LEVELS)
        + f" %, and errors are {score.rms_z:.2f} of what was expected (rms z)."
    ]
    if np.isfinite(score.trend):
        parts.append(f"Along a trunk the error moves by {100 * score.trend:+.2f} % with each doubling of D.")
    if other is not None:
        better = "better" if score.crps < other.crps else "worse"
        parts.append(
            f"CRPS {_share(score.crps)} of the loss, interval score {_share(score.interval_score)}: {better} than the "
            f"nearest smaller run carried on along a fitted slope ({_share(other.crps)} and "
            f"{_share(other.interval_score)}; {_share(other.mean_error)} off)."
        )
    return " ".join(parts)


def _share(value: float) -> str:
    return f"{100 * value:.2g} %"
