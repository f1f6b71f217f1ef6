"""What every figure is made of: layers, the names and numbers of axes, and the frames behind a chart.

Layers are points, error bars, bands, lines, legends that highlight, and zoom. Every layer clips at the plot's edge,
because every plot can be zoomed and dragged. Zoom needs the Ctrl key (or a pinch), so that the page still scrolls; a
finger scrolls the page and never drags a plot. Labels of axes are decided while the chart is looked at (Vega
expressions of the visible domain), so they stay sensible when a reader zooms in. Frames are means over seeds, thinned
curves, grids, and fits with their intervals."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import altair as alt
import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError, unknown
from allometry.core.units import format_count, raised

Kind = Literal["count", "power", "plain", "percent"]

_DECADE = "pow(10, floor(log(datum.value) / LN10 + 1e-9))"
_MANTISSA = f"round(datum.value / {_DECADE} * 1000) / 1000"
_FORMATS: dict[Kind, str] = {"count": ".3~s", "power": ".1~e", "plain": ".4~g", "percent": "+.3~f"}
_LABELS: dict[Kind, str] = {
    "count": "replace(datum.label, 'G', 'B')",
    "power": "replace(datum.label, '+', '')",
    "plain": "datum.label",
    "percent": "(abs(datum.value) < 1e-9 ? '0' : datum.label) + ' %'",
}
_TOOLTIPS: dict[Kind, str] = {"count": ".4s", "power": ".3e", "plain": ".4f", "percent": "+.2f"}


@dataclass(frozen=True)
class Quantity:
    """How a column is shown: its name in a sentence, the unit that an axis adds, and how its numbers
    are written.
    """

    name: str
    kind: Kind
    unit: str = ""

    @property
    def title(self) -> str:
        """The name as an axis has it, with the unit."""
        return capital(self.name) + (f" ({self.unit})" if self.unit else "")


_NATS = "nats per token"
_QUANTITIES = {
    "N": Quantity("parameters N", "count", "non-embedding"),
    "N_head": Quantity("parameters N", "count", "with head"),
    "N_total": Quantity("parameters N", "count", "all"),
    "N_opt": Quantity("compute-optimal parameters", "count", "non-embedding"),
    "D": Quantity("training tokens D", "count"),
    "D_opt": Quantity("compute-optimal tokens", "count"),
    "tokens": Quantity("training tokens", "count"),
    "unique": Quantity("unique training tokens", "count"),
    "C": Quantity("training compute C", "power", "FLOPs"),
    "C_head": Quantity("training compute C", "power", "FLOPs, with head"),
    "C_attention": Quantity("training compute C", "power", "FLOPs, with head and attention"),
    "C_min": Quantity("minimum compute C", "power", "FLOPs"),
    "budget": Quantity("compute C", "power", "FLOPs"),
    "B": Quantity("batch B", "count", "tokens"),
    "S": Quantity("updates S", "count"),
    "S_min": Quantity("minimum updates S_min", "count"),
    "E_min": Quantity("minimum tokens E_min", "count"),
    "B_crit": Quantity("critical batch B_crit", "count", "tokens"),
    "loss_level": Quantity("loss reached", "plain"),
    "step": Quantity("update", "count"),
    "lr": Quantity("learning rate", "power"),
    "E": Quantity("training tokens E", "count"),
    "L": Quantity("test loss", "plain", _NATS),
    "loss": Quantity("test loss", "plain", _NATS),
    "train_loss": Quantity("training loss", "plain", _NATS),
    "bits_per_byte": Quantity("test loss", "plain", "bits per byte"),
}


def quantity(column: str) -> Quantity:
    """Return how a column is shown. A column that is not known keeps its own name; `loss_x` is the loss on x."""
    if column in _QUANTITIES:
        return _QUANTITIES[column]
    if column.startswith("loss_"):
        return Quantity(f"test loss on {column.removeprefix('loss_')}", "plain", _NATS)
    return Quantity(column.replace("_", " "), "plain")


def capital(text: str) -> str:
    """Return the text with its first letter in upper case, the rest as it is."""
    return text[:1].upper() + text[1:]


def log_axis(column: str, *, scale: str, title: str | None = None, labels: bool = True) -> alt.Axis:
    """Make an axis for a logarithmic scale: decades stand out, and as many more labels as the visible range
    asks for.

    `scale` is the scale's name in the compiled chart ("x" or "y"; "concat_0_y" in a chart above
    another). The label's expression has the form "(condition) ? label : ''": a reader who switches to a
    linear scale gets every label.
    """
    shown = quantity(column)
    decades = f"(log(domain('{scale}')[1] / domain('{scale}')[0]) / LN10)"
    whole = f"abs({_MANTISSA} - 1) < 1e-6"
    few = f"{decades} < 2.6 && ({_MANTISSA} == 2 || {_MANTISSA} == 5)"
    show = f"!isValid(datum.value) || {whole} || {few} || {decades} < 0.9"
    return alt.Axis(
        title=(title or shown.title) if labels else None,
        labels=labels,
        format=_FORMATS[shown.kind],
        labelExpr=f"({show}) ? {_LABELS[shown.kind]} : ''",
        labelOverlap="greedy",
        tickCount=8,
        gridOpacity={"condition": {"test": whole, "value": 1}, "value": 0.4},
    )


def log_x(column: str, *, scale: str = "x", title: str | None = None, labels: bool = True) -> alt.X:
    """Make a logarithmic horizontal position of `column`."""
    axis = log_axis(column, scale=scale, title=title, labels=labels)
    return alt.X(f"{escape(column)}:Q", scale=alt.Scale(type="log", nice=False, padding=14), axis=axis)


def log_y(column: str, *, scale: str = "y", title: str | None = None) -> alt.Y:
    """Make a logarithmic vertical position of `column`."""
    axis = log_axis(column, scale=scale, title=title)
    return alt.Y(f"{escape(column)}:Q", scale=alt.Scale(type="log", nice=False, padding=12), axis=axis)


def linear_y(column: str, *, title: str, kind: Kind = "percent") -> alt.Y:
    """Make a linear vertical position of `column`, such as a residual in percent."""
    axis = alt.Axis(title=title, format=_FORMATS[kind], labelExpr=_LABELS[kind], tickCount=5)
    return alt.Y(f"{escape(column)}:Q", scale=alt.Scale(zero=False, padding=10), axis=axis)


def tooltip(column: str, title: str | None = None, kind: Kind | None = None) -> alt.Tooltip:
    """Show a number in a tooltip, with digits that fit its kind."""
    return alt.Tooltip(
        f"{escape(column)}:Q", title=title or column, format=_TOOLTIPS[kind or quantity(column).kind]
    )


def text_tooltip(column: str, title: str | None = None) -> alt.Tooltip:
    """Show a text in a tooltip."""
    return alt.Tooltip(f"{escape(column)}:N", title=title or column)


def legend(column: str, *, title: str | None = None) -> alt.Legend:
    """Make a legend that writes its numbers as the axes do."""
    shown = quantity(column)
    short = {"N": "N", "D": "D", "C": "C", "budget": "C"}.get(column, capital(shown.name))
    return alt.Legend(title=title or short, format=_FORMATS[shown.kind], labelExpr=_LABELS[shown.kind])


def escape(column: str) -> str:
    """Escape a column name for Altair's shorthand and Vega-Lite's field names: dots, brackets and colons."""
    return "".join("\\" + c if c in ".[]:\\" else c for c in column)


GRID = 80
"""Points at which a fitted line is drawn."""


def require(frame: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    """Raise AllometryError unless `frame` has all `columns` and at least one row. `what` names the
    figure.
    """
    for column in columns:
        if column not in frame:
            raise unknown(f"column of {what}", column, [str(c) for c in frame.columns])
    if frame.empty:
        raise AllometryError(
            f"{what}: there is nothing to draw", hint="see `allometry runs list` for what is done"
        )


def finite(frame: pd.DataFrame, columns: Sequence[str], what: str) -> pd.DataFrame:
    """Return the rows whose `columns` are positive and finite: what a logarithmic axis can show.

    Raises AllometryError for missing columns, or where no row is left.
    """
    require(frame, columns, what)
    values = frame[list(columns)].to_numpy(dtype=float)
    kept = frame[np.all(np.isfinite(values) & (values > 0), axis=1)]
    require(kept, columns, what)
    return kept


def seed_means(runs: pd.DataFrame, by: Sequence[str], y: str) -> pd.DataFrame:
    """Return one row per setting `by`: the mean of `y` over its runs, their standard deviation `sd` and
    number `n`.

    Columns: by, y, sd, low, high (mean ± sd; NaN where there is one run), n, runs (their ids, where known).
    """
    groups = runs.groupby(list(by), sort=True, dropna=False)
    table = groups[y].agg(mean="mean", sd="std", n="size").reset_index()
    table[y] = table.pop("mean")
    table["low"], table["high"] = table[y] - table["sd"], table[y] + table["sd"]
    if "run" in runs:
        table["runs"] = groups["run"].agg(lambda ids: ", ".join(map(str, ids))).to_numpy()
    return table


def thin(curves: pd.DataFrame, x: str, *, points: int = 48) -> pd.DataFrame:
    """Keep at most `points` rows of each run, evenly spread over log x; the last one is always kept."""
    if curves.empty:
        return curves

    def pick(x_of_run: pd.Series) -> np.ndarray[Any, Any]:
        log_x = np.log(x_of_run.to_numpy(dtype=float))
        wanted = np.linspace(log_x[0], log_x[-1], points)
        keep = np.zeros(len(log_x), dtype=bool)
        keep[np.clip(np.searchsorted(log_x, wanted), 0, len(log_x) - 1)] = True
        keep[-1] = True
        return keep

    ordered = curves.sort_values(["run", x], kind="stable")
    return ordered[ordered.groupby("run", sort=False)[x].transform(pick).astype(bool)].reset_index(drop=True)


def log_grid(values: pd.Series, *, beyond: float = 1.15, points: int = GRID) -> np.ndarray[Any, Any]:
    """Return log-spaced values over the range of `values`, and a factor `beyond` further on both sides."""
    low, high = float(values.min()) / beyond, float(values.max()) * beyond
    return np.geomspace(low, high, points)


def evaluate(fit: Any, inputs: pd.DataFrame, y: str, level: float = 0.95) -> pd.DataFrame:
    """Return `inputs` with the fit's value in column `y` and its interval in `low` and `high` (NaN where it
    has none).

    `fit` is a `FitResult` (columns are read as in the fit), or a power law along a frontier: of the
    first column.
    """
    table = inputs.reset_index(drop=True).copy()
    table[y] = predicted(fit, inputs, x=str(inputs.columns[0]))
    if not hasattr(fit, "law"):
        x = inputs.iloc[:, 0].to_numpy(dtype=float)
        bounds = np.array([fit.at(value).interval(level) for value in x])
        return table.assign(low=bounds[:, 0], high=bounds[:, 1])
    if not len(fit.samples):
        return table.assign(low=np.nan, high=np.nan)
    low, high = fit.interval_at(inputs, level)
    return table.assign(low=low, high=high)


def predicted(fit: Any, frame: pd.DataFrame, *, x: str | None = None) -> np.ndarray[Any, Any]:
    """Return the fit's value for each row of `frame`; a frontier's power law reads the column `x` (default:
    its own).
    """
    if hasattr(fit, "law"):
        return np.asarray(fit.predict(frame), dtype=float)
    return np.asarray(fit.predict(frame[x or fit.x].to_numpy(dtype=float)), dtype=float)


def input_columns(fit: Any) -> list[str]:
    """Return the columns of a table of runs that a `FitResult` reads its law's inputs from."""
    texts = [str(fit.columns.get(symbol, symbol)) for symbol in fit.law.inputs]
    return list(dict.fromkeys(word for text in texts for word in re.findall(r"[^\W\d]\w*", text)))


def label_of(fit: Any) -> str:
    """Return the name of a fit in a legend: the law's title, or the formula of a line, with its exponent raised."""
    return str(fit.law.title) if hasattr(fit, "law") else raised(str(fit.formula))


def through_centre(points: pd.DataFrame, x: str, y: str, slopes: Mapping[str, float]) -> pd.DataFrame:
    """Return straight log-log lines of given slopes through the centre of the data: columns series, x, y.

    A paper's law is compared by its slope: its constants depend on the vocabulary and the corpus.
    """
    if not slopes:
        return pd.DataFrame({"series": [], x: [], y: []})
    grid = log_grid(points[x], points=2)
    centre = np.exp(np.log(points[x]).mean()), np.exp(np.log(points[y]).mean())
    lines = [
        pd.DataFrame({"series": name, x: grid, y: centre[1] * (grid / centre[0]) ** slope})
        for name, slope in slopes.items()
    ]
    return pd.concat(lines, ignore_index=True)


def count_note(runs: pd.DataFrame) -> str:
    """Count runs and settings for a caption, such as "36 runs: 8 sizes, 5 horizons, 4 seeds at N = 25.3k"."""
    number = runs["run"].nunique() if "run" in runs else len(runs)
    parts = [
        f"{runs[column].nunique()} {word}"
        for column, word in (("N", "sizes"), ("D", "horizons"))
        if column in runs and runs[column].nunique() > 1
    ]
    if {"N", "seed"} <= set(runs.columns):
        seeds = runs.groupby("N")["seed"].nunique()
        if seeds.max() > 1:
            size = float(seeds.index[int(seeds.to_numpy().argmax())])
            parts.append(f"{seeds.max()} seeds at N = {format_count(size)}")
    return f"{number} run{'s' if number != 1 else ''}" + (f": {', '.join(parts)}" if parts else "")


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
