"""Figures that compare: several named quantities in one plot, ranked effects, a quantity after one correction and the
next.

For what a paper puts side by side: parameters with and without embeddings (figure 6 of Kaplan et al. 2020),
compute before and after its adjustment (13, 14), data beside theory (12), lines that cross (15).

The corrections one after the other are as in figure 1 of Porian et al. 2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import altair as alt
import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError
from allometry.figures import layers
from allometry.figures.layers import capital, escape, linear_y, log_x, log_y, quantity, text_tooltip, tooltip
from allometry.figures.theme import Figure

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
    layers.require(table, ["series", x, y], what)
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


VALUES = ["effect", "low", "high"]


def effects(table: pd.DataFrame, *, name: str, title: str, x_title: str, caption: str) -> Figure:
    """Draw `effect` (per cent) of each `dial` with `low` and `high`, in the order of the table; `kind`
    ("dial" or "interaction") is the colour. Drawn as factors on a logarithmic axis, on which a half is as far
    from nothing as the double. Raises AllometryError for missing columns or where nothing is left.
    """
    layers.require(table, ["dial", "kind", *VALUES], title)
    kept = table.dropna(subset=VALUES)
    kept = kept[(kept[VALUES] > -100).all(axis=1)]
    layers.require(kept, ["dial"], title)
    drawn = kept.assign(dial=kept["dial"].map(_short), **{c: 1 + kept[c] / 100 for c in VALUES})
    return Figure(
        name=name, title=title, caption=caption, table=kept.reset_index(drop=True),
        chart=_factors(drawn, "dial", "effect", "kind", ["dial", "interaction"], x_title, [text_tooltip("dial")]),
    )  # fmt: skip


def over_published(table: pd.DataFrame, *, name: str, title: str, caption: str) -> Figure:
    """Draw constants over published ones: `ratio`, `low` and `high` of each `constant`, in the order of the
    table, on a logarithmic axis with a line at 1; `verdict` is the colour. Raises AllometryError for missing
    columns or where nothing is left.
    """
    layers.require(table, ["constant", "verdict", "ratio", "low", "high"], title)
    kept = table.dropna(subset=["ratio", "low", "high"])
    kept = kept[(kept[["ratio", "low", "high"]] > 0).all(axis=1)].reset_index(drop=True)
    layers.require(kept, ["constant"], title)
    kinds = [kind for kind in ("agrees", "differs", "cannot tell") if kind in set(kept["verdict"])]
    return Figure(
        name=name, title=title, caption=caption, table=kept,
        chart=_factors(kept, "constant", "ratio", "verdict", kinds, "ours / published",
                       [text_tooltip("constant"), text_tooltip("verdict")]),
    )  # fmt: skip


def _factors(
    table: pd.DataFrame, label: str, value: str, kind: str, kinds: list[str], x_title: str, tips: list[alt.Tooltip]
) -> alt.LayerChart | alt.FacetChart:  # fmt: skip
    """Draw the column `value` with `low` and `high` on a logarithmic axis with a line at 1: a row a `label`, in the
    order of the table, coloured by `kind`, one of `kinds`.
    """
    axis = alt.Axis(title=None, labelLimit=300, ticks=False, grid=False)
    x, y = log_x(value, title=x_title), alt.Y(f"{label}:N", sort=table[label].tolist(), axis=axis)
    fill = alt.Fill(
        f"{kind}:N",
        scale=alt.Scale(domain=kinds, range="category"),
        legend=alt.Legend(title=None, orient="top"),
    )
    same = alt.Chart(pd.DataFrame({value: [1.0]})).mark_rule(style="guide").encode(x=x)
    bars = (
        alt.Chart(table)
        .mark_rule(style="errorbar", clip=True)
        .encode(x=log_x("low", title=x_title), x2="high:Q", y=y)
    )
    tips = [*tips, *(tooltip(column) for column in (value, "low", "high"))]
    marks = (
        alt.Chart(table).mark_point(filled=True, size=70, clip=True).encode(x=x, y=y, fill=fill, tooltip=tips)
    )
    return alt.layer(same, bars, marks).properties(width="container", height=max(120, 26 * len(table)))


def _short(dial: str) -> str:
    """Shorten a group's interactions to the first and how many more there are, where names would fill the figure."""
    first, *others = dial.split(" = ")
    return f"{first}, {len(others)} more" if others else first


OURS = "ours"

_ROW = 34
"""Height of a row in pixels."""


def steps(
    table: pd.DataFrame,
    *,
    label: str,
    value: str,
    low: str,
    high: str,
    published: str | None = None,
    reference: Sequence[float] | None = None,
    value_title: str | None = None,
    name: str,
    title: str,
    caption: str,
) -> Figure:
    """Draw `value` with its interval for each row of `table`, in the table's order from top to bottom.

    `published` is a column with a paper's values, drawn where it has them under its own name; `reference` are
    values drawn as vertical lines, which the caption must name. Raises AllometryError for missing columns, or
    where no row is left.
    """
    layers.require(table, [label, value, low, high], title)
    rows = table.reset_index(drop=True)
    order = [str(text) for text in rows[label]]
    y = alt.Y(
        f"{escape(label)}:N",
        sort=order,
        axis=alt.Axis(title=None, labelLimit=330, grid=True, ticks=False, domain=False),
    )
    title_x = value_title or value
    parts = [_references(reference or [], title_x), *_measured(rows, y, value, low, high, title_x, published)]
    return Figure(
        name=name,
        title=title,
        caption=caption,
        chart=layers.compose(*parts, height=_ROW * len(rows) + 20),
        table=rows,
    )


def _x(column: str, title: str) -> alt.X:
    return alt.X(f"{escape(column)}:Q", scale=alt.Scale(zero=False, padding=16), axis=alt.Axis(title=title))


def _measured(
    rows: pd.DataFrame, y: alt.Y, value: str, low: str, high: str, title: str, published: str | None
) -> list[alt.Chart]:
    """Draw our value with its bar, and the paper's beside it, in one legend."""
    tips = layers.run_tips(rows, *map(str, rows.columns[:8]))
    parts = [rows.assign(who=OURS, at=rows[value])]
    if published is not None:
        parts.append(rows.dropna(subset=[published]).assign(who=published, at=lambda t: t[published]))
    names = [OURS] if published is None else [OURS, published]
    both = pd.concat(parts, ignore_index=True)
    bars = layers.horizontal_intervals(rows, (_x(low, title), y), low, high)
    return [bars, layers.category_points(both, _x("at", title), y, "who", names, tips=tips)]


def _references(reference: Sequence[float], title: str) -> alt.Chart:
    """Draw a vertical line at each value."""
    table = pd.DataFrame({"reference": list(reference)})
    return alt.Chart(table).mark_rule(style="guide", clip=True).encode(x=_x("reference", title))
