"""How much a run's loss varies when only its seed changes, estimated from what a table holds."""

from __future__ import annotations

import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError
from allometry.core.units import counted
from allometry.laws.estimate import Array
from allometry.laws.slices import Slice


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
    return (
        scale,
        f"from the roughness of {counted(len(residuals), 'curve')}, {counted(dof, 'degree')} of freedom",
    )


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
