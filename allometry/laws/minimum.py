"""The minimum of one isoFLOP slice, for the measured losses and for every resample of them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.interpolate import Akima1DInterpolator

from allometry.laws.estimate import Array
from allometry.laws.result import FitWarning
from allometry.laws.slices import Slice

METHODS = ("akima", "parabola")
PER_GAP = 25
"""Interpolation points between neighbouring sizes (Porian et al. 2024)."""
EDGE = "the best size is at the edge of the sizes tried"
BELOW = "the interpolated optimum lies far below every measured loss"
FLAT = "the losses do not curve upwards: no minimum"


@dataclass(frozen=True, kw_only=True, eq=False)
class Minimum:
    """The optimum of a slice: draws (resamples,) of N, D and loss, and the reason to discard it ("" if none).

    `offset` is where the minimum lies between the smallest (0) and the largest size (1), on a log scale;
    `skew` the cubic term against the quadratic one at the ends of the grid (0 for a true parabola).
    """

    slice: Slice
    N: Array
    D: Array
    loss: Array
    reason: str
    offset: float
    skew: float


def minimum(s: Slice, log_loss: Array, draws: Array, method: str, sigma: float = 0.0) -> Minimum:
    """Find the minimum by "akima" or "parabola"; `log_loss` (runs,), `draws` (resamples, runs).

    `sigma` is the noise of one log loss. An optimum further below the lowest measured loss than the slice's
    curvature and the noise explain is discarded: one bad run bends an interpolant so.
    """
    x, every = np.log(s.N), np.vstack([log_loss, draws])
    losses = s.losses(every)
    where, value, edge = _akima(x, losses) if method == "akima" else _parabola(x, losses)
    share = edge[1:].mean()
    bent = np.isfinite(where[1:]).mean()
    reason = ""
    if bent < 0.5:
        reason = FLAT
    elif share >= 0.5:
        side = "smallest" if np.nanmedian(where[1:]) < x.mean() else "largest"
        reason = f"{EDGE} (the {side}) in {100 * share:.0f} % of resamples"
    elif method == "akima" and losses[0].min() - value[0] > 3 * _depth(x, losses[0]) + 4 * sigma + 1e-3:
        reason = BELOW
    log_d = np.log(s.D)
    # ln D against ln N is a line of slope -1 at a set budget; outside the sizes it is continued so.
    outside = np.clip(where, x[0], x[-1])
    tokens = np.interp(outside, x, log_d) - (where - outside)
    return Minimum(
        slice=s, N=np.exp(where[1:]), D=np.exp(tokens[1:]), loss=np.exp(value[1:]), reason=reason,
        offset=float((where[0] - x[0]) / (x[-1] - x[0])), skew=_skew(x, losses[0]),
    )  # fmt: skip


def _akima(x: Array, losses: Array) -> tuple[Array, Array, Array]:
    """Return arg-minimum, minimum and whether it sits on the grid's edge, each (R,), of Akima interpolants of
    rows (R, K).
    """
    gaps = [np.linspace(a, b, PER_GAP, endpoint=False) for a, b in pairwise(x)]
    fine = np.concatenate([*gaps, x[-1:]])
    curve = np.asarray(Akima1DInterpolator(x, losses, axis=-1)(fine))
    best = curve.argmin(-1)
    return fine[best], curve.min(-1), (best == 0) | (best == len(fine) - 1)


def _depth(x: Array, losses: Array) -> float:
    """Return how far a curve of this slice's curvature may dip below its lowest measured point.

    The curvature is the lower quartile over neighbouring triples, which one bad run, part of three, leaves
    alone where there are seven sizes.
    """
    gaps = np.diff(x)
    slopes = np.diff(losses) / gaps
    curvature = 2 * np.abs(np.diff(slopes)) / (gaps[1:] + gaps[:-1])
    return float(np.quantile(curvature, 0.25) * gaps.max() ** 2 / 8)


def _parabola(x: Array, losses: Array) -> tuple[Array, Array, Array]:
    """Return the vertices of least-squares parabolas; NaN where a parabola opens downwards, edge where it
    lies outside x.
    """
    center, scale = x.mean(), np.ptp(x) / 2
    u = (x - center) / scale
    inverse = np.linalg.pinv(np.vander(u, 3))
    quadratic, linear, constant = (losses @ inverse.T).T
    with np.errstate(divide="ignore", invalid="ignore"):
        vertex = np.where(quadratic > 0, -linear / (2 * quadratic), np.nan)
    value = constant - np.where(quadratic > 0, linear**2 / (4 * np.maximum(quadratic, 1e-300)), np.nan)
    # A vertex far outside says only "beyond the grid"; it is held within one grid's width of it.
    vertex = np.clip(vertex, -3, 3)
    return np.asarray(center + scale * vertex), np.asarray(value), np.asarray(np.abs(vertex) > 1)


def _skew(x: Array, losses: Array) -> float:
    if len(x) < 4:
        return 0.0
    u = (x - x.mean()) / (np.ptp(x) / 2)
    cubic, quadratic = np.polyfit(u, losses, 3)[:2]
    return float(cubic / quadratic) if quadratic > 0 else float("inf")


def shape_cautions(optima: list[Minimum], method: str) -> list[FitWarning]:
    """Warn of faults in the grids of sizes: for a parabola, too wide or off-centre (arXiv 2603.22339)."""
    used = [o for o in optima if not o.reason]
    if method != "parabola" or not used:
        return []
    found = []
    wide = [o for o in used if o.slice.N[-1] / o.slice.N[0] > 16]
    if wide:
        text = (
            f"{len(wide)} of {len(used)} budgets span more than 4 x either side of the optimum; the loss"
            f" is no parabola there (cubic term up to {max(abs(o.skew) for o in wide):.1f} of it);"
            " its vertex is biased. Method 'akima' does not assume the shape"
        )
        found.append(FitWarning(name="grid too wide for a parabola", meaning=text))
    off = [o for o in used if not 0.25 <= o.offset <= 0.75]
    if off:
        where = ", ".join(f"{o.slice.C:.2g}" for o in off)
        text = f"at C = {where} the optimum is in the outer quarter of the sizes; the vertex is biased there"
        found.append(FitWarning(name="grid off-centre", meaning=text))
    return found
