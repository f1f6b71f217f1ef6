"""Learning curves on a common grid of compute, and who wins at each point of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from allometry.core.errors import AllometryError
from allometry.laws.estimate import Array

KEPT = ""
"""The reason of a point of the envelope that is not excluded."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Curves:
    """R curves (one a run, or one a size): names (R,), sizes N (R,), flops per parameter and token k = C/(N
    D) (R,).

    `points` holds each curve's (log C, log loss), ascending in C. `finished` says that the table had one
    row a run, so that a curve is made of independent runs.
    """

    run: Array
    N: Array
    k: Array
    points: tuple[tuple[Array, Array], ...]
    finished: bool

    def grid(self, per_decade: int) -> Array:
        """Return log-spaced computes over the range of all curves, as log C, shape (G,)."""
        low, high = min(x[0] for x, _ in self.points), max(x[-1] for x, _ in self.points)
        return np.linspace(low, high, max(8, round((high - low) / np.log(10) * per_decade)))

    def losses(self, grid: Array) -> Array:
        """Return the log loss of each curve on the grid, (R, G); NaN outside its range."""
        return np.array([along(x, y, grid) for x, y in self.points])


def along(x: Array, y: Array, grid: Array) -> Array:
    """Interpolate y (..., n) at each point of the grid, (..., G): monotone cubic, NaN outside the range of x."""
    if len(x) < 2:
        return np.full((*y.shape[:-1], len(grid)), np.nan)
    return np.asarray(PchipInterpolator(x, y, axis=-1, extrapolate=False)(grid))


def read_curves(frame: pd.DataFrame) -> Curves:
    """Read the curves of a table with the columns N, C, loss and possibly run and D.

    With one row a run (finished runs), the runs of one size make its curve and repeats at one compute are
    averaged. Raises AllometryError for missing columns, or fewer than three sizes with two computes each.
    """
    missing = [name for name in ("N", "C", "loss") if name not in frame]
    if missing:
        raise AllometryError(
            f"the envelope needs the columns N, C and loss; missing: {', '.join(missing)}",
            hint="map them, as in columns={'N': 'params', 'C': '6*N*D'}",
            cli_hint="name them, as in --let N=params --let 'C=6*N*D'",
        )
    table = frame if "run" in frame else frame.assign(run=np.arange(len(frame)).astype(str))
    # Rows without an evaluation and the point before the first step are not measurements of L(C).
    table = table[np.isfinite(table["loss"]) & (table["loss"] > 0) & (table["C"] > 0)]
    if "D" not in table:
        table = table.assign(D=table["C"] / (6 * table["N"]))
    sizes = table["N"].nunique()
    if sizes < 3:
        raise AllometryError(
            f"an envelope needs at least three model sizes; the table has {sizes}", hint="train more sizes"
        )
    finished = bool(table["run"].value_counts().max() == 1)
    if finished:
        table = table.assign(run=[f"N={n:.6g}" for n in table["N"]])
    table = table.groupby(["run", "C"], as_index=False, sort=True)[["N", "D", "loss"]].mean()
    if (table.groupby("run")["C"].nunique() >= 2).sum() < 3:
        raise AllometryError(
            "fewer than three sizes were measured at two computes or more, so there are no curves to envelop",
            hint="give learning curves, or runs of each size at several D; set budgets are for isoflop",
        )
    groups = [part for _, part in table.groupby("run", sort=False)]
    return Curves(
        run=np.array([part["run"].iloc[0] for part in groups], dtype=object),
        N=np.array([part["N"].mean() for part in groups]),
        k=np.array([(part["C"] / (part["N"] * part["D"])).median() for part in groups]),
        points=tuple((np.log(p["C"].to_numpy(float)), np.log(p["loss"].to_numpy(float))) for p in groups),
        finished=finished,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Winners:
    """The best curve at each covered point of a grid, arrays of one length (see `winners`)."""

    C: Array
    loss: Array
    run: Array
    N: Array
    D: Array
    N_opt: Array
    excluded: NDArray[np.object_]

    def frame(self) -> pd.DataFrame:
        """Return one row per point, with the fields as columns."""
        return pd.DataFrame(vars(self))

    def kept(self) -> tuple[Array, Array, Array, Array]:
        """Return C, loss, N_opt and its D at the points that are not excluded."""
        keep = self.excluded == KEPT
        size = self.N_opt[keep]
        return self.C[keep], self.loss[keep], size, (self.D * self.N)[keep] / size


def winners(curves: Curves, grid: Array, losses: Array) -> Winners:
    """Find the best curve at each covered point; `excluded` is the reason why a point cannot be trusted, or
    "".

    Shapes: grid (G,) in log C, losses (R, G) in log loss. N is the winner's size and moves in steps;
    N_opt is the vertex of the parabola in log N through the winner and its two neighbours in size,
    which does not.
    """
    covered = np.isfinite(losses).any(0)
    if not covered.any():
        raise AllometryError("no compute lies within the range of any curve", hint="give two points a curve")
    grid, losses = grid[covered], losses[:, covered]
    filled = np.where(np.isfinite(losses), losses, np.inf)
    winner = filled.argmin(0)
    C, N = np.exp(grid), curves.N[winner]
    sizes = np.unique(curves.N)
    best = np.array([filled[n == curves.N].min(0) for n in sizes])  # (sizes, G)
    rank = np.searchsorted(sizes, N)
    reasons = _reasons(best, rank)
    return Winners(
        C=C,
        loss=np.exp(losses[winner, np.arange(len(grid))]),
        run=curves.run[winner],
        N=N,
        D=C / (curves.k[winner] * N),
        N_opt=np.where(reasons == KEPT, _between(np.log(sizes), best, rank), np.nan),
        excluded=reasons,
    )


def _reasons(best: Array, rank: NDArray[np.int64]) -> NDArray[np.object_]:
    """Return why each point is excluded: the winner is at the edge of the sizes, or its neighbours were not
    measured there.
    """
    last = len(best) - 1
    reasons = np.full(len(rank), KEPT, dtype=object)
    at = np.arange(len(rank))
    known = np.isfinite(best[np.maximum(rank - 1, 0), at]) & np.isfinite(best[np.minimum(rank + 1, last), at])
    reasons[~known] = "a neighbouring size was not measured at this compute"
    reasons[rank == 0] = "the smallest size wins"
    reasons[rank == last] = "the largest size wins"
    if (rank > 0).any():
        reasons[: np.argmax(rank > 0)] = "the smallest size wins"
    return reasons


def _between(x: Array, best: Array, rank: NDArray[np.int64]) -> Array:
    """Return the size at the vertex of the parabola through the winner (lowest) and its neighbours; NaN at
    the edges.
    """
    inner = np.clip(rank, 1, len(x) - 2)
    at = np.arange(len(rank))
    left, right = x[inner] - x[inner - 1], x[inner + 1] - x[inner]
    # At the edges, which the caller leaves out, the parabola is not at its lowest point, and may be a line.
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        down, up = best[inner - 1, at] - best[inner, at], best[inner + 1, at] - best[inner, at]
        shift = (right**2 * down - left**2 * up) / (2 * (right * down + left * up))
        return np.asarray(np.exp(x[inner] + np.where(np.isfinite(shift), shift, 0.0)))
