"""Overfitting: how much data does a model of a given size need?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from allometry.studies.core.study import Study, register

if TYPE_CHECKING:
    from allometry.report.content import Analysis
    from allometry.studies.core.study import Evidence


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
    designs: ClassVar[dict[str, float]] = {"subsets": 1.0}

    def analyse(self, evidence: Evidence) -> Analysis:
        """L(N, D), the collapse of the excess loss, the rule for D, and the bound on the stopping step."""
        from allometry.studies.readings.overfitting import analyse

        return analyse(self, evidence)
