"""Frames behind the figures: means over seeds, thinned curves, grids, and fits evaluated with their
intervals.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError, unknown

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
    """Return the name of a fit in a legend: the law's title, or the formula of a line."""
    return str(fit.law.title) if hasattr(fit, "law") else str(fit.formula).replace("^-", "^−")


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
    from allometry.core.units import format_count

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
