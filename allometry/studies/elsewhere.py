"""Elsewhere: what a model trained on one text is worth on another, as it is and after further training."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from allometry.studies.core.study import Study, register

if TYPE_CHECKING:
    from allometry.report.content import Analysis
    from allometry.studies.core.study import Evidence


@register
class Elsewhere(Study):
    """Tests models on texts that they were not trained on, and then trains them on a little of such a text.

    Kaplan et al. 2020 (section 3.2.2, figure 8) find the loss elsewhere to follow the loss here at a nearly
    constant offset. Hernandez et al. 2021 measure what the first training is worth in data of the second:
    D_T = k D_F^alpha N^beta, the data that a model from scratch would need besides to end at the same loss.
    """

    name: ClassVar[str] = "elsewhere"
    question: ClassVar[str] = (
        "What does it look like to generalise well on other distributions: how does the loss there follow "
        "the loss here, and what is training here worth in data from there?"
    )
    expected: ClassVar[str] = (
        "Prose in nearly the proportion of the loss here, whether by size, data or time; code and lists off "
        "that line, since most of what makes them hard is never seen here. Transfer grows with N faster than "
        "with the data there (beta 0.38 and alpha 0.18 from text to code), and the smallest models, trained "
        "before, end worse than from scratch where data are plenty."
    )
    budget: ClassVar[str] = "15m"
    designs: ClassVar[dict[str, float]] = {"distributions": 0.4, "transfers": 0.6}

    def analyse(self, evidence: Evidence) -> Analysis:
        """Loss-to-loss lines along size, data and time; effective data transferred; ossification."""
        from allometry.studies.readings.elsewhere import analyse

        return analyse(self, evidence)
