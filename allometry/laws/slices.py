"""IsoFLOP slices: the loss of several model sizes at one compute budget, the minimum of each, and the noise of a run.

Runs may have been trained at set budgets, or on any grid of N and D; then each size's loss is interpolated
along its own D. Either way a slice is a function of the measured losses, so that noise in the runs is
carried through it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.interpolate import Akima1DInterpolator, PchipInterpolator

from allometry.core.errors import AllometryError
from allometry.core.units import counted
from allometry.laws.observations import read_runs
from allometry.laws.result import FitWarning
from allometry.laws.uncertainty import Array

Rows = NDArray[np.int64]

SAME_BUDGET = 0.1
"""Runs whose log C lie closer than this belong to one set budget (D is rounded to whole steps)."""


SAME_POINT = 0.02
"""Runs of one size whose log C lie closer than this are repeats of one point."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """What decides one size's loss at a budget: rows of the table, their log C, and the log C that is
    wanted.

    `wanted` is None at a set budget: its rows are repeats and are averaged.
    """

    rows: Rows
    log_c: Array
    wanted: float | None

    def loss(self, log_loss: Array) -> Array:
        """Return the log loss of this size, shape (...), from the log losses of all runs, shape (..., runs)."""
        own = log_loss[..., self.rows]
        return own.mean(-1) if self.wanted is None else _along(self.log_c, own, self.wanted)


@dataclass(frozen=True, kw_only=True, eq=False)
class Slice:
    """One budget C (FLOPs): sizes N and tokens D, (K,), ascending in N, and what decides their losses."""

    C: float
    N: Array
    D: Array
    pieces: tuple[Piece, ...]

    @property
    def interpolated(self) -> bool:
        """Whether losses are interpolated between runs, not measured at this budget."""
        return any(piece.wanted is not None for piece in self.pieces)

    def losses(self, log_loss: Array) -> Array:
        """Return the log loss of each size, shape (..., K), from the log losses of all runs, shape (..., runs)."""
        return np.stack([piece.loss(log_loss) for piece in self.pieces], axis=-1)


def make_slices(frame: pd.DataFrame, budgets: list[float] | None = None) -> tuple[list[Slice], str]:
    """Cut a table with columns N, D, C, loss into slices; return them and a sentence that says how they were
    made.

    Set budgets are recognised: at least three sizes within 10 % of one C. Else losses are interpolated
    (Akima in log C, log loss, never beyond the measured range of a size) at `budgets`, or at log-spaced
    computes of our choice.

    Raises AllometryError where no budget has three sizes.
    """
    if budgets is None:
        groups = _set_budgets(frame)
        if sum(len(g) for g in groups) >= 0.7 * len(frame):
            return [_set_slice(frame, rows) for rows in groups], f"{counted(len(groups), 'set budget')}"
        budgets = grid_budgets(frame)
    made = [_grid_slice(frame, c) for c in sorted(budgets)]
    kept = [s for s in made if s is not None]
    if not kept:
        raise AllometryError(
            "no compute budget has three sizes that were measured on both sides of it",
            hint="isoFLOP slices need at least three sizes N, each at two or more D that overlap in compute",
        )
    return kept, f"{counted(len(kept), 'budget')} interpolated along each size's D"


def slices(
    frame: pd.DataFrame, *, columns: Mapping[str, str] | None = None, budgets: list[float] | None = None
) -> pd.DataFrame:
    """Return the isoFLOP slices of a table of runs, as rows (C, N, D, loss, interpolated).

    `columns` maps N, D, C and loss to columns of the table or to arithmetic of them; of D and C one is
    enough.
    """
    table = read_runs(frame, columns).table
    made, _ = make_slices(table, budgets)
    return points(made, np.log(table["loss"].to_numpy(float)))


def points(made: list[Slice], log_loss: Array) -> pd.DataFrame:
    """Return the slices as rows (C, N, D, loss, interpolated), from the log losses of all runs, (runs,)."""
    parts = [
        pd.DataFrame({"C": s.C, "N": s.N, "D": s.D, "loss": np.exp(s.losses(log_loss))}).assign(
            interpolated=s.interpolated
        )
        for s in made
    ]
    return pd.concat(parts, ignore_index=True)


def _set_budgets(frame: pd.DataFrame) -> list[Rows]:
    """Return the rows of each set budget: neighbours in log C closer than `SAME_BUDGET`, holding three sizes
    or more.
    """
    log_c = np.log(frame["C"].to_numpy(float))
    order = np.argsort(log_c, kind="stable")
    breaks = np.flatnonzero(np.diff(log_c[order]) > SAME_BUDGET) + 1
    groups = np.split(order, breaks)
    sizes = frame["N"].to_numpy(float)
    tight = [g for g in groups if np.ptp(log_c[g]) < 3 * SAME_BUDGET]
    return [g for g in tight if len(np.unique(sizes[g])) >= 3]


def _set_slice(frame: pd.DataFrame, rows: Rows) -> Slice:
    part = frame.iloc[rows]
    sizes = np.sort(part["N"].unique())
    index = [rows[(part["N"] == n).to_numpy()] for n in sizes]
    tokens = np.array([np.exp(np.log(frame["D"].iloc[i]).mean()) for i in index])
    budget = float(np.exp(np.log(part["C"]).mean()))
    pieces = tuple(Piece(rows=i, log_c=np.log(frame["C"].to_numpy(float)[i]), wanted=None) for i in index)
    return Slice(C=budget, N=sizes.astype(float), D=tokens, pieces=pieces)


def grid_budgets(frame: pd.DataFrame, most: int = 16) -> list[float]:
    """Return log-spaced budgets, half an octave apart, over the computes at which at least three sizes were
    measured (columns N and C).

    Give them to `isoflop` where runs are known to be a grid of N and D: on such a grid a few sizes may meet
    at equal compute by chance, which looks like set budgets.
    """
    log_c = np.log(frame["C"])
    ranges = log_c.groupby(frame["N"]).agg(["min", "max", "nunique"])
    ranges = ranges[ranges["nunique"] >= 2]
    grid = np.linspace(log_c.min(), log_c.max(), 400)
    low, high = ranges["min"].to_numpy(), ranges["max"].to_numpy()
    inside = grid[((grid[:, None] >= low) & (grid[:, None] <= high)).sum(1) >= 3]
    if not len(inside):
        return []
    octaves = (inside[-1] - inside[0]) / np.log(2)
    count = int(np.clip(round(2 * octaves) + 1, 3, most))
    return [float(c) for c in np.exp(np.linspace(inside[0], inside[-1], count))]


def _grid_slice(frame: pd.DataFrame, budget: float) -> Slice | None:
    log_c, log_d = np.log(frame["C"].to_numpy(float)), np.log(frame["D"].to_numpy(float))
    size, wanted, slack = frame["N"].to_numpy(float), float(np.log(budget)), 1e-9
    sizes, tokens, pieces = [], [], []
    for n in np.unique(size):
        rows = np.flatnonzero(size == n)
        rows = rows[np.argsort(log_c[rows], kind="stable")]
        x = log_c[rows]
        if len(np.unique(x)) < 2 or wanted < x[0] - slack or wanted > x[-1] + slack:
            continue
        sizes.append(float(n))
        tokens.append(float(np.exp(np.interp(wanted, x, log_d[rows]))))
        pieces.append(Piece(rows=rows, log_c=x, wanted=wanted))
    if len(sizes) < 3:
        return None
    return Slice(C=budget, N=np.array(sizes), D=np.array(tokens), pieces=tuple(pieces))


def _along(x: Array, y: Array, wanted: float) -> Array:
    """Interpolate y (..., n) at one x by a monotone cubic, which never leaves the range of its neighbours.

    Points whose x differ by less than `SAME_POINT` are averaged first: a slope between them would be noise.
    """
    group = np.concatenate([[0], np.cumsum(np.diff(x) > SAME_POINT)])
    knots = np.bincount(group, x) / np.bincount(group)
    at = float(np.clip(wanted, knots[0], knots[-1]))
    # Of a monotone cubic only the knots beside its piece and one more on either side count.
    left = max(int(np.searchsorted(knots, at, side="right")) - 1, 0)
    near = slice(max(left - 1, 0), left + 3)
    kept = (group >= near.start) & (group < near.stop)
    shares = np.eye(len(knots[near]))[group[kept] - near.start]
    means = y[..., kept] @ (shares / shares.sum(0))
    if len(knots) == 1:
        return np.asarray(means[..., 0])
    return np.asarray(PchipInterpolator(knots[near], means, axis=-1)(at))


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
    """Warn about faults in the grids of sizes: for a parabola, too wide or off-centre (arXiv 2603.22339)."""
    used = [o for o in optima if not o.reason]
    if method != "parabola" or not used:
        return []
    found = []
    wide = [o for o in used if o.slice.N[-1] / o.slice.N[0] > 16]
    if wide:
        text = (
            f"{len(wide)} of {len(used)} budgets span more than 4 x either side of the optimum; the loss"
            f" is no parabola that far out (at the ends of the grid its cubic term is up to"
            f" {max(abs(o.skew) for o in wide):.1%} of the quadratic one), which moves the vertex."
            " Method 'akima' does not assume the shape"
        )
        found.append(FitWarning(name="grid too wide for a parabola", meaning=text))
    off = [o for o in used if not 0.25 <= o.offset <= 0.75]
    if off:
        where = ", ".join(f"{o.slice.C:.2g}" for o in off)
        text = f"at C = {where} the optimum is in the outer quarter of the sizes; the vertex is biased there"
        found.append(FitWarning(name="grid off-centre", meaning=text))
    return found


def seed_noise(table: pd.DataFrame, made: list[Slice]) -> tuple[float, str]:
    """Return the relative standard deviation of a run's loss and where it comes from.

    Repeats of one (N, D) give it directly (at least three spare runs are asked for). Else the slices'
    roughness does: a slice that a cubic in log N describes has no noise. That is an upper estimate where
    the optimum is sharper than a cubic. Raises AllometryError where neither is possible.
    """
    log_loss = np.log(table["loss"].to_numpy(float))
    direct = repeat_noise(table, log_loss)
    if direct is not None:
        return direct
    found = roughness([(np.log(s.N), s.losses(log_loss)) for s in made])
    if found is None:
        raise AllometryError(
            "the seed noise can be estimated neither from repeats nor from the smoothness of the slices",
            hint="give it: noise=0.003 is 0.3 % of the loss; or repeat runs with other seeds",
            cli_hint="give it: --noise 0.003 is 0.3 % of the loss; or repeat runs with other seeds",
        )
    return found


def roughness(curves: list[tuple[Array, Array]]) -> tuple[float, str] | None:
    """Return the standard deviation of y about a cubic in x (fewer points: a parabola) of each curve, pooled;
    None if too few.

    The scale is the median absolute residual (times 1.4826), so that single bad runs do not decide it.
    """
    residuals, dof = [], 0
    for x, y in curves:
        degree = min(3, len(y) - 2)
        if degree < 2:
            continue
        u = x - x.mean()
        design = np.vander(u / np.abs(u).max(), degree + 1)
        spare = len(y) - degree - 1
        residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
        residuals.append(residual * np.sqrt(len(y) / spare))
        dof += spare
    if dof < 1:
        return None
    scale = 1.4826 * float(np.median(np.abs(np.concatenate(residuals))))
    of = f"{counted(len(residuals), 'curve')}, {counted(dof, 'degree')} of freedom"
    return scale, f"from the roughness of {of}"


def repeat_noise(table: pd.DataFrame, log_loss: Array, least: int = 3) -> tuple[float, str] | None:
    """Return the pooled standard deviation of log loss within runs of equal N and D, and where it comes from.

    None with fewer than `least` spare runs. Runs of equal loss are copies of one measurement and count once.
    """
    rows = pd.DataFrame({"N": table["N"].to_numpy(), "D": table["D"].to_numpy(), "y": log_loss})
    rows = rows.drop_duplicates()
    groups = rows["y"].groupby([rows["N"], rows["D"]])
    spare = len(rows) - groups.ngroups
    if spare < least:
        return None
    within = float((groups.var(ddof=0) * groups.size()).sum())
    return float(np.sqrt(within / spare)), f"from repeats, {counted(spare, 'degree')} of freedom"
