"""A chart of any fit: the data, the law with its band, and the residuals below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from allometry.core.errors import unknown
from allometry.figures import frames, layers
from allometry.figures.axes import linear_y, log_x, log_y
from allometry.figures.residuals import RESIDUAL, of_fit
from allometry.report.content import Figure

_STACKED_Y = "concat_0_y"


def fit_figure(
    fit: Any,
    *,
    x: str | None = None,
    level: float = 0.95,
    name: str | None = None,
    title: str | None = None,
    caption: str | None = None,
) -> Figure:
    """Draw the data of a `FitResult`, its law with the confidence band, and the relative residuals, against
    the input `x`.

    Without `x`, the input with most distinct values is taken. If there are others, the points are
    coloured by the one that varies most. Raises AllometryError for an unknown input.
    """
    inputs = list(fit.law.inputs)
    y = fit.law.output
    data = frames.finite(fit.data, [y], f"the data of {fit.law.name}")
    x = x or max(inputs, key=lambda i: data[i].nunique())
    if x not in inputs:
        raise unknown(f"input of the law {fit.law.name}", x, inputs)
    others = sorted((i for i in inputs if i != x and data[i].nunique() > 1), key=lambda i: -data[i].nunique())
    table = of_fit(data, y, frames.predicted(fit, data))
    if others:
        main, rest = _by_group(fit, table, x, y, others)
    else:
        main, rest = _single(fit, table, x, y, level)
    return Figure(
        name=name or f"fit-{fit.law.name}",
        title=title or f"{fit.law.title}: data, fit and residuals",
        caption=caption or _caption(fit, table, level, bool(others)),
        chart=layers.stack(main, rest),
        table=table,
    )


def fit_chart(fit: Any, *, x: str | None = None, level: float = 0.95) -> alt.TopLevelMixin:
    """Return the chart of `fit_figure`: what a notebook shows of a fit."""
    return fit_figure(fit, x=x, level=level).chart


def _single(
    fit: Any, table: pd.DataFrame, x: str, y: str, level: float
) -> tuple[alt.LayerChart, alt.LayerChart]:
    """Draw a law of one varying input: a line with its band."""
    grid = _grid(fit, table, x)
    line = frames.evaluate(fit, grid, y, level).assign(series=frames.label_of(fit))
    position = log_x(x, labels=False), log_y(y, scale=_STACKED_Y)
    drawn = [
        layers.band(line, *position),
        layers.series(line, *position, [frames.label_of(fit)], pick=False),
        layers.points(table, *position, tips=_tips(table, fit, y)),
    ]
    main = layers.compose(*drawn, height=280, name="zoom_fit")
    return main, _residual_panel(fit, table, x, y, None)


def _by_group(
    fit: Any, table: pd.DataFrame, x: str, y: str, others: Sequence[str]
) -> tuple[alt.LayerChart, alt.LayerChart]:
    """Draw a law of several inputs: one line for each combination of the others, coloured by the first of them."""
    groups = [(_grid(fit, group, x), i) for i, (_, group) in enumerate(table.groupby(list(others)))]
    lines = pd.concat([grid.assign(group=i, **{y: frames.predicted(fit, grid)}) for grid, i in groups])
    position = log_x(x, labels=False), log_y(y, scale=_STACKED_Y)
    ramp = layers.ordered_colour(table[others[0]], others[0])
    drawn = [
        layers.lines(lines, *position, detail=["group"], colour=ramp, width=1.5),
        layers.points(table, *position, tips=_tips(table, fit, y), colour=ramp),
    ]
    main = layers.compose(*drawn, params=ramp.params, height=280, name="zoom_fit")
    return main, _residual_panel(fit, table, x, y, ramp)


def _grid(fit: Any, group: pd.DataFrame, x: str) -> pd.DataFrame:
    """Return log-spaced x over the group's range; every other input as it is in the whole group."""
    grid = pd.DataFrame({x: frames.log_grid(group[x])})
    for other in fit.law.inputs:
        if other != x:
            grid[other] = group[other].iloc[0]
    return grid


def _residual_panel(
    fit: Any, table: pd.DataFrame, x: str, y: str, ramp: layers.Colour | None
) -> alt.LayerChart:
    position = log_x(x), linear_y(RESIDUAL, title="Residual")
    colour = None if ramp is None else layers.Colour(ramp.encoding, alt.value(0.9), ())
    dots = layers.points(table, *position, tips=_tips(table, fit, y), colour=colour)
    return layers.compose(layers.zero_line(), dots, height=120, name="zoom_residuals", holder=dots)


def _tips(table: pd.DataFrame, fit: Any, y: str) -> list[alt.Tooltip]:
    return layers.run_tips(table, "run", *fit.law.inputs, y, "fitted", RESIDUAL)


def _caption(fit: Any, table: pd.DataFrame, level: float, grouped: bool) -> str:
    rms = float(np.sqrt(np.mean(np.square(table[RESIDUAL]))))
    text = f"{frames.count_note(table)}. Root mean square of the residuals: {rms:.2g} %."
    return text if grouped else f"{text} The band is the {100 * level:g} % interval of the fitted line."
