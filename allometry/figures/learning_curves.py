"""Loss while training, against compute or tokens, with the frontier of the best run at each compute and
its law.

After figure 1 (left) of Kaplan et al. 2020 and figure 2 of Hoffmann et al. 2022.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pandas as pd

from allometry.figures import frames, layers
from allometry.figures.axes import capital, log_x, log_y, quantity
from allometry.report.content import Figure

_LOWEST = "lowest loss of any run"


def learning_curves(
    curves: pd.DataFrame,
    runs: pd.DataFrame,
    *,
    frontier: pd.DataFrame | None = None,
    fit: Any = None,
    x: str = "C",
    y: str = "loss",
    colour: str = "N",
    label: str | None = None,
    level: float = 0.95,
    points: int = 48,
    growing: Collection[str] = (),
    name: str = "learning-curves",
    title: str | None = None,
    caption: str | None = None,
) -> Figure:
    """Draw every run's curve of `y` against `x`, coloured by a column of its run, on logarithmic axes.

    `curves` has columns run, x, y; `runs` has run and `colour`. `frontier` has columns x and y
    (`laws.envelope.frontier` gives it), `fit` is a law of x alone fitted to it, or its power law. Each
    curve is thinned to `points`; those of `growing` runs, still being trained, end in a dot.
    Raises AllometryError for missing columns, or where no curve can be drawn.
    """
    what = title or capital(f"{quantity(y).name} while training")
    frames.require(runs, ["run", colour], what)
    usable = frames.finite(curves.drop(columns=colour, errors="ignore"), [x, y], what)
    joined = usable.merge(runs[["run", colour]].drop_duplicates("run"), on="run", how="inner")
    thinned = frames.thin(frames.finite(joined, [colour], what), x, points=points)
    table = thinned[[c for c in ("run", colour, "step", "tokens", x, y) if c in thinned]]
    table = table.loc[:, ~table.columns.duplicated()]
    position = log_x(x), log_y(y)
    ramp = layers.ordered_colour(table[colour], colour, opacity=0.75)
    drawn = [layers.lines(table, *position, detail=["run"], colour=ramp, width=1.4)]
    drawn += _frontier(frontier, fit, position, x, y, label, level)
    tips = layers.run_tips(table, "run", colour, "step", "tokens", x, y)
    last = table[table["run"].isin(list(growing))].drop_duplicates("run", keep="last")
    drawn.append(layers.points(last, *position, tips=tips, colour=ramp))
    drawn.append(layers.hover(table, *position, tips=tips))
    return Figure(
        name=name,
        title=what,
        caption=caption or _caption(table, runs, frontier, fit),
        chart=layers.compose(*drawn, params=ramp.params, height=380),
        table=table,
    )


def _frontier(
    frontier: pd.DataFrame | None,
    fit: Any,
    position: tuple[Any, Any],
    x: str,
    y: str,
    label: str | None,
    level: float,
) -> list[Any]:
    """Draw the envelope and its law as lines that a legend names, the law with its band."""
    if frontier is None:
        return []
    best = frames.finite(frontier, [x, y], "the frontier").sort_values(x)[[x, y]]
    named, parts = [best.assign(series=_LOWEST)], []
    if fit is not None:
        line = frames.evaluate(fit, pd.DataFrame({x: frames.log_grid(best[x], beyond=2.0)}), y, level)
        parts.append(layers.band(line, *position))
        named.append(line[[x, y]].assign(series=label or frames.label_of(fit)))
    table = pd.concat(named, ignore_index=True)
    return [*parts, layers.series(table, *position, list(table["series"].unique()))]


def _caption(table: pd.DataFrame, runs: pd.DataFrame, frontier: pd.DataFrame | None, fit: Any) -> str:
    text = f"{frames.count_note(runs[runs['run'].isin(table['run'])])}. One line a run."
    if frontier is not None:
        text += " Drawn over them: the lowest loss that any run reaches at that compute"
        text += ", and the law fitted to it." if fit is not None else "."
    return text
