"""Regressions on logarithms: power laws along a frontier, and times that some runs did not live to see.

A power law is y = scale · x^exponent, a line in log-log; loss against compute also has an irreducible offset. These
functions work on many resamples at once: arrays whose first axis is the resample.

In a regression of times (accelerated failure times, Tobin 1958) the logarithm of the time is normal about a linear
predictor. A run that ended at step S without getting there says only that its time is longer than S: leaving it out,
or taking S for its time, would make every obstacle look smaller than it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import log_ndtr
from scipy.stats import t

from allometry.core.errors import AllometryError
from allometry.core.units import counted
from allometry.laws.uncertainty import Array, Estimate, percentile_interval, plain


@dataclass(frozen=True, kw_only=True, eq=False)
class PowerLine:
    """y = exp(level) · (x / exp(center))^exponent, with joint draws of (exponent, level) of shape
    (resamples, 2).

    `scatter` is the root of the reduced chi-square of the points about the line, in units of their own
    standard deviations: above 1 the points scatter more than their noise explains, and the draws are
    widened by it.
    """

    x: str
    y: str
    center: float
    slope: float
    level: float
    draws: Array
    scatter: float
    x_range: tuple[float, float]

    @property
    def exponent(self) -> Estimate:
        """The exponent of x, with its draws."""
        return Estimate(value=self.slope, samples=self.draws[:, 0])

    def predict(self, x: ArrayLike) -> Array:
        """Return y at x, same shape."""
        log_x = np.log(np.asarray(x, dtype=float))
        return np.asarray(np.exp(self.level + self.slope * (log_x - self.center)))

    def at(self, x: float) -> Estimate:
        """Return y at one x, with draws."""
        offset = np.log(x) - self.center
        samples = np.exp(self.draws[:, 1] + self.draws[:, 0] * offset)
        return Estimate(value=float(np.exp(self.level + self.slope * offset)), samples=samples)

    def beyond(self, x: float) -> float:
        """Return how many times x lies beyond the fitted range (1 inside it)."""
        low, high = self.x_range
        return max(1.0, x / high, low / x)

    @property
    def formula(self) -> str:
        """Such as "N = 0.091 · C^0.497"."""
        scale = np.exp(self.level - self.slope * self.center)
        return f"{self.y} = {scale:.4g} · {self.x}^{self.slope:.4g}"

    def to_dict(self) -> dict[str, Any]:
        """Return exponent with intervals, scale, range and scatter as plain JSON."""
        return {
            "formula": self.formula,
            "exponent": self.exponent.to_dict(),
            "scale": float(np.exp(self.level - self.slope * self.center)),
            "center": float(np.exp(self.center)),
            "at_center": self.at(float(np.exp(self.center))).to_dict(),
            "range": list(self.x_range),
            "scatter": plain(self.scatter),
        }


def line(log_x: Array, log_y: Array, weights: Array) -> tuple[Array, Array]:
    """Fit weighted straight lines through the last axis: return slope and value at the mean of `log_x`
    (unweighted).

    Shapes: log_x (K,), log_y (..., K), weights (..., K); returns two arrays of shape (...). Points whose y
    is not finite get no weight; a line through fewer than two distinct points is NaN.
    """
    center = float(np.mean(log_x))
    usable = np.isfinite(log_y)
    w = np.where(usable, weights, 0.0)
    x, y = log_x - center, np.where(usable, log_y, 0.0)
    total = w.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_x, mean_y = (w * x).sum(-1) / total, (w * y).sum(-1) / total
        spread = (w * (x - mean_x[..., None]) ** 2).sum(-1)
        flat = spread <= 1e-12 * total
        slope = np.where(flat, np.nan, (w * (x - mean_x[..., None]) * y).sum(-1) / spread)
    return slope, mean_y - slope * mean_x


def power_line(
    x: str, y: str, points: tuple[Array, Array], draws: Array, *, sigma: Array | None = None
) -> PowerLine:
    """Fit the weighted log-log line through `points` = (x, y), each (K,), with draws of y of shape
    (resamples, K).

    `sigma` (K,) are the standard deviations of log y; without them the spread of the draws is taken.
    Weights are 1/sigma². Raises AllometryError for fewer than two points.
    """
    log_x, log_y = np.log(points[0]), np.log(points[1])
    if len(log_x) < 2:
        raise AllometryError(
            f"a power law of {y} in {x} needs at least two points; {len(log_x)} are usable",
            hint="add budgets or sizes, or look at the excluded ones and why",
        )
    log_draws = np.log(draws)
    if sigma is None:
        sigma = _spread(log_draws)
    weights = 1.0 / sigma**2
    slope, level = line(log_x, log_y, weights)
    residual = (log_y - level - slope * (log_x - log_x.mean())) / sigma
    dof = len(log_x) - 2
    scatter = float(np.sqrt(np.sum(residual**2) / dof)) if dof > 0 else float("nan")
    slopes, levels = line(log_x, log_draws, np.broadcast_to(weights, log_draws.shape))
    pairs = np.column_stack([slopes, levels])
    pairs = pairs[np.isfinite(pairs).all(1)]
    # Points that scatter more than their noise make the line less certain than the noise alone says.
    stretch = max(1.0, scatter) if np.isfinite(scatter) else 1.0
    pairs = pairs.mean(0) + stretch * (pairs - pairs.mean(0)) if len(pairs) else pairs
    return PowerLine(
        x=x, y=y, center=float(log_x.mean()), slope=float(slope), level=float(level), draws=pairs,
        scatter=scatter, x_range=(float(points[0].min()), float(points[0].max())),
    )  # fmt: skip


def _spread(log_draws: Array) -> Array:
    """Return the standard deviation over resamples (axis 0), never zero: an exact optimum is known to no
    better than 1e-6.
    """
    with np.errstate(invalid="ignore"):
        return np.asarray(np.maximum(np.nanstd(log_draws, axis=0), 1e-6))


_EXPONENTS = np.concatenate([np.linspace(0.005, 0.4, 159), np.linspace(0.41, 1.5, 110)])


@dataclass(frozen=True, kw_only=True, eq=False)
class OffsetPower:
    """loss = E + (x_c / x)^exponent: parameters and draws, each draw a row (E, exponent, log x_c)."""

    x: str
    E: Estimate
    exponent: Estimate
    log_scale: Estimate

    def predict(self, x: ArrayLike) -> Array:
        """Return the loss at x."""
        log_x = np.log(np.asarray(x, dtype=float))
        return np.asarray(self.E.value + np.exp(self.exponent.value * (self.log_scale.value - log_x)))

    def at(self, x: float) -> Estimate:
        """Return the loss at one x, with draws."""
        samples = self.E.samples + np.exp(self.exponent.samples * (self.log_scale.samples - np.log(x)))
        return Estimate(value=float(self.predict(x)), samples=samples)

    @property
    def floor_found(self) -> bool:
        """Whether the 95 % interval of the offset E leaves out zero."""
        return self.E.interval(0.95)[0] > 1e-3

    def to_dict(self) -> dict[str, Any]:
        """Return the three parameters with intervals."""
        log_low, log_high = percentile_interval(self.log_scale.samples, 0.95)
        scale = {"value": float(np.exp(min(self.log_scale.value, 700))), "log": self.log_scale.value}
        bounds = {"log_low95": plain(log_low), "log_high95": plain(log_high)}
        return {"E": self.E.to_dict(), "exponent": self.exponent.to_dict(), "scale": scale | bounds}


def offset_power(x: str, points: tuple[Array, Array], draws: list[tuple[Array, Array]]) -> OffsetPower:
    """Fit loss = E + (x_c/x)^a with E >= 0 by least squares on relative residuals, for the points and for
    each draw.

    For a given exponent the law is linear in (E, x_c^a), so only the exponent is searched (variable
    projection): there are no starts to choose and no local optimum to miss.
    """
    best = _offset_fit(*points)
    rows = np.array([_offset_fit(*draw) for draw in draws]).reshape(-1, 3)
    estimates = [Estimate(value=float(best[i]), samples=rows[:, i]) for i in range(3)]
    return OffsetPower(x=x, E=estimates[0], exponent=estimates[1], log_scale=estimates[2])


def _offset_fit(x: Array, loss: Array) -> Array:
    """Fit (E, exponent, log x_c) by least relative squares; two passes over the exponent, the second one
    fine.
    """
    coarse = _offset_scan(x, loss, _EXPONENTS)
    near = np.abs(_EXPONENTS - coarse[1]).argmin()
    low, high = _EXPONENTS[max(near - 1, 0)], _EXPONENTS[min(near + 1, len(_EXPONENTS) - 1)]
    return _offset_scan(x, loss, np.linspace(low, high, 41))


def _offset_scan(x: Array, loss: Array, exponents: NDArray[np.float64]) -> Array:
    center = np.exp(np.log(x).mean())
    basis = (x / center) ** (-exponents[:, None]) / loss  # (exponents, points): relative residuals
    ones = 1.0 / loss
    s11, s12, s22 = (ones**2).sum(), (basis * ones).sum(1), (basis**2).sum(1)
    r1, r2 = ones.sum(), basis.sum(1)
    determinant = np.maximum(s11 * s22 - s12**2, 1e-300)
    offset = np.maximum((r1 * s22 - r2 * s12) / determinant, 0.0)
    amplitude = np.maximum((r2 - offset * s12) / s22, 1e-300)
    misfit = ((1 - offset[:, None] * ones - amplitude[:, None] * basis) ** 2).sum(1)
    best = int(misfit.argmin())
    log_scale = np.log(center) + np.log(amplitude[best]) / exponents[best]
    return np.array([offset[best], exponents[best], log_scale])


WIDE = 5.0
"""Standard deviation of the prior of a slope of log time per unit: where all runs of one setting were
censored the likelihood rises for ever, and this alone keeps the slope finite."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Censored:
    """A fitted regression of log time.

    `coefficients` (p,) by `names`, their `covariance` (p, p), the scatter `sigma` of log time, `dof`
    (runs less coefficients), how many runs `reached` the event, and the log `likelihood`, by which fits of
    the same runs compare.
    """

    names: tuple[str, ...]
    coefficients: Array
    covariance: Array
    sigma: float
    dof: int
    reached: int
    likelihood: float

    def estimate(self, name: str, level: float = 0.95) -> tuple[float, float, float]:
        """Return a coefficient with its interval (Student's t)."""
        place = self.names.index(name)
        half = self._quantile(level) * float(np.sqrt(self.covariance[place, place]))
        value = float(self.coefficients[place])
        return value, value - half, value + half

    def predict(self, predictors: Mapping[str, ArrayLike], level: float = 0.95) -> tuple[Array, Array, Array]:
        """Return median time of new runs at some predictors, and the interval of a single run: (n,) each."""
        design = _design(predictors, self.names)
        middle = design @ self.coefficients
        spread = np.sqrt(np.einsum("ij,jk,ik->i", design, self.covariance, design) + self.sigma**2)
        half = self._quantile(level) * spread
        return np.exp(middle), np.exp(middle - half), np.exp(middle + half)

    def _quantile(self, level: float) -> float:
        return float(t.ppf(0.5 + level / 2, max(1, self.dof)))


def censored_fit(predictors: Mapping[str, ArrayLike], time: ArrayLike, reached: ArrayLike) -> Censored:
    """Fit the regression of log `time` on `predictors` (name -> (n,); name one of them "1" for the constant).

    `reached` (n,) says which times are those of the event; the others are when a run ended without it.
    Raises AllometryError if fewer runs reached the event than there are coefficients, or if the predictors do
    not determine them.
    """
    names = tuple(predictors)
    design = _design(predictors, names)
    y, seen = np.log(np.asarray(time, dtype=float)), np.asarray(reached, dtype=bool)
    if seen.sum() <= len(names):
        raise AllometryError(
            f"{counted(int(seen.sum()), 'run')} reached the event, too few for {counted(len(names), 'coefficient')}",
            hint="train longer, or finish the study's runs",
        )
    if np.linalg.matrix_rank(design) < len(names):
        raise AllometryError(
            "the settings of these runs do not tell the effects apart", hint="finish the study's runs"
        )
    slopes = np.array([0.0 if name == "1" else WIDE**-2 for name in names])
    start = np.linalg.lstsq(design, y, rcond=None)[0]
    scatter = max(float(np.std(y - design @ start)), 1e-3)
    found = minimize(
        _objective, np.append(start, np.log(scatter)), args=(design, y, seen, slopes), jac=True, method="BFGS"
    )
    dof = len(y) - len(names)
    wider = len(y) / max(dof, 1)  # maximum likelihood divides by n, where p were spent
    inverse = np.linalg.pinv(_curvature(found.x, design, y, seen, slopes))[:-1, :-1]
    covariance = np.asarray(inverse * wider, dtype=np.float64)
    return Censored(
        names=names, coefficients=found.x[:-1], covariance=covariance,
        sigma=float(np.exp(found.x[-1]) * np.sqrt(wider)), dof=dof, reached=int(seen.sum()),
        likelihood=-float(found.fun),
    )  # fmt: skip


def _design(predictors: Mapping[str, ArrayLike], names: tuple[str, ...]) -> Array:
    columns = [np.atleast_1d(np.asarray(predictors[name], dtype=float)) for name in names]
    return np.stack(np.broadcast_arrays(*columns), axis=1)


def _objective(x: Array, design: Array, y: Array, seen: Array, prior: Array) -> tuple[float, Array]:
    """Return minus the log posterior of (coefficients, log sigma), and its gradient."""
    beta, log_sigma = x[:-1], float(np.clip(x[-1], -12, 12))
    sigma = np.exp(log_sigma)
    z = (y - design @ beta) / sigma
    tail = log_ndtr(-z)
    hazard = np.exp(-0.5 * (z**2 + np.log(2 * np.pi)) - tail)
    value = np.sum(np.where(seen, 0.5 * z**2 + log_sigma, -tail)) + 0.5 * np.sum(prior * beta**2)
    push = np.where(seen, z, hazard)
    slope = -design.T @ push / sigma + prior * beta
    return float(value), np.append(slope, np.sum(np.where(seen, 1 - z**2, -hazard * z)))


def _curvature(x: Array, *data: Array) -> Array:
    """Return the Hessian there, by central differences of the gradient."""
    step = 1e-5
    rows = [
        (_objective(x + step * unit, *data)[1] - _objective(x - step * unit, *data)[1]) / (2 * step)
        for unit in np.eye(len(x))
    ]
    hessian = np.array(rows)
    return (hessian + hessian.T) / 2
