"""Double descent: where a test loss that had begun to rise falls again, along training, size or data
(Nakkiran et al. 2019, arXiv 1912.02292).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from allometry.errors import AllometryError
from allometry.report.content import Section, Table
from allometry.studies.core.sections import Reading, percent
from allometry.studies.readings.repeats import noise_of
from allometry.units import format_count

if TYPE_CHECKING:
    from allometry.laws.estimate import Array
    from allometry.report.content import Figure

CLEAR = 4.0
"""Standard deviations of a run's noise by which a loss must have risen, and then fallen, to count."""

CLEAR_IN_TABLES = 0.1
"""Share of the peak by which the loss on equations must: it is that of few answers, and rises by nats."""

_TITLE = "Double descent"


@dataclass(frozen=True, kw_only=True)
class Descent:
    """A peak of a test loss between two lower values: where it is, and by what share of it the loss rose
    before and fell after.
    """

    at: float
    rise: float
    fall: float


def second_descent(x: Array, y: Array, least: float) -> Descent | None:
    """The peak of y along rising x with the largest rise before and fall after it, if both are at least the
    share `least` of it.
    """
    known = np.isfinite(x) & np.isfinite(y) & (y > 0)
    order = np.argsort(x[known])
    x, y = x[known][order], y[known][order]
    if len(y) < 3:
        return None
    rise = 1 - np.minimum.accumulate(y) / y
    fall = 1 - np.minimum.accumulate(y[::-1])[::-1] / y
    place = int(np.argmax(np.minimum(rise, fall)))
    if min(rise[place], fall[place]) < least:
        return None
    return Descent(at=float(x[place]), rise=float(rise[place]), fall=float(fall[place]))


def descents(text: pd.DataFrame | None, tables: pd.DataFrame | None, curves: pd.DataFrame) -> Reading:
    """Every line of losses along training, size and data, and which of them descend twice.

    `text` as from `repeats.repeated`, `tables` as from `equations.equations`; either may be None. Raises
    AllometryError where there is no line of three.
    """
    parts = []
    if text is not None:
        parts += _on_text(text, curves)
    if tables is not None:
        runs = tables[["run", "task", "share", "weight_decay", "N"]]
        names = [
            f"{r.task}, {r.share:.0%}, weight decay {r.weight_decay:g}, N = {format_count(float(str(r.N)))}"
            for r in runs.itertuples()
        ]
        parts += _along("training, equations", runs["run"], names, curves, CLEAR_IN_TABLES)
    if not parts:
        raise AllometryError("no loss was followed along three sizes, sets or steps", hint="train more runs")
    table = pd.DataFrame(parts)
    said = [_counted(str(kind), rows) for kind, rows in table.groupby("along", sort=False)]
    shown = Table(
        name="descents", title="Second descents", frame=table[table["twice"]].drop(columns="twice"),
        caption="Where the loss peaks, and by what share of the peak (per cent) it rose before and fell "
        "after.",
    )  # fmt: skip
    evidence: list[Figure | Table] = []
    if text is not None:
        evidence.append(_by_size(text))
    evidence.append(shown)
    text_said = (
        f"{' '.join(said)} A line descends twice if the loss rises and then falls by more than {CLEAR:.0f} "
        f"standard deviations of a run (on equations: {percent(CLEAR_IN_TABLES)} of the peak)."
    )
    return Reading(
        section=Section(title=_TITLE, text=text_said, evidence=tuple(evidence)),
        fits={"table": table, "summary": " ".join(said)},
    )


def _on_text(text: pd.DataFrame, curves: pd.DataFrame) -> list[dict[str, object]]:
    own = text[text["usual"] & ~text["infinite"]]
    least = CLEAR * noise_of(text)
    names = [f"N = {format_count(n)}, U = {format_count(u)}" for n, u in zip(own["N"], own["U"], strict=True)]
    found = _along("training, text", own["run"], names, curves, least)
    mean = own.groupby(["N", "U"])["loss"].mean().reset_index()
    for along, across in (("N", "U"), ("U", "N")):
        kind = "size, text" if along == "N" else "data, text"
        for fixed, line in mean.groupby(across):
            if len(line) >= 3:
                descent = second_descent(line[along].to_numpy(float), line["loss"].to_numpy(float), least)
                found.append(_row(kind, f"{across} = {format_count(float(fixed))}", descent))  # type: ignore[arg-type]
    return found


def _along(
    kind: str, runs: pd.Series, names: list[str], curves: pd.DataFrame, least: float
) -> list[dict[str, object]]:
    """A row for each run's test loss along its training."""
    found = []
    by_run = dict(tuple(curves.groupby("run")))
    for run, name in zip(runs, names, strict=True):
        curve = by_run.get(run)
        if curve is not None and len(curve) >= 3:
            descent = second_descent(curve["step"].to_numpy(float), curve["loss"].to_numpy(float), least)
            found.append(_row(kind, name, descent))
    return found


def _row(kind: str, name: str, descent: Descent | None) -> dict[str, object]:
    seen = (descent.at, 100 * descent.rise, 100 * descent.fall) if descent else (np.nan,) * 3
    return {
        "along": kind, "line": name, "twice": descent is not None, "peak at": seen[0], "rise": seen[1],
        "fall": seen[2],
    }  # fmt: skip


def _counted(kind: str, rows: pd.DataFrame) -> str:
    """How many lines of a kind descend twice, and where they peak."""
    twice = rows[rows["twice"]]
    if not len(twice):
        return f"Along {kind}: none of {len(rows)} lines descends twice within the range."
    low, high = twice["peak at"].min(), twice["peak at"].max()
    where = (
        f"at {format_count(low)}" if low == high else f"between {format_count(low)} and {format_count(high)}"
    )
    return f"Along {kind}: {len(twice)} of {len(rows)} lines descend twice, with peaks {where}."


def _by_size(text: pd.DataFrame) -> Figure:
    """Final loss against N, a line a set: where a model-wise descent would be seen."""
    from allometry.figures.several import several

    own = text[text["usual"]].groupby(["U", "N"])["loss"].mean().reset_index().sort_values(["U", "N"])
    own = own.assign(series=[f"U = {format_count(u)}" for u in own["U"]])
    return several(
        own, own, x="N", y="loss", name="final-loss-against-size", title="Final test loss against size",
        caption="Not stopped, at one horizon; a line for each set.",
    )  # fmt: skip
