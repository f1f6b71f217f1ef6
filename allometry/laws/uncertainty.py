"""How sure a fit is: a number with its draws, resampled fits, noise from repeats, profile likelihood.

With few runs the law is fitted again to tables simulated around the fit: its own values plus normal noise as
large as the residuals say, corrected for the parameters spent, and shared within a run where the residuals of
a run agree. From `MANY_RUNS` runs on the runs themselves are resampled with replacement, which assumes nothing
of the noise: it may differ in size and shape from place to place. (Few runs cannot be resampled: whole sizes
drop out. Many must not be simulated: random signs on the residuals, Wu's wild bootstrap, cover 91 % at a
nominal 95 for absolute deviations, and less where the law is flat in a parameter.)

In simulated tables a point far outside the others keeps its own residual, under a random sign, and does not
enlarge the noise of the others.

The size of the noise is itself an estimate from few degrees of freedom. Every resample has a size of its
own, drawn from what is known about it (a scaled inverse chi distribution), so that the resamples are
distributed as Student's t: plain percentiles of them, or of anything computed from them, are intervals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from allometry.core.errors import AllometryError
from allometry.laws.grouping import hashable
from allometry.laws.problem import Problem
from allometry.laws.solver import minimise, together
from allometry.runs.trunks import trunks

if TYPE_CHECKING:
    from allometry.laws.result import FitResult, FitWarning


Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Estimate:
    """A value and draws (bootstrap resamples) of it; an interval is a percentile interval of the finite
    draws.

    `samples` may be empty: the value is then a constant (a published number), and its intervals are NaN.
    """

    value: float
    samples: Array

    def __repr__(self) -> str:
        """Return the value and its 95 % interval, not the draws."""
        if not len(self.samples):
            return f"Estimate({self.value:.6g})"
        low, high = self.interval(0.95)
        return f"Estimate({self.value:.6g}, 95 % [{low:.6g}, {high:.6g}], {len(self.samples)} draws)"

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the central interval that holds `level` (a fraction, such as 0.8) of the draws.

        Raises AllometryError for a level outside (0, 1).
        """
        return percentile_interval(self.samples, level)

    @property
    def spread(self) -> float:
        """Standard deviation of the draws."""
        finite = self.samples[np.isfinite(self.samples)]
        return float(np.std(finite, ddof=1)) if finite.size > 1 else float("nan")

    def text(self, level: float = 0.95) -> str:
        """Return the value with its interval, such as "0.513 [0.47, 0.55]"."""
        low, high = self.interval(level)
        return f"{self.value:.4g} [{low:.4g}, {high:.4g}]" if np.isfinite(low) else f"{self.value:.4g}"

    def to_dict(self) -> dict[str, Any]:
        """Return the value with its 80 % and 95 % intervals; a bound that is not known is None."""
        bounds = {
            f"{side}{round(100 * level)}": plain(bound)
            for level in (0.8, 0.95)
            for side, bound in zip(("low", "high"), self.interval(level), strict=True)
        }
        return {"value": plain(self.value), **bounds}


def plain(value: float) -> float | None:
    """Return a number for JSON: None where it is not finite."""
    return float(value) if np.isfinite(value) else None


def percentile_interval(samples: Array, level: float) -> tuple[float, float]:
    """Return the central percentile interval of the finite draws; (nan, nan) where fewer than two are finite."""
    if not 0 < level < 1:
        raise AllometryError(
            f"the level of an interval is a fraction between 0 and 1, not {level}", hint="write 0.95"
        )
    finite = samples[np.isfinite(samples)]
    if finite.size < 2:
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def said(warnings: Iterable[FitWarning]) -> list[str]:
    """Return warnings as lines: "name: what it means"."""
    return [f"{w.name}: {w.meaning}" for w in warnings]


MANY_RUNS = 100
"""From this many runs on the runs are resampled (benchmarks/coverage.py measures what covers)."""

Mapped = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""What the built-in `map` does, perhaps elsewhere: see `allometry.cluster.mapped`."""

_TOLERANCE = 1e-8
"""Relative decrease at which a resample has arrived: within a thousandth of the resamples' scatter of its optimum."""

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
    dof: int


def bootstrap(
    problem: Problem,
    z: Array,
    group: NDArray[np.int_],
    count: int,
    seed: int,
    kind: str = "auto",
    mapped: Mapped = map,
    original: NDArray[np.int_] | None = None,
) -> Resamples:
    """Fit `count` resampled tables, each from `z`. `group` (n,) numbers the runs that points belong to.

    `original` (n,) is the position of the point that each is a copy of, its own for others: copies share
    their noise.

    `kind` is "noise" (simulate noise around the fit), "runs" (resample runs with replacement, as it is
    published) or "auto", which takes runs where there are at least `MANY_RUNS` of them, and for asymmetric
    objectives, whose residuals are not centred on the law; and takes off what absolute deviations scatter too
    much in resampled runs. All resamples are drawn here; parts of them are fitted where
    `mapped` says, with the same result.
    """
    groups = int(group.max()) + 1
    dof = groups - len(z)
    excess = 0.0
    if kind == "auto":
        kind = "runs" if groups >= MANY_RUNS or problem.objective.above != 1.0 else "noise"
        excess = _excess(problem, z) if kind == "runs" else 0.0
    if not count or not len(z) or dof < 1:
        return Resamples(np.empty((0, len(z))), kind, dof)
    rng = np.random.default_rng(seed)
    scales = student_scales(dof, count, seed)
    start = np.broadcast_to(z, (count, len(z))).copy()
    weights, shift = problem.weights, None
    if kind == "runs":
        weights = rng.multinomial(groups, np.full(groups, 1 / groups), size=count)[:, group] * problem.weights
    else:
        (residuals,), (jacobian,) = problem.residuals(z[None])
        spent, share = problem.spent(residuals), spent_within(jacobian * np.sqrt(problem.weights), group)
        noise = simulated_noise(
            residuals, problem.weights, group, len(z), spent, count, rng, original, within=share * spent
        )
        shift = -residuals - noise * scales[:, None]
    sent = problem if mapped is map else replace(problem)  # without what it has computed
    parts = [
        _Part(sent, start[part], weights if weights.ndim == 1 else weights[part],
              None if shift is None else shift[part])
        for part in _slices(count, together(weights.shape[-1]))
    ]  # fmt: skip
    found = np.concatenate(list(mapped(_fit_part, parts)))
    if kind == "runs":
        factor = scales[:, None] / (1 + excess)
        found = np.clip(z + factor * (found - z), problem.box.low, problem.box.high)
    return Resamples(found, kind, dof)


def _excess(problem: Problem, z: Array) -> float:
    """Return by what share estimates scatter more among resampled runs than among new tables.

    A resample repeats some runs, so the density of residuals at zero, on which the scatter of a fit of
    absolute deviations rests, looks rougher than it is (Hall & Martin 1988, "On the error incurred using the
    bootstrap variance estimate when constructing confidence intervals for quantiles"). Measured on 100 to 240
    runs, 2 to 5 parameters: 3 to 17 %, 11 % on average; nothing for least squares, which is 0 here, in
    between for Huber thresholds in between.
    """
    residuals = problem.residuals(z[None])[0][0] * np.sqrt(problem.weights)
    absorbed = problem.objective.absorbed(float(np.sqrt(np.mean(residuals**2))))
    return 0.1 * (1 - absorbed) / (math.pi / 2 - 1)


def student_scales(dof: int, count: int, seed: int) -> Array:
    """Return `count` factors by which the true noise may exceed one of `dof` degrees of freedom.

    Normal draws times these factors follow Student's t. The factors are the quantiles of the inverse chi
    distribution at evenly spaced probabilities, in random order.
    """
    order = np.random.default_rng([seed, 1]).permutation(count)
    probability = (order + 0.5) / count
    if dof < 60:
        from scipy.special import gammaincinv  # only for few degrees of freedom: scipy takes long to load

        chi_square = 2 * gammaincinv(dof / 2, probability)
    else:  # Wilson & Hilferty 1931: exact to four digits here
        normal = np.array([NormalDist().inv_cdf(p) for p in probability])
        chi_square = dof * (1 - 2 / (9 * dof) + normal * math.sqrt(2 / (9 * dof))) ** 3
    return np.asarray(np.sqrt(dof / np.maximum(chi_square, 1e-12)))


@dataclass(frozen=True)
class _Part:
    """Some of the resamples: where they start (k, p), their weights (k, n) or (n,), and shifts (k, n)."""

    problem: Problem
    start: Array
    weights: Array
    shift: Array | None


def _slices(count: int, together: int) -> list[slice]:
    """Return at most _PARTS parts of whole groups of members that advance together: no bit depends on the
    parts.
    """
    size = together * max(1, -(-count // (together * _PARTS)))
    return [slice(first, first + size) for first in range(0, count, size)]


def _fit_part(part: _Part) -> Array:
    """Return the coordinates (k, p) of the fits to some of the resamples."""
    problem = part.problem
    return minimise(
        problem.residuals, part.start, part.weights, problem.objective, problem.box, shift=part.shift,
        tolerance=_TOLERANCE,
    ).z  # fmt: skip


def simulated_noise(
    residuals: Array,
    weights: Array,
    group: NDArray[np.int_],
    parameters: int,
    spent: float,
    count: int,
    rng: np.random.Generator,
    original: NDArray[np.int_] | None = None,
    within: float = 0.0,
) -> Array:
    """Return noise (count, n) like the residuals (n,): see the top of this file. Copies share it (`bootstrap`).

    `spent` is how many points' worth of squared residuals the fitted `parameters` took away, `within` how many of
    them from what differs within the groups. Points of weight w have a variance proportional to 1/w.
    """
    n, groups = len(residuals), int(group.max()) + 1
    scaled = residuals * np.sqrt(weights)
    far = outlying(scaled, parameters)
    deviation = math.sqrt(noise_variance(scaled, far, group, spent))
    once, at = (np.arange(n),) * 2 if original is None else np.unique(original, return_inverse=True)
    unit = rng.standard_normal((count, len(once)))[:, at.reshape(-1)]
    if groups < len(once):
        near = once[~far[once]]
        own, common = components(scaled[near], group[near], spent - within, within)
        noise = own * unit + common * rng.standard_normal((count, groups))[:, group]
    else:
        noise = deviation * unit
    if far.any():
        sign = (2.0 * rng.integers(0, 2, size=(count, groups)) - 1)[:, group]
        noise = np.where(far, sign * scaled, noise)
    return np.asarray(noise / np.sqrt(weights))


def noise_variance(scaled: Array, far: NDArray[np.bool_], group: NDArray[np.int_], spent: float) -> float:
    """Return the variance of the noise at weight 1, from weighted residuals (n,) without those `far`.

    It is corrected for the parameters spent on the runs: where points of a run go together there are only as
    many values to spend as runs.
    """
    near, groups = scaled[~far], len(np.unique(group[~far]))
    return float(np.mean(near**2)) * groups / max(groups - spent, 1)


def components(values: Array, group: NDArray[np.int_], between: float, within: float) -> tuple[float, float]:
    """Return the standard deviations of what points have of their own and of what their group has in common, from
    residuals (n,): an analysis of variance, with as many degrees of freedom less as the fit spent `between` the groups
    and `within` them.
    """
    sizes = np.bincount(group)
    n, groups = len(values), int(np.sum(sizes > 0))
    means = np.bincount(group, weights=values) / np.maximum(sizes, 1)
    own = float(np.sum((values - means[group]) ** 2)) / max(n - groups - within, 1)
    mean_square = float(np.sum(sizes * means**2)) / max(groups - between, 1)
    typical = (n - np.sum(sizes**2) / n) / max(groups - 1, 1)
    return math.sqrt(own), math.sqrt(max((mean_square - own) / typical, 0.0))


def spent_within(jacobian: Array, group: NDArray[np.int_]) -> float:
    """Return which share of what the fit spends on its parameters it spends on differences within groups (n,), from
    its derivatives (p, n): 0 where every group is one point.
    """
    basis = np.linalg.qr(jacobian.T)[0]  # (n, p)
    if not np.isfinite(basis).all():
        return 0.0
    counts = np.maximum(np.bincount(group), 1)
    means = np.stack([np.bincount(group, weights=column) for column in basis.T]) / counts
    return float(np.clip(1 - np.sum(counts * means**2) / basis.shape[1], 0, 1))


def outlying(scaled: Array, parameters: int) -> NDArray[np.bool_]:
    """Return which residuals (n,) lie farther out than normal noise reaches in one of a thousand tables.

    The scale is the median size of the residuals, without the smallest ones: a fit of absolute deviations
    passes through as many points as it has parameters (Maronna, Martin & Yohai 2006, section 4.4).
    Student's t allows for the few residuals that the median rests on (its efficiency is 37 %). With fewer
    than three spare points nothing is called an outlier.
    """
    size = np.abs(scaled)
    n = len(size)
    spare = n - parameters
    if spare < 3:
        return np.zeros(n, dtype=bool)
    scale = 1.4826 * float(np.median(np.sort(size)[parameters:]))
    allowed = student_quantile(1 - 0.0005 / n, max(1, round(0.37 * spare)))
    return np.asarray(size > max(allowed * scale, 1e-9))


def student_quantile(probability: float, dof: int) -> float:
    """Return the quantile of Student's t; the normal's with two correction terms where that is exact to five
    digits.
    """
    z = NormalDist().inv_cdf(probability)
    if dof < 60:
        from scipy.special import stdtrit

        return float(stdtrit(max(dof, 1), probability))
    return z + (z**3 + z) / (4 * dof) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * dof**2)


_HUGE = 1e300
"""Samples beyond this have overflowed, and count as infinite."""


def quantiles(samples: Array, level: float) -> tuple[Array, Array]:
    """Return the central interval of the samples (axis 0) at a level such as 0.95; nan if there are none.

    The k-th of n sorted samples stands for the probability k/(n + 1): other definitions cut far tails short.
    """
    if not len(samples):
        empty = np.full(np.shape(samples)[1:], np.nan)
        return empty, empty.copy()
    outside = (1 - level) / 2
    bounded = np.clip(samples, -_HUGE, _HUGE)  # between two infinite samples nothing can be interpolated
    found = np.nanquantile(bounded, [outside, 1 - outside], axis=0, method="weibull")
    low, high = np.where(np.abs(found) > 1e-10 * _HUGE, np.copysign(np.inf, found), found)
    return low, high


def seed_noise(frame: pd.DataFrame, values: Array, inputs: Mapping[str, Array]) -> tuple[float, int] | None:
    """Return the standard deviation of `values` among repeats of one run, and its degrees of freedom; None
    without repeats.

    Repeats are rows that agree in the law's inputs and in every column that says how a run was made (so a
    second learning rate is not a repeat); at least two degrees of freedom are asked for. Equal values under
    one seed, or without a column of seeds, are copies of one measurement and count once. Where the table says
    which runs share a trunk, degrees of freedom are counted by trunks, for their horizons repeat one luck.
    """
    frame = frame.loc[:, ~frame.columns.duplicated()]
    trunk = trunks(frame)
    frame = frame[[c for c in frame.columns if c in _CONDITIONS or c == "seed"]].map(hashable)
    same = frame[[c for c in frame.columns if c in _CONDITIONS]].reset_index(drop=True)
    same = same.assign(**{f"input {name}": x for name, x in inputs.items()})
    once = ~same.assign(value=values, **_seeds(frame)).duplicated().to_numpy()
    same, values = same[once], values[once]
    keys = same.groupby(list(same.columns), dropna=False, sort=False).ngroup().to_numpy()
    if "seed" in frame.columns and frame["seed"].nunique() < 2:
        return None
    counts = np.bincount(keys)
    spare = int(np.sum(counts - 1))
    dof = spare if trunk is None else min(spare, _trunks_to_spare(same, trunk[once], counts[keys] > 1))
    if dof < 2:
        return None
    means = np.bincount(keys, weights=values) / counts
    spread = math.sqrt(float(np.sum((values - means[keys]) ** 2)) / spare)
    return (spread, dof) if spread > 0 else None


_GROWS = ("D", "C", "S", "input D", "input C", "input S", "input X")
"""Columns that differ along a trunk."""


def _trunks_to_spare(same: pd.DataFrame, trunk: pd.Series, repeated: NDArray[np.bool_]) -> int:
    """Return the trunks of repeated rows, less one for each setting. `same` holds what says how runs were made."""
    fixed = [c for c in same.columns if c not in _GROWS]
    table = same[fixed].assign(trunk=trunk.to_numpy())[repeated]
    if not fixed:
        return max(int(table["trunk"].nunique()) - 1, 0)
    return int((table.groupby(fixed, dropna=False, sort=False)["trunk"].nunique() - 1).sum())


def _seeds(frame: pd.DataFrame) -> dict[str, Any]:
    return {"seed of the run": frame["seed"].to_numpy()} if "seed" in frame.columns else {}


def profile(result: FitResult, name: str, points: int = 41) -> pd.DataFrame:
    """Return the lowest objective at `points` values of a fitted parameter, spread over its 99 % interval and
    beyond.

    Columns: the parameter, `objective`, and `rise` above the minimum relative to the minimum, which is flat
    where the data do not identify the parameter. Raises AllometryError for a parameter that was not fitted.
    """
    if name not in result.free:
        result.law.parameter(name)
        raise AllometryError(f"{name} was not fitted", hint=f"profile one of {', '.join(result.free)}")
    values = _grid(result, name, points)
    problem = result.problem()
    lowest = [_lowest(problem.with_(fixed={name: float(v)}), result) for v in values]
    best = min([*lowest, result.objective_value])
    rise = (np.array(lowest) - best) / abs(best) if best else np.array(lowest)
    return pd.DataFrame({name: values, "objective": lowest, "rise": rise})


def _grid(result: FitResult, name: str, points: int) -> Array:
    value = result.parameters[name]
    low, high = result.interval(name, 0.99)
    if not np.isfinite(low + high) or low == high:
        low, high = 0.5 * value, 2 * value
    if result.law.parameter(name).logarithmic:
        low, high = max(low, value * 1e-4), min(high, value * 1e4)
        return np.geomspace(low * (low / value) ** 0.3, high * (high / value) ** 0.3, points)
    floor = 0.0 if result.law.parameter(name).floor else -np.inf
    return np.linspace(max(low - 0.3 * (value - low), floor), high + 0.3 * (high - value), points)


def _lowest(problem: Problem, result: FitResult) -> float:
    """Return the minimum with one more parameter fixed, from the estimate and from a few other starts."""
    here = problem.coordinates(result.parameters)
    starts = np.vstack([here[None], problem.starts(7)]) if len(here) else here[None]
    found = minimise(
        problem.residuals, starts, problem.weights, problem.objective, problem.box, tolerance=1e-10
    )
    return problem.objective.reported(float(found.objective.min()))
