"""What counting does to the compute-optimal size: Pearce & Song 2024 (arXiv 2406.12907).

Chinchilla's law holds for all parameters N_T = N + ω N^γ, with N those without embeddings; Kaplan et al.
count N and C = 6ND. The frontier in N and C then is no power law: its local exponent falls towards β/(α + β)
as N grows.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from allometry.laws.uncertainty import Array

THEIR_GAMMA = 1 / 3
"""γ where depth grows with width: N ∝ d³, embeddings ∝ d. At a constant depth N ∝ d², and γ is 1/2."""


def total(N: ArrayLike, omega: float, gamma: float = THEIR_GAMMA) -> Array:
    """Return all parameters of a model with N without embeddings."""
    size = np.asarray(N, float)
    return np.asarray(size + omega * size**gamma)


def fit_omega(N: ArrayLike, N_total: ArrayLike, gamma: float = THEIR_GAMMA) -> float:
    """Fit ω to shapes with N parameters without embeddings and N_total with them: the geometric mean over
    shapes.
    """
    size, every = np.asarray(N, float), np.asarray(N_total, float)
    return float(np.exp(np.mean(np.log((every - size) / size**gamma))))


def optimal_compute(
    N: ArrayLike, params: Mapping[str, ArrayLike], omega: float, gamma: float = THEIR_GAMMA
) -> Array:
    """Return the compute C = 6ND (embeddings not counted) at which size N is the best one.

    `params` are A, B, alpha, beta of E + A/N_T^alpha + B/D^beta, as numbers or arrays that broadcast against
    N. Setting dL/dN = 0 at fixed C gives (6N/C)^beta = (alpha A/(beta B)) (N + γ ω N^γ) N_T^-(1 + alpha).
    """
    size = np.asarray(N, float)
    A, B, alpha, beta = (np.asarray(params[name], float) for name in ("A", "B", "alpha", "beta"))
    every, bent = total(size, omega, gamma), size + gamma * omega * size**gamma
    ratio = np.log(beta * B) - np.log(alpha * A) + (1 + alpha) * np.log(every) - np.log(bent)
    # a resample's beta may be next to nothing; the compute is then beyond all sizes, and stays a number
    return np.asarray(6 * size * np.exp(np.clip(ratio / beta, -500, 500)))


def local_exponent(
    N: ArrayLike, params: Mapping[str, ArrayLike], omega: float, gamma: float = THEIR_GAMMA
) -> Array:
    """Return d log N_opt / d log C at sizes N, both without embeddings."""
    size, step = np.asarray(N, float), 1e-4
    up, down = (np.log(optimal_compute(size * np.exp(sign * step), params, omega, gamma)) for sign in (1, -1))
    return np.asarray(2 * step / (up - down))
