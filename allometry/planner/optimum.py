"""The best size for a budget under any law with N and D, for every draw of its parameters at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike

from allometry.laws.estimate import Array
from allometry.planner.source import Source

FLOPS_PER_PARAMETER_TOKEN = 6.0
"""C = 6ND (Kaplan et al. 2020, section 2.1)."""


def chinchilla_optimum(C: ArrayLike, A: float, B: float, alpha: float, beta: float) -> tuple[Array, Array]:
    """Return N_opt = G (C/6)^a and D_opt = (C/6)^b / G, a = beta/(alpha+beta), b = alpha/(alpha+beta).

    C in FLOPs. G = (alpha A/(beta B))^(1/(alpha+beta)) (Hoffmann et al. 2022, eq. 4).
    """
    scale = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    half = np.asarray(C, float) / FLOPS_PER_PARAMETER_TOKEN
    return scale * half ** (beta / (alpha + beta)), half ** (alpha / (alpha + beta)) / scale


def best_size(
    source: Source, params: Mapping[str, Array], C: ArrayLike, unique: float | None = None
) -> tuple[Array, Array]:
    """Find (N, loss), each (R,), of least loss at 6ND = C: a search in log N that narrows five times.

    `params` are arrays of shape (R,), C is a number or of shape (R,). Laws of the kind that the zoo
    holds have one minimum in log N. Draws without a minimum between 1 parameter and C/6 give NaN.
    """
    count = len(next(iter(params.values())))
    half = np.log(np.broadcast_to(np.asarray(C, float), (count,)) / FLOPS_PER_PARAMETER_TOKEN)
    low, high = np.zeros(count), np.maximum(half, 1e-3)
    edge = np.zeros(count, dtype=bool)
    share = np.linspace(0, 1, 49)
    for step in range(5):
        log_n = low[:, None] + (high - low)[:, None] * share
        losses = source.loss(params, np.exp(log_n), np.exp(half[:, None] - log_n), unique)
        losses = np.where(np.isfinite(losses), losses, np.inf)
        best = losses.argmin(1)
        if step == 0:
            edge = (best == 0) | (best == len(share) - 1) | ~np.isfinite(losses.min(1))
        width = (high - low) / (len(share) - 1)
        center = log_n[np.arange(count), best]
        low, high = np.maximum(center - width, 0), np.minimum(center + width, half)
    return np.where(edge, np.nan, np.exp(center)), np.where(edge, np.nan, losses.min(1))


def least_compute(
    source: Source, params: Mapping[str, Array], target: float, unique: float | None = None
) -> Array:
    """Compute (R,) at which the best size reaches a target loss; infinite where the law never does."""

    def loss(log_c: Array) -> Array:
        return best_size(source, params, np.exp(log_c), unique)[1]

    return _solve(loss, target, len(next(iter(params.values()))), low=np.log(1e6), high=np.log(1e45))


def tokens_for(
    source: Source,
    params: Mapping[str, Array],
    N: ArrayLike,
    target: float | Array,
    unique: float | None = None,
) -> Array:
    """Return the tokens D (R,) at which a model of size N reaches a target loss; infinite where it never does."""
    count = len(next(iter(params.values())))
    sizes = np.broadcast_to(np.asarray(N, float), (count,))
    return _solve(
        lambda log_d: source.loss(params, sizes, np.exp(log_d), unique),
        target,
        count,
        low=0.0,
        high=np.log(1e35),
    )


def _solve(
    loss: Callable[[Array], Array], target: float | Array, count: int, *, low: float, high: float
) -> Array:
    """Find exp(x) where a falling function of x, shape (R,), meets its target: bisection for all rows together."""
    a, b = np.full(count, low), np.full(count, high)
    reachable = np.asarray(loss(b) <= target)
    for _ in range(60):
        middle = (a + b) / 2
        below = loss(middle) <= target
        b, a = np.where(below, middle, b), np.where(below, a, middle)
    return np.where(reachable, np.exp((a + b) / 2), np.inf)
