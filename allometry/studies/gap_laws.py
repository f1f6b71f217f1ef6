"""Laws of generalisation: of the gap between test and training loss, and of the time until it closes.

Forms of the gap and of the time to generalise (how it depends on the share of the table, on size and on weight
decay) are compared by what they predict of larger models: their final losses on text, their times on equations."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError
from allometry.core.units import format_count
from allometry.figures.fits import predictions
from allometry.figures.several import several
from allometry.laws.backtest import backtest
from allometry.laws.fit import fit
from allometry.report.build import Constant, Section, Table
from allometry.studies.core.predictions import score
from allometry.studies.core.sections import (
    LEVEL,
    StudySection,
    TooFewRuns,
    caveats,
    chapter,
    constant,
    percent,
    section_or_reason,
    summary_of,
    undecided,
    usable_runs,
)
from allometry.studies.core.study import Study, register
from allometry.studies.shared.basic_laws import verdict
from allometry.studies.shared.equations import division, equations, fit_time, predictors, widest
from allometry.studies.shared.repeats import USUAL_DECAY, descents, largest_size, noise_of, repeated

if TYPE_CHECKING:
    from collections.abc import Callable

    from allometry.figures.theme import Figure
    from allometry.laws.power_lines import Censored
    from allometry.report.build import Analysis
    from allometry.studies.core.study import StudyData
    from allometry.sweeps import Sweep
    from allometry.train.config import RunConfig

TIME_FORMS = {
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
    for form, formula in TIME_FORMS.items():
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
        f"{TIME_FORMS[best]}{at}; runs scatter by {percent(fitted.sigma)} about it{told}."
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
    errors = {form: held_out(own, form) for form in TIME_FORMS}
    known = {form: error for form, error in errors.items() if np.isfinite(error)}
    form = min(known, key=lambda name: known[name]) if known else "power"
    fitted, critical = fit_time(own, form)
    described = equations(wanted.assign(generalised=np.nan))
    middle, low, high = fitted.predict(predictors(described, form, critical), LEVEL)
    method = f"censored regression, {TIME_FORMS[form]}"
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


@register
class GapLaws(Study):
    """Fits forms of the gap in N, the size of the set and repeats, and of the time to generalise in N, the
    share of the table and weight decay; the largest models are predicted before they are trained.

    Forms are compared by what they predict of larger models. Where the test loss rises and falls again,
    along training, size or data (Nakkiran et al. 2019, arXiv 1912.02292), no such law can hold: so descents
    are looked for first.
    """

    name: ClassVar[str] = "gap_laws"
    question: ClassVar[str] = (
        "Are there laws of generalisation: can the gap between test and training loss, and the time until a "
        "model generalises, be predicted for larger models from smaller ones?"
    )
    expected: ClassVar[str] = (
        "The gap is a power of repeats and of N per token to within a fifth, and saturates where a set "
        "is known "
        "by heart; strong weight decay removes most of it (Lovelace et al. 2026: about 70 %). The time to "
        "generalise rises steeply towards a critical share and falls with weight decay and size. Double "
        "descent "
        "along training in arithmetic, where it is what grokking is; none on text at these sizes."
    )
    budget: ClassVar[str] = "15m"
    run_sets: ClassVar[dict[str, float]] = {"epochs": 0.6, "grokking": 0.4}

    def held_back(self, run: RunConfig, sweep: Sweep) -> bool:
        """Return the largest size on text, on every set, and the largest on equations."""
        return largest_size(run, sweep.runs) or widest(run)

    def predict(self, runs: pd.DataFrame, held_back: pd.DataFrame) -> pd.DataFrame:
        """Return the final losses on text, by forms weighted by their back-test, and times to generalise on
        equations.
        """
        return predict_largest(runs, held_back)

    def analyse(self, study_data: StudyData) -> Analysis:
        """Report forms of the gap and of the time, what they predict, and where losses descend twice."""
        runs, excluded = usable_runs(study_data)

        @cache
        def text() -> pd.DataFrame:
            return repeated(runs, study_data.curves)

        @cache
        def points() -> pd.DataFrame:
            return along(text(), study_data.curves)

        sections = {
            "gap": section_or_reason(_GAP, lambda: _forms(points(), "gap", _GAP)),
            "excess": section_or_reason(
                _PENALTY, lambda: _forms(points(), "penalty", _PENALTY, noise_of(text()))
            ),
            "regular": section_or_reason(_REGULAR, lambda: _regularised(text())),
            "time": section_or_reason("The time to generalise", lambda: time_laws(equations(runs))),
            "descents": section_or_reason(
                "Double descent",
                lambda: descents(_known(text), _known(lambda: equations(runs)), study_data.curves),
            ),
        }
        if study_data.prediction is not None:
            registered = study_data.prediction
            sections["predicted"] = section_or_reason(
                "What was predicted", lambda: predicted_section(study_data.runs, registered)
            )
        return chapter(
            self, study_data, sections, excluded=excluded, next=_next(sections),
            answer=summary_of(sections, "These runs are too few for laws of generalisation: see the sections."),
        )  # fmt: skip


FORMS = {
    "gap": "a power of repeats and of N/U",
    "gap-power": "powers of repeats, N and U",
    "gap-saturating": "a power of N/U that fills up with repeats",
}

LOVELACE = "Lovelace 2026"

LEAST_GAP = 0.02
"""Nats below which a gap is noise between batches."""

CLEAR_OF_NOISE = 5.0
"""Standard deviations of the noise below which an excess loss is left out of its forms: of points near their
noise those that happen to lie high are kept, and flatten every exponent (on planted runs by a tenth)."""

_GAP, _PENALTY, _REGULAR = "Forms of the gap", "Forms of the excess loss", "What regularisation takes away"


def _known(table):  # type: ignore[no-untyped-def]
    """Return the result of `table`, or None where its runs are missing."""
    try:
        return table()
    except AllometryError:
        return None


def along(table: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Return points of the usual runs on sets, after their first pass: run, N, U, R, step, `gap` (test less
    training loss) and `penalty` (test loss less that of the same size on all the text at the same update).

    Raises AllometryError if there are none.
    """
    own = table[table["usual"]][["run", "N", "U", "infinite"]]
    every = curves[["run", "step", "tokens", "loss", "train_loss"]].dropna().merge(own, on="run")
    fresh = every[every["infinite"]].groupby(["N", "step"])["loss"].mean().rename("fresh").reset_index()
    points = every[~every["infinite"]].merge(fresh, on=["N", "step"], how="left")
    points = points.assign(
        R=points["tokens"] / points["U"] - 1,
        gap=points["loss"] - points["train_loss"],
        penalty=points["loss"] - points["fresh"],
    )
    points = points[points["R"] >= 1].reset_index(drop=True)
    if not len(points):
        raise TooFewRuns("no set was passed over twice")
    return points


def _forms(points: pd.DataFrame, output: str, title: str, noise: float = 0.0) -> StudySection:
    """Report every form fitted to all sizes, and to all but the largest, which it then has to predict.

    `noise` (relative) is that of a loss between runs, where `output` is the difference of two runs' losses.
    """
    least = (
        np.maximum(LEAST_GAP, CLEAR_OF_NOISE * np.sqrt(2) * noise * points["loss"]) if noise else LEAST_GAP
    )
    usable = points[points[output] > least].rename(columns={"run": "run_id"}).reset_index(drop=True)
    sizes = np.sort(usable["N"].unique())
    if len(sizes) < 3 or usable["U"].nunique() < 3:
        raise TooFewRuns(
            f"{len(sizes)} sizes on {usable['U'].nunique()} sets show such a loss, too few for its form"
        )
    columns = {"G": output}
    tested = backtest(
        usable, laws=tuple(FORMS), columns=columns, by="N", cuts=[float(n) for n in sizes[1:-1]][-2:],
        objective="lsq-log", group="run_id", bootstrap=0,
    )  # fmt: skip
    scores = tested.scores.assign(form=tested.scores["law"].map(FORMS))
    scores = scores.assign(residual=[tested.fits[law].rms for law in scores["law"]])
    best = fit(usable, law=tested.best, columns=columns, objective="lsq-log", group="run_id", bootstrap=120)
    shown = Table(
        name=f"forms-of-{output}", title=title,
        frame=scores[["form", "residual", "mean_error", "worst_error", "bias"]],
        caption="`residual`: root mean square of the logarithm over all points; the errors are relative, "
        "of larger "
        "sizes that were held out, over the last cuts.",
    )  # fmt: skip
    powers = ", ".join(_power(best, name) for name in best.free if name != "P")
    first = scores.iloc[0]
    summary = (
        f"Of the forms of the {'gap' if output == 'gap' else 'excess loss'}, {first['form']} predicts "
        f"larger models best "
        f"({percent(first['mean_error'])} off; {powers})."
    )
    left_out = len(points) - len(usable)
    clear = f" or {CLEAR_OF_NOISE:.0f} standard deviations of a difference between two runs" if noise else ""
    text = (
        f"{len(usable)} points of {usable['run_id'].nunique()} runs after their first pass over a set of "
        f"{format_count(usable['U'].min())} to {format_count(usable['U'].max())} tokens; {left_out} "
        f"points below "
        f"{LEAST_GAP} nats{clear} are left out. {summary}"
    )
    return StudySection(
        section=Section(title=title, text=text, evidence=(_figure(usable, best, output, title), shown)),
        fits={"best": best, "scores": scores, "summary": summary},
        warnings=caveats(best, title.lower()),
    )


def _power(best, name: str) -> str:  # type: ignore[no-untyped-def]
    low, high = best.interval(name)
    return f"{name} {best.parameters[name]:.3g} [{low:.3g}, {high:.3g}]"


def _figure(points: pd.DataFrame, best, output: str, title: str) -> Figure:  # type: ignore[no-untyped-def]
    """Draw the largest size against repeats, a line of the best form for each set."""
    largest = points[points["N"] == points["N"].max()].sort_values(["U", "R"])
    drawn = largest.assign(series=[f"U = {format_count(u)}" for u in largest["U"]])
    lines = drawn[["series", "R"]].assign(**{output: best.predict(drawn)})
    what = "Test less training loss" if output == "gap" else "Test loss less that on all the text"
    return several(
        drawn[["series", "R", output, "U", "N", "run_id"]], lines, x="R", y=output,
        x_title="Repeats: passes less one", y_title=f"{what} (nats per token)",
        name=f"{output}-against-repeats",
        title=f"{title}, the largest size", caption=f"Points along the runs, and {best.law.title.lower()}.",
    )  # fmt: skip


def _regularised(table: pd.DataFrame) -> StudySection:
    """Report gap and excess loss of one size on one set under other weight decays, and with dropout."""
    varied = table[~table["usual"]]
    if not len(varied):
        raise TooFewRuns("no run was regularised otherwise")
    n, u = varied["N"].mode().max(), varied["U"].mode().max()
    own = table[(table["N"] == n) & (table["U"] == u)].sort_values(["dropout", "weight_decay"])
    fresh = table.loc[table["usual"] & table["infinite"] & (table["N"] == n), "loss"]
    if not len(fresh) or not own["usual"].any():
        raise TooFewRuns("the partners of the regularised runs are missing")
    frame = own[["weight_decay", "dropout", "loss", "best", "gap"]].assign(
        excess=own["loss"] - fresh.mean(), stopped=own["best"] - fresh.mean()
    )
    shown = Table(
        name="regularised", title="One size on one set", frame=frame,
        caption="`excess`: final test loss over that of the same size, not regularised, on all the text; "
        "`stopped`: "
        "the best test loss over it.",
    )  # fmt: skip
    rows, said = _taken(frame, noise_of(table) * float(fresh.mean()))
    text = (
        f"{format_count(n)} parameters on {format_count(u)} tokens, {own['R'].median():.0f} repeats. "
        f"{said} Dropout "
        "and weight decay are the same in all of a run."
    )
    return StudySection(
        section=Section(title=_REGULAR, text=text, evidence=(shown,)), constants=rows, fits={"summary": said}
    )


def _taken(frame: pd.DataFrame, noise: float) -> tuple[tuple[Constant, ...], str]:
    """Return the share of the excess loss that strong weight decay takes away, with its interval from seed
    noise.
    """
    usual = frame[(frame["dropout"] == 0) & np.isclose(frame["weight_decay"], USUAL_DECAY)]
    strong = frame[(frame["dropout"] == 0) & (frame["weight_decay"] > 0.99)]
    if not len(usual) or not len(strong) or usual["excess"].iloc[0] < 3 * noise:
        return (), "The excess is too small to say what regularisation takes from it."
    before, after = usual["excess"].mean(), strong["excess"].mean()
    left = after / before
    half = 1.96 * float(np.sqrt(2) * noise * np.hypot(1, left) / before)
    value = (1 - left, 1 - left - half, 1 - left + half)
    why = (
        "one size on one set, held against the same size on all the text without it, so that what weight "
        "decay costs there counts too; theirs is the coefficient of a law over many"
    )
    row = undecided(
        constant("excess that weight decay 1 takes away", "1 − P(1)/P(0.1)", {LOVELACE: 0.7}, value, why),
        "one run at each decay and one rate for both, which is no comparison",
        "the rate tuned at each decay, three seeds",
    )
    sign = 1 if value[0] >= 0 else -1
    low, high = sorted((sign * value[1], sign * value[2]))
    change = f"{percent(sign * value[0])} [{percent(low)}, {percent(high)}]"
    does = (
        f"takes {change} of the final excess loss away"
        if sign > 0
        else f"adds {change} to the final excess loss"
    )
    said = f"Weight decay 1 instead of 0.1 {does} (Lovelace et al.: takes about 70 % away)."
    return (row,), said


def _next(sections: dict[str, StudySection]) -> str:
    if "scores" not in sections["gap"].fits:
        return (
            "Which form does the gap have? That needs three sizes that learn three sets by heart: see above."
        )
    return "Do the exponents of the gap move when each size has its own best weight decay?"
