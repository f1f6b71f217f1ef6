"""Losses predicted before the runs were trained, against what was measured: the ledger as a chart."""

from __future__ import annotations

import altair as alt
import pandas as pd

from allometry.figures import frames, layers
from allometry.figures.axes import linear_y, log_x, log_y
from allometry.figures.residuals import of_fit
from allometry.report.content import Figure

_KINDS = ("registered before it was trained", "fitted")


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
    made = _prepared(table, x, what).assign(kind=_KINDS[0])
    if "scored" in made:
        made.loc[~made["scored"].astype(bool), "kind"] = _KINDS[1]
    parts = [made] if fitted is None else [_prepared(fitted, x, what).assign(kind=_KINDS[1]), made]
    both = pd.concat(parts, ignore_index=True)
    kinds = [kind for kind in _KINDS if (both["kind"] == kind).any()]
    tips = layers.run_tips(
        both, "kind", "run", "N", "D", "predicted", "low", "high", "measured", "residual_percent"
    )
    return Figure(
        name=name,
        title=what,
        caption=caption or _caption(made[made["kind"] == _KINDS[0]], level),
        chart=layers.stack(_against(both, kinds, tips), _errors(both, kinds, tips, x), share_x=False),
        table=both[[c for c in ("kind", "run", "N", "D", "C", "predicted", "low", "high", "measured",
                                "residual_percent") if c in both]],
    )  # fmt: skip


def _prepared(table: pd.DataFrame, x: str, what: str) -> pd.DataFrame:
    frame = table
    if x == "C" and "C" not in frame and {"N", "D"} <= set(frame.columns):
        frame = frame.assign(C=6 * frame["N"] * frame["D"])
    frame = frames.finite(frame, [x, "predicted", "measured"], what)
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


def _caption(made: pd.DataFrame, level: float) -> str:
    if made.empty:
        return "No prediction was registered before its run was trained."
    text = f"{len(made)} prediction{'s' if len(made) != 1 else ''}, written down before the run was trained. "
    worst = float(made["residual_percent"].abs().max())
    text += f"The largest error is {worst:.2g} %. "
    if {"low", "high"} <= set(made.columns):
        inside = int(made["measured"].between(made["low"], made["high"]).sum())
        text += f"{inside} of {len(made)} lie inside their {100 * level:g} % prediction interval (the bars)."
    return text.strip()
