"""Loss against one variable, coloured by another, with the lines of one or two fitted laws: L(N, D)
from either side.

After figure 4 of Kaplan et al. 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from allometry.core.errors import AllometryError
from allometry.figures import frames, layers
from allometry.figures.axes import capital, log_x, log_y, quantity
from allometry.report.content import Figure


def surface(
    runs: pd.DataFrame,
    fits: Mapping[str, Any] | None = None,
    *,
    x: str = "D",
    colour: str = "N",
    y: str = "loss",
    beyond: float = 1.15,
    name: str | None = None,
    title: str | None = None,
    caption: str | None = None,
) -> Figure:
    """Draw `y` against `x`, one colour for each value of `colour`, with each fitted law as lines of its own
    dash.

    `fits` maps what the legend says to a `FitResult` that reads its inputs from `runs`: from x, colour,
    and other columns that are constant in each colour. Runs that share x and colour are one point: the
    mean, with a bar of one standard deviation. Raises AllometryError for missing columns, or a law with
    an input that varies where a line would need one value.
    """
    what = title or capital(f"{quantity(y).name} against {quantity(x).name}, by {colour}")
    fits = fits or {}
    inputs = list(dict.fromkeys(column for fit in fits.values() for column in frames.input_columns(fit)))
    usable = frames.finite(runs, list(dict.fromkeys([x, colour, y])), what)
    frames.require(usable, inputs, what)
    settings = list(dict.fromkeys([colour, x, *inputs]))
    table = frames.seed_means(usable, settings, y)
    position = log_x(x), log_y(y)
    ramp = layers.ordered_colour(table[colour], colour)
    drawn = []
    if fits:
        drawn_lines = pd.concat(
            [_law_lines(fit, table, x, y, colour, beyond).assign(series=label) for label, fit in fits.items()]
        )
        drawn.append(
            layers.series(drawn_lines, *position, list(fits), coloured=False, detail=[colour]).encode(
                color=ramp.encoding, opacity=ramp.opacity
            )
        )
    for label, fit in fits.items():
        table[f"residual_percent, {label}"] = 100 * (table[y] / frames.predicted(fit, table) - 1)
    drawn.append(layers.intervals(table, position[0], "low", "high", position[1]))
    tips = layers.run_tips(table, x, colour, y, "sd", "n", *_residual_columns(fits), "runs")
    drawn.append(layers.points(table, *position, tips=tips, colour=ramp))
    return Figure(
        name=name or f"{y}-against-{x}-by-{colour}".lower().replace("_", "-"),
        title=what,
        caption=caption or _caption(usable, table, list(fits)),
        chart=layers.compose(*drawn, params=ramp.params, height=380),
        table=table,
    )


def _law_lines(fit: Any, table: pd.DataFrame, x: str, y: str, colour: str, beyond: float) -> pd.DataFrame:
    """Return the law along x for each value of `colour`; its other inputs must not vary within a colour."""
    others = [name for name in frames.input_columns(fit) if name not in (x, colour)]
    lines = []
    for value, group in table.groupby(colour):
        varying = [name for name in others if group[name].nunique() > 1]
        if varying:
            raise AllometryError(
                f"the law {fit.law.name} cannot be drawn against {x}: "
                f"{', '.join(varying)} varies at {colour} = {value:g}",
                hint=f"draw it against {varying[0]}, or keep runs with one value of it",
            )
        grid = pd.DataFrame({x: frames.log_grid(table[x], beyond=beyond)}).assign(
            **{colour: value}, **{name: group[name].iloc[0] for name in others}
        )
        lines.append(grid.assign(**{y: frames.predicted(fit, grid)}))
    return pd.concat(lines, ignore_index=True)


def _residual_columns(fits: Mapping[str, Any]) -> list[str]:
    return [f"residual_percent, {label}" for label in fits]


def _caption(runs: pd.DataFrame, table: pd.DataFrame, labels: list[str]) -> str:
    text = f"{frames.count_note(runs)}. "
    if table["sd"].notna().any():
        text += "Points are means over seeds, bars one standard deviation on both sides. "
    if labels:
        text += f"Lines: {' and '.join(labels)}, fitted to all points at once. "
    return text.strip()
