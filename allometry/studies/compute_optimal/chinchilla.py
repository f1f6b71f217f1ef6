"""The compute-optimal size by the three approaches of Hoffmann et al. 2022, on our own runs.

Analysis: the three approaches of Hoffmann et al. 2022 to the compute-optimal size, on one table of runs.

1: the lower envelope of the runs of each size. 2: parabolas through slices of equal compute (and Akima's
interpolation, after Porian et al. 2024). 3: E + A/N^α + B/D^β through all runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError
from allometry.figures.several import several
from allometry.figures.surface import isoflop_slices, surface
from allometry.laws.fit import fit
from allometry.laws.isoflop import IsoflopResult, isoflop
from allometry.laws.result import FitResult
from allometry.laws.slices import grid_budgets
from allometry.laws.subgrids import design_range, slope_range
from allometry.planner.source import chinchilla_optimum
from allometry.report.build import Section, Table
from allometry.runs.trunks import TRUNK, with_trunks
from allometry.studies.core.sections import (
    CHINCHILLA,
    EPOCH,
    LEVEL,
    MARGIN_A,
    StudySection,
    TooFewRuns,
    caveats,
    chapter,
    constant,
    design_of,
    estimate,
    percent,
    scope,
    section_or_reason,
    seed_noise,
    usable_runs,
)
from allometry.studies.core.study import Study, register
from allometry.studies.shared.basic_laws import CONVENTIONS
from allometry.studies.shared.grid import recipe_runs

if TYPE_CHECKING:
    from allometry.report.build import Analysis
    from allometry.studies.core.study import StudyData


@register
class Chinchilla(Study):
    """Reads the grid by all three approaches of Hoffmann et al. 2022, counts N and C in three ways, and asks
    whether they give one answer.

    Every horizon ends in a decay of its own, as theirs did; the published fit of the third approach was wrong
    (Besiroglu et al. 2024), so both versions stand beside ours.
    """

    name: ClassVar[str] = "chinchilla"
    question: ClassVar[str] = (
        "How does the compute-optimal size grow with compute, and do the three approaches of Hoffmann et al. "
        "agree "
        "on it?"
    )
    expected: ClassVar[str] = (
        "a near 0.6 when only blocks are counted and nearer 0.5 when everything is, as the output matrix "
        "weighs most "
        "in small models; the approaches agree within wide intervals, the third with the narrowest."
    )
    run_sets: ClassVar[dict[str, float]] = {"grid": 1.0}

    def analyse(self, study_data: StudyData) -> Analysis:
        """Report approaches by conventions; approach 2 and 3 in full."""
        usable, excluded = usable_runs(study_data)
        found = cache(lambda: answers(recipe_runs(usable)))
        asked: dict[str, tuple[str, Callable[[], StudySection]]] = {
            "compared": ("Three approaches to N_opt", lambda: compared(found())),
            "slices": ("Approach 2: slices of equal compute", lambda: slices(found())),
            "parametric": (
                "Approach 3: the parametric fit",
                lambda: parametric(recipe_runs(usable), found()),
            ),
        }
        sections = {name: section_or_reason(title, section) for name, (title, section) in asked.items()}
        sections["noise"] = seed_noise(usable)[1]
        return chapter(
            self, study_data, sections, answer=answer(sections), next=following(sections), excluded=excluded,
            warnings=scope(usable, study_data),
        )  # fmt: skip


def answer(sections: dict[str, StudySection]) -> str:
    """Return whether the approaches agree, with their exponents."""
    sentence = sections["compared"].fits.get("sentence")
    if sentence is None:
        return "These runs are too few for a compute-optimal size: see the sections."
    return (
        f"N_opt ∝ C^a with everything counted. {sentence} Hoffmann et al.: 0.50, 0.49, 0.46; Besiroglu et "
        "al.: 0.51."
    )


def following(sections: dict[str, StudySection]) -> str:
    """Return what to ask next, by whether the approaches agree."""
    if sections["compared"].fits.get("agree") is False:
        return (
            "Which approach is off? Simulate runs from the fitted law at the same sizes and horizons, with "
            "the same "
            "noise: the approach that does not give the law's own exponent back is biased by this grid."
        )
    return (
        "Agreement within wide intervals is weak. A wider span of compute, with sizes set around the optimum "
        "of each "
        "budget, would narrow approach 2 most."
    )


SLICES = {
    "1: envelope": "envelope",
    "2: parabolas": "parabola",
    "2: Akima (Porian)": "akima",
}
PARAMETRIC = "3: parametric"
PUBLISHED = {
    "1: envelope": {CHINCHILLA: 0.50},
    "2: parabolas": {CHINCHILLA: 0.49},
    "2: Akima (Porian)": {"Porian 2024, cosine": 0.572, "Porian 2024, tuned": 0.497},
    PARAMETRIC: {CHINCHILLA: 0.46, EPOCH: 0.513},
}
WIDE = 0.6
"""Width of an interval of a from which it says nothing of whether two approaches agree."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One approach under one convention: a with its interval, or why there is none; and what it came from."""

    approach: str
    convention: str
    a: tuple[float, float, float] | None
    problem: str = ""
    source: Any = None

    @property
    def design(self) -> tuple[float, float] | None:
        """The lowest and highest a over parts of the design, None without a fit."""
        if isinstance(self.source, FitResult):
            return design_of(self.source, "beta/(alpha+beta)")
        if isinstance(self.source, IsoflopResult):
            used = self.source.table[self.source.table["used"]]
            return slope_range(used["C"], used["N_opt"])
        return None

    @property
    def text(self) -> str:
        """a with its interval, or the reason."""
        if self.a is None:
            return f"not available: {self.problem}"
        return f"{self.a[0]:.2f} [{self.a[1]:.2f}, {self.a[2]:.2f}]"


def answers(runs: pd.DataFrame) -> list[Answer]:
    """Return every approach under every convention of counting N and C."""
    found = []
    for n, c, what in CONVENTIONS:
        table = pd.DataFrame(
            {"run": runs["run"], "N": runs[n], "D": runs["D"], "C": runs[c], "loss": runs["loss"],
             "seed": runs["seed"], TRUNK: with_trunks(runs)[TRUNK]}
        )  # fmt: skip
        for name, method in SLICES.items():
            found.append(_ask(name, what, partial(_sliced, table, method)))
        found.append(_ask(PARAMETRIC, what, partial(_parametric, table)))
    return found


def _ask(approach: str, what: str, made: Callable[[], tuple[tuple[float, float, float], Any]]) -> Answer:
    try:
        a, source = made()
    except AllometryError as error:
        return Answer(approach=approach, convention=what, a=None, problem=error.message)
    return Answer(approach=approach, convention=what, a=a, source=source)


def _sliced(table: pd.DataFrame, method: Any) -> tuple[tuple[float, float, float], IsoflopResult]:
    columns = {"N": "N", "D": "D", "C": "C", "loss": "loss"}
    budgets = None if method == "envelope" else grid_budgets(table)
    result = isoflop(table, columns=columns, method=method, budgets=budgets, bootstrap=400)
    return (result.a.value, *result.a.interval(LEVEL)), result


def _parametric(table: pd.DataFrame) -> tuple[tuple[float, float, float], FitResult]:
    columns = {"N": "N", "D": "D", "L": "loss"}
    result = fit(table, law="chinchilla", columns=columns, objective="huber-log")
    return result.derived("beta/(alpha+beta)", LEVEL), result


def agreement(found: list[Answer], convention: str) -> tuple[bool | None, str]:
    """Return whether the approaches agree under a convention (None: cannot tell), and a sentence that says
    so.
    """
    known = [f for f in found if f.convention == convention and f.a is not None]
    if len({f.approach[0] for f in known}) < 2:
        return None, "Fewer than two approaches gave an answer."
    intervals = [f.a for f in known if f.a is not None]
    if all(high - low > WIDE for _, low, high in intervals):
        return None, "Every interval is so wide that agreement means nothing."
    together = max(low for _, low, _ in intervals) <= min(high for _, _, high in intervals)
    values = ", ".join(f"{f.approach} {f.text}" for f in known)
    spread = np.ptp([value for value, _, _ in intervals])
    if together:
        return True, f"The approaches agree within their intervals: {values}."
    return False, f"The approaches disagree by more than their intervals, {spread:.2f} in all: {values}."


def compared(found: list[Answer]) -> StudySection:
    """Report the exponent of N_opt by approach and convention, and the frontiers in one figure."""
    rows = pd.DataFrame(
        [{"approach": f.approach, "what is counted": f.convention, "a": f.text} for f in found]
    )
    wide = rows.pivot(index="approach", columns="what is counted", values="a").reset_index()
    wide = wide[["approach", *(what for _, _, what in CONVENTIONS)]]
    everything = CONVENTIONS[-1][2]
    own = [f for f in found if f.convention == everything]
    agree, sentence = agreement(found, everything)
    constants = tuple(
        constant(
            f"N_opt ∝ C^a, approach {f.approach}",
            "a",
            PUBLISHED[f.approach],
            f.a,
            _WHY,
            widest=0.8,
            design=f.design,
            margin=MARGIN_A,
        )
        for f in own
        if f.a is not None
    )
    caption = (
        "a in N_opt ∝ C^a with 95 % intervals. The convention of Hoffmann et al. 2022 is the last column."
    )
    evidence: list[Any] = [
        Table(name="approaches", title="Approaches and conventions", frame=wide, caption=caption)
    ]
    figure = _figure(own)
    if figure is not None:
        evidence.insert(0, figure)
    text = (
        f"Counting everything, as Hoffmann et al. do: {sentence} They had 0.50, 0.49 and 0.46, and Besiroglu "
        "et al. "
        "0.51 from a correct fit of the third to the same data."
    )
    return StudySection(
        section=Section(title="Three approaches to N_opt", text=text, evidence=tuple(evidence)),
        constants=constants,
        fits={"agree": agree, "sentence": sentence},
    )


_WHY = (
    "the papers' budgets are ten million times larger; ours span little more than a decade, at a few tokens "
    "to a "
    "few thousand per parameter"
)


def _figure(own: list[Answer]) -> Any:

    points, lines = [], []
    for answer in own:
        if not isinstance(answer.source, IsoflopResult):
            continue
        used = answer.source.table[answer.source.table["used"]]
        name = f"approach {answer.approach}"
        kept = [c for c in ("C", "N_opt", "N_opt_low", "N_opt_high") if c in used]
        points.append(
            used[kept].rename(columns={"N_opt_low": "low", "N_opt_high": "high"}).assign(series=name)
        )
        lines.append(_along(name, used["C"], answer.source.N.predict))
    if not points:
        return None
    together = pd.concat(points, ignore_index=True)
    span = together["C"]
    for answer in own:
        if answer.approach == PARAMETRIC and answer.source is not None:
            lines.append(_along(f"approach {PARAMETRIC}", span, _optimum(answer.source)))
    centre = float(np.exp(np.log(span).mean())), float(np.exp(np.log(together["N_opt"]).mean()))
    lines.append(
        _along("slope of Hoffmann et al. 2022: 0.5", span, lambda C: centre[1] * (C / centre[0]) ** 0.5)
    )
    return several(
        together, pd.concat(lines), x="C", y="N_opt", x_title="Compute (FLOPs), everything counted",
        y_title="Compute-optimal parameters, all counted", name="three-approaches", title="Three approaches "
        "to N_opt(C)",
        caption=f"{len(together)} points: optima with their 95 % intervals, each approach with its power "
        "law.",
    )  # fmt: skip


def _along(series: str, C: pd.Series, law: Callable[[Any], Any]) -> pd.DataFrame:
    grid = np.geomspace(C.min() / 1.3, C.max() * 1.3, 40)
    return pd.DataFrame({"series": series, "C": grid, "N_opt": law(grid)})


def _optimum(result: FitResult) -> Callable[[Any], Any]:
    """Return the function N_opt(C) of a Chinchilla fit, for C = 6ND."""
    p = result.parameters
    return lambda C: chinchilla_optimum(C, p["A"], p["B"], p["alpha"], p["beta"])[0]


def slices(found: list[Answer]) -> StudySection:
    """Report approach 2 in full: the slices with their parabolas (figure 3 of Hoffmann et al. 2022)."""
    own = _of(found, "2: parabolas")
    result: IsoflopResult = own.source
    used = int(result.table["used"].sum())
    text = (
        f"{result.made}, {used} of them with the optimum inside their sizes; a = {own.text}. The noise of a "
        "run, "
        f"{percent(result.noise)} ({result.noise_source}), is carried through."
    )
    return StudySection(
        section=Section(
            title="Approach 2: slices of equal compute", text=text, evidence=(isoflop_slices(result),)
        ),
        warnings=tuple(f"approach 2: {w.meaning}" for w in result.warnings),
    )


def parametric(runs: pd.DataFrame, found: list[Answer]) -> StudySection:
    """Report approach 3 in full: the constants of E + A/N^α + B/D^β beside both published fits."""
    own = _of(found, PARAMETRIC)
    result: FitResult = own.source
    alpha, beta, floor = (estimate(result, name) for name in ("alpha", "beta", "E"))
    figure = surface(
        runs.assign(N=runs["N_total"]), {"E + A/N^α + B/D^β": result}, x="D", colour="N",
        name="parametric-fit", title="Approach 3: one law of size and tokens",
    )  # fmt: skip
    text = (
        f"All parameters counted: α = {alpha[0]:.2f} [{alpha[1]:.2f}, {alpha[2]:.2f}], β = {beta[0]:.2f} "
        f"[{beta[1]:.2f}, {beta[2]:.2f}], E = {floor[0]:.2f} [{floor[1]:.2f}, {floor[2]:.2f}] nats per "
        "token; a run "
        f"lies {percent(result.rms)} from the law. a = β/(α+β) = {own.text}."
    )
    short = (
        "our horizons reach down to where a model still learns to use its context, and its loss falls fast"
    )
    parts = design_range(result)
    return StudySection(
        section=Section(title="Approach 3: the parametric fit", text=text, evidence=(figure,)),
        constants=(
            constant("parametric fit, size", "α", {CHINCHILLA: 0.339, EPOCH: 0.348}, alpha, _WHY,
                     design=parts.interval("alpha")),
            constant("parametric fit, tokens", "β", {CHINCHILLA: 0.285, EPOCH: 0.366}, beta, short,
                     design=parts.interval("beta")),
        ),
        warnings=caveats(result, "approach 3"),
    )  # fmt: skip


def _of(found: list[Answer], approach: str) -> Answer:
    """Return an approach with everything counted; AllometryError with the reason if it gave nothing."""
    for answer in found:
        if answer.approach == approach and answer.convention == CONVENTIONS[-1][2]:
            if answer.source is None:
                raise TooFewRuns(answer.problem)
            return answer
    raise AllometryError(f"approach {approach} was not asked", hint="report this")
