"""Loss by position in the context: how much a token gains from what stands before it (Kaplan et al. 2020,
fig. 7, 20 and 21).

A curve's row holds the mean test loss at each position under the key BY_POSITION: one number for each of the
first 64 positions and, beyond, one for each bin of an eighth of an octave, so that a context of 1024 takes 96
numbers. Positions count from 1: the loss at position t is that of the token predicted from the t before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pandas as pd

from allometry.runs.record import BY_POSITION, RunRecord, curve_rows

SINGLE = 64
"""Positions up to here have a number each."""

BINS_PER_OCTAVE = 8
"""Beyond them so many bins for each doubling of the position."""

POSITION_COLUMNS = ("run", "step", "position", "loss")
"""Columns of the long table of losses by position."""

_DIGITS = 5

_LONGEST = 2**32
"""The longest context of which positions are read."""


def bins(n_ctx: int) -> list[tuple[int, int]]:
    """Return the first and last position of every bin of a context, both included; a pure function of `n_ctx`."""
    octaves = max(0.0, math.log2(n_ctx / SINGLE))
    edges = [
        round(SINGLE * 2 ** (k / BINS_PER_OCTAVE)) for k in range(math.ceil(octaves * BINS_PER_OCTAVE) + 1)
    ]
    singles = [(position, position) for position in range(1, min(SINGLE, n_ctx) + 1)]
    return singles + [(a + 1, min(b, n_ctx)) for a, b in pairwise(edges)]


def middles(n_ctx: int) -> npt.NDArray[np.float64]:
    """Return the position that stands for each bin, from 1: the geometric mean of its first and last."""
    return np.array([math.sqrt(first * last) for first, last in bins(n_ctx)])


def by_position(losses: npt.NDArray[np.floating]) -> list[float]:
    """Return the mean over the sequences of `losses` (sequences, n_ctx), by bin, to five significant digits."""
    means = losses.mean(axis=0, dtype=np.float64)
    return [float(f"{means[a - 1 : b].mean():.{_DIGITS}g}") for a, b in bins(losses.shape[1])]


def read_positions(record: RunRecord) -> pd.DataFrame:
    """Return the losses by position that a run recorded: POSITION_COLUMNS, a row for each bin of each evaluation.

    Empty for runs that were recorded without them. A step recorded twice counts once, the last time.
    """
    rows, _ = curve_rows(record.path)
    newest = {row["step"]: row[BY_POSITION] for row in rows if row.get(BY_POSITION)}
    n_ctx = record.config.get("model", {}).get("n_ctx")
    if not newest or type(n_ctx) is not int or not 0 < n_ctx <= _LONGEST:
        return pd.DataFrame(columns=list(POSITION_COLUMNS))
    return pd.concat([_long(record.id, step, newest[step], n_ctx) for step in sorted(newest)])


def _long(run: str, step: int, losses: Sequence[float], n_ctx: int) -> pd.DataFrame:
    count = min(len(losses), len(bins(n_ctx)))  # a row that another program wrote may hold fewer
    return pd.DataFrame(
        {"run": run, "step": step, "position": middles(n_ctx)[:count], "loss": losses[:count]},
        columns=list(POSITION_COLUMNS),
    )
