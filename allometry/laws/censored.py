"""Regression of a time that some runs did not live to see (accelerated failure times, Tobin 1958).

The logarithm of the time is normal about a linear predictor. A run that ended at step S without getting there
says only that its time is longer than S: leaving it out, or taking S for its time, would make every obstacle
look smaller than it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import log_ndtr
from scipy.stats import t

from allometry.core.errors import AllometryError
from allometry.core.units import counted

Array = NDArray[np.float64]

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
