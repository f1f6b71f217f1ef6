"""Several named quantities in one plot: points with intervals, lines, or both under one name.

For what a paper puts side by side: parameters with and without embeddings (figure 6 of Kaplan et al. 2020),
compute before and after its adjustment (13, 14), data beside theory (12), lines that cross (15).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import altair as alt
import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError
from allometry.figures import frames, layers
from allometry.figures.axes import capital, linear_y, log_x, log_y, quantity
from allometry.report.content import Figure

_DASHES = ([1, 0], [7, 4], [2, 3], [9, 3, 2, 3], [4, 2], [1, 2], [12, 4])
_SHAPES = ("circle", "diamond", "square", "triangle-up", "cross", "triangle-down", "triangle-right")
Scale = Literal["log", "plain", "percent"]


def several(
    points: pd.DataFrame | None = None,
    lines: pd.DataFrame | None = None,
    *,
    x: str,
    y: str = "loss",
    x_title: str | None = None,
    y_title: str | None = None,
    y_scale: Scale = "log",
    name: str,
    title: str | None = None,
    caption: str,
    height: int = 360,
) -> Figure:
    """Draw `y` against `x` for each value of the column `series`, x logarithmic.

    `points` and `lines` have the columns series, x and y; where they have `low` and `high`, points get bars
    and lines a band. A name that has both keeps its colour. Further columns go into the table under the
    figure. Raises AllometryError for missing columns, or where nothing can be drawn.
    """
    what = title or capital(f"{quantity(y).name} against {quantity(x).name}")
    needed = [x, y] if y_scale == "log" else [x]
    drawn_points = _kept(points, needed, x, y, what)
    drawn_lines = _kept(lines, needed, x, y, what)
    if not len(drawn_points) and not len(drawn_lines):
        raise AllometryError(f"{what}: there is nothing to draw", hint="see which runs are done")
    names = list(dict.fromkeys([*drawn_lines["series"], *drawn_points["series"]]))
    where = (
        log_x(x, title=x_title),
        log_y(y, title=y_title)
        if y_scale == "log"
        else linear_y(y, title=y_title or quantity(y).title, kind=y_scale),
    )
    parts = _lines(drawn_lines, where, names)
    parts += _points(drawn_points, where, names, set(drawn_lines["series"]))
    table = pd.concat(
        [drawn_points.assign(kind="point"), drawn_lines.assign(kind="line")], ignore_index=True
    ).dropna(axis=1, how="all")
    return Figure(
        name=name,
        title=what,
        caption=caption,
        chart=layers.compose(*parts, height=height),
        table=table[["series", "kind", *(c for c in table if c not in ("series", "kind"))]],
    )


def _kept(table: pd.DataFrame | None, positive: Sequence[str], x: str, y: str, what: str) -> pd.DataFrame:
    """Return the rows that can be drawn; an empty table with the columns needed where there is none."""
    if table is None or not len(table):
        return pd.DataFrame({"series": [], x: [], y: []})
    frames.require(table, ["series", x, y], what)
    values = table[list(positive)].to_numpy(dtype=float)
    drawable = (np.isfinite(values) & (values > 0)).all(1) & np.isfinite(table[y].to_numpy(dtype=float))
    return table[drawable].reset_index(drop=True)


def _colour(channel: type, names: Sequence[str], shown: Sequence[str], field: str) -> Any:
    """Colour by name, in the order of all names, with a legend of those in `shown`."""
    scale = alt.Scale(domain=_domain(names, field), range="category")
    return channel(f"{field}:N", scale=scale, legend=_key(shown, field))


def _domain(names: Sequence[str], field: str) -> list[str]:
    """Return all names; for points and a blank one, since legends of equal domains would be merged into one."""
    return [*names, ""] if field == "measured" else list(names)


def _key(shown: Sequence[str], field: str) -> alt.Legend | None:
    """Make a legend of lines, or of points."""
    if not shown:
        return None
    symbol = (
        {"symbolType": "stroke", "symbolSize": 420, "symbolOpacity": 1}
        if field == "series"
        else {"symbolSize": 110}
    )
    return alt.Legend(
        title=None, orient="top", direction="vertical", columns=1, values=list(shown), labelLimit=560,
        **symbol,
    )  # fmt: skip


def _lines(table: pd.DataFrame, where: tuple[alt.X, alt.Y], names: list[str]) -> list[alt.Chart]:
    if not len(table):
        return []
    shown = list(dict.fromkeys(table["series"]))
    parts = []
    if {"low", "high"} <= set(table.columns) and table["low"].notna().any():
        parts.append(
            layers.band(table, *where).encode(
                fill=_colour(alt.Fill, names, shown, "series"),  # as the lines have it, or both lose it
                detail="series:N",
                opacity=alt.value(0.12),
            )
        )
    dashes = alt.Scale(domain=names, range=[list(_DASHES[i % len(_DASHES)]) for i in range(len(names))])
    dash = alt.StrokeDash("series:N", scale=dashes, legend=_key(shown, "series"))
    colour = _colour(alt.Stroke, names, shown, "series")
    drawn = layers.lines(table, *where).encode(stroke=colour, strokeDash=dash)
    return [*parts, drawn]


def _points(
    table: pd.DataFrame, where: tuple[alt.X, alt.Y], names: list[str], told: set[str]
) -> list[alt.Chart]:
    """Draw points with their bars; the legend names those that no line names (`told`)."""
    if not len(table):
        return []
    own = [name for name in dict.fromkeys(table["series"]) if name not in told]
    parts = []
    if {"low", "high"} <= set(table.columns):
        bars = layers.intervals(table, where[0], "low", "high", where[1])
        parts.append(bars.encode(stroke=_colour(alt.Stroke, names, [], "series")))
    marks = alt.Chart(table.assign(measured=table["series"]))
    domain = _domain(names, "measured")
    shapes = alt.Scale(domain=domain, range=[_SHAPES[i % len(_SHAPES)] for i in range(len(domain))])
    drawn = marks.mark_point(style="measured", clip=True, filled=True, size=72).encode(
        x=where[0],
        y=where[1],
        fill=_colour(alt.Fill, names, own, "measured"),
        shape=alt.Shape("measured:N", scale=shapes, legend=_key(own, "measured")),
        tooltip=layers.run_tips(table, *map(str, table.columns[:8])),
    )
    return [*parts, drawn]
