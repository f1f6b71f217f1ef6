"""Slices at equal compute: loss against model size for each budget, with the fitted valley and its lowest point.

After figure 3 (left) of Hoffmann et al. 2022 (their approach 2).
"""

from __future__ import annotations

import pandas as pd

from allometry.figures import frames, layers
from allometry.figures.axes import log_x, log_y, quantity
from allometry.report.content import Figure


def isoflop(
    points: pd.DataFrame,
    valleys: pd.DataFrame | None = None,
    optima: pd.DataFrame | None = None,
    *,
    x: str = "N",
    y: str = "loss",
    budget: str = "C",
    low: str = "low",
    high: str = "high",
    name: str = "isoflop-slices",
    title: str | None = None,
    caption: str | None = None,
) -> Figure:
    """`y` against `x` along slices of equal `budget`, coloured by it.

    `points` has columns x, y, budget (the slice's nominal compute); `valleys` has the same three, densely along x: the
    parabola or interpolation of each slice; `optima` has one row a slice with x, y, budget, and, where they are known,
    the interval of the optimal x in the columns `low` and `high`. Raises AllometryError for missing columns.
    """
    what = title or f"{quantity(y).title} at equal compute"
    table = frames.finite(points, [x, y, budget], what)
    position = log_x(x), log_y(y)
    ramp = layers.ordered_colour(table[budget], budget)
    drawn = []
    if valleys is not None:
        dense = frames.finite(valleys, [x, y, budget], "the fitted slices")[[x, y, budget]]
        drawn.append(layers.lines(dense, *position, detail=[budget], colour=ramp))
    tips = layers.run_tips(table, "run", budget, x, "D", y)
    drawn.append(layers.points(table, *position, tips=tips, colour=ramp))
    if optima is not None:
        best = frames.finite(optima, [x, y, budget], "the optima").sort_values(budget)
        drawn.append(layers.lines(best[[x, y, budget]], *position, style="guide"))
        if low in best and high in best:
            drawn.append(layers.horizontal_intervals(best, position, low, high, style="optimumbar"))
        tips = layers.run_tips(best, budget, x, low, high, y)
        drawn.append(layers.points(best, *position, tips=tips, style="optimum", shape="diamond", size=110))
    return Figure(
        name=name,
        title=what,
        caption=caption or _caption(table, budget, optima is not None),
        chart=layers.compose(*drawn, params=ramp.params, height=380),
        table=table if optima is None else pd.concat([table, optima.assign(run="(optimum)")], ignore_index=True),
    )


def _caption(table: pd.DataFrame, budget: str, marked: bool) -> str:
    text = f"{len(table)} points in {table[budget].nunique()} slices of equal compute."
    return text + (" Diamonds mark the lowest point of each slice, with its interval." if marked else "")
