"""The compute frontier: the lowest loss that any run reaches at each compute (Kaplan et al. 2020, section
3.3 and D.7; Hoffmann et al. 2022, approach 1).

The envelope is taken in (log C, log L), and only where the answer is not decided by the table's edge:
neither the smallest nor the largest model may be the winner, and the winner's neighbours in size must have
been measured at that compute too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from allometry.errors import AllometryError
from allometry.laws.estimate import Array, Caution
from allometry.laws.frontier import OffsetPower, PowerLine, line, offset_power, power_line

KEPT = ""


def envelope(curves: pd.DataFrame, *, per_decade: int = 24) -> pd.DataFrame:
    """The best run at each of a row of log-spaced computes: columns C, loss, run, N, D, excluded.

    `curves` has columns run, N, C (FLOPs), loss (nats) and possibly D; several rows a run make a learning
    curve. If every run has one row (a table of finished runs), the runs of one size N make a curve.
    `excluded` is empty for a point of the frontier, else the reason why the point cannot be trusted. D is
    C/(6N) where no column D is given.

    Raises AllometryError for missing columns, fewer than three sizes, or curves that do not overlap.
    """
    grid, losses, curve = _tabulate(_curves(curves), per_decade)
    return _winners(grid, losses, curve)


def frontier(curves: pd.DataFrame, *, per_decade: int = 24) -> pd.DataFrame:
    """The trustworthy part of `envelope`: columns C, loss, run, N, D; rows ordered by C.

    Raises AllometryError where nothing is left: then no size between the smallest and the largest ever wins.
    """
    every = envelope(curves, per_decade=per_decade)
    kept = every[every["excluded"] == KEPT]
    if len(kept) < 2:
        reasons = every["excluded"].value_counts().to_dict()
        seen = "; ".join(f"{text} ({count} points)" for text, count in reasons.items())
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
    warnings: tuple[Caution, ...]

    @property
    def a(self) -> Any:
        """Exponent of N_opt ∝ C^a, an `Estimate`."""
        return self.N.exponent

    @property
    def b(self) -> Any:
        """Exponent of D_opt ∝ C^b, an `Estimate`."""
        return self.D.exponent

    def report(self) -> str:
        """What a reader needs to judge the frontier, as text."""
        low, high = self.loss.x_range
        lines = [
            f"envelope of {self.runs} runs, C from {low:.3g} to {high:.3g} FLOPs ({len(self.points)} points)",
            f"  {self.loss.formula}   exponent {self.loss.exponent.text()} (95 %)",
            f"  L = E + (C_c/C)^a   E {self.loss_offset.E.text()}, a {self.loss_offset.exponent.text()}",
            f"  {self.N.formula}   a {self.a.text()}",
            f"  {self.D.formula}   b {self.b.text()}",
            "  intervals: 95 %, bootstrap over runs",
        ]
        return "\n".join(lines + [f"  warning: {w}" for w in self.warnings])

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON."""
        return {
            "method": "envelope",
            "runs": self.runs,
            "loss": self.loss.to_dict(),
            "loss_offset": self.loss_offset.to_dict(),
            "N": self.N.to_dict(),
            "D": self.D.to_dict(),
            "warnings": [str(w) for w in self.warnings],
            "points": self.points.to_dict("records"),
        }


def fit_envelope(
    curves: pd.DataFrame, *, per_decade: int = 24, bootstrap: int = 400, seed: int = 0
) -> EnvelopeFit:
    """Fit the frontier's power laws, with intervals from a bootstrap over whole runs (cluster bootstrap).

    The envelope is a minimum: leaving runs out can only raise it, so the bootstrap's loss is a little high.
    The draws are shifted to the estimate; how far they had to be is reported where it exceeds half of their
    spread.
    """
    points = frontier(curves, per_decade=per_decade)
    table = _curves(curves)
    grid, losses, curve = _tabulate(table, per_decade)
    draws = _resample(grid, losses, curve, bootstrap, np.random.default_rng(seed))
    x = points["C"].to_numpy(float)
    offset = offset_power("C", (x, points["loss"].to_numpy(float)), [(d[0], d[1]) for d in draws])
    lines = {name: _line(points, draws, name) for name in ("loss", "N", "D")}
    return EnvelopeFit(
        points=points, loss=lines["loss"][0], N=lines["N"][0], D=lines["D"][0], loss_offset=offset,
        runs=int(curve["run"].nunique()), warnings=_cautions(points, lines, offset, len(draws), bootstrap),
    )  # fmt: skip


def by_size(frame: pd.DataFrame) -> pd.DataFrame:
    """A table of finished runs read as one curve a size: the runs of one N, repeats at one compute
    averaged."""
    curve = frame.assign(run=[f"N={n:.6g}" for n in frame["N"]])
    return curve.groupby(["run", "N", "C"], as_index=False, sort=False).mean(numeric_only=True)


def _curves(frame: pd.DataFrame) -> pd.DataFrame:
    missing = [name for name in ("N", "C", "loss") if name not in frame]
    if missing:
        raise AllometryError(
            f"the envelope needs the columns N, C and loss; missing: {', '.join(missing)}",
            hint="map them, as in columns={'N': 'params', 'C': '6*N*D'}",
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
    columns = ["run", "N", "D", "C", "loss"]
    single = table["run"].value_counts().max() == 1
    return by_size(table[columns]) if single else table[columns]


def _tabulate(table: pd.DataFrame, per_decade: int) -> tuple[Array, Array, pd.DataFrame]:
    """Log-spaced computes (G,), log losses (runs, G) with NaN outside a run's range, and one row a run."""
    low, high = np.log(table["C"].min()), np.log(table["C"].max())
    count = max(8, round((high - low) / np.log(10) * per_decade))
    grid = np.linspace(low, high, count)
    losses, rows = [], []
    for run, curve in table.sort_values("C").groupby("run", sort=False):
        x, y = np.log(curve["C"].to_numpy(float)), np.log(curve["loss"].to_numpy(float))
        losses.append(np.interp(grid, x, y, left=np.nan, right=np.nan))
        rows.append(
            {
                "run": run,
                "N": float(curve["N"].iloc[0]),
                "k": float((curve["C"] / (curve["N"] * curve["D"])).median()),
            }
        )
    return grid, np.array(losses), pd.DataFrame(rows)


def _winners(grid: Array, losses: Array, curve: pd.DataFrame) -> pd.DataFrame:
    covered = np.isfinite(losses).any(0)
    if not covered.any():
        raise AllometryError(
            "no compute lies within the range of any curve", hint="give at least two points a curve"
        )
    grid, losses = grid[covered], losses[:, covered]
    winner = np.nanargmin(np.where(np.isfinite(losses), losses, np.inf), axis=0)
    size = curve["N"].to_numpy(float)
    C, N = np.exp(grid), size[winner]
    return pd.DataFrame(
        {
            "C": C,
            "loss": np.exp(losses[winner, np.arange(len(grid))]),
            "run": curve["run"].to_numpy()[winner],
            "N": N,
            "D": C / (curve["k"].to_numpy(float)[winner] * N),
            "excluded": _reasons(losses, size, N),
        }
    )


def _reasons(losses: Array, size: Array, won: Array) -> list[str]:
    """Why each point is out: the window between the last win of the smallest and the first of the largest
    size."""
    sizes = np.unique(size)
    measured = np.array([np.isfinite(losses[size == n]).any(0) for n in sizes])  # (sizes, G)
    rank = np.searchsorted(sizes, won)
    reasons = np.full(len(won), KEPT, dtype=object)
    inner = (rank > 0) & (rank < len(sizes) - 1)
    at = np.arange(len(won))
    below = measured[np.maximum(rank - 1, 0), at]
    above = measured[np.minimum(rank + 1, len(sizes) - 1), at]
    reasons[~below | ~above] = "a neighbouring size was not measured at this compute"
    reasons[rank == 0] = "the smallest size wins"
    reasons[rank == len(sizes) - 1] = "the largest size wins"
    if inner.any():
        reasons[: np.argmax(rank > 0)] = "the smallest size wins"
    return [str(reason) for reason in reasons]


def _resample(
    grid: Array, losses: Array, curve: pd.DataFrame, count: int, rng: np.random.Generator
) -> list[tuple[Array, Array, Array, Array]]:
    """Frontiers (C, loss, N, D) of runs drawn with replacement; draws without a window are left out."""
    draws = []
    for _ in range(count):
        chosen: NDArray[np.int64] = np.unique(rng.integers(0, len(curve), len(curve)))
        part = curve.iloc[chosen]
        if part["N"].nunique() < 3 or not np.isfinite(losses[chosen]).any():
            continue
        table = _winners(grid, losses[chosen], part)
        table = table[table["excluded"] == KEPT]
        if len(table) >= 4:
            draws.append(tuple(table[name].to_numpy(float) for name in ("C", "loss", "N", "D")))
    return draws  # type: ignore[return-value]


def _line(points: pd.DataFrame, draws: Sequence[tuple[Array, ...]], name: str) -> tuple[PowerLine, float]:
    """The line of one column against C and the bias of its bootstrap in units of its spread."""
    which = ("loss", "N", "D").index(name) + 1
    C, y = points["C"].to_numpy(float), points[name].to_numpy(float)
    center = np.log(C).mean()
    rows = []
    for draw in draws:
        slope, level = line(np.log(draw[0]), np.log(draw[which]), np.ones(len(draw[0])))
        rows.append((float(slope), float(level + slope * (center - np.log(draw[0]).mean()))))
    samples = np.array(rows).reshape(-1, 2)
    bare = power_line(
        "C", "L" if name == "loss" else name, (C, y), np.empty((0, len(C))), sigma=np.ones(len(C))
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
) -> tuple[Caution, ...]:
    found = []
    sizes, span = points["N"].nunique(), points["C"].max() / points["C"].min()
    if sizes < 3:
        text = f"only {sizes} different sizes win inside the window; the exponents rest on their spacing"
        found.append(Caution(name="few sizes on the frontier", text=text))
    if span < 10:
        text = f"the window spans only a factor of {span:.2g} in compute"
        found.append(Caution(name="short window", text=text))
    if usable < 0.8 * asked:
        text = f"{asked - usable} of {asked} resamples had no usable window; the intervals are too narrow"
        found.append(Caution(name="unstable envelope", text=text))
    biased = [f"{name} by {bias:.1f}" for name, (_, bias) in lines.items() if bias > 0.5]
    if biased:
        shifts = ", ".join(biased)
        text = f"leaving runs out shifts the exponent ({shifts} standard deviations); the draws were centred"
        found.append(Caution(name="envelope bias", text=text))
    if not offset.floor_found:
        text = (
            "the offset E is not identified here: zero lies in its interval, and its exponent moves with it"
        )
        found.append(Caution(name="floor not identified", text=text))
    return tuple(found)
