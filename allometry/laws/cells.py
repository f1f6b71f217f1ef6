"""Runs of an isoFLOP table that do not belong: diverged, unfinished or mislabelled ones.

One such run moves the optimum of its budget, and with it the exponent, so they are named and left out.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from allometry.laws.estimate import Array
from allometry.laws.fit import solve
from allometry.laws.problem import Problem
from allometry.laws.solver import get_objective
from allometry.laws.uncertainty import outlying
from allometry.laws.zoo import get

OFF_COMPUTE = 0.15
"""Difference of log C/(6ND) from that of runs of like size that rounding and counting do not explain."""
OFF_LOSS = 0.005
"""Smallest relative distance from the law of the others that counts as far."""
APART = 2.0
"""A far loss is also so many times as far off as the worst of the others: laws that bend leave no gap."""
MOST = 0.2
"""Share of the rows above which they are no exceptions: then the law, or the count of C, is another."""

_LAW = get("chinchilla")


def misfits(table: pd.DataFrame) -> pd.Series:
    """Return why rows of a table (columns N, D, C, loss) do not belong, indexed as the table; only those.

    Two checks: C/(6ND) against that of the runs of like size, and the loss against Chinchilla's law fitted to
    all rows by absolute deviations, which single rows do not move.
    """
    ratio = table["C"].to_numpy(float) / (6 * table["N"].to_numpy(float) * table["D"].to_numpy(float))
    reasons = [""] * len(table)
    off = _off_compute(np.log(ratio), np.log(table["N"].to_numpy(float)))
    unlike = np.abs(off) > OFF_COMPUTE
    if unlike.mean() <= MOST:
        for i in np.flatnonzero(unlike):
            reasons[i] = (
                f"C/(6ND) is {np.exp(off[i]):.3g} times that of runs of like size:"
                f" {100 * np.exp(-off[i]):.0f} % of the tokens of its compute"
            )
    rest = [i for i, reason in enumerate(reasons) if not reason]
    distance = _off_loss(table.iloc[rest])
    far = np.flatnonzero(distance)
    if len(far) <= MOST * len(table):
        for i in far:
            reasons[rest[i]] = f"loss {100 * np.expm1(distance[i]):+.3g} % off the law of the other runs"
    found = pd.Series(reasons, index=table.index, dtype=object)
    return found[found != ""]


def _off_compute(log_ratio: Array, log_size: Array) -> Array:
    """Return each row's log ratio less that of rows of like size, (n,); 0 where that is within the scatter.

    Rows of like size are the three next smaller and the three next larger, as they are and continued by the
    three beyond them: the ratio may change with size. The nearest of these four decides.
    """
    order = np.lexsort((log_ratio, log_size))
    values, off = log_ratio[order], np.zeros(len(order))
    for i in range(len(order)):
        found = []
        for side in (values[:i][::-1], values[i + 1 :]):
            if len(side) >= 3:
                near = float(np.median(side[:3]))
                found.append(near)
                if len(side) >= 6:
                    found.append(2 * near - float(np.median(side[3:6])))
        off[order[i]] = min((values[i] - f for f in found), key=abs, default=0.0)
    scale = 1.4826 * float(np.median(np.abs(off)))
    return np.where(np.abs(off) > 6 * scale, off, 0.0)


def _off_loss(table: pd.DataFrame) -> NDArray[np.float64]:
    """Return the log distance of each far row from the law of the others; 0 for rows that are not far."""
    off = distances(table)
    if off is None:
        return np.zeros(len(table))
    far = outlying(off, len(_LAW.parameters))
    apart = max(OFF_LOSS, APART * float(np.abs(off[~far]).max(initial=0.0)))
    return np.where(far & (np.abs(off) > apart), off, 0.0)


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
