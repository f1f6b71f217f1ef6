"""Schedules: does the shape of the learning rate over time matter?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from allometry.studies.core.study import Study, register

if TYPE_CHECKING:
    from allometry.report.content import Analysis
    from allometry.studies.core.study import Evidence


@register
class Schedules(Study):
    """Trains one size to one horizon under many schedules: constant with a final decay, cosine, linear and
    constant, with other peaks, floors, warm-ups and lengths of decay.

    If schedules mattered, a law would be one of schedules as much as of sizes. Kaplan et al. 2020 (appendix
    D.6, figure 22) find that any schedule is as good as another if the learning rate summed over all steps is
    large enough, there is a warm-up, and the rate decays at the end.
    """

    name: ClassVar[str] = "schedules"
    question: ClassVar[str] = (
        "Is any learning-rate schedule as good as another if its summed rate is large enough, it warms up "
        "and it decays at the end?"
    )
    expected: ClassVar[str] = (
        "Schedules that warm up and decay to zero at the recipe's peak within 1 % of each other, a few times "
        "the noise between seeds; no decay costs several per cent; half the peak costs about 1 %; no warm-up "
        "costs little at so small a width."
    )
    designs: ClassVar[dict[str, float]] = {"schedules": 1.0}

    def analyse(self, evidence: Evidence) -> Analysis:
        """Loss against summed rate, and what decay, warm-up and shape are worth beside the seeds' noise."""
        from allometry.studies.readings.schedules import analyse

        return analyse(self, evidence)
