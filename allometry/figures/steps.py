"""A quantity after one correction and the next: a row a step, ours with its interval beside a paper's.

After figure 1 of Porian et al. 2024.
"""

from __future__ import annotations

from collections.abc import Mapping

import altair as alt
import pandas as pd

from allometry.figures import frames, layers
from allometry.figures.axes import escape
from allometry.report.content import Figure

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
    reference: Mapping[str, float] | None = None,
    value_title: str | None = None,
    name: str,
    title: str,
    caption: str,
) -> Figure:
    """`value` with its interval for each row of `table`, in the table's order from top to bottom.

    `published` is a column with a paper's values, drawn as open diamonds where it has them; `reference` maps
    names to values drawn as vertical lines. Raises AllometryError for missing columns, or where no row is
    left.
    """
    frames.require(table, [label, value, low, high], title)
    rows = table.reset_index(drop=True)
    order = [str(text) for text in rows[label]]
    y = alt.Y(
        f"{escape(label)}:N",
        sort=order,
        axis=alt.Axis(title=None, labelLimit=330, grid=True, ticks=False, domain=False),
    )
    parts = [*_references(reference or {}), *_measured(rows, y, value, low, high, value_title or value)]
    if published is not None and rows[published].notna().any():
        theirs = alt.Chart(rows.dropna(subset=[published]))
        marks = theirs.mark_point(shape="diamond", size=90, filled=False, strokeWidth=1.6, clip=True)
        parts.append(marks.encode(x=_x(published, value_title or value), y=y, tooltip=[label, published]))
    return Figure(
        name=name,
        title=title,
        caption=caption,
        chart=layers.compose(*parts, height=_ROW * len(rows) + 20),
        table=rows,
    )


def _x(column: str, title: str) -> alt.X:
    return alt.X(f"{escape(column)}:Q", scale=alt.Scale(zero=False, padding=16), axis=alt.Axis(title=title))


def _measured(rows: pd.DataFrame, y: alt.Y, value: str, low: str, high: str, title: str) -> list[alt.Chart]:
    bars = layers.horizontal_intervals(rows, (_x(low, title), y), low, high)
    tips = layers.run_tips(rows, *map(str, rows.columns[:8]))
    dots = alt.Chart(rows).mark_point(style="measured", filled=True, size=64, clip=True)
    return [bars, dots.encode(x=_x(value, title), y=y, tooltip=tips)]


def _references(reference: Mapping[str, float]) -> list[alt.Chart]:
    """A vertical line for each, named at its upper end."""
    if not reference:
        return []
    table = pd.DataFrame({"reference": list(reference), "at": list(reference.values())})
    x = alt.X("at:Q")
    rules = alt.Chart(table).mark_rule(style="guide", clip=True).encode(x=x)
    names = alt.Chart(table).mark_text(align="left", baseline="bottom", dx=4, dy=-2, fontSize=11)
    return [rules, names.encode(x=x, y=alt.value(0), text="reference:N")]
