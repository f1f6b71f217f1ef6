"""L(N, S_min): how the loss falls with size and training time."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from allometry.studies.compute_optimal.learning_curves import (
    efficiency,
    fixed_amounts,
    learning,
    starts,
    time_law,
)
from allometry.studies.core.sections import chapter, percent, scope, section_or_reason, usable_runs
from allometry.studies.core.study import Study, register
from allometry.studies.shared.batches import critical
from allometry.studies.shared.grid import recipe_runs, trunk_points

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

    from allometry.laws.result import FitResult
    from allometry.report.content import Analysis
    from allometry.studies.core.sections import StudySection
    from allometry.studies.core.study import StudyData


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
            self, study_data, sections, answer=answer(sections), next=_NEXT, excluded=excluded,
            warnings=scope(usable, study_data),
        )  # fmt: skip


_NEXT = (
    "Does α_S settle once horizons are ten times longer, so that points start late enough to be free of the "
    "plateau? "
    "And is S_min the right clock at all: the sum of the learning rate over steps would put decayed and "
    "constant "
    "curves on one line."
)


def answer(sections: dict[str, StudySection]) -> str:
    """Return the exponents with their intervals, and what they hang on."""
    fits = sections["learning"].fits
    if not fits:
        return "These runs are too few for L(N, S_min): see the sections."
    (paper, late), start = (fits[name] for name in ("paper", "late")), fits["start"]
    said = [
        f"α_N = {text(f, 'alpha_N')} and α_S = {text(f, 'alpha_S')}, to within {percent(f.rms)}"
        for f in (paper, late)
    ]
    parts = [
        f"From where the paper takes its points on, {said[0]} (Kaplan: 0.077 and 0.76). From update {start} "
        "on, past "
        f"our plateau, {said[1]}."
    ]
    if late.parameters["alpha_S"] < late.parameters["alpha_N"]:
        parts.append(
            "The form's two terms change places, so these curves do not identify it without a floor."
        )
    for row in sections["starts"].constants[1:]:
        parts.append(
            f"The decayed ends of all horizons, above a floor, have α_S = {row.ours:.2f} [{row.low:.2f}, "
            f"{row.high:.2f}]."
        )
    return " ".join(parts)


def text(result: FitResult, name: str) -> str:
    """Return a parameter with its interval, as text."""
    low, high = result.interval(name)
    return f"{result.parameters[name]:.2f} [{low:.2f}, {high:.2f}]"
