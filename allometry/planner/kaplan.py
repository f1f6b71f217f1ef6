"""Closed forms of compute-efficient training (Kaplan et al. 2020, appendix B).

C in PF-days, S in steps, B in tokens. C, S and B are "adjusted": C is C_min, S is S_min and B is
B_crit(L), so that C = 6 N B S. Arguments may be arrays of one shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from allometry.core.units import PF_DAY
from allometry.laws.estimate import Array

Number = float | Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Efficient:
    """Constants of L(N, S) = (N_c/N)^alpha_N + (S_c/S)^alpha_S (B.1) and B(L) = B_star/L^(1/alpha_B)
    (B.2).
    """

    alpha_N: Number
    alpha_S: Number
    N_c: Number
    S_c: Number
    alpha_B: Number
    B_star: Number

    @property
    def alpha_C(self) -> Array:
        """1/(1/alpha_S + 1/alpha_B + 1/alpha_N) (B.7); compute it, the text rounds it three ways."""
        return np.asarray(1 / (1 / self._a("S") + 1 / self._a("B") + 1 / self._a("N")))

    @property
    def C_c(self) -> Array:
        """Scale of L(C) = (C_c/C)^alpha_C in PF-days (B.8)."""
        n, s = self._a("N"), self._a("S")
        factor = (1 + n / s) ** (1 / s + 1 / n) * (s / n) ** (1 / s)
        return np.asarray(6 * np.asarray(self.N_c) * self.B_star * self.S_c * factor / PF_DAY)

    def loss(self, C: ArrayLike) -> Array:
        """Return the loss of the best allocation (B.6)."""
        return np.asarray((self.C_c / np.asarray(C, float)) ** self.alpha_C)

    def size(self, C: ArrayLike) -> Array:
        """Return the parameters N(C) (B.9)."""
        n, s = self._a("N"), self._a("S")
        share = (np.asarray(C, float) / self.C_c) ** (self.alpha_C / n)
        return np.asarray(np.asarray(self.N_c) * share * (1 + n / s) ** (1 / n))

    def steps(self, C: ArrayLike) -> Array:
        """Return the steps S(C) (B.10)."""
        n, s = self._a("N"), self._a("S")
        scale = self.C_c * PF_DAY / (6 * np.asarray(self.N_c) * self.B_star) * (1 + n / s) ** (-1 / n)
        return np.asarray(scale * (np.asarray(C, float) / self.C_c) ** (self.alpha_C / s))

    def batch(self, C: ArrayLike) -> Array:
        """Return the batch in tokens: the critical one at the loss reached (B.2)."""
        return np.asarray(np.asarray(self.B_star) / self.loss(C) ** (1 / self._a("B")))

    def compute_for(self, loss: ArrayLike) -> Array:
        """Return the PF-days of the best allocation that reaches a loss (B.6 solved for C)."""
        return np.asarray(self.C_c / np.asarray(loss, float) ** (1 / self.alpha_C))

    def compute_at(self, N: ArrayLike, loss: ArrayLike) -> Array:
        """Return the PF-days that a model of size N needs to reach a loss (B.15); infinite where it cannot."""
        size, target = np.asarray(N, float), np.asarray(loss, float)
        rest = target - (np.asarray(self.N_c) / size) ** self._a("N")
        scale = 6 * np.asarray(self.B_star) * self.S_c * size * target ** (-1 / self._a("B")) / PF_DAY
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.where(rest > 0, scale * rest ** (-1 / self._a("S")), np.inf))

    def _a(self, which: str) -> Array:
        return np.asarray(getattr(self, f"alpha_{which}"), float)


def excess_compute(ratio: ArrayLike, alpha_N: float = 0.077, alpha_S: float = 0.76) -> Array:
    """Compute against the best, to the same loss, of a model `ratio` = N/N_eff times the best size
    (B.16).
    """
    return np.asarray(np.asarray(ratio, float) * excess_steps(ratio, alpha_N, alpha_S))


def excess_steps(ratio: ArrayLike, alpha_N: float = 0.077, alpha_S: float = 0.76) -> Array:
    """Return steps relative to the best, to the same loss, at `ratio` = N/N_eff (B.17); infinite for sizes
    too small.
    """
    bracket = 1 + alpha_S / alpha_N * (1 - np.asarray(ratio, float) ** -alpha_N)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(bracket > 0, bracket ** (-1 / alpha_S), np.inf))


def convergence_trade(f: float, f_other: float, alpha_N: float, alpha_S: float) -> tuple[float, float, float]:
    """Return the ratios (N, S, C) at equal loss of stopping a share `f` above the converged loss against
    `f_other` (B.12-14).
    """
    size = ((1 + f) / (1 + f_other)) ** (1 / alpha_N)
    steps = ((1 + 1 / f) / (1 + 1 / f_other)) ** (1 / alpha_S)
    return size, steps, size * steps
