"""One quantity against another for a few named groups: families of models, test distributions, dials."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from allometry.errors import AllometryError
from allometry.figures import frames, layers
from allometry.figures.axes import capital, escape, linear_y, log_x, log_y, quantity
from allometry.report.content import Figure

MOST = 7
"""Groups that colours and shapes can tell apart."""


def groups(
    table: pd.DataFrame,
    *,
    x: str,
    y: str,
    by: str,
    caption: str,
    lines: pd.DataFrame | None = None,
    join: bool = False,
    percent: bool = False,
    x_title: str | None = None,
    y_title: str | None = None,
    zero: bool = False,
    name: str | None = None,
    title: str | None = None,
) -> Figure:
    """Points of `y` against `x` by the groups in column `by`, told apart by colour and shape.

    Columns `low` and `high` of `table`, where present, become bars. `lines` (columns by, x, y) draws a line a
    group, such as a fitted law; `join` draws one through the points instead. The horizontal axis is
    logarithmic; the vertical one too, unless `percent` (a linear axis in percent) asks otherwise. `zero`
    marks y = 0. Raises AllometryError for missing columns, an empty table or more than MOST groups.
    """
    what = title or capital(f"{quantity(y).name} against {quantity(x).name}")
    frames.require(table, [x, y, by], what)
    names = list(dict.fromkeys(table[by].astype(str)))
    if len(names) > MOST:
        raise AllometryError(f"{what}: {len(names)} groups are more than {MOST}", hint="draw fewer at a time")
    horizontal = log_x(x, title=x_title)
    vertical = linear_y(y, title=y_title or quantity(y).title) if percent else log_y(y, title=y_title)
    shown = table.assign(**{by: table[by].astype(str)})
    tips = layers.run_tips(shown, by, x, y, "low", "high", "n", "runs")
    dots = layers.category_points(shown, horizontal, vertical, by, names, tips=tips)
    parts = [layers.zero_line()] if zero else []
    drawn = shown if join else lines
    if drawn is not None:
        parts.append(_lines(drawn, horizontal, vertical, by, names))
    if {"low", "high"} <= set(shown.columns):
        parts.append(layers.intervals(shown, horizontal, "low", "high", vertical))
    return Figure(
        name=name or f"{y}-against-{x}-by-{by}".lower().replace("_", "-"),
        title=what,
        caption=caption,
        chart=layers.compose(*parts, dots, holder=dots),
        table=table,
    )


def _lines(table: pd.DataFrame, x: alt.X, y: alt.Y, by: str, names: Sequence[str]) -> alt.Chart:
    """A line a group in the colour of its points, which alone have the legend."""
    scale = alt.Scale(domain=list(names), range="category")
    stroke = alt.Stroke(f"{escape(by)}:N", scale=scale, legend=None)
    return layers.lines(table, x, y, detail=[by], width=1.6).encode(stroke=stroke)
