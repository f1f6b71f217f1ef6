"""IsoFLOP slices: the loss of several model sizes at one compute budget.

Runs may have been trained at set budgets, or on any grid of N and D; then each size's loss is interpolated
along its own D. Either way a slice is a function of the measured losses, so that noise in the runs is
carried through it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from allometry.core.errors import AllometryError
from allometry.core.units import counted
from allometry.laws.estimate import Array
from allometry.laws.grid import read_runs

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
    shares = np.eye(group[-1] + 1)[group]
    shares = shares / shares.sum(0)
    knots, means = x @ shares, y @ shares
    if len(knots) == 1:
        return np.asarray(means[..., 0])
    at = float(np.clip(wanted, knots[0], knots[-1]))
    return np.asarray(PchipInterpolator(knots, means, axis=-1)(at))
