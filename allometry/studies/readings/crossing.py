"""Where the frontier would meet the loss that its own data allow.

Kaplan et al. 2020, section 6.3 and figure 15.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from allometry.laws.estimate import Array, percentile_interval
from allometry.report.content import Section
from allometry.studies.core.sections import LEVEL, Reading
from allometry.studies.readings.efficient import adjusted_frontier
from allometry.units import PF_DAY

if TYPE_CHECKING:
    from allometry.laws.envelope import EnvelopeFit
    from allometry.laws.frontier import PowerLine
    from allometry.studies.readings.adjusted import Frontiers


def crossing(found: Frontiers, joint: Any) -> Reading:
    """Where L(C_min) would meet the loss that its own data allow, L(D(C_min)) (figure 15)."""
    from allometry.figures.several import several

    _, fitted = adjusted_frontier(found)
    low, high = fitted.loss.x_range
    draws = _crossings(fitted, joint)
    point = _cross(
        (fitted.loss.slope, _at(fitted.loss)), (fitted.N.slope, _at(fitted.N)),
        (joint.parameters["alpha_D"], joint.parameters["D_c"]),
    )  # fmt: skip
    beyond = point / high if np.isfinite(point) else 1e3
    grid = np.geomspace(low, high * min(max(beyond, 10) * 10, 1e12), 60)
    alpha, scale = joint.parameters["alpha_D"], joint.parameters["D_c"]
    data = (scale / (2 * grid / (6 * fitted.N.predict(grid)))) ** alpha
    lines = pd.concat([
        pd.DataFrame({"series": "L(C_min)", "C": grid, "loss": fitted.loss.predict(grid)}),
        pd.DataFrame({"series": "L(D(C_min)), what one epoch's tokens allow", "C": grid, "loss": data}),
    ])  # fmt: skip
    figure = several(
        fitted.points[["C", "loss"]].assign(series="L(C_min)"), lines, x="C",
        x_title="Minimum compute C_min (FLOPs)", name="crossing",
        title="Where the frontier would run out of data",
        caption=f"{len(fitted.points)} points measured; all else is extrapolation. L(D) is Kaplan's L(N, D) "
        "as N → ∞, D = "
        "2 C_min/(6 N_opt) (equation 6.7).",
    )  # fmt: skip
    text = _crossing_text(fitted, point, draws, high)
    return Reading(
        section=Section(title="The frontier against its own data", text=text, evidence=(figure,)),
        fits={"crossing": (point, draws)},
    )


def _at(line: PowerLine) -> float:
    """Log of the line's value at x = 1."""
    return line.level - line.slope * line.center


def _cross(loss: Any, size: Any, data: Any) -> Any:
    """C at which exp(l0) C^l1 = (D_c/D)^α_D with D = C/(3 N), N = exp(n0) C^n1; NaN where the lines part."""
    (l1, l0), (n1, n0), (alpha, scale) = loss, size, data
    slope = -alpha * (1 - n1) - l1
    level = alpha * (np.log(scale) + np.log(3.0) + n0) - l0
    with np.errstate(all="ignore"):
        return np.where(slope > 0, np.exp(np.clip(-level / slope, -700, 700)), np.nan)[()]


def _crossings(fitted: EnvelopeFit, joint: Any, count: int = 2000) -> Array:
    """Draws of the crossing: the frontier's resamples with those of L(N, D)."""
    rng = np.random.default_rng(0)
    rows = rng.integers(min(len(fitted.loss.draws), len(fitted.N.draws)), size=count)
    which = rng.integers(len(joint.samples), size=count)

    def drawn(line: PowerLine) -> tuple[Array, Array]:
        slope, level = line.draws[rows].T
        return slope, level - slope * line.center

    data = joint.samples["alpha_D"].to_numpy()[which], joint.samples["D_c"].to_numpy()[which]
    return np.asarray(_cross(drawn(fitted.loss), drawn(fitted.N), data))


def _crossing_text(fitted: EnvelopeFit, point: float, draws: Array, high: float) -> str:
    known = draws[np.isfinite(draws) & (draws > high)]
    share = len(known) / len(draws)
    paper = (
        "Kaplan et al.: the loss of the frontier falls faster than one epoch of its own data allows, so the "
        "lines must "
        "cross, at about 10⁴ PF-days, 10¹² parameters and 1.7 nats per token, give or take an order of "
        "magnitude. "
    )
    if not np.isfinite(point) or point < high:
        return (
            f"{paper}Our constants, carried on, do not cross beyond what we measured: one epoch's data allow "
            "a loss that "
            "falls at least as fast as the frontier's, so nothing runs out."
        )
    low, up = percentile_interval(known, LEVEL)
    return (
        f"{paper}Ours, carried on {point / high:.0e} times beyond the largest compute measured, would cross "
        "at C = "
        f"{point:.0e} FLOPs ({point / PF_DAY:.0e} PF-days), N = {float(fitted.N.predict(point)):.0e} and L = "
        f"{float(fitted.loss.predict(point)):.2f}; {100 * share:.0f} % of the resamples cross at all, 95 % "
        "of those "
        f"between {low:.0e} and {up:.0e} FLOPs. This is what the constants say and no forecast: power laws "
        "without a "
        "floor, of bytes at a context of 64, are carried past where the floor that these losses show would "
        "bend them."
    )
