"""Axes that every figure shares: what a column is called, how its numbers are written, logarithmic ticks.

Labels are decided while the chart is looked at (Vega expressions of the visible domain), so they stay
sensible when a reader zooms in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import altair as alt

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
