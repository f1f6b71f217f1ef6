"""The compute-optimal size by the three approaches of Hoffmann et al. 2022, on our own runs."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, ClassVar

from allometry.studies.core.study import Study, register

if TYPE_CHECKING:
    from collections.abc import Callable

    from allometry.report.content import Analysis
    from allometry.studies.core.sections import Reading
    from allometry.studies.core.study import Evidence


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
    designs: ClassVar[dict[str, float]] = {"grid": 1.0}

    def analyse(self, evidence: Evidence) -> Analysis:
        """Approaches by conventions; approach 2 and 3 in full."""
        from allometry.studies.core.chapter import chapter
        from allometry.studies.core.sections import attempt
        from allometry.studies.core.usable import scope, seed_noise, usable_runs
        from allometry.studies.readings.approaches import answers, compared, parametric, slices
        from allometry.studies.readings.trunks import recipe_runs

        usable, excluded = usable_runs(evidence)
        found = cache(lambda: answers(recipe_runs(usable)))
        asked: dict[str, tuple[str, Callable[[], Reading]]] = {
            "compared": ("Three approaches to N_opt", lambda: compared(found())),
            "slices": ("Approach 2: slices of equal compute", lambda: slices(found())),
            "parametric": (
                "Approach 3: the parametric fit",
                lambda: parametric(recipe_runs(usable), found()),
            ),
        }
        readings = {name: attempt(title, reading) for name, (title, reading) in asked.items()}
        readings["noise"] = seed_noise(usable)[1]
        return chapter(
            self, evidence, readings, answer=answer(readings), next=following(readings), excluded=excluded,
            warnings=scope(usable, evidence),
        )  # fmt: skip


def answer(readings: dict[str, Reading]) -> str:
    """Whether the approaches agree, with their exponents."""
    sentence = readings["compared"].fits.get("sentence")
    if sentence is None:
        return "These runs are too few for a compute-optimal size: see the sections."
    return (
        f"N_opt ∝ C^a with everything counted. {sentence} Hoffmann et al.: 0.50, 0.49, 0.46; Besiroglu et "
        "al.: 0.51."
    )


def following(readings: dict[str, Reading]) -> str:
    """What to ask next, by whether the approaches agree."""
    if readings["compared"].fits.get("agree") is False:
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
