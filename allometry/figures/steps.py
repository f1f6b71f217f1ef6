"""A quantity after one correction and the next: a row a step, ours with its interval beside a paper's.

After figure 1 of Porian et al. 2024.
"""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from allometry.figures import frames, layers
from allometry.figures.axes import escape
from allometry.report.content import Figure

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
    frames.require(table, [label, value, low, high], title)
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
