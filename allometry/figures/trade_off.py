"""Tokens against steps at fixed losses, with the hyperbola of the critical batch through each.

After figure 18 of Kaplan et al. 2020.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from allometry.figures import frames, layers
from allometry.figures.axes import log_x, log_y
from allometry.report.content import Figure

if TYPE_CHECKING:
    from allometry.laws.critical_batch import CriticalBatch


def trade_off(
    targets: pd.DataFrame,
    fit: CriticalBatch,
    *,
    name: str = "tokens-against-steps",
    title: str = "Tokens against updates at fixed losses",
    caption: str | None = None,
) -> Figure:
    """Draw each target loss in one colour: the steps S and tokens E of each batch, and the fitted hyperbola.

    `targets` has the columns loss, S, E and B; `fit` gives S_min and E_min at the same losses. Raises
    AllometryError for missing columns or an empty table.
    """
    table = frames.finite(targets, ["loss", "S", "E"], title)
    position = log_x("S"), log_y("E", title="Training tokens E = B S")
    ramp = layers.ordered_colour(table["loss"], "loss", title="Test loss")
    lines = _hyperbolas(table, fit)
    drawn = layers.lines(lines, *position, detail=["loss"], colour=ramp, width=1.6)
    tips = layers.run_tips(table, "loss", "S", "E", "B", "lr", "run")
    dots = layers.points(table, *position, tips=tips, colour=ramp)
    return Figure(
        name=name,
        title=title,
        caption=caption or _caption(table),
        chart=layers.compose(drawn, dots, params=ramp.params, height=380, holder=dots),
        table=table,
    )


def _hyperbolas(table: pd.DataFrame, fit: CriticalBatch) -> pd.DataFrame:
    """Return S = S_min + E_min/B over a little more than the batches tried (Kaplan et al. 2020, eq. 5.1)."""
    B = frames.log_grid(table["E"] / table["S"], beyond=2.0)
    found = fit.table[fit.table["loss"].isin(table["loss"])]
    lines = found[["loss", "S_min", "E_min"]].merge(pd.DataFrame({"B": B}), how="cross")
    steps = lines["S_min"] + lines["E_min"] / lines["B"]
    return lines.assign(S=steps, E=steps * lines["B"])[["loss", "S", "E"]]


def _caption(table: pd.DataFrame) -> str:
    batches = (table["E"] / table["S"]).round()
    return (
        f"{table['loss'].nunique()} losses, batches from {batches.min():.0f} to {batches.max():.0f} tokens, "
        "each at the learning rate that arrives first. Lines: (S/S_min − 1)(E/E_min − 1) = 1, fitted in log "
        "space at each loss."
    )
