"""The layers that figures are made of: points, error bars, bands, lines, legends that highlight, and zoom.

Every layer clips at the plot's edge, because every plot can be zoomed and dragged. Zoom needs the Ctrl
key (or a pinch), so that the page still scrolls; a finger scrolls the page and never drags a plot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd

from allometry.figures.axes import escape, legend, text_tooltip, tooltip

DISTINCT = 12
"""Up to this many values are told apart by a legend of symbols; more of them get a continuous ramp."""

HEIGHT = 340
FADED = 0.12
_DASHES = ([1, 0], [7, 4], [2, 3], [9, 3, 2, 3], [4, 2], [1, 2], [12, 4])


@dataclass(frozen=True)
class Colour:
    """A colour scale over an ordered quantity, and the highlighting that its legend offers."""

    encoding: alt.Color
    opacity: Any
    params: tuple[alt.Parameter, ...]


def ordered_colour(
    values: pd.Series, column: str, *, opacity: float = 1.0, title: str | None = None
) -> Colour:
    """Colour by an ordered column: one step of the ramp per value and a clickable legend, or a continuous ramp."""
    distinct = sorted(values.dropna().unique().tolist())
    if len(distinct) > DISTINCT:
        scale, kind, params = alt.Scale(type="log", range="ramp"), "Q", ()
        return Colour(_colour(column, kind, scale, title), alt.value(opacity), params)
    pick = alt.selection_point(fields=[column], bind="legend", name=_param_name("pick", column))
    encoding = _colour(column, "O", alt.Scale(domain=distinct, range="ordinal"), title)
    return Colour(encoding, alt.when(pick).then(alt.value(opacity)).otherwise(alt.value(FADED)), (pick,))


def _colour(column: str, kind: str, scale: alt.Scale, title: str | None) -> alt.Color:
    return alt.Color(f"{escape(column)}:{kind}", scale=scale, legend=legend(column, title=title))


def _param_name(prefix: str, column: str) -> str:
    return prefix + "_" + "".join(c if c.isalnum() else "_" for c in column)


def points(
    table: pd.DataFrame,
    x: alt.X,
    y: alt.Y,
    *,
    tips: Sequence[alt.Tooltip],
    colour: Colour | None = None,
    style: str = "measured",
    size: float = 46,
    shape: str = "circle",
) -> alt.Chart:
    """Draw measured points, with a tooltip each."""
    mark = alt.Chart(table).mark_point(style=style, clip=True, filled=style != "halo", size=size, shape=shape)
    encoded = mark.encode(x=x, y=y, tooltip=list(tips))
    return encoded if colour is None else encoded.encode(color=colour.encoding, opacity=colour.opacity)


def intervals(
    table: pd.DataFrame, x: alt.X, low: str, high: str, y: alt.Y, *, style: str = "errorbar"
) -> alt.Chart:
    """Draw vertical bars from `low` to `high`; rows without an interval are left out."""
    known = table.dropna(subset=[low, high])
    position = y.copy(deep=True)
    position.shorthand = f"{escape(low)}:Q"
    return alt.Chart(known).mark_rule(style=style, clip=True).encode(x=x, y=position, y2=f"{escape(high)}:Q")


def band(table: pd.DataFrame, x: alt.X, y: alt.Y, *, style: str = "band") -> alt.Chart:
    """Draw the area between the columns `low` and `high`."""
    known = table.dropna(subset=["low", "high"])
    position = y.copy(deep=True)
    position.shorthand = "low:Q"
    return alt.Chart(known).mark_area(style=style, clip=True).encode(x=x, y=position, y2="high:Q")


def lines(
    table: pd.DataFrame,
    x: alt.X,
    y: alt.Y,
    *,
    detail: Sequence[str] = (),
    colour: Colour | None = None,
    width: float = 2,
    style: str | None = None,
) -> alt.Chart:
    """Draw lines, one for each combination of the columns `detail`, drawn in the order of x."""
    mark = {"style": style} if style else {"strokeWidth": width}
    drawn = alt.Chart(table).mark_line(clip=True, **mark).encode(x=x, y=y)
    if detail:
        drawn = drawn.encode(detail=[f"{escape(column)}:N" for column in detail])
    return drawn if colour is None else drawn.encode(color=colour.encoding, opacity=colour.opacity)


def series(
    table: pd.DataFrame,
    x: alt.X,
    y: alt.Y,
    names: Sequence[str],
    *,
    coloured: bool = True,
    detail: Sequence[str] = (),
    pick: bool = True,
) -> alt.Chart:
    """Draw named lines (column `series`), told apart by dash and colour in one legend above the plot, which
    highlights.

    `coloured=False` leaves the colour to another scale: then the dash alone says which law it is.
    """
    show = alt.Legend(
        title=None, orient="top", direction="vertical", columns=1, symbolType="stroke", symbolSize=420
    )
    dash = alt.Scale(domain=list(names), range=[list(d) for d in _DASHES[: len(names)]])
    drawn = (
        alt.Chart(table)
        .mark_line(clip=True)
        .encode(x=x, y=y, strokeDash=alt.StrokeDash("series:N", scale=dash, legend=show))
    )
    if coloured:
        scale = alt.Scale(domain=list(names), range="category")
        drawn = drawn.encode(stroke=alt.Stroke("series:N", scale=scale, legend=show))
    if detail:
        drawn = drawn.encode(detail=[f"{escape(column)}:N" for column in detail])
    if pick and coloured:
        chosen = alt.selection_point(fields=["series"], bind="legend", name="pick_series")
        faded = alt.when(chosen).then(alt.value(1)).otherwise(alt.value(FADED))
        drawn = drawn.encode(opacity=faded).add_params(chosen)
    return drawn


def hover(table: pd.DataFrame, x: alt.X, y: alt.Y, *, tips: Sequence[alt.Tooltip]) -> alt.Chart:
    """Put invisible points over a line, so that each of its values can be read."""
    return alt.Chart(table).mark_point(clip=True, size=60, opacity=0).encode(x=x, y=y, tooltip=list(tips))


def horizontal_intervals(
    table: pd.DataFrame, position: tuple[alt.X, alt.Y], low: str, high: str, *, style: str = "errorbar"
) -> alt.Chart:
    """Draw horizontal bars from `low` to `high`; rows without an interval are left out."""
    known = table.dropna(subset=[low, high])
    x = position[0].copy(deep=True)
    x.shorthand = f"{escape(low)}:Q"
    return (
        alt.Chart(known).mark_rule(style=style, clip=True).encode(x=x, y=position[1], x2=f"{escape(high)}:Q")
    )


def zero_line() -> alt.Chart:
    """Draw a horizontal line at zero."""
    return alt.Chart(pd.DataFrame({"zero": [0.0]})).mark_rule(style="guide", clip=True).encode(y="zero:Q")


def category_points(
    table: pd.DataFrame,
    x: alt.X,
    y: alt.Y,
    category: str,
    names: Sequence[str],
    *,
    tips: Sequence[alt.Tooltip],
    holds: bool = True,
) -> alt.Chart:
    """Draw points of named groups, told apart by colour and shape in one legend above the plot, which
    highlights.

    `holds=False` in the second plot of a stack: it follows the legend of the first.
    """
    key = alt.Legend(title=None, orient="top", direction="vertical", columns=1)
    shapes = ["circle", "diamond", "square", "triangle-up", "cross", "triangle-down", "triangle-right"]
    field = f"{escape(category)}:N"
    fill = alt.Fill(field, legend=key, scale=alt.Scale(domain=list(names), range="category"))
    shape = alt.Shape(field, legend=key, scale=alt.Scale(domain=list(names), range=shapes[: len(names)]))
    drawn = alt.Chart(table).mark_point(style="measured", clip=True, filled=True, size=56)
    drawn = drawn.encode(x=x, y=y, fill=fill, shape=shape, tooltip=list(tips))
    pick = alt.selection_point(fields=[category], bind="legend", name=_param_name("pick", category))
    drawn = drawn.encode(opacity=alt.when(pick).then(alt.value(0.9)).otherwise(alt.value(FADED)))
    return drawn.add_params(pick) if holds else drawn


def compose(
    *layers: alt.Chart,
    params: Sequence[alt.Parameter] = (),
    height: int = HEIGHT,
    name: str = "zoom",
    holder: alt.Chart | None = None,
) -> alt.LayerChart:
    """Join layers to one plot that fills its container's width and zooms and drags on both axes; empty ones
    are left out.

    `holder` is the layer that holds the selections (default: the first): it must have both positions,
    and in a stack all selections of a plot must be in one layer.
    """
    drawn = [layer for layer in layers if len(layer.data)]
    place = next((i for i, layer in enumerate(drawn) if layer is holder), 0)
    drawn[place] = drawn[place].add_params(_zoom(name), *params)
    layered: alt.LayerChart = alt.LayerChart(layer=drawn)
    return layered.properties(width="container", height=height)


def _zoom(name: str) -> alt.Parameter:
    return alt.selection_interval(
        bind="scales",
        name=name,
        zoom="wheel![event.ctrlKey || event.metaKey]",
        translate="[pointerdown[event.pointerType !== 'touch'], window:pointerup] > window:pointermove!",
    )


def stack(*plots: alt.LayerChart, width: int = 560, share_x: bool = True) -> alt.VConcatChart:
    """Put plots above each other, on one horizontal axis or on two.

    A stack has a width in pixels, since only single plots can fill their container; the report sets it
    by script.
    """
    sized = [plot.properties(width=width) for plot in plots]
    stacked = alt.vconcat(*sized, spacing=8 if share_x else 22)
    return stacked.resolve_scale(x="shared" if share_x else "independent", color="shared", fill="shared")


def run_tips(table: pd.DataFrame, *columns: str) -> list[alt.Tooltip]:
    """Return tooltips for those of `columns` that `table` has: numbers as the axes write them, everything
    else as text.
    """
    present = [column for column in columns if column in table]
    return [
        tooltip(column) if pd.api.types.is_numeric_dtype(table[column]) else text_tooltip(column)
        for column in present
    ]
