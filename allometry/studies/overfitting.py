"""Overfitting: how much data does a model of a given size need?

Analysis: L(N, D), the excess loss of too little data, and how long one may train.

Kaplan et al. 2020, eq. 1.5, 4.2 to 4.4 and 5.7. D is the size of the set in tokens, seen as often as it
takes.

Analysis: how many updates a set allows before overfitting: the bound of Kaplan et al. 2020 (eq. 5.7, figure
16, left).

A model on a subset learns no faster than on all the text, so it cannot stop before the update at which the
learning curve on all the text has come down to its final loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from allometry.core.units import format_count
from allometry.figures.curves import train_and_test
from allometry.figures.several import several
from allometry.figures.surface import surface
from allometry.laws.fit import fit
from allometry.laws.subgrids import design_range
from allometry.report.build import Section
from allometry.studies.core.sections import (
    KAPLAN,
    LEVEL,
    TOKENS,
    StudySection,
    TooFewRuns,
    caveats,
    chapter,
    constant,
    estimate,
    percent,
    section_or_reason,
    usable_runs,
)
from allometry.studies.core.study import Study, register
from allometry.studies.shared.subsets import early_stopped, excess, infinite, limits, until_turned

if TYPE_CHECKING:
    from allometry.figures.theme import Figure
    from allometry.laws.result import FitResult
    from allometry.report.build import Analysis
    from allometry.studies.core.study import StudyData


@register
class Overfitting(Study):
    """Trains every size on nested subsets of the text, with dropout, until the test loss turns.

    Kaplan et al. 2020 (section 4, figures 4, 9 and 16) fit one law of N and D to such runs and find that what
    a small set costs depends on N^0.74/D alone, so that data need to grow more slowly than models. They also
    bound the number of updates before overfitting sets in.
    """

    name: ClassVar[str] = "overfitting"
    question: ClassVar[str] = (
        "Does the loss that too little data costs depend on N and D through one ratio, and how fast must "
        "data grow with size?"
    )
    expected: ClassVar[str] = (
        "Kaplan's form within 2 % of every run; the excess loss of all sizes on one curve of N^(α_N/α_D)/D, "
        "with an exponent below one, though the smallest sizes may not be large enough to overfit at all; "
        "runs stop later than the bound, and training loss below test loss long before."
    )
    run_sets: ClassVar[dict[str, float]] = {"subsets": 1.0}

    def analyse(self, study_data: StudyData) -> Analysis:
        """Report L(N, D), the collapse of the excess loss, the rule for D, and the bound on the stopping step."""
        runs, excluded = usable_runs(study_data)

        @cache
        def table() -> pd.DataFrame:
            found = early_stopped(runs, study_data.curves)
            return found.assign(excess=excess(found))

        @cache
        def law() -> FitResult:
            return joint_law(table())

        sections = {
            "joint": section_or_reason(_JOINT, lambda: _joint(table(), law())),
            "collapse": section_or_reason(_COLLAPSE, lambda: _collapse(table(), law())),
            "stop": section_or_reason(_STOP, lambda: stopping(table(), study_data.curves)),
            "curves": section_or_reason(_CURVES, lambda: _curves(table(), study_data.curves)),
        }
        return chapter(
            self, study_data, sections, answer=_answer(sections), next=_next(sections), excluded=excluded
        )


TOLERATED = 0.02
"""Relative excess loss of Kaplan's rule D ≳ 5e3 N^0.74 (eq. 4.4): the spread between his seeds."""

_SHEHPER = "Shehper 2024"
_JOINT, _COLLAPSE = "L(N, D): size and data at once", "What too little data costs"
_STOP, _CURVES = "When to stop", "Training and test loss"


def joint_law(table: pd.DataFrame) -> FitResult:
    """Fit Kaplan's four parameters (eq. 1.5) over sizes and sets, all the text being a set of its size.

    Raises AllometryError for fewer than two sizes or three sets.
    """
    sizes, sets = table["N"].nunique(), table["unique"].nunique()
    if sizes < 2 or sets < 3:
        raise TooFewRuns(f"{sizes} sizes on {sets} sets do not make a law of both")
    return fit(table, law="kaplan", columns={"N": "N", "D": "unique", "L": "loss"}, group="run")


def _joint(table: pd.DataFrame, law: FitResult) -> StudySection:
    """Report figures 4 (left) and 9 (left): the joint law against D and against N."""
    fits = {"Kaplan L(N, D)": law}
    figures: tuple[Figure, ...] = (
        surface(table, fits, x="unique", name="early-stopped-loss-against-data"),
        surface(table, fits, x="N", colour="unique", name="early-stopped-loss-against-size"),
    )
    ratio = law.derived("alpha_N/alpha_D", LEVEL)
    text = (
        f"{table['N'].nunique()} sizes on {table.loc[~table['infinite'], 'unique'].nunique()} nested sets "
        f"and on all the text ({format_count(table['unique'].max())} tokens), dropout 10 %, one constant "
        f"rate a size, one horizon, the best test loss of each run. Kaplan's form lies {percent(law.rms)} "
        "from a run (root mean square). Its exponents are of runs that one horizon limits: the largest sizes "
        "have not converged."
    )
    why = f"no size here has converged on all the text at this horizon; {TOKENS}"
    parts = design_range(law)
    found = (
        constant("joint law, size", "α_N", {KAPLAN: 0.076, _SHEHPER: 0.076}, estimate(law, "alpha_N"), why,
                 design=parts.interval("alpha_N")),
        constant("joint law, data", "α_D", {KAPLAN: 0.103, _SHEHPER: 0.122}, estimate(law, "alpha_D"), why,
                 design=parts.interval("alpha_D")),
        constant(
            "data needed against size, D ∝ N^x", "α_N/α_D", {KAPLAN: 0.74}, ratio,
            "a ratio of exponents, so tokens and scales cancel; dropout and horizon do not",
            design=parts.interval("alpha_N/alpha_D"),
        ),
    )  # fmt: skip
    rows = until_turned(table, found)
    return StudySection(
        section=Section(title=_JOINT, text=text, evidence=figures),
        constants=rows,
        fits={"L(N, D)": law},
        warnings=(*limits(table), *caveats(law, "L(N, D)")),
    )


@dataclass(frozen=True)
class _Collapse:
    """Excess loss of every run on a subset against N^(α_N/α_D)/D, and the curve that eq. 4.3 draws there."""

    points: pd.DataFrame
    line: pd.DataFrame
    rms: float


def _collapsed(table: pd.DataFrame, law: FitResult) -> _Collapse:
    p = law.parameters
    power = p["alpha_N"] / p["alpha_D"]
    on_subsets = table[~table["infinite"] & np.isfinite(table["excess"])].sort_values("N")
    if not len(on_subsets):
        raise TooFewRuns("no run on a subset has a partner on all the text")
    ratio = on_subsets["N"] ** power / on_subsets["unique"]
    points = pd.DataFrame(
        {
            "series": [f"N = {format_count(n)}" for n in on_subsets["N"]],
            "ratio": ratio,
            "excess": 100 * on_subsets["excess"],
            "N": on_subsets["N"],
            "D": on_subsets["unique"],
            "turned": on_subsets["turned"],
        }
    )

    def curve(x: pd.Series | np.ndarray) -> np.ndarray:
        return np.asarray((1 + x * p["D_c"] / p["N_c"] ** power) ** p["alpha_D"] - 1, dtype=float)

    grid = np.geomspace(ratio.min() / 1.5, ratio.max() * 1.5, 60)
    line = pd.DataFrame({"series": "the joint law (eq. 4.3)", "ratio": grid, "excess": 100 * curve(grid)})
    off = np.log1p(on_subsets["excess"].to_numpy(float)) - np.log1p(curve(ratio))
    return _Collapse(points, line, float(np.sqrt(np.mean(off**2))))


def _collapse(table: pd.DataFrame, law: FitResult) -> StudySection:
    """Report figure 9 (right), and the rule for D (eq. 4.4)."""
    found = _collapsed(table, law)
    figure = several(
        found.points, found.line, x="ratio", y="excess", y_scale="percent",
        x_title="N^(α_N/α_D)/D", y_title="Loss over that on all the text, minus one",
        name="excess-loss", title="What too little data costs",
        caption=(
            "Each run on a subset, over the same size on all the text. If one ratio of N and D decides, the "
            "sizes lie on one curve."
        ),
    )  # fmt: skip
    power, scale = _rule(law)
    worst = found.points["excess"].max()
    text = (
        f"The excess of the smallest sets is up to {worst:.0f} %. Runs lie {percent(found.rms)} of the loss "
        "from the curve that the joint law draws (root mean square). By that law, data cost less than "
        f"{percent(TOLERATED)} of the loss from *D = {scale:.3g} · N^{power:.2f}* tokens on; Kaplan's rule "
        "is D ≳ 5e3 · N^0.74, in tokens of about four bytes. At the largest size here "
        f"({format_count(table['N'].max())}) ours asks for {format_count(scale * table['N'].max() ** power)} "
        f"tokens and his for {format_count(5e3 * table['N'].max() ** 0.74)}."
    )
    warnings: tuple[str, ...] = ()
    if worst < 100 * TOLERATED:
        warnings = (
            f"No set costs more than {percent(TOLERATED)} of the loss: these models do not overfit at this "
            "horizon, so the exponents of the data are not to be trusted.",
        )
    return StudySection(
        section=Section(title=_COLLAPSE, text=text, evidence=(figure,)),
        fits={"rms": found.rms, "rule": (scale, power)},
        warnings=warnings,
    )


def _rule(law: FitResult) -> tuple[float, float]:
    """Return (power, scale) of the D at which data cost TOLERATED of the loss: D = scale · N^power."""
    p = law.parameters
    power = p["alpha_N"] / p["alpha_D"]
    return power, p["D_c"] / p["N_c"] ** power / ((1 + TOLERATED) ** (1 / p["alpha_D"]) - 1)


def _curves(table: pd.DataFrame, curves: pd.DataFrame) -> StudySection:
    """Report figure 16 (right): the largest size on its sets."""
    largest = table[(table["N"] == table["N"].max()) & (table["seed"] == table["seed"].min())]
    gaps = largest.assign(gap=largest["loss"] - largest["train_at_stop"])
    against = (gaps["loss"] - float(infinite(table)[largest["N"].iloc[0]]))[~gaps["infinite"]]
    figure = train_and_test(curves[curves["run"].isin(largest["run"])], largest)
    small = gaps.sort_values("unique").iloc[0]
    text = (
        f"The largest size, {format_count(small['N'])}. On its smallest set ({format_count(small['unique'])} "
        f"tokens) the test loss at the stop is {small['gap']:.2f} nats above the training loss, and "
        f"{against.max():.2f} above that of the same model on all the text: the gap between test and "
        f"training {'overestimates' if small['gap'] > against.max() else 'does not overestimate'} what the "
        "missing data cost, as the paper "
        f"{'finds' if small['gap'] > against.max() else 'does'}. (Training loss is with dropout, which "
        "raises it.)"
    )
    return StudySection(section=Section(title=_CURVES, text=text, evidence=(figure,)))


def _answer(sections: dict[str, StudySection]) -> str:
    law = sections["joint"].fits.get("L(N, D)")
    if law is None:
        return sections["joint"].section.text
    value, low, high = law.derived("alpha_N/alpha_D", LEVEL)
    parts = [f"One law of N and D holds to within {percent(law.rms)}."]
    if "rms" in sections["collapse"].fits:
        parts.append(
            f"What a small set costs follows N^x/D with x = {value:.2f} (95 % interval {low:.2f} to "
            f"{high:.2f}; Kaplan et al.: 0.74), to within {percent(sections['collapse'].fits['rms'])} of the "
            "loss."
        )
    held = sections["stop"].fits.get("held")
    if held is not None:
        parts.append(f"The bound on the stopping step holds in {percent(held)} of the runs that turned.")
    return " ".join(parts)


def _next(sections: dict[str, StudySection]) -> str:
    if any("do not overfit" in w for w in sections["collapse"].warnings):
        return "Train larger sizes on these sets, or longer, until data limit them."
    return "How much of the excess does stronger regularisation of small sets remove?"


_TITLE = "When to stop"
_PAST = 4
"""Warm-ups after which a learning curve is taken to be a power law."""


def stopping(table: pd.DataFrame, curves: pd.DataFrame) -> StudySection:
    """Report where runs on subsets stopped, against S_c/[L(N, D) - L(N, ∞)]^(1/α_S).

    The learning curve L(N, S) is fitted to the runs on all the text, at the one batch that all runs have:
    steps are compared at that batch, where the paper converts both to very large ones. Raises AllometryError
    where no run turned, or the curve cannot be fitted.
    """
    law = learning_curve(table, curves)
    stops = table[~table["infinite"] & table["turned"]]
    if not len(stops):
        raise TooFewRuns("no run on a subset turned before the horizon")
    points = stops.assign(bound=_bound(law, stops)).dropna(subset=["bound"])
    if not len(points):
        raise TooFewRuns("every run that turned ended below the fitted loss of infinite training")
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
    return StudySection(
        section=Section(title=_TITLE, text=text, evidence=(figure,)), constants=(row,),
        fits={"L(N, S)": law, "held": held}, warnings=caveats(law, "L(N, S)"),
    )  # fmt: skip


def learning_curve(table: pd.DataFrame, curves: pd.DataFrame) -> FitResult:
    """Fit L(N, S) to the runs on all the text after their warm-up, at their batch; resampled by run.

    Raises AllometryError where there are fewer than two sizes, or no evaluation after the warm-up.
    """
    whole = table[table["infinite"]][["run", "N", "warmup"]]
    points = curves[["run", "step", "loss"]].merge(whole, on="run").dropna()
    points = points[points["step"] >= _PAST * points["warmup"]].rename(columns={"step": "S"})
    if points["N"].nunique() < 2:
        raise TooFewRuns("learning curves of two sizes on all the text are needed")
    columns = {"N": "N", "S": "S", "L": "loss"}
    return fit(points, law="kaplan-ns", columns=columns, objective="lsq-log", group="run")


def _bound(law: FitResult, stops: pd.DataFrame) -> np.ndarray:
    """Return updates before which a run cannot stop; NaN where its loss is below that of infinite
    training.
    """
    p = law.parameters
    above = stops["loss"].to_numpy(float) - (p["N_c"] / stops["N"].to_numpy(float)) ** p["alpha_N"]
    with np.errstate(invalid="ignore"):
        return np.where(above > 0, p["S_c"] / np.abs(above) ** (1 / p["alpha_S"]), np.nan)
