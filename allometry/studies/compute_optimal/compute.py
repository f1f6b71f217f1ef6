"""L(C): what compute buys, and how it is best spent.

Analysis: where the frontier would meet the loss that its own data allow.

Kaplan et al. 2020, section 6.3 and figure 15.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from allometry.core.units import PF_DAY
from allometry.figures.several import several
from allometry.laws.uncertainty import Array, percentile_interval
from allometry.report.build import Section
from allometry.studies.compute_optimal.frontiers import (
    Frontiers,
    adjusted_frontier,
    curves_reading,
    frontiers,
    loss_reading,
    size_reading,
    spending,
    theory,
    wrong_size,
)
from allometry.studies.compute_optimal.learning_curves import (
    efficiency,
    fixed_amounts,
    learning,
    paper_start,
    starts,
    time_law,
)
from allometry.studies.core.sections import (
    LEVEL,
    StudySection,
    chapter,
    percent,
    scope,
    section_or_reason,
    usable_runs,
)
from allometry.studies.core.study import Study, register
from allometry.studies.shared.basic_laws import joint_fits
from allometry.studies.shared.batches import critical
from allometry.studies.shared.grid import recipe_runs, trunk_points

if TYPE_CHECKING:
    from collections.abc import Callable

    from allometry.laws.envelope import EnvelopeFit
    from allometry.laws.power_lines import PowerLine
    from allometry.report.build import Analysis, Constant
    from allometry.studies.compute_optimal.learning_curves import TimeLaw
    from allometry.studies.core.study import StudyData


@register
class Compute(Study):
    """The frontier of loss against compute at the fixed batch and adjusted to the best one, and how size,
    batch and steps grow along it (Kaplan et al. 2020, sections 3.3 and 6, appendix B; figures 2, 3, 12-15).

    The critical batch from the batch scan turns C into C_min; the law of the learning curves and B_crit(L)
    predict the frontier with nothing left to fit, and stand beside it.
    """

    name: ClassVar[str] = "compute"
    question: ClassVar[str] = (
        "How does the best loss fall with compute, and how should compute be split between size, batch and "
        "steps?"
    )
    expected: ClassVar[str] = (
        "Losses fall faster with compute than in the paper (0.057 and 0.050), because small budgets are far "
        "from any "
        "floor. N_opt grows less than the paper's 0.88 at the fixed batch, since every horizon here ends in "
        "its own "
        "decay; the adjustment by B_crit is small, for a batch of 512 tokens lies below B_crit."
    )
    run_sets: ClassVar[dict[str, float]] = {"grid": 0.75, "batches": 0.25}

    def analyse(self, study_data: StudyData) -> Analysis:
        """Report frontiers, allocation, theory, wrong sizes and the crossing; what lacks B_crit says so."""
        usable, excluded = usable_runs(study_data)
        sections = {
            name: section_or_reason(title, section)
            for name, (title, section) in questions(study_data, usable).items()
        }
        return chapter(
            self, study_data, sections, answer=answer(sections), next=_NEXT, excluded=excluded,
            warnings=scope(usable, study_data),
        )  # fmt: skip


def questions(
    study_data: StudyData, usable: pd.DataFrame
) -> dict[str, tuple[str, Callable[[], StudySection]]]:
    """Return every question with its title; what several of them read is computed once."""
    crit = critical(usable, study_data.curves)

    @cache
    def runs() -> pd.DataFrame:
        return recipe_runs(usable)

    @cache
    def points() -> pd.DataFrame:
        return trunk_points(runs(), study_data.curves)

    @cache
    def found() -> Frontiers:
        return frontiers(runs(), points(), crit)

    @cache
    def laws() -> dict[str, TimeLaw]:
        return {
            "from the paper's start": time_law(points(), crit, start=paper_start(points())),
            "past the plateau": time_law(points(), crit),
        }

    return {
        "curves": (
            "Learning curves and their lower hull",
            lambda: curves_reading(found(), runs(), points(), study_data.curves),
        ),
        "loss": ("L(C) and L(C_min)", lambda: loss_reading(found())),
        "size": ("N_opt(C): the best size at each compute", lambda: size_reading(found())),
        "spending": ("How to spend more compute", lambda: spending(found())),
        "theory": ("Theory beside the frontier (appendix B)", lambda: theory(found(), laws())),
        "wrong": ("Models of the wrong size", lambda: wrong_size(points(), crit, laws())),
        "crossing": (
            "The frontier against its own data",
            lambda: crossing(found(), joint_fits(runs())["Kaplan"]),
        ),
    }


_NEXT = (
    "A larger span of compute at the same recipe: the exponents here rest on little more than a decade. Then "
    "horizons "
    "chosen on the frontier itself, several sizes to each budget, so that no interpolation is needed."
)


def answer(sections: dict[str, StudySection]) -> str:
    """Return exponents with their intervals."""
    parts = []
    for row in sections["loss"].constants:
        paper = next(iter(row.published.values()))
        parts.append(f"{row.symbol} = {row.ours:.3f} [{row.low:.3f}, {row.high:.3f}] (Kaplan: {paper:.3f})")
    for row in sections["size"].constants:
        paper = next(iter(row.published.values()))
        parts.append(f"{row.name}: {row.ours:.2f} [{row.low:.2f}, {row.high:.2f}] (Kaplan: {paper:.2f})")
    exponents = sections["spending"].fits.get("exponents")
    if exponents is not None:
        b, s = exponents["p_B"], exponents["p_S"]
        parts.append(
            f"batch ∝ C_min^{b[0]:.2f} [{b[1]:.2f}, {b[2]:.2f}] and steps ∝ C_min^{s[0]:.2f} [{s[1]:.2f}, "
            f"{s[2]:.2f}]"
        )
    elif parts:
        parts.append("without B_crit there is no C_min")
    return "; ".join(parts) + "." if parts else "These runs are too few for a frontier: see the sections."


def crossing(found: Frontiers, joint: Any) -> StudySection:
    """Report where L(C_min) would meet the loss that its own data allow, L(D(C_min)) (figure 15)."""
    _, fitted = adjusted_frontier(found)
    low, high = fitted.loss.x_range
    draws = _crossings(fitted, joint)
    point = _cross(
        (fitted.loss.slope, _at(fitted.loss)), (fitted.N.slope, _at(fitted.N)),
        (joint.parameters["alpha_D"], joint.parameters["D_c"]),
    )  # fmt: skip
    beyond = point / high if np.isfinite(point) else 1e3
    grid = np.geomspace(low, high * min(max(beyond, 10) * 10, 1e12), 60)
    alpha, scale = joint.parameters["alpha_D"], joint.parameters["D_c"]
    data = (scale / (2 * grid / (6 * fitted.N.predict(grid)))) ** alpha
    lines = pd.concat([
        pd.DataFrame({"series": "L(C_min)", "C": grid, "loss": fitted.loss.predict(grid)}),
        pd.DataFrame({"series": "L(D(C_min)), what one epoch's tokens allow", "C": grid, "loss": data}),
    ])  # fmt: skip
    figure = several(
        fitted.points[["C", "loss"]].assign(series="L(C_min)"), lines, x="C",
        x_title="Minimum compute C_min (FLOPs)", name="crossing",
        title="Where the frontier would run out of data",
        caption=f"{len(fitted.points)} points measured; all else is extrapolation. L(D) is Kaplan's L(N, D) "
        "as N → ∞, D = "
        "2 C_min/(6 N_opt) (equation 6.7).",
    )  # fmt: skip
    text = _crossing_text(fitted, point, draws, high)
    return StudySection(
        section=Section(title="The frontier against its own data", text=text, evidence=(figure,)),
        fits={"crossing": (point, draws)},
    )


def _at(line: PowerLine) -> float:
    """Return the log of the line's value at x = 1."""
    return line.level - line.slope * line.center


def _cross(loss: Any, size: Any, data: Any) -> Any:
    """Return C at which exp(l0) C^l1 = (D_c/D)^α_D with D = C/(3 N), N = exp(n0) C^n1; NaN where the lines
    diverge.
    """
    (l1, l0), (n1, n0), (alpha, scale) = loss, size, data
    slope = -alpha * (1 - n1) - l1
    level = alpha * (np.log(scale) + np.log(3.0) + n0) - l0
    with np.errstate(all="ignore"):
        return np.where(slope > 0, np.exp(np.clip(-level / slope, -700, 700)), np.nan)[()]


def _crossings(fitted: EnvelopeFit, joint: Any, count: int = 2000) -> Array:
    """Return draws of the crossing: the frontier's resamples with those of L(N, D)."""
    rng = np.random.default_rng(0)
    rows = rng.integers(min(len(fitted.loss.draws), len(fitted.N.draws)), size=count)
    which = rng.integers(len(joint.samples), size=count)

    def drawn(line: PowerLine) -> tuple[Array, Array]:
        slope, level = line.draws[rows].T
        return slope, level - slope * line.center

    data = joint.samples["alpha_D"].to_numpy()[which], joint.samples["D_c"].to_numpy()[which]
    return np.asarray(_cross(drawn(fitted.loss), drawn(fitted.N), data))


def _crossing_text(fitted: EnvelopeFit, point: float, draws: Array, high: float) -> str:
    known = draws[np.isfinite(draws) & (draws > high)]
    share = len(known) / len(draws)
    paper = (
        "Kaplan et al.: the loss of the frontier falls faster than one epoch of its own data allows, so the "
        "lines must "
        "cross, at about 10⁴ PF-days, 10¹² parameters and 1.7 nats per token, give or take an order of "
        "magnitude. "
    )
    if not np.isfinite(point) or point < high:
        return (
            f"{paper}Our constants, carried on, do not cross beyond what we measured: one epoch's data allow "
            "a loss that "
            "falls at least as fast as the frontier's, so nothing runs out."
        )
    low, up = percentile_interval(known, LEVEL)
    return (
        f"{paper}Ours, carried on {point / high:.0e} times beyond the largest compute measured, would cross "
        "at C = "
        f"{point:.0e} FLOPs ({point / PF_DAY:.0e} PF-days), N = {float(fitted.N.predict(point)):.0e} and L = "
        f"{float(fitted.loss.predict(point)):.2f}; {100 * share:.0f} % of the resamples cross at all, 95 % "
        "of those "
        f"between {low:.0e} and {up:.0e} FLOPs. This is what the constants say and no forecast: power laws "
        "without a "
        "floor, of bytes at a context of 64, are carried past where the floor that these losses show would "
        "bend them."
    )


@register
class Time(Study):
    """Fits the learning curves of all sizes with one law of size and steps (Kaplan et al. 2020, section 5;
    figures 4 right, 11 and 19; table 3).

    Points come from the constant-rate trunks of the grid, past the plateau, with steps corrected to S_min by
    the critical batch that the batch scan measured. How early points can be kept, and what the decayed ends
    of the same runs give, stand beside the fit.
    """

    name: ClassVar[str] = "time"
    question: ClassVar[str] = (
        "Do the learning curves of all sizes follow L(N, S_min) = (N_c/N)^α_N + (S_c/S_min)^α_S, and with "
        "which "
        "exponents?"
    )
    expected: ClassVar[str] = (
        "A fit to a few per cent past the plateau and bad before it. α_S between the 0.76 of the paper and "
        "the 0.59 "
        "of a rerun on small models, and sensitive to where points start; α_N above the paper's 0.077, since "
        "at this "
        "size it takes the place of a floor that the form lacks."
    )
    run_sets: ClassVar[dict[str, float]] = {"grid": 0.75, "batches": 0.25}

    def analyse(self, study_data: StudyData) -> Analysis:
        """Report the fit, its dependence on the start, slices at fixed steps and compute, and sample
        efficiency.
        """
        usable, excluded = usable_runs(study_data)
        crit = critical(usable, study_data.curves)

        def points() -> pd.DataFrame:
            return trunk_points(recipe_runs(usable), study_data.curves)

        asked: dict[str, tuple[str, Callable[[], StudySection]]] = {
            "learning": ("L(N, S_min): learning curves", lambda: learning(points(), crit)),
            "starts": (
                "Effect of the first fitted step",
                lambda: starts(points(), recipe_runs(usable), crit),
            ),
            "fixed": (
                "At fixed compute and at fixed steps",
                lambda: fixed_amounts(time_law(points(), crit), points()),
            ),
            "efficiency": ("Larger models learn from fewer tokens", lambda: efficiency(crit, points())),
        }
        sections = {name: section_or_reason(title, section) for name, (title, section) in asked.items()}
        return chapter(
            self, study_data, sections, answer=time_answer(sections), next=_NEXT_OF_TIME, excluded=excluded,
            warnings=scope(usable, study_data),
        )  # fmt: skip


_NEXT_OF_TIME = (
    "Does α_S settle once horizons are ten times longer, so that points start late enough to be free of the "
    "plateau? "
    "And is S_min the right clock at all: the sum of the learning rate over steps would put decayed and "
    "constant "
    "curves on one line."
)


def time_answer(sections: dict[str, StudySection]) -> str:
    """Return the exponents with their intervals, and what they hang on."""
    fits = sections["learning"].fits
    if not fits:
        return "These runs are too few for L(N, S_min): see the sections."
    (paper, late), start = (fits[name] for name in ("paper", "late")), fits["start"]
    rows = sections["learning"].constants
    said = [
        f"α_N = {text(a_n)} and α_S = {text(a_s)}, to within {percent(f.rms)}"
        for f, a_n, a_s in ((paper, *rows[:2]), (late, *rows[2:]))
    ]
    parts = [
        f"From where the paper takes its points on, {said[0]} (Kaplan: 0.077 and 0.76). From update {start} "
        f"on, past our plateau, {said[1]}."
    ]
    if late.parameters["alpha_S"] < late.parameters["alpha_N"]:
        parts.append(
            "The form's two terms change places, so these curves do not identify it without a floor."
        )
    for row in sections["starts"].constants[1:]:
        parts.append(f"The decayed ends of all horizons, above a floor, have α_S = {text(row)}.")
    return " ".join(parts)


def text(row: Constant) -> str:
    """Return a constant with its interval, as text."""
    return f"{row.ours:.2f} [{row.low:.2f}, {row.high:.2f}]"
