"""L(C): what compute buys, and how it is best spent."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, ClassVar

from allometry.studies.core.study import Study, register

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

    from allometry.report.content import Analysis
    from allometry.studies.core.sections import Reading
    from allometry.studies.core.study import Evidence
    from allometry.studies.readings.steps import TimeLaw


@register
class Compute(Study):
    """The frontier of loss against compute at the fixed batch and adjusted to the best one, and how size,
    batch and steps grow along it (Kaplan et al. 2020, sections 3.3 and 6, appendix B; figures 2, 3, 12-15).

    The critical batch from the batch scan turns C into C_min; the law of the learning curves and B_crit(L)
    foretell the frontier with nothing left to fit, and stand beside it.
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
    designs: ClassVar[dict[str, float]] = {"grid": 0.75, "batches": 0.25}

    def analyse(self, evidence: Evidence) -> Analysis:
        """Frontiers, allocation, theory, wrong sizes and the crossing; what lacks B_crit says so."""
        from allometry.studies.core.chapter import chapter
        from allometry.studies.core.sections import attempt
        from allometry.studies.core.usable import scope, usable_runs

        usable, excluded = usable_runs(evidence)
        readings = {
            name: attempt(title, reading) for name, (title, reading) in questions(evidence, usable).items()
        }
        return chapter(
            self, evidence, readings, answer=answer(readings), next=_NEXT, excluded=excluded,
            warnings=scope(usable, evidence),
        )  # fmt: skip


def questions(evidence: Evidence, usable: pd.DataFrame) -> dict[str, tuple[str, Callable[[], Reading]]]:
    """Every question with its title; what several of them read is computed once."""
    from allometry.studies.readings import adjusted, efficient
    from allometry.studies.readings.critical import critical
    from allometry.studies.readings.crossing import crossing
    from allometry.studies.readings.horizons import joint_fits
    from allometry.studies.readings.steps import paper_start, time_law
    from allometry.studies.readings.trunks import recipe_runs, trunk_points

    crit = critical(usable, evidence.curves)

    @cache
    def runs() -> pd.DataFrame:
        return recipe_runs(usable)

    @cache
    def points() -> pd.DataFrame:
        return trunk_points(runs(), evidence.curves)

    @cache
    def found() -> adjusted.Frontiers:
        return adjusted.frontiers(runs(), points(), crit)

    @cache
    def laws() -> dict[str, TimeLaw]:
        return {
            "from the paper's start": time_law(points(), crit, start=paper_start(points())),
            "past the plateau": time_law(points(), crit),
        }

    return {
        "curves": (
            "Learning curves and their lower hull",
            lambda: adjusted.curves_reading(found(), runs(), points(), evidence.curves),
        ),
        "loss": ("L(C) and L(C_min)", lambda: adjusted.loss_reading(found())),
        "size": ("N_opt(C): the best size at each compute", lambda: adjusted.size_reading(found())),
        "spending": ("How to spend more compute", lambda: efficient.spending(found())),
        "theory": ("Theory beside the frontier (appendix B)", lambda: efficient.theory(found(), laws())),
        "wrong": ("Models of the wrong size", lambda: efficient.wrong_size(points(), crit, laws())),
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


def answer(readings: dict[str, Reading]) -> str:
    """Exponents with their intervals."""
    parts = []
    for row in readings["loss"].constants:
        paper = next(iter(row.published.values()))
        parts.append(f"{row.symbol} = {row.ours:.3f} [{row.low:.3f}, {row.high:.3f}] (Kaplan: {paper:.3f})")
    for row in readings["size"].constants:
        paper = next(iter(row.published.values()))
        parts.append(f"{row.name}: {row.ours:.2f} [{row.low:.2f}, {row.high:.2f}] (Kaplan: {paper:.2f})")
    exponents = readings["spending"].fits.get("exponents")
    if exponents is not None:
        b, s = exponents["p_B"], exponents["p_S"]
        parts.append(
            f"batch ∝ C_min^{b[0]:.2f} [{b[1]:.2f}, {b[2]:.2f}] and steps ∝ C_min^{s[0]:.2f} [{s[1]:.2f}, "
            f"{s[2]:.2f}]"
        )
    elif parts:
        parts.append("without B_crit there is no C_min")
    return "; ".join(parts) + "." if parts else "These runs are too few for a frontier: see the sections."
