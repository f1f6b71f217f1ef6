"""The compute frontier: the lowest loss that any run reaches at each compute (Kaplan et al. 2020, section 3.3 and
D.7; Hoffmann et al. 2022, approach 1).

The envelope is taken in (log C, log L), and only where the answer is not decided by the table's edge:
neither the smallest nor the largest model may be the winner, and the winner's neighbours in size must have
been measured at that compute too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from allometry.core.errors import AllometryError
from allometry.core.units import counted
from allometry.laws.power_lines import OffsetPower, PowerLine, line, offset_power, power_line
from allometry.laws.result import FitWarning
from allometry.laws.slices import repeat_noise, roughness
from allometry.laws.uncertainty import Array, said

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


def envelope(curves: pd.DataFrame, *, per_decade: int = 24) -> pd.DataFrame:
    """Return the best run at each of a row of log-spaced computes: columns C, loss, run, N, D, N_opt,
    excluded.

    `curves` has columns run, N, C (FLOPs), loss (nats) and possibly D; several rows a run make a learning
    curve. If every run has one row (a table of finished runs), the runs of one size N make a curve.
    `excluded` is empty for a point of the frontier, else the reason why the point cannot be trusted. D is
    C/(6N) where no column D is given.

    Raises AllometryError for missing columns, fewer than three sizes, or curves that do not overlap.
    """
    read = read_curves(curves)
    grid = read.grid(per_decade)
    return winners(read, grid, read.losses(grid)).frame()


def frontier(curves: pd.DataFrame, *, per_decade: int = 24) -> pd.DataFrame:
    """Return the trustworthy part of `envelope`: columns C, loss, run, N, D, N_opt; ordered by C.

    Raises AllometryError where nothing is left: then no size between the smallest and the largest ever
    wins.
    """
    every = envelope(curves, per_decade=per_decade)
    kept = every[every["excluded"] == KEPT]
    if len(kept) < 2:
        reasons = every["excluded"].value_counts().to_dict()
        seen = "; ".join(f"{text} ({counted(count, 'point')})" for text, count in reasons.items())
        raise AllometryError(
            f"the envelope has no window in which a size between the smallest and the largest wins: {seen}",
            hint="add sizes, or train the sizes over a wider range of compute",
        )
    return kept.drop(columns="excluded").reset_index(drop=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class EnvelopeFit:
    """Power laws along the frontier: loss without (`loss`) and with (`loss_offset`) an offset, N and D
    against C."""

    points: pd.DataFrame
    loss: PowerLine
    loss_offset: OffsetPower
    N: PowerLine
    D: PowerLine
    runs: int
    how: str
    warnings: tuple[FitWarning, ...]

    @property
    def a(self) -> Any:
        """Exponent of N_opt ∝ C^a, an `Estimate`."""
        return self.N.exponent

    @property
    def b(self) -> Any:
        """Exponent of D_opt ∝ C^b, an `Estimate`."""
        return self.D.exponent

    def report(self) -> str:
        """Return the frontier, its fit and its warnings as text."""
        low, high = self.loss.x_range
        lines = [
            f"envelope of {counted(self.runs, 'curve')}, C {low:.3g} to {high:.3g} FLOPs "
            f"({counted(len(self.points), 'point')})",
            f"  {self.loss.formula}   exponent {self.loss.exponent.text()} (95 %)",
            f"  L = E + (C_c/C)^a   E {self.loss_offset.E.text()}, a {self.loss_offset.exponent.text()}",
            f"  {self.N.formula}   a {self.a.text()}",
            f"  {self.D.formula}   b {self.b.text()}",
            f"  intervals: 95 %, {self.how}",
        ]
        return "\n".join(lines + [f"  warning: {w}" for w in said(self.warnings)])

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain JSON."""
        return {
            "method": "envelope",
            "runs": self.runs,
            "intervals": self.how,
            "loss": self.loss.to_dict(),
            "loss_offset": self.loss_offset.to_dict(),
            "N": self.N.to_dict(),
            "D": self.D.to_dict(),
            "warnings": said(self.warnings),
            "points": self.points.to_dict("records"),
        }


def fit_envelope(
    curves: pd.DataFrame, *, per_decade: int = 24, bootstrap: int = 400, seed: int = 0
) -> EnvelopeFit:
    """Fit the frontier's power laws, with intervals.

    Learning curves: a bootstrap over whole runs (cluster bootstrap). A table of finished runs: each run is
    a point of its size's curve, and draws add the noise of one run (from repeats, else from the roughness
    of the curves).

    The envelope is a minimum: leaving runs out can only raise it, so the bootstrap's loss is a little high.
    The draws are shifted to the estimate; how far they had to be is reported where it exceeds half of their
    spread.
    """
    points = frontier(curves, per_decade=per_decade)
    read, rng = read_curves(curves), np.random.default_rng(seed)
    how, draws = (_perturb if read.finished else _resample)(read, per_decade, bootstrap, rng, curves)
    x = points["C"].to_numpy(float)
    offset = offset_power("C", (x, points["loss"].to_numpy(float)), [(d[0], d[1]) for d in draws])
    lines = {name: _line(points, draws, name) for name in ("loss", "N", "D")}
    return EnvelopeFit(
        points=points, loss=lines["loss"][0], N=lines["N"][0], D=lines["D"][0], loss_offset=offset,
        runs=len(read.N), how=how, warnings=_cautions(points, lines, offset, len(draws), bootstrap),
    )  # fmt: skip


Draw = tuple[Array, Array, Array, Array]


def _resample(
    curves: Curves, per_decade: int, count: int, rng: np.random.Generator, frame: pd.DataFrame
) -> tuple[str, list[Draw]]:
    """Return frontiers (C, loss, N, D) of runs drawn with replacement; draws without a window are left out."""
    grid = curves.grid(per_decade)
    losses, draws = curves.losses(grid), []
    for _ in range(count):
        chosen = np.unique(rng.integers(0, len(curves.N), len(curves.N)))
        part = replace(curves, run=curves.run[chosen], N=curves.N[chosen], k=curves.k[chosen])
        if len(np.unique(part.N)) >= 3 and np.isfinite(losses[chosen]).any():
            draws += _usable(winners(part, grid, losses[chosen]))
    return "bootstrap over runs", draws


def _perturb(
    curves: Curves, per_decade: int, count: int, rng: np.random.Generator, frame: pd.DataFrame
) -> tuple[str, list[Draw]]:
    """Return frontiers of finished runs with fresh noise on every loss."""
    grid, log_loss = curves.grid(per_decade), np.log(frame["loss"].to_numpy(float))
    known = repeat_noise(frame, log_loss) if "D" in frame else None
    sigma, source = known or roughness(list(curves.points)) or (0.0, "unknown")
    every = [along(x, y + sigma * rng.standard_normal((count, len(x))), grid) for x, y in curves.points]
    draws = [d for losses in np.stack(every, axis=1) for d in _usable(winners(curves, grid, losses))]
    return f"noise of one run {sigma:.2g} of the loss ({source})", draws


def _usable(won: Winners) -> list[Draw]:
    kept = won.kept()
    return [kept] if len(kept[0]) >= 4 else []


def _tokens(points: pd.DataFrame) -> Array:
    """Return D of the best size: C = k N D with the winner's own k."""
    return np.asarray((points["D"] * points["N"] / points["N_opt"]).to_numpy(float))


def _line(points: pd.DataFrame, draws: Sequence[tuple[Array, ...]], name: str) -> tuple[PowerLine, float]:
    """Return the line of one column against C; bias of its draws in units of their spread."""
    which = ("loss", "N", "D").index(name) + 1
    C = points["C"].to_numpy(float)
    y = {"loss": points["loss"].to_numpy(float), "N": points["N_opt"].to_numpy(float), "D": _tokens(points)}[
        name
    ]
    center = np.log(C).mean()
    rows = []
    for draw in draws:
        slope, level = line(np.log(draw[0]), np.log(draw[which]), np.ones(len(draw[0])))
        rows.append((float(slope), float(level + slope * (center - np.log(draw[0]).mean()))))
    samples = np.array(rows).reshape(-1, 2)
    bare = power_line(
        "C", "L" if name == "loss" else f"{name}_opt", (C, y), np.empty((0, len(C))), sigma=np.ones(len(C))
    )
    bias = samples.mean(0) - (bare.slope, bare.level) if len(samples) else np.zeros(2)
    spread = samples.std(0, ddof=1) if len(samples) > 1 else np.ones(2)
    fitted = PowerLine(
        x=bare.x, y=bare.y, center=bare.center, slope=bare.slope, level=bare.level,
        draws=samples - bias, scatter=float("nan"), x_range=bare.x_range,
    )  # fmt: skip
    return fitted, float(abs(bias[0]) / max(spread[0], 1e-12))


def _cautions(
    points: pd.DataFrame,
    lines: dict[str, tuple[PowerLine, float]],
    offset: OffsetPower,
    usable: int,
    asked: int,
) -> tuple[FitWarning, ...]:
    found = []
    sizes, span = points["N"].nunique(), points["C"].max() / points["C"].min()
    if sizes < 3:
        text = f"only {sizes} different sizes win inside the window; the exponents rest on their spacing"
        found.append(FitWarning(name="few sizes on the frontier", meaning=text))
    if span < 10:
        text = f"the window spans only a factor of {span:.2g} in compute"
        found.append(FitWarning(name="short window", meaning=text))
    if usable < 0.8 * asked:
        text = f"{asked - usable} of {asked} resamples had no usable window; the intervals are too narrow"
        found.append(FitWarning(name="unstable envelope", meaning=text))
    biased = [f"{name} by {bias:.1f}" for name, (_, bias) in lines.items() if bias > 0.5]
    if biased:
        shifts = ", ".join(biased)
        text = f"resampling shifts the exponent of {shifts} standard deviations; the draws were centred"
        found.append(FitWarning(name="envelope bias", meaning=text))
    if not offset.floor_found:
        text = (
            "the offset E is not identified here: zero lies in its interval, and its exponent moves with it"
        )
        found.append(FitWarning(name="floor not identified", meaning=text))
    return tuple(found)
