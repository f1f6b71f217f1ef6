"""How sure a fit is: bootstrap over runs, noise from repeats, profile likelihood.

Two ways to resample. Tables with many runs are resampled run by run, which assumes nothing about the noise.
Tables with few runs are not: a resample of 20 runs leaves out whole sizes, and its intervals cover far too
much or too little. They are simulated instead: the fitted law, plus normal noise as large as the residuals
say (corrected for the parameters spent, and shared within a run where points of one run go together). In
both cases the percentiles that are read off are widened from normal to Student's t (Hesterberg 2015,
section 4.3, "expanded percentiles").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from allometry.laws.problem import Problem
from allometry.laws.solver import minimise, together

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

MANY_RUNS = 100
"""From this many runs on, resampling runs covers as it should (benchmarks/coverage.py measures it)."""

Mapped = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""What the built-in `map` does, perhaps elsewhere: see `allometry.cluster.mapped`."""

_PARTS = 64
"""Parts at most that resamples are fitted in."""

_CONDITIONS = (
    *("family", "shape", "model", "n_layer", "d_model", "N", "D", "C", "unique", "B", "S", "lr", "peak_lr"),
    *("schedule", "corpus", "tokenizer", "dropout", "optimizer", "context"),
)
"""Columns that say how a run was made; rows that differ in one of them are not repeats."""


@dataclass(frozen=True)
class Resamples:
    """Coordinates (count, p) of the fits to resampled tables, and how they were made: "runs" or "noise"."""

    z: Array
    kind: str
    freedom: int


def bootstrap(
    problem: Problem,
    z: Array,
    group: NDArray[np.int_],
    count: int,
    seed: int,
    kind: str = "auto",
    mapped: Mapped = map,
) -> Resamples:
    """Fit `count` resampled tables, each from `z`. `group` (n,) numbers the runs that points belong to.

    `kind` is "runs" (resample runs with replacement), "noise" (simulate noise around the fit) or "auto",
    which takes runs where there are at least `MANY_RUNS` of them. All resamples are drawn here; parts of them
    are fitted where `mapped` says, with the same result.
    """
    groups = int(group.max()) + 1
    freedom = groups - len(z)
    kind = kind if kind != "auto" else "runs" if groups >= MANY_RUNS else "noise"
    if not count or not len(z) or freedom < 1:
        return Resamples(np.empty((0, len(z))), kind, freedom)
    rng = np.random.default_rng(seed)
    start = np.broadcast_to(z, (count, len(z))).copy()
    weights, shift = problem.weights, None
    if kind == "runs":
        weights = rng.multinomial(groups, np.full(groups, 1 / groups), size=count)[:, group] * problem.weights
    else:
        residuals = problem.residuals(z[None])[0][0]
        spent = len(z) * problem.objective.absorbed(float(np.sqrt(np.mean(residuals**2))))
        noise = simulated_noise(residuals, problem.weights, group, spent, count, rng)
        shift = -residuals - noise
    parts = [
        _Part(replace(problem), start[part], weights if weights.ndim == 1 else weights[part],
              None if shift is None else shift[part])
        for part in _slices(count, together(weights.shape[-1]))
    ]  # fmt: skip
    return Resamples(np.concatenate(list(mapped(_fit_part, parts))), kind, freedom)


@dataclass(frozen=True)
class _Part:
    """Some of the resamples: where they start (k, p), their weights (k, n) or (n,), and shifts (k, n)."""

    problem: Problem
    start: Array
    weights: Array
    shift: Array | None


def _slices(count: int, together: int) -> list[slice]:
    """At most _PARTS parts of whole groups of members that advance together: no bit depends on the parts."""
    size = together * max(1, -(-count // (together * _PARTS)))
    return [slice(first, first + size) for first in range(0, count, size)]


def _fit_part(part: _Part) -> Array:
    """Coordinates (k, p) of the fits to some of the resamples."""
    problem = part.problem
    return minimise(
        problem.residuals, part.start, part.weights, problem.objective, problem.box, shift=part.shift,
        tolerance=1e-9,
    ).z  # fmt: skip


def simulated_noise(
    residuals: Array,
    weights: Array,
    group: NDArray[np.int_],
    spent: float,
    count: int,
    rng: np.random.Generator,
) -> Array:
    """Normal noise (count, n) of the residuals' size: independent points, or a shared part for each run.

    Points of weight w have a variance proportional to 1/w.
    """
    n, groups = len(residuals), int(group.max()) + 1
    scaled = residuals * np.sqrt(weights)
    variance = float(np.sum(scaled**2)) / max(n - spent, 1)
    noise = rng.standard_normal((count, n))
    if groups < n:
        variance = float(np.sum(scaled**2)) / n * groups / max(groups - spent, 1)
        shared = intraclass_correlation(scaled, group)
        noise = (
            math.sqrt(1 - shared) * noise + math.sqrt(shared) * rng.standard_normal((count, groups))[:, group]
        )
    return noise * math.sqrt(variance) / np.sqrt(weights)


def intraclass_correlation(values: Array, group: NDArray[np.int_]) -> float:
    """The share of the variance that points of one run have in common (one-way analysis of variance), in
    [0, 1].
    """
    sizes = np.bincount(group)
    sizes = sizes[sizes > 0]
    n, groups = len(values), len(sizes)
    means = np.bincount(group, weights=values) / np.maximum(np.bincount(group), 1)
    within = float(np.sum((values - means[group]) ** 2)) / max(n - groups, 1)
    between = float(np.sum((means[group] - values.mean()) ** 2)) / max(groups - 1, 1)
    typical = (n - np.sum(sizes**2) / n) / max(groups - 1, 1)
    shared = max((between - within) / typical, 0.0)
    return shared / (shared + within) if shared + within > 0 else 0.0


def tail(level: float, freedom: int) -> float:
    """The tail probability whose normal quantile is Student's t quantile for `level` and `freedom`."""
    return NormalDist().cdf(-student_quantile((1 + level) / 2, freedom))


def student_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t; the normal's with two correction terms where that is exact to five digits."""
    z = NormalDist().inv_cdf(probability)
    if freedom < 60:
        from scipy.special import stdtrit

        return float(stdtrit(max(freedom, 1), probability))
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def quantiles(samples: Array, level: float, freedom: int) -> tuple[Array, Array]:
    """The interval of the samples (axis 0), widened for few degrees of freedom; nan if empty.

    The k-th of n sorted samples stands for the probability k/(n + 1): other definitions cut far tails short.
    """
    if not len(samples):
        empty = np.full(np.shape(samples)[1:], np.nan)
        return empty, empty.copy()
    outside = tail(level, freedom)
    low, high = np.nanquantile(samples, [outside, 1 - outside], axis=0, method="weibull")
    return low, high


def seed_noise(frame: pd.DataFrame, values: Array, inputs: Mapping[str, Array]) -> tuple[float, int] | None:
    """Standard deviation of `values` among repeats of one run, and its degrees of freedom; None without
    repeats.

    Repeats are rows that agree in the law's inputs and in every column that says how a run was made (so a
    second learning rate is not a repeat); at least two degrees of freedom are asked for.
    """
    same = frame[[c for c in frame.columns if c in _CONDITIONS]].reset_index(drop=True)
    same = same.assign(**{f"input {name}": x for name, x in inputs.items()})
    keys = same.groupby(list(same.columns), dropna=False, sort=False).ngroup().to_numpy()
    if "seed" in frame.columns and frame["seed"].nunique() < 2:
        return None
    counts = np.bincount(keys)
    freedom = int(np.sum(counts - 1))
    if freedom < 2:
        return None
    means = np.bincount(keys, weights=values) / counts
    spread = math.sqrt(float(np.sum((values - means[keys]) ** 2)) / freedom)
    return (spread, freedom) if spread > 0 else None
