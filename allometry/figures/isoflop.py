"""Slices at equal compute: loss against model size for each budget, with the fitted valley and its
lowest point.

After figure 3 (left) of Hoffmann et al. 2022 (their approach 2).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.interpolate import Akima1DInterpolator

from allometry.core.errors import unknown
from allometry.figures import frames, layers
from allometry.figures.axes import capital, log_x, log_y, quantity
from allometry.report.content import Figure


def isoflop(
    points: pd.DataFrame,
    smooth: pd.DataFrame | None = None,
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
    """Draw `y` against `x` along slices of equal `budget`, coloured by it.

    `points` has columns x, y, budget (the slice's nominal compute); `smooth` has the same three,
    densely along x: the parabola or interpolation of each slice (`valleys` makes it); `optima` has one
    row a slice with x, y, budget, and, where they are known, the interval of the optimal x in the
    columns `low` and `high`. Raises AllometryError for missing columns.
    """
    what = title or capital(f"{quantity(y).name} at equal compute")
    table = frames.finite(points, [x, y, budget], what)
    position = log_x(x), log_y(y)
    ramp = layers.ordered_colour(table[budget], budget)
    drawn = []
    if smooth is not None and len(smooth):
        drawn.append(layers.lines(smooth[[x, y, budget]], *position, detail=[budget], colour=ramp))
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
        table=table
        if optima is None
        else pd.concat([table, optima.assign(run="(optimum)")], ignore_index=True),
    )


def isoflop_slices(result: Any, *, name: str = "isoflop-slices", title: str | None = None) -> Figure:
    """Draw the slices behind an `IsoflopResult`, with the curve that its method puts through each, and the optima."""
    used = result.table[result.table["used"]] if "used" in result.table else result.table
    optima = used.rename(columns={"N_opt": "N", "N_opt_low": "low", "N_opt_high": "high"})
    kept = [c for c in ("C", "N", "loss", "low", "high") if c in optima]
    return isoflop(result.slices, valleys(result.slices, result.method), optima[kept], name=name, title=title)


def valleys(
    points: pd.DataFrame, method: str = "akima", *, x: str = "N", y: str = "loss", budget: str = "C"
) -> pd.DataFrame:
    """Return a smooth line through each slice, dense in `x`: Akima's interpolation or a parabola, both in
    log-log.

    A slice with fewer than three sizes has none. Raises AllometryError for an unknown method.
    """
    if method not in ("akima", "parabola"):
        raise unknown("method for the valley of a slice", method, ("akima", "parabola"))
    parts = []
    for value, part in points.groupby(budget):
        mean = part.groupby(x)[y].mean()
        if len(mean) < 3:
            continue
        log_x, log_y = np.log(mean.index.to_numpy(dtype=float)), np.log(mean.to_numpy(dtype=float))
        fine = np.linspace(log_x[0], log_x[-1], frames.GRID)
        smooth = (
            Akima1DInterpolator(log_x, log_y)(fine)
            if method == "akima"
            else np.polynomial.Polynomial.fit(log_x, log_y, 2)(fine)
        )
        parts.append(pd.DataFrame({budget: value, x: np.exp(fine), y: np.exp(smooth)}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({budget: [], x: [], y: []})


def _caption(table: pd.DataFrame, budget: str, marked: bool) -> str:
    text = f"{len(table)} points in {table[budget].nunique()} slices of equal compute."
    return text + (" Diamonds mark the lowest point of each slice, with its interval." if marked else "")
