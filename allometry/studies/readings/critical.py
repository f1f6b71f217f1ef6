"""The critical batch as other readings use it: steps and compute adjusted to what the best batch would take.

S_min = S/(1 + B_crit(L)/B) and C_min = C/(1 + B/B_crit(L)) (Kaplan et al. 2020, eq. 5.4 and 5.5), with L the
loss at the same point. Where B_crit was not measured, readings go on at the fixed batch and say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from allometry.errors import AllometryError
from allometry.laws.critical_batch import c_min, s_min
from allometry.studies.readings.batches import BatchLaw, critical_batch

if TYPE_CHECKING:
    import pandas as pd

    from allometry.laws.estimate import Array


@dataclass(frozen=True, kw_only=True)
class Critical:
    """B_crit(L), or None with the reason why it cannot be had."""

    law: BatchLaw | None
    reason: str = ""

    @property
    def steps(self) -> str:
        """The column of steps that readings use: S_min where B_crit is known, else S."""
        return "S_min" if self.law else "S"

    @property
    def compute(self) -> str:
        """The column of compute: C_min where B_crit is known, else C."""
        return "C_min" if self.law else "C"

    def adjusted(self, points: pd.DataFrame) -> pd.DataFrame:
        """`points` (columns loss, B, S, C, D) with B_crit, S_min, C_min and E_min, where B_crit is known."""
        if self.law is None:
            return points
        crit = self.law(points["loss"].to_numpy(float))
        share = 1 + points["B"].to_numpy(float) / crit
        return points.assign(
            B_crit=crit,
            S_min=s_min(points["S"], points["B"], crit),
            C_min=c_min(points["C"], points["B"], crit),
            E_min=points["D"].to_numpy(float) / share,
        )

    def drawn(self, points: pd.DataFrame, count: int) -> list[Critical]:
        """`count` copies whose B_crit is a draw of the fit, to carry its uncertainty through a reading."""
        if self.law is None:
            return []
        rows = np.linspace(0, len(self.law.line.draws) - 1, count).astype(int)
        return [Critical(law=_fixed(self.law, int(row))) for row in rows]

    def sentence(self, points: pd.DataFrame) -> str:
        """What was corrected by what, in words."""
        if self.law is None:
            return (
                f"B_crit could not be had ({self.reason}), so steps and compute are those of the fixed batch "
                "of "
                f"{points['B'].iloc[0]:,.0f} tokens."
            )
        low, high = (float(self.law(x)) for x in (points["loss"].max(), points["loss"].min()))
        seen = self.law.losses
        outside = float(((points["loss"] < seen[0]) | (points["loss"] > seen[1])).mean())
        beyond = f", extrapolated at {100 * outside:.0f} % of the points" if outside > 0.005 else ""
        return (
            f"B_crit was measured by the scan of batches: {low:,.0f} tokens at the highest of these losses "
            "and "
            f"{high:,.0f} at the lowest{beyond}, against a batch of {points['B'].iloc[0]:,.0f}."
        )


def _fixed(law: BatchLaw, row: int) -> BatchLaw:
    """The law at one of its draws."""
    from dataclasses import replace

    slope, level = law.line.draws[row]
    return replace(law, line=replace(law.line, slope=float(slope), level=float(level)))


def critical(runs: pd.DataFrame, curves: pd.DataFrame) -> Critical:
    """B_crit(L) from the scan among the runs; never raises: without a scan, the reason is kept."""
    try:
        return Critical(law=critical_batch(runs, curves))
    except AllometryError as error:
        return Critical(law=None, reason=error.message)


def solve_loss(law: BatchLaw | None, loss_at: object, S: Array, B: float) -> Array:
    """The loss of a law of S_min at S steps of batch B: B_crit depends on the loss, so it is iterated.

    `loss_at` maps S_min (array) to the loss.
    """
    assert callable(loss_at)
    loss = np.asarray(loss_at(S), float)
    if law is None:
        return loss
    for _ in range(40):
        loss = 0.5 * loss + 0.5 * np.asarray(loss_at(s_min(S, B, law(loss))), float)
    return loss
