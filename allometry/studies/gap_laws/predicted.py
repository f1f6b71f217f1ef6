"""Laws of the time to generalise: how it depends on the share of the table, on size and on weight decay.

Analysis: predictions for larger models: their final losses on text, their times on equations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError
from allometry.figures.fits import predictions
from allometry.figures.several import several
from allometry.laws.fit import fit
from allometry.report.content import Section, Table
from allometry.studies.core.predictions import score
from allometry.studies.core.sections import LEVEL, StudySection, TooFewRuns, percent
from allometry.studies.shared.basic_laws import verdict
from allometry.studies.shared.equations import division, equations, fit_time, predictors
from allometry.studies.shared.repeats import USUAL_DECAY

if TYPE_CHECKING:
    from collections.abc import Callable

    from allometry.figures.theme import Figure
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
    """Return runs on division with weight decay: the logarithm of none is not a number."""
    own = division(table)
    return own[own["weight_decay"] > 0].reset_index(drop=True)


def time_laws(table: pd.DataFrame) -> StudySection:
    """Report three forms in the share f, each with powers of N and of weight decay, fitted with censored
    times, and what they say of the largest size when they are fitted to the others.

    Raises AllometryError where no form can be fitted.
    """
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
    return StudySection(
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
    """Return the root mean square error of log time of the largest size's runs that generalised, from the other
    sizes; NaN where that cannot be fitted.
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


GENERALISED = "generalised"
"""Column of the run table: the update at which 99 % of the held-out equations were first answered."""

TEXT_FORMS = ("ratio", "powers", "flat")
"""Log excess against log(N/U), against log N and log U, and as it was at the largest size that is known."""

LEAST_EXCESS = 0.002
"""Relative excess below which it is noise; smaller ones count as this."""


def predict_largest(runs: pd.DataFrame, held_back: pd.DataFrame) -> pd.DataFrame:
    """Return `held_back` with loss, low, high, level, method and what; runs on equations have their time
    there.

    Raises AllometryError if neither can be predicted.
    """
    on_text = held_back["tokenizer"] != "symbols"
    found, reasons = [], []
    for wanted, predict in ((held_back[on_text], _text), (held_back[~on_text], _times)):
        if not len(wanted):
            continue
        try:
            found.append(predict(runs, wanted))
        except AllometryError as error:
            reasons.append(error)
    if not found:
        raise reasons[0]
    return pd.concat(found, ignore_index=True)


def _text(runs: pd.DataFrame, wanted: pd.DataFrame) -> pd.DataFrame:
    """Return the loss on all the text by a law of N with a floor and without, times one plus the excess by
    the forms; each weighted by how well it predicted the largest size that is known.
    """
    own = runs[(runs["tokenizer"] != "symbols") & runs["early_stop"].isna()]
    own = own[(own["dropout"].astype(float) == 0) & np.isclose(own["weight_decay"], USUAL_DECAY)]
    table = own.assign(U=own["limit"].fillna(np.inf)).groupby(["N", "U"])["loss"].mean().reset_index()
    if table["N"].nunique() < 3:
        raise TooFewRuns("three sizes are needed to predict a fourth")
    points = wanted.assign(U=wanted["limit"].astype(float).fillna(np.inf))
    last = table["N"] == table["N"].max()
    known = table[last]
    combined, errors, made = [], [], []
    for form in TEXT_FORMS:
        off = np.log(known["loss"].to_numpy(float) / predicted_loss(table[~last], known, form))
        errors.append(max(float(np.sqrt(np.mean(off**2))), 0.003))
        combined.append(predicted_loss(table, points, form))
        made.append(f"{form} {100 * errors[-1]:.1f} %")
    weights = np.array(errors) ** -2.0 / np.sum(np.array(errors) ** -2.0)
    logs = np.log(np.array(combined))
    middle = weights @ logs
    spread = np.sqrt(weights @ (logs - middle) ** 2 + weights @ np.array(errors) ** 2)
    return wanted.assign(
        loss=np.exp(middle), low=np.exp(middle - 2 * spread), high=np.exp(middle + 2 * spread), level=LEVEL,
        method=f"excess loss by forms weighted by their back-test: {', '.join(made)}", what="loss",
    )  # fmt: skip


def predicted_loss(table: pd.DataFrame, points: pd.DataFrame, form: str) -> np.ndarray:
    """Return losses at points (N, U; U infinite for all the text) from a table with the columns N, U and
    loss.
    """
    fresh = table[~np.isfinite(table["U"])]
    law = "power-offset" if len(fresh) >= 4 else "power"
    whole = fit(fresh, law=law, columns={"X": "N", "L": "loss"}, objective="lsq-log", bootstrap=0)
    base = fresh.set_index("N")["loss"]
    sets = table[np.isfinite(table["U"]) & table["N"].isin(base.index)]
    excess = np.maximum(sets["loss"] / sets["N"].map(base) - 1, LEAST_EXCESS)
    log_excess = np.log(excess.to_numpy(float))
    design = _columns(form, table["N"].max())
    coefficients = np.linalg.lstsq(design(sets), log_excess, rcond=None)[0]
    finite = points.assign(U=points["U"].where(np.isfinite(points["U"]), 1.0))
    added = np.where(np.isfinite(points["U"]), np.exp(design(finite) @ coefficients), 0.0)
    return np.asarray(whole.law.predict(whole.parameters, X=points["N"].to_numpy(float)) * (1 + added))


def _columns(form: str, largest: float) -> Callable[[pd.DataFrame], np.ndarray]:
    def design(table: pd.DataFrame) -> np.ndarray:
        n, u = np.log(table["N"].to_numpy(float)), np.log(table["U"].to_numpy(float))
        if form == "flat":
            n = np.minimum(n, np.log(largest))
        parts = {"ratio": [n - u, (n - u) ** 2], "powers": [n, u, u**2], "flat": [n, u, n * u]}[form]
        return np.stack([np.ones_like(n), *parts], axis=1)

    return design


def _times(runs: pd.DataFrame, wanted: pd.DataFrame) -> pd.DataFrame:
    """Return updates until the held-out equations are answered, by the form that predicts the largest known
    size.
    """
    own = decayed(equations(runs))
    errors = {form: held_out(own, form) for form in FORMS}
    known = {form: error for form, error in errors.items() if np.isfinite(error)}
    form = min(known, key=lambda name: known[name]) if known else "power"
    fitted, critical = fit_time(own, form)
    described = equations(wanted.assign(generalised=np.nan))
    middle, low, high = fitted.predict(predictors(described, form, critical), LEVEL)
    method = f"censored regression, {FORMS[form]}"
    told = wanted.assign(loss=middle, low=low, high=high, level=LEVEL, method=method, what=GENERALISED)
    return told[np.isfinite(middle)]


def predicted_section(runs: pd.DataFrame, registered: dict[str, Any]) -> StudySection:
    """Return how the registered predictions fared, losses and times."""
    said: list[str] = []
    evidence: list[Figure | Table] = []
    for what, name in (("loss", "final losses on text"), (GENERALISED, "times to generalise")):
        if what not in runs:
            continue
        table = score(registered, runs, what)
        if not len(table):
            continue
        told = verdict(table[table["scored"]])
        said.append(f"{name[:1].upper()}{name[1:]}: {told}")
        if what == "loss":
            evidence.append(predictions(table, level=LEVEL))
        columns = ["run", "N", "D", "predicted", "low", "high", "measured", "error", "inside", "scored"]
        evidence.append(
            Table(
                name=f"predicted-{what}", title=f"Predicted {name}", frame=table[columns],
                caption=f"Intervals {LEVEL:.0%}; error is measured over predicted, less one.",
            )
        )  # fmt: skip
    if not said:
        raise TooFewRuns("none of the predicted runs has been measured")
    missed = _unseen(runs, registered)
    text = (
        f"On {registered['registered']}, before they were trained, {len(registered['predictions'])} runs "
        f"of the "
        f"largest sizes were predicted from the others. {' '.join(said)}{missed}"
    )
    return StudySection(
        section=Section(title="What was predicted", text=text, evidence=tuple(evidence)),
        fits={"summary": " ".join(said)},
    )


def _unseen(runs: pd.DataFrame, registered: dict[str, Any]) -> str:
    """Return the predicted times of runs that are done and did not generalise."""
    rows = [row for row in registered["predictions"] if row.get("what") == GENERALISED]
    if not rows or GENERALISED not in runs:
        return ""
    done = runs[(runs["status"] == "done") & runs[GENERALISED].isna()].set_index("run")
    never = [row for row in rows if row["run"] in done.index]
    if not never:
        return ""
    later = sum(row["high"] > done.loc[row["run"], "S"] for row in never)
    return (
        f" {len(never)} of the runs on equations did not generalise within their horizon; for {later} of "
        f"them the "
        f"predicted interval reaches beyond it."
    )
