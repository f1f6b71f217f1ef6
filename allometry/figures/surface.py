"""Figures of laws of two variables: L(N, D) from either side, slices at equal compute, and tokens against steps.

After figures 4 and 18 of Kaplan et al. 2020, and figure 3 (left) of Hoffmann et al. 2022 (their approach 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.interpolate import Akima1DInterpolator

from allometry.core.errors import AllometryError, unknown
from allometry.figures import layers
from allometry.figures.layers import capital, log_x, log_y, quantity
from allometry.figures.theme import Figure

if TYPE_CHECKING:
    from allometry.laws.critical_batch import CriticalBatch


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
    inputs = list(dict.fromkeys(column for fit in fits.values() for column in layers.input_columns(fit)))
    usable = layers.finite(runs, list(dict.fromkeys([x, colour, y])), what)
    layers.require(usable, inputs, what)
    settings = list(dict.fromkeys([colour, x, *inputs]))
    table = layers.seed_means(usable, settings, y)
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
        table[f"residual_percent, {label}"] = 100 * (table[y] / layers.predicted(fit, table) - 1)
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
    others = [name for name in layers.input_columns(fit) if name not in (x, colour)]
    lines = []
    for value, group in table.groupby(colour):
        varying = [name for name in others if group[name].nunique() > 1]
        if varying:
            raise AllometryError(
                f"the law {fit.law.name} cannot be drawn against {x}: "
                f"{', '.join(varying)} varies at {colour} = {value:g}",
                hint=f"draw it against {varying[0]}, or keep runs with one value of it",
            )
        grid = pd.DataFrame({x: layers.log_grid(table[x], beyond=beyond)}).assign(
            **{colour: value}, **{name: group[name].iloc[0] for name in others}
        )
        lines.append(grid.assign(**{y: layers.predicted(fit, grid)}))
    return pd.concat(lines, ignore_index=True)


def _residual_columns(fits: Mapping[str, Any]) -> list[str]:
    return [f"residual_percent, {label}" for label in fits]


def _caption(runs: pd.DataFrame, table: pd.DataFrame, labels: list[str]) -> str:
    text = f"{layers.count_note(runs)}. "
    if table["sd"].notna().any():
        text += "Points are means over seeds, bars one standard deviation on both sides. "
    if labels:
        text += f"Lines: {' and '.join(labels)}, fitted to all points at once. "
    return text.strip()


def isoflop(
    points: pd.DataFrame,
    smooth: pd.DataFrame | None = None,
    optima: pd.DataFrame | None = None,
    *,
    x: str = "N",
    y: str = "loss",
    budget: str = "C",
    low: str = "low",
    high: str = "high",
    name: str = "isoflop-slices",
    title: str | None = None,
    caption: str | None = None,
) -> Figure:
    """Draw `y` against `x` along slices of equal `budget`, coloured by it.

    `points` has columns x, y, budget (the slice's nominal compute); `smooth` has the same three,
    densely along x: the parabola or interpolation of each slice (`valleys` makes it); `optima` has one
    row a slice with x, y, budget, and, where they are known, the interval of the optimal x in the
    columns `low` and `high`. Raises AllometryError for missing columns.
    """
    what = title or capital(f"{quantity(y).name} at equal compute")
    table = layers.finite(points, [x, y, budget], what)
    position = log_x(x), log_y(y)
    ramp = layers.ordered_colour(table[budget], budget)
    drawn = []
    if smooth is not None and len(smooth):
        drawn.append(layers.lines(smooth[[x, y, budget]], *position, detail=[budget], colour=ramp))
    tips = layers.run_tips(table, "run", budget, x, "D", y)
    drawn.append(layers.points(table, *position, tips=tips, colour=ramp))
    if optima is not None:
        best = layers.finite(optima, [x, y, budget], "the optima").sort_values(budget)
        drawn.append(layers.lines(best[[x, y, budget]], *position, style="guide"))
        if low in best and high in best:
            drawn.append(layers.horizontal_intervals(best, position, low, high, style="optimumbar"))
        tips = layers.run_tips(best, budget, x, low, high, y)
        drawn.append(layers.points(best, *position, tips=tips, style="optimum", shape="diamond", size=110))
    return Figure(
        name=name,
        title=what,
        caption=caption or _slices_caption(table, budget, optima is not None),
        chart=layers.compose(*drawn, params=ramp.params, height=380),
        table=table
        if optima is None
        else pd.concat([table, optima.assign(run="(optimum)")], ignore_index=True),
    )


def isoflop_slices(result: Any, *, name: str = "isoflop-slices", title: str | None = None) -> Figure:
    """Draw the slices behind an `IsoflopResult`, with the curve that its method puts through each, and the optima."""
    used = result.table[result.table["used"]] if "used" in result.table else result.table
    optima = used.rename(columns={"N_opt": "N", "N_opt_low": "low", "N_opt_high": "high"})
    kept = [c for c in ("C", "N", "loss", "low", "high") if c in optima]
    return isoflop(result.slices, valleys(result.slices, result.method), optima[kept], name=name, title=title)


def valleys(
    points: pd.DataFrame, method: str = "akima", *, x: str = "N", y: str = "loss", budget: str = "C"
) -> pd.DataFrame:
    """Return a smooth line through each slice, dense in `x`: Akima's interpolation or a parabola, both in
    log-log.

    A slice with fewer than three sizes has none. Raises AllometryError for an unknown method.
    """
    if method not in ("akima", "parabola"):
        raise unknown("method for the valley of a slice", method, ("akima", "parabola"))
    parts = []
    for value, part in points.groupby(budget):
        mean = part.groupby(x)[y].mean()
        if len(mean) < 3:
            continue
        log_x, log_y = np.log(mean.index.to_numpy(dtype=float)), np.log(mean.to_numpy(dtype=float))
        fine = np.linspace(log_x[0], log_x[-1], layers.GRID)
        smooth = (
            Akima1DInterpolator(log_x, log_y)(fine)
            if method == "akima"
            else np.polynomial.Polynomial.fit(log_x, log_y, 2)(fine)
        )
        parts.append(pd.DataFrame({budget: value, x: np.exp(fine), y: np.exp(smooth)}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({budget: [], x: [], y: []})


def _slices_caption(table: pd.DataFrame, budget: str, marked: bool) -> str:
    text = f"{len(table)} points in {table[budget].nunique()} slices of equal compute."
    return text + (" Diamonds mark the lowest point of each slice, with its interval." if marked else "")


def trade_off(
    targets: pd.DataFrame,
    fit: CriticalBatch,
    *,
    name: str = "tokens-against-steps",
    title: str = "Tokens against updates at fixed losses",
    caption: str | None = None,
) -> Figure:
    """Draw each target loss in one colour: the steps S and tokens E of each batch, and the fitted hyperbola.

    `targets` has the columns loss, S, E and B; `fit` gives S_min and E_min at the same losses. Raises
    AllometryError for missing columns or an empty table.
    """
    table = layers.finite(targets, ["loss", "S", "E"], title)
    position = log_x("S"), log_y("E", title="Training tokens E = B S")
    ramp = layers.ordered_colour(table["loss"], "loss", title="Test loss")
    lines = _hyperbolas(table, fit)
    drawn = layers.lines(lines, *position, detail=["loss"], colour=ramp, width=1.6)
    tips = layers.run_tips(table, "loss", "S", "E", "B", "lr", "run")
    dots = layers.points(table, *position, tips=tips, colour=ramp)
    return Figure(
        name=name,
        title=title,
        caption=caption or _trade_off_caption(table),
        chart=layers.compose(drawn, dots, params=ramp.params, height=380, holder=dots),
        table=table,
    )


def _hyperbolas(table: pd.DataFrame, fit: CriticalBatch) -> pd.DataFrame:
    """Return S = S_min + E_min/B over a little more than the batches tried (Kaplan et al. 2020, eq. 5.1)."""
    B = layers.log_grid(table["E"] / table["S"], beyond=2.0)
    found = fit.table[fit.table["loss"].isin(table["loss"])]
    lines = found[["loss", "S_min", "E_min"]].merge(pd.DataFrame({"B": B}), how="cross")
    steps = lines["S_min"] + lines["E_min"] / lines["B"]
    return lines.assign(S=steps, E=steps * lines["B"])[["loss", "S", "E"]]


def _trade_off_caption(table: pd.DataFrame) -> str:
    batches = (table["E"] / table["S"]).round()
    return (
        f"{table['loss'].nunique()} losses, batches from {batches.min():.0f} to {batches.max():.0f} tokens, "
        "each at the learning rate that arrives first. Lines: (S/S_min − 1)(E/E_min − 1) = 1, fitted in log "
        "space at each loss."
    )
