"""Predict larger runs from smaller ones, and report how the prediction compares with the measurement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from allometry.figures.fits import predictions
from allometry.figures.theme import Figure
from allometry.laws.backtest import backtest
from allometry.report.content import Section, Table
from allometry.studies.core.predictions import score
from allometry.studies.core.sections import LEVEL, StudySection, percent

if TYPE_CHECKING:
    import pandas as pd


def forecast(runs: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    """Return losses at `points` (columns N, D) from finished runs, as columns loss, low, high, level, method
    added to it.

    Back-tests by size: fitted up to each of the last sizes but one, every law predicts the larger ones. The
    interval holds the laws' own uncertainty, their disagreement and the errors of the back-test.
    """
    sizes = np.sort(runs["N"].unique())
    cuts = [float(n) for n in sizes[2:-1]][-3:]
    tested = backtest(runs, columns={"N": "N", "D": "D", "L": "loss"}, by="N", cuts=cuts)
    combined = tested.forecast(points[["N", "D"]], LEVEL)
    weights = ", ".join(f"{r.law} {r.weight:.2f}" for r in tested.scores.itertuples())
    return points.assign(
        loss=combined.value,
        low=combined.low,
        high=combined.high,
        level=LEVEL,
        method=f"laws weighted by their back-test on the smaller sizes: {weights}",
    )


def prediction(runs: pd.DataFrame, registered: dict[str, Any], ledger: pd.DataFrame | None) -> StudySection:
    """Return what was predicted before the largest models were trained, and what they then measured."""
    table = score(registered, runs)
    scored = table[table["scored"]]
    made = registered["predictions"][0]["method"] if registered["predictions"] else ""
    text = (
        f"On {registered['registered']} the losses of {len(registered['predictions'])} larger runs were "
        f"written down, "
        f"from {len(registered['made_from'])} smaller ones ({made}). {verdict(scored)}"
    )
    evidence: list[Figure | Table] = []
    if len(table):
        columns = ["run", "N", "D", "predicted", "low", "high", "measured", "error", "inside", "scored"]
        evidence.append(predictions(table, level=LEVEL))
        evidence.append(
            Table(
                name="predictions",
                title="The registered prediction, scored",
                caption=(
                    f"Intervals {LEVEL:.0%}; error is measured over predicted, minus one. "
                    "Runs known before are not scored."
                ),
                frame=table[columns],
            )
        )
    if ledger is not None and ledger["study"].nunique() > 1:
        evidence.append(_ledger(ledger))
    return StudySection(
        section=Section(title="Predicted and measured losses", text=text, evidence=tuple(evidence))
    )


def verdict(scored: pd.DataFrame) -> str:
    """Return the outcome in words: hits and misses alike."""
    if not len(scored):
        return "None of them has been measured since, so there is nothing to score."
    error, inside = scored["error"].abs(), int(scored["inside"].sum())
    bias = scored["error"].mean()
    outcome = (
        f"They came out within {percent(error.mean())} on average ({percent(error.max())} at worst, "
        f"{'above' if bias > 0 else 'below'} the prediction by {percent(abs(bias))} on the whole); "
        f"{inside} of {len(scored)} lie inside their 95 % interval."
    )
    missed = (
        " The prediction missed: the law of the smaller models does not hold as it stands."
        if (inside < 0.8 * len(scored))
        else ""
    )
    return outcome + missed


def _ledger(ledger: pd.DataFrame) -> Table:
    grouped = ledger[ledger["scored"]].groupby(["study", "registered"], sort=False)
    frame = grouped.agg(
        runs=("run", "size"),
        inside=("inside", "sum"),
        mean_error=("error", lambda e: e.abs().mean()),
        worst_error=("error", lambda e: e.abs().max()),
    ).reset_index()
    return Table(
        name="ledger",
        title="Every prediction registered in this store",
        caption="Hits and misses alike, oldest first.",
        frame=frame,
    )
