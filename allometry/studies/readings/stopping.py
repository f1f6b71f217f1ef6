"""How many updates a set allows before overfitting: the bound of Kaplan et al. 2020 (eq. 5.7, figure 16,
left).

A model on a subset learns no faster than on all the text, so it cannot stop before the update at which the
learning curve on all the text has come down to its final loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from allometry.errors import AllometryError
from allometry.laws.fit import fit
from allometry.report.content import Section
from allometry.studies.core.sections import KAPLAN, Reading, caveats, constant, estimate, percent
from allometry.units import format_count

if TYPE_CHECKING:
    from allometry.laws.result import FitResult

_TITLE = "When to stop"
_PAST = 4
"""Warm-ups after which a learning curve is taken to be a power law."""


def stopping(table: pd.DataFrame, curves: pd.DataFrame) -> Reading:
    """Where runs on subsets stopped, against S_c/[L(N, D) - L(N, ∞)]^(1/α_S).

    The learning curve L(N, S) is fitted to the runs on all the text, at the one batch that all runs have:
    steps are compared at that batch, where the paper converts both to very large ones. Raises AllometryError
    where no run turned, or the curve cannot be fitted.
    """
    from allometry.figures.several import several

    law = learning_curve(table, curves)
    stops = table[~table["infinite"] & table["turned"]]
    if not len(stops):
        raise AllometryError("no run on a subset turned before the horizon", hint="train longer")
    points = stops.assign(bound=_bound(law, stops)).dropna(subset=["bound"])
    if not len(points):
        raise AllometryError(
            "every run that turned ended below the fitted loss of infinite training", hint="train longer"
        )
    held = float((points["stop"] >= points["bound"]).mean())
    shown = points.sort_values("N")
    shown = shown.assign(series=[f"N = {format_count(n)}" for n in shown["N"]])
    ends = np.array([min(points["bound"].min(), points["stop"].min()), points["bound"].max()])
    figure = several(
        shown[["series", "bound", "stop", "N", "unique", "loss", "run"]],
        pd.DataFrame({"series": "the bound", "bound": ends, "stop": ends}),
        x="bound", y="stop", x_title="S_c/[L(N, D) − L(N, ∞)]^(1/α_S)",
        y_title="Update with the best test loss", name="stopping-step", title="When runs stop, and the bound",
        caption="Runs on subsets whose test loss turned. The paper's claim is that none lies below the line.",
    )  # fmt: skip
    why = "a constant rate and batch of 512, at horizons of a few thousand updates; the paper's S is S_min"
    row = constant("learning curve on all the text", "α_S", {KAPLAN: 0.76, "Shehper 2024": 0.59},
                   estimate(law, "alpha_S"), why)  # fmt: skip
    over = float((points["stop"] / points["bound"]).median())
    text = (
        f"The learning curves on all the text follow L(N, S) = (N_c/N)^α_N + (S_c/S)^α_S to within "
        f"{percent(law.rms)}. {len(points)} runs on subsets turned; {percent(held)} of them stopped after "
        f"the bound, in the median {over:.1f} times as late."
    )
    return Reading(
        section=Section(title=_TITLE, text=text, evidence=(figure,)), constants=(row,),
        fits={"L(N, S)": law, "held": held}, warnings=caveats(law, "L(N, S)"),
    )  # fmt: skip


def learning_curve(table: pd.DataFrame, curves: pd.DataFrame) -> FitResult:
    """L(N, S) of the runs on all the text after their warm-up, at their batch; resampled by run.

    Raises AllometryError where there are fewer than two sizes, or no evaluation after the warm-up.
    """
    whole = table[table["infinite"]][["run", "N", "warmup"]]
    points = curves[["run", "step", "loss"]].merge(whole, on="run").dropna()
    points = points[points["step"] >= _PAST * points["warmup"]].rename(columns={"step": "S"})
    if points["N"].nunique() < 2:
        raise AllometryError(
            "learning curves of two sizes on all the text are needed", hint="allow more time"
        )
    columns = {"N": "N", "S": "S", "L": "loss"}
    return fit(points, law="kaplan-ns", columns=columns, objective="lsq-log", group="run")


def _bound(law: FitResult, stops: pd.DataFrame) -> np.ndarray:
    """Updates before which a run cannot stop; NaN where its loss is below that of infinite training."""
    p = law.parameters
    above = stops["loss"].to_numpy(float) - (p["N_c"] / stops["N"].to_numpy(float)) ** p["alpha_N"]
    with np.errstate(invalid="ignore"):
        return np.where(above > 0, p["S_c"] / np.abs(above) ** (1 / p["alpha_S"]), np.nan)
