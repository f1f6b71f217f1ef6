"""Runs of an isoFLOP table that do not belong: diverged, unfinished or mislabelled ones.

One such run moves the optimum of its budget, and with it the exponent, so they are named and left out.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from allometry.laws.estimate import Array
from allometry.laws.fit import solve
from allometry.laws.objectives import get_objective
from allometry.laws.problem import Problem
from allometry.laws.uncertainty import outlying
from allometry.laws.zoo import get

OFF_COMPUTE = 0.15
"""Difference of log C/(6ND) from that of runs of like size that rounding and counting do not explain."""
OFF_LOSS = 0.005
"""Smallest relative distance from the law of the others that counts as far."""
MOST = 0.2
"""Share of the rows above which they are no exceptions: then the law, or the count of C, is another."""

_LAW = get("chinchilla")


def misfits(table: pd.DataFrame) -> pd.Series:
    """Return why rows of a table (columns N, D, C, loss) do not belong, indexed as the table; only those.

    Two checks: C/(6ND) against that of the runs of like size, and the loss against Chinchilla's law fitted to
    all rows by absolute deviations, which single rows do not move.
    """
    ratio = table["C"].to_numpy(float) / (6 * table["N"].to_numpy(float) * table["D"].to_numpy(float))
    reasons = pd.Series("", index=table.index, dtype=object)
    off = _off_compute(np.log(ratio), np.log(table["N"].to_numpy(float)))
    unlike = np.abs(off) > OFF_COMPUTE
    if unlike.mean() <= MOST:
        for i in np.flatnonzero(unlike):
            reasons.iloc[i] = (
                f"C/(6ND) is {np.exp(off[i]):.3g} times that of runs of like size:"
                f" {100 * np.exp(-off[i]):.0f} % of the tokens of its compute"
            )
    rest = np.flatnonzero((reasons == "").to_numpy())
    distance = _off_loss(table.iloc[rest])
    far = np.flatnonzero(distance)
    if len(far) <= MOST * len(table):
        for i in far:
            reasons.iloc[rest[i]] = f"loss {100 * np.expm1(distance[i]):+.3g} % off the law of the other runs"
    return reasons[reasons != ""]


def _off_compute(log_ratio: Array, log_size: Array) -> Array:
    """Each row's log ratio less the median of the six others nearest in size; 0 where that is its scatter."""
    order = np.lexsort((log_ratio, log_size))
    values, off = log_ratio[order], np.zeros(len(order))
    for i in range(len(order)):
        first = int(np.clip(i - 3, 0, max(len(order) - 7, 0)))
        near = np.delete(values[first : first + 7], i - first)
        off[order[i]] = values[i] - np.median(near) if len(near) else 0.0
    scale = 1.4826 * float(np.median(np.abs(off)))
    return np.where(np.abs(off) > 6 * scale, off, 0.0)


def _off_loss(table: pd.DataFrame) -> NDArray[np.float64]:
    """Log distance of each far row from the law of the others; 0 for rows that are not far."""
    off = distances(table)
    if off is None:
        return np.zeros(len(table))
    return np.where(outlying(off, len(_LAW.parameters)) & (np.abs(off) > OFF_LOSS), off, 0.0)


def distances(table: pd.DataFrame) -> Array | None:
    """Return the log of measured loss over Chinchilla's law fitted to all rows of a table, shape (n,).

    None where the table (columns N, D, loss) has too few rows, sizes or numbers of tokens to fit it.
    """
    if len(table) < 2 * len(_LAW.parameters) or min(table["N"].nunique(), table["D"].nunique()) < 4:
        return None
    problem = Problem(
        law=_LAW, objective=get_objective("huber-log"), output=table["loss"].to_numpy(float),
        inputs={n: table[n].to_numpy(float) for n in _LAW.inputs}, weights=np.ones(len(table)),
        fixed={}, tied={},
    )  # fmt: skip
    best = solve(problem)
    if not np.isfinite(best.objective):
        return None
    return np.asarray(-problem.residuals(best.z[None])[0][0])
