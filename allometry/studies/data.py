"""Data: how does the loss fall with the size of the set, when size and training do not limit it?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from allometry.studies.core.study import Study, register

if TYPE_CHECKING:
    from allometry.report.content import Analysis
    from allometry.studies.core.study import Evidence


@register
class Data(Study):
    """Trains the largest affordable model on nested subsets of the text, each until its test loss turns.

    This is L(D) as Kaplan et al. 2020 measure it (section 3.3, figure 1, middle), and not the loss after D
    tokens of one pass: small sets are seen many times, and what is left is what the text did not tell.
    """

    name: ClassVar[str] = "data"
    question: ClassVar[str] = (
        "How does the early-stopped test loss fall with the number of training tokens, and is it a power law?"
    )
    expected: ClassVar[str] = (
        "A straight line in log-log over the sets that are learnt by heart, steeper than Kaplan's 0.095 "
        "(bytes of one genre, and models that still learn spelling), and flat where the set is so large that "
        "the horizon limits instead."
    )
    designs: ClassVar[dict[str, float]] = {"subsets": 1.0}

    def analyse(self, evidence: Evidence) -> Analysis:
        """L(D) of the largest size, as a power law and above a floor."""
        from allometry.studies.readings.data import analyse

        return analyse(self, evidence)
