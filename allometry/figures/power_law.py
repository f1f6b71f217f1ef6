"""One quantity against one other, both logarithmic, with a fitted law: L(N), L(D), L(C), N_opt(C), and
the like.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from allometry.figures import frames, layers
from allometry.figures.axes import capital, log_x, log_y, quantity
from allometry.report.content import Figure


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
    usable = frames.finite(runs, [x, y], what)
    means = _points(usable, x, y, low, high)
    parts, table = [], means.copy()
    position = log_x(x), log_y(y)
    if fit is not None:
        line = frames.evaluate(fit, pd.DataFrame({x: frames.log_grid(means[x], beyond=beyond)}), y, level)
        parts.append(layers.band(line, *position))
        table["fit"] = frames.evaluate(fit, means[[x]], y, level)[y].to_numpy()
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
        caption=caption or _caption(usable, means, fit, slopes or {}, level, low is not None),
        chart=layers.compose(*parts),
        table=table,
    )


def _points(usable: pd.DataFrame, x: str, y: str, low: str | None, high: str | None) -> pd.DataFrame:
    if low is None or high is None:
        return frames.seed_means(usable, [x], y)
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
        grid = pd.DataFrame({x: frames.log_grid(means[x], beyond=beyond)})
        fitted = frames.evaluate(fit, grid, y, level).assign(series=label or frames.label_of(fit))
        parts.append(fitted[["series", x, y]])
    named = {f"slope of {paper}: {_signed(slope)}": slope for paper, slope in slopes.items()}
    if named:
        parts.append(frames.through_centre(means, x, y, named))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _signed(slope: float) -> str:
    return f"{slope:.3g}".replace("-", "−")


def _caption(
    runs: pd.DataFrame, means: pd.DataFrame, fit: Any, slopes: Mapping[str, float], level: float, own: bool
) -> str:
    text = f"{len(means)} points. " if own else f"{frames.count_note(runs)}. "
    if own:
        text += "Bars are the intervals of the points. "
    elif np.isfinite(means["sd"]).any():
        text += "Points are means over seeds, bars one standard deviation on both sides. "
    if fit is not None:
        text += f"The band is the {100 * level:g} % interval of the fitted line. "
    if slopes:
        text += "Dashed lines have the published slopes and go through the centre of our data. "
    return text.strip()
