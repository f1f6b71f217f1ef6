"""What a fit minimises: a sum over the points of a loss of the residual, as data rather than as code.

Every objective here is a Huber loss H_t(r) = r^2/2 for |r| < t, t(|r| - t/2) beyond, of the residual
r = g(prediction) - g(measured), with g the logarithm or the identity: t infinite gives least squares, t near
zero least absolute deviation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from allometry.core.errors import unknown

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One objective. `above` weighs points whose measured value lies above the law (1 = symmetric).

    `free_scale` means that the threshold is `threshold` times a scale that is estimated along with the
    parameters by maximum likelihood (a Huber density), so that nearly all residuals count by their absolute
    value.
    """

    name: str
    meaning: str
    log: bool = True
    threshold: float = math.inf
    free_scale: bool = False
    absolute: bool = False
    above: float = 1.0

    def loss(self, residual: Array, threshold: float | Array) -> Array:
        """Return the loss of each residual (prediction minus measured), same shape."""
        size = np.abs(residual)
        with np.errstate(invalid="ignore", over="ignore"):
            value = np.where(size < threshold, 0.5 * residual**2, threshold * (size - 0.5 * threshold))
        return value if self.above == 1.0 else value * self.side(residual)

    def reported(self, value: float) -> float:
        """Return a minimised value as it is reported: the absolute deviation as a sum of residuals."""
        return value / self.threshold if self.absolute else value

    def side(self, residual: Array) -> Array:
        """Return the weight of each point by the side of the law it lies on."""
        return np.where(residual < 0, self.above, 1.0)

    def absorbed(self, spread: float) -> float:
        """Return how much of the residuals' sum of squares, in units of their variance, each fitted parameter
        takes away.

        For normal noise of standard deviation `spread` and a Huber threshold t the sum of squares expects
        n - p (2 - v), where v is the asymptotic variance of the estimate over that of least squares (Huber
        1964): 1 parameter's worth for least squares (v = 1), 0.43 for absolute deviations (v = pi/2), which
        leave larger residuals behind.
        """
        if self.above != 1.0 or spread <= 0:
            return 1.0
        k = self.threshold if self.free_scale else self.threshold / spread
        if not k < 40:
            return 1.0
        normal = NormalDist()
        inside = 2 * normal.cdf(k) - 1
        square = 2 * (k**2 * (1 - normal.cdf(k)) + normal.cdf(k) - 0.5 - k * normal.pdf(k))
        return 2 - square / inside**2 if inside > 1e-6 else 2 - math.pi / 2

    def transform(self, value: Array) -> Array:
        """Map values to the scale that residuals are taken on (g)."""
        return np.log(value) if self.log else value


OBJECTIVES: dict[str, Objective] = {
    o.name: o
    for o in (
        Objective(
            name="huber-log",
            meaning="sum of Huber losses (delta = 1e-3) of the log residuals: Hoffmann et al. 2022",
            threshold=1e-3,
        ),
        Objective(
            name="huber-log-scale",
            meaning="Huber likelihood of the log residuals with a free scale (delta = 1e-3 of it): "
            "Besiroglu et al. 2024",
            threshold=1e-3,
            free_scale=True,
        ),
        Objective(name="lad-log", meaning="sum of the absolute log residuals", threshold=1e-9, absolute=True),
        Objective(name="lsq-log", meaning="half the sum of the squared log residuals"),
        Objective(name="lsq", meaning="half the sum of the squared residuals", log=False),
        Objective(
            name="lower-envelope",
            meaning="asymmetric Huber (delta = 1e-3) of the log residuals: points above the law weigh 1/9 of "
            "those below, so that about 10 % of the points lie below it",
            threshold=1e-3,
            above=1 / 9,
        ),
    )
}
"""Name -> objective."""


def get_objective(name: str) -> Objective:
    """Return the objective of that name; raise AllometryError with the nearest names if there is none."""
    if name not in OBJECTIVES:
        raise unknown("objective", name, OBJECTIVES)
    return OBJECTIVES[name]
