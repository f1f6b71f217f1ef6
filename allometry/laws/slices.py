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
from scipy.stats import chi2

from allometry.core.errors import AllometryError
from allometry.core.units import counted
from allometry.laws.observations import read_runs
from allometry.laws.result import FitWarning
from allometry.laws.uncertainty import Array
from allometry.runs.tables.columns import is_named

Rows = NDArray[np.int64]

SAME_BUDGET = 0.1
"""Runs whose log C lie closer than this belong to one set budget (D is rounded to whole steps)."""


SAME_POINT = 0.02
"""Runs of one size whose log C lie closer than this are repeats of one point."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """What decides one size's loss at a budget: rows of the table, their log C, and the log C that is
    wanted.

    `wanted` is None at a set budget: its rows are repeats and are averaged. `shift` (rows,) moves their log
    losses from the compute of each run to that of the budget.
    """

    rows: Rows
    log_c: Array
    wanted: float | None
    shift: Array | None = None

    def loss(self, log_loss: Array) -> Array:
        """Return the log loss of this size, shape (...), from the log losses of all runs, shape (..., runs)."""
        own = log_loss[..., self.rows]
        if self.wanted is not None:
            return _along(self.log_c, own, self.wanted)
        return np.asarray((own if self.shift is None else own + self.shift).mean(-1))


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


def make_slices(
    frame: pd.DataFrame, budgets: list[float] | None = None, slope: Array | None = None
) -> tuple[list[Slice], str]:
    """Cut a table with columns N, D, C, loss into slices; return them and a sentence that says how they were
    made.

    Set budgets are recognised: at least three sizes within 10 % of one C. The runs of a budget differ a little
    in C, as tokens are rounded to whole steps: their tokens are scaled to the budget, and their losses moved
    along `slope` (runs,), d log loss / d log D at a fixed size. Else losses are interpolated (a monotone cubic
    in log C, log loss, never beyond the measured range of a size) at `budgets`, or at log-spaced computes of
    our choice.

    Raises AllometryError where no budget has three sizes.
    """
    if budgets is None:
        groups = _set_budgets(frame)
        if groups:
            return [
                _set_slice(frame, rows, slope) for rows in groups
            ], f"{counted(len(groups), 'set budget')}"
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


SETTINGS = (
    r"(peak|max|base|init|initial)?_?(lr|learning_?rate)s?(_(peak|max|base|init|initial))?|lr_.*|min_lr|final_lr"
    r"|b|bs|gbs|batch.*|.*_batch(_size)?|tokens_per_(batch|step|iter)|warm_?up.*|.*_warm_?up(_steps)?|anneal.*"
    r"|cooldown.*|decay.*|weight_decay|wd|beta_?\d|adam_.*|eps|epsilon|momentum|clip.*|grad_clip|dropout|optim.*"
    r"|schedule.*|.*_schedule(r)?|mup|init_.*|recipe|method|family|arch.*|shape|corpus|dataset|data|tokenizer"
    r"|context.*|n_ctx|seq_len.*|sequence_length|precision|dtype|unique|n_?layers?|d_?model|width|depth"
)
"""Names, in lower case with _, of columns that say how a run was made: runs that differ there are no repeats."""


def settings(frame: pd.DataFrame) -> tuple[NDArray[np.int_], list[str]]:
    """Return the number of each row's setting, (n,), and the columns that hold it.

    A setting is how a run was made, size and tokens apart: its learning rate, batch, schedule, shape, corpus,
    and so on (`SETTINGS`). Columns that name runs or seeds, or that were measured, are none.
    """
    found = []
    for i, name in enumerate(frame.columns):
        if is_named(name, SETTINGS) and frame.iloc[:, i].astype(str).nunique() > 1:
            found.append(i)
    if not found:
        return np.zeros(len(frame), dtype=int), []
    keys = frame.iloc[:, found].astype(str)
    keys.columns = pd.RangeIndex(len(found))
    number = keys.groupby(list(keys.columns), sort=False).ngroup().to_numpy()
    return np.asarray(number, dtype=int), [str(frame.columns[i]) for i in found]


def cells(frame: pd.DataFrame, budgets: list[float] | None = None) -> NDArray[np.int_]:
    """Return the number of each row's size and compute, (n,), of a table with columns N and C.

    At set budgets (looked for where `budgets` is None) a budget is one compute, elsewhere C within 2 %.
    """
    log_c, size = np.log(frame["C"].to_numpy(float)), frame["N"].to_numpy(float)
    groups = _set_budgets(frame) if budgets is None else []
    at = np.full(len(frame), -1)
    for number, rows in enumerate(groups):
        at[rows] = number
    loose = np.flatnonzero(at < 0)
    order = loose[np.lexsort((log_c[loose], size[loose]))]
    if len(order):
        at[order] = len(groups) + np.cumsum(np.diff(log_c[order], prepend=log_c[order[0]]) > SAME_POINT)
    found = pd.DataFrame({"at": at, "N": size}).groupby(["at", "N"], sort=False).ngroup()
    return np.asarray(found.to_numpy(), dtype=int)


def best_of_settings(
    frame: pd.DataFrame, setting: NDArray[np.int_], budgets: list[float] | None = None
) -> NDArray[np.bool_]:
    """Return which rows (n,) of a table (columns N, C, loss) to keep: of each size at each compute the
    setting with the lowest mean loss.

    Rows of one size and one setting at one compute are repeats, and all of them stay.
    """
    rows = pd.DataFrame(
        {"cell": cells(frame, budgets), "setting": setting, "loss": frame["loss"].to_numpy(float)}
    )
    mean = rows.groupby(["cell", "setting"], sort=False)["loss"].transform("mean")
    best = mean.groupby(rows["cell"], sort=False).transform("min")
    lowest = rows["setting"].where(mean <= best).groupby(rows["cell"]).transform("min")
    return np.asarray((mean <= best) & (rows["setting"] == lowest), dtype=bool)


def _set_budgets(frame: pd.DataFrame) -> list[Rows]:
    """Return the rows of each set budget: neighbours in log C closer than `SAME_BUDGET`, holding three sizes
    or more. None where they hold less than seven rows in ten: then the table is no set of budgets.
    """
    log_c = np.log(frame["C"].to_numpy(float))
    order = np.argsort(log_c, kind="stable")
    breaks = np.flatnonzero(np.diff(log_c[order]) > SAME_BUDGET) + 1
    groups = np.split(order, breaks)
    sizes = frame["N"].to_numpy(float)
    tight = [g for g in groups if np.ptp(log_c[g]) < 3 * SAME_BUDGET]
    found = [g for g in tight if len(np.unique(sizes[g])) >= 3]
    return found if sum(len(g) for g in found) >= 0.7 * len(frame) else []


def _set_slice(frame: pd.DataFrame, rows: Rows, slope: Array | None) -> Slice:
    part = frame.iloc[rows]
    sizes = np.sort(part["N"].unique())
    index = [rows[(part["N"] == n).to_numpy()] for n in sizes]
    log_c, log_d = np.log(frame["C"].to_numpy(float)), np.log(frame["D"].to_numpy(float))
    budget = float(log_c[rows].mean())
    tokens = np.array([np.exp((log_d[i] + budget - log_c[i]).mean()) for i in index])
    shifts = [None if slope is None else slope[i] * (budget - log_c[i]) for i in index]
    pieces = tuple(
        Piece(rows=i, log_c=log_c[i], wanted=None, shift=shift)
        for i, shift in zip(index, shifts, strict=True)
    )
    return Slice(C=float(np.exp(budget)), N=sizes.astype(float), D=tokens, pieces=pieces)


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

    `floor` is the smallest standard deviation of log N_opt that the line through the optima believes: a third
    of the spacing of log N about the optimum. `offset` is where the minimum lies between the smallest (0) and
    the largest size (1) that decide it, on a log scale, `span` how many times larger the largest is; `skew`
    the cubic term against the quadratic one at the ends (0 for a true parabola).
    """

    slice: Slice
    N: Array
    D: Array
    loss: Array
    reason: str
    floor: float
    offset: float
    span: float
    skew: float


def minimum(
    s: Slice, log_loss: Array, draws: Array, method: str, sigma: float = 0.0, window: float = np.inf,
    number: int = 0,
) -> Minimum:  # fmt: skip
    """Find the minimum by "akima" or "parabola"; `log_loss` (runs,), `draws` (resamples, runs).

    `sigma` is the noise of one log loss. An optimum further below the lowest measured loss than the slice's
    curvature and the noise explain is discarded: one bad run bends an interpolant so. A parabola is fitted to
    the sizes within a factor `window` of its vertex. `number` tells the slices of a table apart.
    """
    x, every = np.log(s.N), np.vstack([log_loss, draws])
    losses = s.losses(every)
    near = slice(0, len(x)) if method == "akima" else _window(x, losses[0], window)
    where, value, edge = (_akima if method == "akima" else _parabola)(x[near], losses[:, near])
    edge = edge & ((where <= x[0]) | (where >= x[-1]))
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
    spacing = _spacing(x, where[1:])
    # Without noise the draws are equal, but no optimum between the sizes is known better than this.
    own = np.random.default_rng(number)
    least = spacing / (PER_GAP * np.sqrt(12)) * own.standard_normal(len(where) - 1)
    where = where + np.concatenate([[0.0], least])
    # ln D against ln N is a line of slope -1 at a set budget; outside the sizes it is continued so.
    outside = np.clip(where, x[0], x[-1])
    tokens = np.interp(outside, x, log_d) - (where - outside)
    sizes = x[near]
    return Minimum(
        slice=s, N=np.exp(where[1:]), D=np.exp(tokens[1:]), loss=np.exp(value[1:]), reason=reason,
        floor=spacing / 3, offset=float((where[0] - sizes[0]) / (sizes[-1] - sizes[0])),
        span=float(np.exp(sizes[-1] - sizes[0])), skew=_skew(sizes, losses[0, near]),
    )  # fmt: skip


def _spacing(x: Array, where: Array) -> float:
    """Return the mean distance between the sizes x (K,), logs, about the optimum: the gaps on both sides of
    the nearest size.
    """
    finite = where[np.isfinite(where)]
    nearest = int(np.abs(x - (np.median(finite) if len(finite) else x.mean())).argmin())
    return float(np.diff(x)[max(nearest - 1, 0) : nearest + 1].mean())


def _akima(x: Array, losses: Array) -> tuple[Array, Array, Array]:
    """Return arg-minimum, minimum and whether it sits on the grid's edge, each (R,), of Akima interpolants of
    rows (R, K).

    The lowest of `PER_GAP` points between neighbouring sizes, then the vertex of the parabola through it and
    its neighbours.
    """
    gaps = [np.linspace(a, b, PER_GAP, endpoint=False) for a, b in pairwise(x)]
    fine = np.concatenate([*gaps, x[-1:]])
    curve = np.asarray(Akima1DInterpolator(x, losses, axis=-1)(fine))
    best = curve.argmin(-1)
    edge = (best == 0) | (best == len(fine) - 1)
    inner, row = np.clip(best, 1, len(fine) - 2), np.arange(len(best))
    left, right = fine[inner] - fine[inner - 1], fine[inner + 1] - fine[inner]
    down, up = (curve[row, inner + side] - curve[row, inner] for side in (-1, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        shift = (right**2 * down - left**2 * up) / (2 * (right * down + left * up))
    shift = np.where(edge | ~np.isfinite(shift), 0.0, np.clip(shift, -left, right))
    return fine[best] + shift, curve.min(-1), edge


def _depth(x: Array, losses: Array) -> float:
    """Return how far a curve of this slice's curvature may dip below its lowest measured point.

    The curvature is the lower quartile over neighbouring triples, which one bad run, part of three, leaves
    alone where there are seven sizes.
    """
    gaps = np.diff(x)
    slopes = np.diff(losses) / gaps
    curvature = 2 * np.abs(np.diff(slopes)) / (gaps[1:] + gaps[:-1])
    return float(np.quantile(curvature, 0.25) * gaps.max() ** 2 / 8)


WINDOWS = (2.0, 2.5, 3.0, 4.0)
"""Factors about the optimum that a parabola may reach to; beyond 4 its vertex is biased (arXiv 2603.22339)."""
LEAST = 4
"""Fewest sizes that a parabola goes through."""


def parabola_window(made: list[Slice], log_loss: Array, sigma: float) -> float:
    """Return the factor about the optimum within which the losses of all slices are parabolas in log N.

    It is the widest of `WINDOWS` whose parabolas miss the losses by no more than the noise `sigma` of a log
    loss explains (chi-square of all slices together, 95 %). One window serves all budgets: the bias of a
    parabola about a skew valley is then the same at each, and leaves the exponent alone.
    """
    found = WINDOWS[0]
    curves = [(np.log(s.N), s.losses(log_loss)) for s in made]
    curves = [(x, y) for x, y in curves if 0 < y.argmin() < len(y) - 1]
    for window in WINDOWS[1:]:
        total, dof = 0.0, 0
        for x, y in curves:
            near = _window(x, y, window)
            away = contrasts(x[near], 2) @ y[near]
            total, dof = total + float(away @ away), dof + len(away)
        if dof and total > chi2.ppf(0.95, dof) * sigma**2:
            break
        found = window
    return found


def _window(x: Array, y: Array, factor: float) -> slice:
    """Return the sizes x (K,), logs, within a factor of the vertex of the parabola through their log losses
    y (K,): at least `LEAST`, the nearest.
    """
    middle = float(x[y.argmin()])
    for _ in range(3):
        away = np.abs(x - middle)
        count = max(min(LEAST, len(x)), int(np.sum(away <= np.log(factor) + 1e-9)))
        kept = np.sort(np.argsort(away, kind="stable")[:count])
        near = slice(int(kept[0]), int(kept[-1]) + 1)
        vertex = float(_parabola(x[near], y[None, near])[0][0])
        if not np.isfinite(vertex):
            break
        middle = float(np.clip(vertex, x[0], x[-1]))
    return near


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
    wide = [o for o in used if o.span > 16]
    if wide:
        text = (
            f"the {LEAST} sizes about the optimum span more than 16 x at {len(wide)} of {len(used)} budgets;"
            " the loss is no parabola there (at their ends its cubic term is up to"
            f" {max(abs(o.skew) for o in wide):.1%} of the quadratic one), which moves the vertex. Add sizes near"
            " the optimum; method 'akima' does not assume the shape"
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

    Repeats of one (N, D) give it directly (at least three spare runs are asked for), else `valley_noise`.
    Raises AllometryError where neither is possible.
    """
    log_loss = np.log(table["loss"].to_numpy(float))
    direct = repeat_noise(table, log_loss)
    if direct is not None:
        return direct
    found = valley_noise(made, log_loss)
    if found is None:
        raise AllometryError(
            "the seed noise can be estimated neither from repeats nor from the smoothness of the slices",
            hint="give it: noise=0.003 is 0.3 % of the loss; or repeat runs with other seeds",
            cli_hint="give it: --noise 0.003 is 0.3 % of the loss; or repeat runs with other seeds",
        )
    return found


def contrasts(x: Array, degree: int) -> Array:
    """Return orthonormal combinations (K - degree - 1, K) of values at x (K,) that no polynomial of a degree
    enters: of values with noise, they hold the noise alone.
    """
    u = (x - x.mean()) / np.ptp(x)
    return np.asarray(np.linalg.qr(np.vander(u, degree + 1), mode="complete")[0][:, degree + 1 :].T)


def valley_noise(made: list[Slice], log_loss: Array) -> tuple[float, str] | None:
    """Return the standard deviation of a log loss from how rough the valleys are, and what it comes from;
    None if no slice has four sizes.

    What the five sizes nearest to each slice's lowest loss hold beyond a cubic is noise. Far from the valley
    the loss rises by other rules (the largest models see few tokens), and there a cubic fits badly without any
    noise. Where neighbouring budgets have the same sizes, the difference of their two deviations counts too:
    the valley's own shape, and the faults of a size that both share, are not in it. The scale is the median
    absolute value (times 1.4826), so that single bad runs do not decide it. Slices of four sizes are compared
    with parabolas. An upper estimate where the valley is sharper than that.
    """
    unit = 1e-4 * np.random.default_rng(0).standard_normal((64, len(log_loss)))
    every = np.vstack(
        [log_loss, log_loss + unit]
    )  # runs may be averaged or interpolated: their noise is less
    curves = [(np.log(s.N), s.losses(every)) for s in made]
    found: list[Array] = []
    for i, (x, y) in enumerate(curves):
        lowest = int(y[0].argmin())
        near = np.sort(np.argsort(np.abs(x - x[lowest]), kind="stable")[: min(5, len(x))])
        if len(near) < 4:
            continue
        rough = contrasts(x[near], len(near) - 2) @ y[:, near].T
        found += list(_in_units(rough))
        if i + 1 < len(curves) and not (made[i].interpolated or made[i + 1].interpolated):
            other, z = curves[i + 1]
            at = [int(np.abs(other - x[k]).argmin()) for k in near]
            if np.allclose(other[at], x[near], atol=1e-9):
                found += list(_in_units(rough - contrasts(x[near], len(near) - 2) @ z[:, at].T))
    if not found:
        return None
    values = np.abs(found)
    scale = _robust_scale(values)
    return scale, f"from the roughness of the valleys, {counted(len(values), 'comparison')}"


def _robust_scale(values: Array) -> float:
    """Return the standard deviation behind absolute values (k,), of which single ones may be far too large.

    The root mean square of those within 2.5 times the median absolute value's estimate, corrected for what
    that cuts off from normal values; of all where there are less than eight.
    """
    if len(values) < 8:
        return float(np.sqrt(np.mean(values**2)))
    near = values[values <= 2.5 * 1.4826 * np.median(values)]
    return float(np.sqrt(np.mean(near**2) / 0.911))


def _in_units(rough: Array) -> Array:
    """Return contrasts (k,) in units of the noise of one run, from those of the losses (first) and of copies
    with a little noise, (k, 1 + copies).
    """
    spread = rough[:, 1:].std(axis=1) / 1e-4
    return np.asarray(rough[:, 0] / np.where(spread > 0, spread, np.inf))


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
