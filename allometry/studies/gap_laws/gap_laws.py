"""Laws of generalisation: of the gap between test and training, and of the time until it closes.

The analysis of the laws of generalisation: forms of the gap and of the time to generalise, compared by what
they predict of larger models.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError
from allometry.core.units import format_count
from allometry.figures.several import several
from allometry.laws.backtest import backtest
from allometry.laws.fit import fit
from allometry.report.content import Constant, Section, Table
from allometry.studies.core.sections import (
    StudySection,
    TooFewRuns,
    caveats,
    chapter,
    constant,
    percent,
    section_or_reason,
    summary_of,
    usable_runs,
)
from allometry.studies.core.study import Study, register
from allometry.studies.gap_laws.predicted import predict_largest, predicted_section, time_laws
from allometry.studies.shared.equations import equations, widest
from allometry.studies.shared.repeats import USUAL_DECAY, descents, largest_size, noise_of, repeated

if TYPE_CHECKING:
    from allometry.figures.theme import Figure
    from allometry.report.content import Analysis
    from allometry.studies.core.study import StudyData
    from allometry.sweeps import Sweep
    from allometry.train.config import RunConfig


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
            "excess": section_or_reason(_PENALTY, lambda: _forms(points(), "penalty", _PENALTY)),
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


def _forms(points: pd.DataFrame, output: str, title: str) -> StudySection:
    """Report every form fitted to all sizes, and to all but the largest, which it then has to predict."""
    usable = points[points[output] > LEAST_GAP].rename(columns={"run": "run_id"}).reset_index(drop=True)
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
    text = (
        f"{len(usable)} points of {usable['run_id'].nunique()} runs after their first pass over a set of "
        f"{format_count(usable['U'].min())} to {format_count(usable['U'].max())} tokens; {left_out} "
        f"points below "
        f"{LEAST_GAP} nats are left out. {summary}"
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
    row = constant("excess that weight decay 1 takes away", "1 − P(1)/P(0.1)", {LOVELACE: 0.7}, value, why)
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
