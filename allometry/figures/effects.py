"""Effects of many dials, ranked: a bar a dial or interaction, with its interval."""

from __future__ import annotations

import altair as alt
import pandas as pd

from allometry.figures import frames
from allometry.figures.axes import capital, text_tooltip, tooltip
from allometry.report.content import Figure


def effects(table: pd.DataFrame, *, name: str, title: str, x_title: str, caption: str) -> Figure:
    """`effect` (per cent) of each `dial` with `low` and `high`, in the order of the table; `kind` ("dial" or
    "interaction") is the colour. Raises AllometryError for missing columns or where nothing is left.
    """
    frames.require(table, ["dial", "kind", "effect", "low", "high"], title)
    kept = table.dropna(subset=["effect", "low", "high"])
    frames.require(kept, ["dial"], title)
    order = kept["dial"].tolist()
    y = alt.Y("dial:N", sort=order, axis=alt.Axis(title=None, labelLimit=420, ticks=False, grid=False))
    axis = alt.Axis(title=capital(x_title), labelExpr="datum.label + ' %'", tickCount=6)
    x = alt.X("effect:Q", scale=alt.Scale(zero=True, padding=10), axis=axis)
    scale = alt.Scale(domain=["dial", "interaction"], range="category")
    key = alt.Legend(title=None, orient="top")
    zero = alt.Chart(pd.DataFrame({"effect": [0.0]})).mark_rule(style="guide").encode(x=x)
    bars = (
        alt.Chart(kept)
        .mark_rule(style="errorbar", clip=True)
        .encode(x=alt.X("low:Q", axis=axis), x2="high:Q", y=y)
    )
    tips = [text_tooltip("dial"), *(tooltip(column, kind="percent") for column in ("effect", "low", "high"))]
    marks = (
        alt.Chart(kept)
        .mark_point(filled=True, size=70, clip=True)
        .encode(x=x, y=y, fill=alt.Fill("kind:N", scale=scale, legend=key), tooltip=tips)
    )
    return Figure(
        name=name, title=title, caption=caption,
        chart=alt.layer(zero, bars, marks).properties(width="container", height=max(120, 26 * len(kept))),
        table=kept.reset_index(drop=True),
    )  # fmt: skip
