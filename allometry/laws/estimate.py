"""A number with what is known about it: its value, and draws that say how far it may be wrong."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allometry.core.errors import AllometryError
from allometry.laws.result import FitWarning

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
