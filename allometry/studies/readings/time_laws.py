"""Laws of the time to generalise: how it depends on the share of the table, on size and on weight decay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from allometry.errors import AllometryError
from allometry.report.content import Section, Table
from allometry.studies.core.sections import LEVEL, Reading, percent
from allometry.studies.readings.equations import division, fit_time, predictors

if TYPE_CHECKING:
    from allometry.laws.censored import Censored

FORMS = {
    "power": "T ∝ f^x",
    "exponential": "T ∝ exp(x f)",
    "critical": "T ∝ (f − f_c)^x",
}

CLEARLY = 1.1
"""Times as wrong as the best form a simpler one may be: the critical share is one parameter more."""

_TITLE = "The time to generalise"


def decayed(table: pd.DataFrame) -> pd.DataFrame:
    """Runs on division with weight decay: the logarithm of none is not a number."""
    own = division(table)
    return own[own["weight_decay"] > 0].reset_index(drop=True)


def time_laws(table: pd.DataFrame) -> Reading:
    """Three forms in the share f, each with powers of N and of weight decay, fitted with censored times, and
    what they say of the largest size when they are fitted to the others.

    Raises AllometryError where no form can be fitted.
    """
    from allometry.figures.several import several

    own = decayed(table)
    rows, fits, reasons = [], {}, []
    for form, formula in FORMS.items():
        try:
            fitted, critical = fit_time(own, form)
        except AllometryError as error:
            reasons.append(error)
            continue
        fits[form] = (fitted, critical)
        rows.append({"form": formula, **_described(fitted, critical), "held-out error": held_out(own, form)})
    if not rows:
        raise reasons[0]
    scores = pd.DataFrame(rows, index=list(fits))
    by = "held-out error" if scores["held-out error"].notna().any() else "scatter"
    best = str(scores.index[scores[by] <= CLEARLY * scores[by].min()][0])
    fitted, critical = fits[best]
    expected = fitted.predict(predictors(own, best, critical), LEVEL)[0]
    shown = own.assign(expected=expected)
    shown = shown[np.isfinite(shown["expected"])]
    state = np.where(shown["understood"], "understood", "not within the horizon")
    ends = np.array([shown["expected"].min(), shown["expected"].max()])
    figure = several(
        shown.assign(series=state)[["series", "expected", "time", "share", "N", "weight_decay", "run"]],
        pd.DataFrame({"series": "as expected", "expected": ends, "time": ends}),
        x="expected", y="time", x_title="Updates that the law expects",
        y_title="Updates until 99 % is answered",
        name="time-law", title="Times to generalise, and the law",
        caption="Above the line is later than expected. Runs that did not get there stand at their last "
        "update.",
    )  # fmt: skip
    listed = Table(
        name="time-laws", title="Forms of the time", frame=scores.reset_index(drop=True),
        caption="`scatter`: of log time about the law; `held-out error`: root mean square of log time of the "
        "largest size, from the others.",
    )  # fmt: skip
    summary = _summary(fitted, critical, best, scores)
    text = (
        f"{len(own)} runs on {own['task'].iloc[0]} with weight decay, of which "
        f"{int(own['understood'].sum())} "
        f"generalised within their horizon; the others count as later than that. {summary}"
    )
    return Reading(
        section=Section(title=_TITLE, text=text, evidence=(figure, listed)),
        fits={"scores": scores, "best": (best, fitted, critical), "summary": summary},
    )


def _described(fitted: Censored, critical: float) -> dict[str, object]:
    found: dict[str, object] = {"f_c": critical or np.nan}
    for name in fitted.names[1:]:
        value, low, high = fitted.estimate(name, LEVEL)
        found[name] = f"{value:.2f} [{low:.2f}, {high:.2f}]"
    return {**found, "scatter": fitted.sigma, "log likelihood": fitted.likelihood}


def held_out(table: pd.DataFrame, form: str) -> float:
    """Root mean square error of log time of the largest size's runs that generalised, from the other sizes;
    NaN where that cannot be fitted.
    """
    largest = table["N"] == table["N"].max()
    test = table[largest & table["understood"]]
    if not len(test):
        return float("nan")
    try:
        fitted, critical = fit_time(table[~largest], form)
    except AllometryError:
        return float("nan")
    expected = fitted.predict(predictors(test, form, critical), LEVEL)[0]
    return float(np.sqrt(np.mean((np.log(test["time"]) - np.log(expected)) ** 2)))


def _summary(fitted: Censored, critical: float, best: str, scores: pd.DataFrame) -> str:
    powers = []
    for name, what in (("N", "N"), ("weight decay", "weight decay")):
        if name in fitted.names:
            value, low, high = fitted.estimate(name, LEVEL)
            powers.append(f"{what}^({value:+.2f} [{low:+.2f}, {high:+.2f}])")
    at = f" with f_c = {critical:.2f}" if critical else ""
    error = float(scores["held-out error"].to_dict()[best])
    told = f", {percent(error)} off for the largest size (log time)" if np.isfinite(error) else ""
    return (
        f"The time to generalise goes as {' '.join(powers) or 'the share alone'} and, best of the forms, "
        f"{FORMS[best]}{at}; runs scatter by {percent(fitted.sigma)} about it{told}."
    )
