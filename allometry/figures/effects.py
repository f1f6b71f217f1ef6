"""Effects of many dials, ranked: a bar a dial or interaction, with its interval."""

from __future__ import annotations

import altair as alt
import pandas as pd

from allometry.figures import frames
from allometry.figures.axes import log_x, text_tooltip, tooltip
from allometry.report.content import Figure

VALUES = ["effect", "low", "high"]


def effects(table: pd.DataFrame, *, name: str, title: str, x_title: str, caption: str) -> Figure:
    """Draw `effect` (per cent) of each `dial` with `low` and `high`, in the order of the table; `kind`
    ("dial" or "interaction") is the colour. Drawn as factors on a logarithmic axis, on which a half is as far
    from nothing as the double. Raises AllometryError for missing columns or where nothing is left.
    """
    frames.require(table, ["dial", "kind", *VALUES], title)
    kept = table.dropna(subset=VALUES)
    kept = kept[(kept[VALUES] > -100).all(axis=1)]
    frames.require(kept, ["dial"], title)
    drawn = kept.assign(dial=kept["dial"].map(_short), **{c: 1 + kept[c] / 100 for c in VALUES})
    order = drawn["dial"].tolist()
    y = alt.Y("dial:N", sort=order, axis=alt.Axis(title=None, labelLimit=300, ticks=False, grid=False))
    x = log_x("effect", title=x_title)
    scale = alt.Scale(domain=["dial", "interaction"], range="category")
    key = alt.Legend(title=None, orient="top")
    same = alt.Chart(pd.DataFrame({"effect": [1.0]})).mark_rule(style="guide").encode(x=x)
    bars = (
        alt.Chart(drawn)
        .mark_rule(style="errorbar", clip=True)
        .encode(x=log_x("low", title=x_title), x2="high:Q", y=y)
    )
    tips = [text_tooltip("dial"), *(tooltip(column) for column in VALUES)]
    marks = (
        alt.Chart(drawn)
        .mark_point(filled=True, size=70, clip=True)
        .encode(x=x, y=y, fill=alt.Fill("kind:N", scale=scale, legend=key), tooltip=tips)
    )
    return Figure(
        name=name, title=title, caption=caption,
        chart=alt.layer(same, bars, marks).properties(width="container", height=max(120, 26 * len(kept))),
        table=kept.reset_index(drop=True),
    )  # fmt: skip


def _short(dial: str) -> str:
    """Shorten a group's interactions to the first and how many more there are, where names would fill the figure."""
    first, *others = dial.split(" = ")
    return f"{first}, {len(others)} more" if others else first
