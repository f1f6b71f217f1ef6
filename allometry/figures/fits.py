"""Figures of fitted laws: any fit with its residuals, power laws of one quantity, and predictions beside what was
measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError, unknown
from allometry.figures import layers
from allometry.figures.layers import capital, linear_y, log_x, log_y, quantity
from allometry.figures.theme import Figure

RESIDUAL = "residual_percent"


def residuals(
    runs: pd.DataFrame,
    fits: Mapping[str, Any],
    *,
    x: str = "C",
    y: str = "loss",
    noise: float | None = None,
    name: str | None = None,
    title: str | None = None,
    caption: str | None = None,
) -> Figure:
    """Draw measured over fitted `y`, minus one, in percent against `x`, one colour and shape a law.

    `fits` maps a label to a `FitResult` whose inputs are columns of `runs`. `noise` is the relative
    standard deviation between seeds (0.003 is 0.3 %): the band spans twice that on both sides of zero,
    where chance alone puts 95 % of runs.
    """
    what = title or f"Residuals against {quantity(x).name}"
    if not fits:
        raise AllometryError(f"{what}: no fit was given", hint="pass fits={'label': fit}")
    usable = layers.finite(runs, [x, y], what)
    table = pd.concat([_of_law(label, fit, usable, x, y) for label, fit in fits.items()], ignore_index=True)
    position = log_x(x), linear_y(RESIDUAL, title="Residual, measured / fitted − 1")
    tips = layers.run_tips(table, "law", "run", "N", "D", "C", y, "fitted", RESIDUAL)
    dots = layers.category_points(table, *position, "law", list(fits), tips=tips)
    band = _noise(table, position, x, noise)
    return Figure(
        name=name or f"residuals-against-{x}".lower(),
        title=what,
        caption=caption or _residuals_caption(usable, table, noise),
        chart=layers.compose(*band, layers.zero_line(), dots, height=300, holder=dots),
        table=table,
    )


def of_fit(table: pd.DataFrame, y: str, fitted: Any) -> pd.DataFrame:
    """Return `table` with columns `fitted` and `residual_percent`."""
    values = np.asarray(fitted, dtype=float)
    return table.assign(fitted=values, **{RESIDUAL: 100 * (table[y].to_numpy(dtype=float) / values - 1)})


def _of_law(label: str, fit: Any, runs: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    table = of_fit(runs, y, layers.predicted(fit, runs)).assign(law=label)
    columns = ["law", "run", "N", "D", "C", x, y, "fitted", RESIDUAL]
    return table[[c for c in dict.fromkeys(columns) if c in table]]


def _noise(
    table: pd.DataFrame, position: tuple[alt.X, alt.Y], x: str, noise: float | None
) -> list[alt.Chart]:
    if noise is None or not np.isfinite(noise):
        return []
    edge = [float(table[x].min()) / 1.15, float(table[x].max()) * 1.15]
    frame = pd.DataFrame({x: edge, "low": -200 * noise, "high": 200 * noise})
    return [layers.band(frame, *position, style="noise")]


def _residuals_caption(runs: pd.DataFrame, table: pd.DataFrame, noise: float | None) -> str:
    spread = table.groupby("law", sort=False)[RESIDUAL].agg(lambda r: float(np.sqrt(np.mean(np.square(r)))))
    text = f"{layers.count_note(runs)}. Root mean square: "
    text += ", ".join(f"{label} {value:.2g} %" for label, value in spread.items()) + "."
    if noise is not None and np.isfinite(noise):
        text += (
            f" The grey band is twice the noise between seeds ({100 * noise:.2g} %) on both sides of zero."
        )
    return text


_STACKED_Y = "concat_0_y"


def fit_figure(
    fit: Any,
    *,
    x: str | None = None,
    level: float = 0.95,
    name: str | None = None,
    title: str | None = None,
    caption: str | None = None,
) -> Figure:
    """Draw the data of a `FitResult`, its law with the confidence band, and the relative residuals, against
    the input `x`.

    Without `x`, the input with most distinct values is taken. If there are others, the points are
    coloured by the one that varies most. Raises AllometryError for an unknown input.
    """
    inputs = list(fit.law.inputs)
    y = fit.law.output
    data = layers.finite(fit.data, [y], f"the data of {fit.law.name}")
    x = x or max(inputs, key=lambda i: data[i].nunique())
    if x not in inputs:
        raise unknown(f"input of the law {fit.law.name}", x, inputs)
    others = sorted((i for i in inputs if i != x and data[i].nunique() > 1), key=lambda i: -data[i].nunique())
    table = of_fit(data, y, layers.predicted(fit, data))
    if others:
        main, rest = _by_group(fit, table, x, y, others)
    else:
        main, rest = _single(fit, table, x, y, level)
    return Figure(
        name=name or f"fit-{fit.law.name}",
        title=title or f"{fit.law.title}: data, fit and residuals",
        caption=caption or _caption(fit, table, level, bool(others)),
        chart=layers.stack(main, rest),
        table=table,
    )


def fit_chart(fit: Any, *, x: str | None = None, level: float = 0.95) -> alt.TopLevelMixin:
    """Return the chart of `fit_figure`: what a notebook shows of a fit."""
    return fit_figure(fit, x=x, level=level).chart


def _single(
    fit: Any, table: pd.DataFrame, x: str, y: str, level: float
) -> tuple[alt.LayerChart, alt.LayerChart]:
    """Draw a law of one varying input: a line with its band."""
    grid = _grid(fit, table, x)
    line = layers.evaluate(fit, grid, y, level).assign(series=layers.label_of(fit))
    position = log_x(x, labels=False), log_y(y, scale=_STACKED_Y)
    drawn = [
        layers.band(line, *position),
        layers.series(line, *position, [layers.label_of(fit)], pick=False),
        layers.points(table, *position, tips=_tips(table, fit, y)),
    ]
    main = layers.compose(*drawn, height=280, name="zoom_fit")
    return main, _residual_panel(fit, table, x, y, None)


def _by_group(
    fit: Any, table: pd.DataFrame, x: str, y: str, others: Sequence[str]
) -> tuple[alt.LayerChart, alt.LayerChart]:
    """Draw a law of several inputs: one line for each combination of the others, coloured by the first of them."""
    groups = [(_grid(fit, group, x), i) for i, (_, group) in enumerate(table.groupby(list(others)))]
    lines = pd.concat([grid.assign(group=i, **{y: layers.predicted(fit, grid)}) for grid, i in groups])
    position = log_x(x, labels=False), log_y(y, scale=_STACKED_Y)
    ramp = layers.ordered_colour(table[others[0]], others[0])
    drawn = [
        layers.lines(lines, *position, detail=["group"], colour=ramp, width=1.5),
        layers.points(table, *position, tips=_tips(table, fit, y), colour=ramp),
    ]
    main = layers.compose(*drawn, params=ramp.params, height=280, name="zoom_fit")
    return main, _residual_panel(fit, table, x, y, ramp)


def _grid(fit: Any, group: pd.DataFrame, x: str) -> pd.DataFrame:
    """Return log-spaced x over the group's range; every other input as it is in the whole group."""
    grid = pd.DataFrame({x: layers.log_grid(group[x])})
    for other in fit.law.inputs:
        if other != x:
            grid[other] = group[other].iloc[0]
    return grid


def _residual_panel(
    fit: Any, table: pd.DataFrame, x: str, y: str, ramp: layers.Colour | None
) -> alt.LayerChart:
    position = log_x(x), linear_y(RESIDUAL, title="Residual")
    colour = None if ramp is None else layers.Colour(ramp.encoding, alt.value(0.9), ())
    dots = layers.points(table, *position, tips=_tips(table, fit, y), colour=colour)
    return layers.compose(layers.zero_line(), dots, height=120, name="zoom_residuals", holder=dots)


def _tips(table: pd.DataFrame, fit: Any, y: str) -> list[alt.Tooltip]:
    return layers.run_tips(table, "run", *fit.law.inputs, y, "fitted", RESIDUAL)


def _caption(fit: Any, table: pd.DataFrame, level: float, grouped: bool) -> str:
    rms = float(np.sqrt(np.mean(np.square(table[RESIDUAL]))))
    text = f"{layers.count_note(table)}. Root mean square of the residuals: {rms:.2g} %."
    return text if grouped else f"{text} The band is the {100 * level:g} % interval of the fitted line."


def power_law(
    runs: pd.DataFrame,
    fit: Any = None,
    *,
    x: str = "N",
    y: str = "loss",
    slopes: Mapping[str, float] | None = None,
    label: str | None = None,
    level: float = 0.95,
    low: str | None = None,
    high: str | None = None,
    beyond: float = 1.15,
    name: str | None = None,
    title: str | None = None,
    caption: str | None = None,
) -> Figure:
    """Draw `y` against `x` in log-log: points, the fitted law with its confidence band, and papers' slopes to
    compare with.

    Runs with the same x are one point: their mean, with a bar of one standard deviation on both sides;
    where the table has intervals of its own (an optimum, say), `low` and `high` name their columns.
    `fit` is a `FitResult` of a law of x alone, or a power law along a frontier. `slopes` maps a name to
    d log y / d log x (for L(N) of Kaplan et al. 2020: {"Kaplan et al. 2020": -0.076}); such a line goes
    through the centre of the data, since only slopes can be compared between corpora. Raises
    AllometryError for missing columns, or where nothing can be drawn.
    """
    what = title or capital(f"{quantity(y).name} against {quantity(x).name}")
    usable = layers.finite(runs, [x, y], what)
    means = _points(usable, x, y, low, high)
    parts, table = [], means.copy()
    position = log_x(x), log_y(y)
    if fit is not None:
        line = layers.evaluate(fit, pd.DataFrame({x: layers.log_grid(means[x], beyond=beyond)}), y, level)
        parts.append(layers.band(line, *position))
        table["fit"] = layers.evaluate(fit, means[[x]], y, level)[y].to_numpy()
        table["residual_percent"] = 100 * (table[y] / table["fit"] - 1)
    named = _named_lines(fit, label, x, y, means, slopes or {}, level, beyond)
    if len(named):
        parts.append(layers.series(named, *position, list(dict.fromkeys(named["series"]))))
    parts.append(layers.intervals(means, position[0], "low", "high", position[1]))
    tips = layers.run_tips(table, x, y, "sd", "n", "fit", "residual_percent", "runs")
    parts.append(layers.points(table, *position, tips=tips))
    return Figure(
        name=name or f"{y}-against-{x}".lower().replace("_", "-"),
        title=what,
        caption=caption or _law_caption(usable, means, fit, slopes or {}, level, low is not None),
        chart=layers.compose(*parts),
        table=table,
    )


def _points(usable: pd.DataFrame, x: str, y: str, low: str | None, high: str | None) -> pd.DataFrame:
    if low is None or high is None:
        return layers.seed_means(usable, [x], y)
    kept = usable.sort_values(x).reset_index(drop=True)
    return kept.drop(columns=["low", "high"], errors="ignore").assign(
        low=kept[low].to_numpy(), high=kept[high].to_numpy()
    )


def _named_lines(
    fit: Any,
    label: str | None,
    x: str,
    y: str,
    means: pd.DataFrame,
    slopes: Mapping[str, float],
    level: float,
    beyond: float,
) -> pd.DataFrame:
    """Return the fitted line and the papers' slopes, as rows series, x, y; the fit first, so that it has the
    first colour.
    """
    parts = []
    if fit is not None:
        grid = pd.DataFrame({x: layers.log_grid(means[x], beyond=beyond)})
        fitted = layers.evaluate(fit, grid, y, level).assign(series=label or layers.label_of(fit))
        parts.append(fitted[["series", x, y]])
    named = {f"slope of {paper}: {_signed(slope)}": slope for paper, slope in slopes.items()}
    if named:
        parts.append(layers.through_centre(means, x, y, named))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _signed(slope: float) -> str:
    return f"{slope:.3g}".replace("-", "−")


def _law_caption(
    runs: pd.DataFrame, means: pd.DataFrame, fit: Any, slopes: Mapping[str, float], level: float, own: bool
) -> str:
    text = f"{len(means)} points. " if own else f"{layers.count_note(runs)}. "
    if own:
        text += "Bars are the intervals of the points. "
    elif np.isfinite(means["sd"]).any():
        text += "Points are means over seeds, bars one standard deviation on both sides. "
    if fit is not None:
        text += f"The band is the {100 * level:g} % interval of the fitted line. "
    if slopes:
        text += "Dashed lines have the published slopes and go through the centre of our data. "
    return text.strip()


_PREDICTED_KINDS = ("registered before it was trained", "fitted")


def predictions(
    table: pd.DataFrame,
    fitted: pd.DataFrame | None = None,
    *,
    x: str = "C",
    level: float = 0.95,
    name: str = "predicted-and-measured",
    title: str | None = None,
    caption: str | None = None,
) -> Figure:
    """Draw measured against predicted loss with prediction intervals, and below it the error of each in
    percent against `x`.

    `table` has a row a prediction: run, predicted, low, high, measured, and x (or N and D, whence C =
    6ND); a column `scored`, if any, is false for runs whose loss was known when the prediction was
    made. `fitted` has the runs that the predictions were made from, with columns predicted (the fit's
    value), measured and x. Raises AllometryError for missing columns, or where there is no prediction.
    """
    what = title or "Predicted and measured"
    made = _prepared(table, x, what).assign(kind=_PREDICTED_KINDS[0])
    if "scored" in made:
        made.loc[~made["scored"].astype(bool), "kind"] = _PREDICTED_KINDS[1]
    parts = [made] if fitted is None else [_prepared(fitted, x, what).assign(kind=_PREDICTED_KINDS[1]), made]
    both = pd.concat(parts, ignore_index=True)
    kinds = [kind for kind in _PREDICTED_KINDS if (both["kind"] == kind).any()]
    tips = layers.run_tips(
        both, "kind", "run", "N", "D", "predicted", "low", "high", "measured", "residual_percent"
    )
    return Figure(
        name=name,
        title=what,
        caption=caption or _predictions_caption(made[made["kind"] == _PREDICTED_KINDS[0]], level),
        chart=layers.stack(_against(both, kinds, tips), _errors(both, kinds, tips, x), share_x=False),
        table=both[[c for c in ("kind", "run", "N", "D", "C", "predicted", "low", "high", "measured",
                                "residual_percent") if c in both]],
    )  # fmt: skip


def _prepared(table: pd.DataFrame, x: str, what: str) -> pd.DataFrame:
    frame = table
    if x == "C" and "C" not in frame and {"N", "D"} <= set(frame.columns):
        frame = frame.assign(C=6 * frame["N"] * frame["D"])
    frame = layers.finite(frame, [x, "predicted", "measured"], what)
    return of_fit(frame, "measured", frame["predicted"]).drop(columns="fitted")


def _against(both: pd.DataFrame, kinds: list[str], tips: list[alt.Tooltip]) -> alt.LayerChart:
    """Draw predicted against measured, with the diagonal on which a perfect prediction lies."""
    x = log_x("measured", scale="concat_0_x", title="Measured test loss (nats per token)")
    y = log_y("predicted", scale="concat_0_y", title="Predicted test loss")
    values = both[["predicted", "measured"]].to_numpy(dtype=float)
    edge = [float(values.min()) / 1.02, float(values.max()) * 1.02]
    diagonal = layers.lines(pd.DataFrame({"measured": edge, "predicted": edge}), x, y, style="guide")
    bars = layers.intervals(_with_bounds(both), x, "low", "high", y)
    dots = layers.category_points(both, x, y, "kind", kinds, tips=tips)
    return layers.compose(diagonal, bars, dots, height=320, name="zoom_losses", holder=dots)


def _errors(both: pd.DataFrame, kinds: list[str], tips: list[alt.Tooltip], column: str) -> alt.LayerChart:
    """Draw the error of each prediction, and its interval about zero, against the run's size."""
    x = log_x(column, scale="concat_1_x")
    y = linear_y("residual_percent", title="Measured / predicted − 1")
    known = _with_bounds(both)
    relative = known.assign(
        low=100 * (known["low"] / known["predicted"] - 1), high=100 * (known["high"] / known["predicted"] - 1)
    )
    bars = layers.intervals(relative, x, "low", "high", y)
    dots = layers.category_points(both, x, y, "kind", kinds, tips=tips, holds=False)
    return layers.compose(layers.zero_line(), bars, dots, height=200, name="zoom_errors", holder=dots)


def _with_bounds(table: pd.DataFrame) -> pd.DataFrame:
    return (
        table if {"low", "high"} <= set(table.columns) else table.assign(low=float("nan"), high=float("nan"))
    )


def _predictions_caption(made: pd.DataFrame, level: float) -> str:
    if made.empty:
        return "No prediction was registered before its run was trained."
    text = f"{len(made)} prediction{'s' if len(made) != 1 else ''}, written down before the run was trained. "
    worst = float(made["residual_percent"].abs().max())
    text += f"The largest error is {worst:.2g} %. "
    if {"low", "high"} <= set(made.columns):
        inside = int(made["measured"].between(made["low"], made["high"]).sum())
        text += f"{inside} of {len(made)} lie inside their {100 * level:g} % prediction interval (the bars)."
    return text.strip()
