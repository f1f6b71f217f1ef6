"""How far each run lies from each law, in percent, against the noise between seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError
from allometry.figures import frames, layers
from allometry.figures.axes import linear_y, log_x, quantity
from allometry.report.content import Figure

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
    usable = frames.finite(runs, [x, y], what)
    table = pd.concat([_of_law(label, fit, usable, x, y) for label, fit in fits.items()], ignore_index=True)
    position = log_x(x), linear_y(RESIDUAL, title="Residual, measured / fitted − 1")
    tips = layers.run_tips(table, "law", "run", "N", "D", "C", y, "fitted", RESIDUAL)
    dots = layers.category_points(table, *position, "law", list(fits), tips=tips)
    band = _noise(table, position, x, noise)
    return Figure(
        name=name or f"residuals-against-{x}".lower(),
        title=what,
        caption=caption or _caption(usable, table, noise),
        chart=layers.compose(*band, layers.zero_line(), dots, height=300, holder=dots),
        table=table,
    )


def of_fit(table: pd.DataFrame, y: str, fitted: Any) -> pd.DataFrame:
    """Return `table` with columns `fitted` and `residual_percent`."""
    values = np.asarray(fitted, dtype=float)
    return table.assign(fitted=values, **{RESIDUAL: 100 * (table[y].to_numpy(dtype=float) / values - 1)})


def _of_law(label: str, fit: Any, runs: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    table = of_fit(runs, y, frames.predicted(fit, runs)).assign(law=label)
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


def _caption(runs: pd.DataFrame, table: pd.DataFrame, noise: float | None) -> str:
    spread = table.groupby("law", sort=False)[RESIDUAL].agg(lambda r: float(np.sqrt(np.mean(np.square(r)))))
    text = f"{frames.count_note(runs)}. Root mean square: "
    text += ", ".join(f"{label} {value:.2g} %" for label, value in spread.items()) + "."
    if noise is not None and np.isfinite(noise):
        text += (
            f" The grey band is twice the noise between seeds ({100 * noise:.2g} %) on both sides of zero."
        )
    return text
