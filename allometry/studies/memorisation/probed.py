"""What every analysis of probes needs: the losses of single sequences beside the run that they belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import binomtest, linregress, t

from allometry.core.units import format_count
from allometry.studies.core.sections import NotRecorded, TooFewRuns

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

LEVEL = 0.9
"""Probability of the intervals of this study's figures and constants."""


def of_kind(probes: pd.DataFrame | None, runs: pd.DataFrame, *kinds: str) -> pd.DataFrame:
    """Return the probes of these kinds, every evaluation, with N, N_total, S and seed of their runs.

    AllometryError where the runs recorded none.
    """
    known = runs[["run", "N", "N_total", "S", "seed"]]
    found = None if probes is None else probes[probes["kind"].isin(kinds)].merge(known, on="run")
    if found is None or not len(found):
        raise NotRecorded(f"no finished run recorded a probe {kinds[0]!r}")
    return found


def at_end(probes: pd.DataFrame) -> pd.DataFrame:
    """Return the last evaluation of every run."""
    last = probes.groupby("run")["step"].transform("max")
    return probes[probes["step"] == last].reset_index(drop=True)


def mean_interval(values: ArrayLike) -> tuple[float, float, float]:
    """Return the mean with Student's interval at LEVEL; without an interval (NaN) for one value."""
    kept = np.asarray(values, dtype=float)
    if len(kept) < 2:
        return float(kept.mean()), np.nan, np.nan
    half = float(t.ppf(0.5 + LEVEL / 2, len(kept) - 1) * kept.std(ddof=1) / np.sqrt(len(kept)))
    return float(kept.mean()), float(kept.mean()) - half, float(kept.mean()) + half


def proportion(successes: int, trials: int) -> tuple[float, float, float]:
    """Return a share with Wilson's interval at LEVEL, which is also right near 0 and 1."""
    found = binomtest(successes, trials).proportion_ci(LEVEL, method="wilson")
    return successes / trials, float(found.low), float(found.high)


def straight(x: ArrayLike, y: ArrayLike) -> tuple[tuple[float, float, float], float, float]:
    """Fit y = a + b x by least squares: b with Student's interval at LEVEL, a, and R².

    AllometryError for fewer than three different x: two points lie on a line whatever they are.
    """
    across, up = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(np.unique(across)) < 3:
        raise TooFewRuns("fewer than three points lie on a line anyway")
    found = linregress(across, up)
    half = float(t.ppf(0.5 + LEVEL / 2, len(across) - 2) * found.stderr)
    square = 0.0 if np.ptp(up) == 0 else float(found.rvalue**2)
    return (
        (float(found.slope), float(found.slope) - half, float(found.slope) + half),
        float(found.intercept),
        square,
    )


def size_name(n: float) -> str:
    """Return a size as a series of a figure: "N = 12.3k"."""
    return f"N = {format_count(n)}"
