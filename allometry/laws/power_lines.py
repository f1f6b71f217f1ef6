"""Power laws along a frontier: y = scale · x^exponent in log-log, and loss against compute with an irreducible
offset.

Every function works on many resamples at once: arrays whose first axis is the resample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2

from allometry.core.errors import AllometryError
from allometry.laws.uncertainty import Array, Estimate, percentile_interval, plain


@dataclass(frozen=True, kw_only=True, eq=False)
class PowerLine:
    """y = exp(level) · (x / exp(center))^exponent, with joint draws of (exponent, level) of shape
    (resamples, 2).

    `scatter` is the root of the reduced chi-square of the points about the line, in units of their own
    standard deviations: above 1 the points scatter more than their noise explains, and where chance does
    not explain that either, the draws are widened.
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
    x: str, y: str, points: tuple[Array, Array], draws: Array, *,
    sigma: Array | None = None, floor: Array | float = 1e-6,
) -> PowerLine:  # fmt: skip
    """Fit the weighted log-log line through `points` = (x, y), each (K,), with draws of y of shape
    (resamples, K).

    `sigma` (K,) are the standard deviations of log y; without them the spread of the draws is taken, but at
    least `floor`, (K,) or one for all. Weights are 1/sigma². The points' scatter about the line is compared
    with that of the draws about lines of their own. Raises AllometryError for fewer than two points.
    """
    log_x, log_y = np.log(points[0]), np.log(points[1])
    if len(log_x) < 2:
        raise AllometryError(
            f"a power law of {y} in {x} needs at least two points; {len(log_x)} are usable",
            hint="add budgets or sizes, or look at the excluded ones and why",
        )
    log_draws = np.log(draws)
    if sigma is None:
        sigma = np.maximum(_spread(log_draws), floor)
    weights = 1.0 / sigma**2
    slope, level = line(log_x, log_y, weights)
    dof = len(log_x) - 2
    slopes, levels = line(log_x, log_draws, np.broadcast_to(weights, log_draws.shape))
    residual = (log_y - level - slope * (log_x - log_x.mean())) / sigma
    noise = _noise_about_lines(log_x, log_draws, weights) if len(draws) else float(dof)
    scatter = float(np.sqrt(np.sum(residual**2) / noise)) if dof > 0 and noise > 0 else float("nan")
    pairs = np.column_stack([slopes, levels])
    pairs = pairs[np.isfinite(pairs).all(1)]
    # Points that scatter more than their noise make the line less certain than the noise alone says. So much
    # scatter as one line in twenty has by chance proves nothing.
    chance = float(np.sqrt(chi2.ppf(0.95, dof) / dof)) if dof > 0 else 1.0
    stretch = scatter if scatter > chance else 1.0
    pairs = pairs.mean(0) + stretch * (pairs - pairs.mean(0)) if len(pairs) else pairs
    return PowerLine(
        x=x, y=y, center=float(log_x.mean()), slope=float(slope), level=float(level), draws=pairs,
        scatter=scatter, x_range=(float(points[0].min()), float(points[0].max())),
    )  # fmt: skip


def _noise_about_lines(log_x: Array, log_draws: Array, weights: Array) -> float:
    """Return the mean weighted sum of squares of draws (resamples, K), less their means, about their lines."""
    away = log_draws - np.nanmean(log_draws, axis=0)
    slope, level = line(log_x, away, np.broadcast_to(weights, away.shape))
    away = away - level[:, None] - slope[:, None] * (log_x - log_x.mean())
    return float(np.nanmean(np.nansum(weights * away**2, axis=-1)))


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
