"""Sooner: which dials make a model generalise in fewer steps, or from less text?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from allometry.studies.core.study import Study, register

if TYPE_CHECKING:
    from allometry.report.content import Analysis
    from allometry.studies.core.study import Evidence


@register
class Sooner(Study):
    """Turns seven dials at once, in sixteen combinations that tell every main effect from every interaction
    of two (resolution IV), on modular division and on a small set of text.

    One dial at a time would take as many runs for answers that hold at one setting of the others only. The
    outcome is the number of updates until held-out equations are answered (runs that do not get there count
    as later than their end), and on text the best test loss in bits per byte at the same number of bytes.
    """

    name: ClassVar[str] = "sooner"
    question: ClassVar[str] = (
        "Which of weight decay, dropout, learning rate, batch, depth, initialisation, wrong answers and "
        "tokenizer make a model generalise sooner, by how much, and which of them depend on each other?"
    )
    expected: ClassVar[str] = (
        "On division weight decay matters most, several-fold; a higher rate and small weights at the start "
        "help, wrong answers cost, and weight decay and rate act together, since their product decides how "
        "fast weights forget. On text eight passes are too few for dropout to pay, and initialisation by "
        "fan-in "
        "and the rate matter most."
    )
    budget: ClassVar[str] = "15m"
    designs: ClassVar[dict[str, float]] = {"grokking_factors": 0.5, "text_factors": 0.5}

    def analyse(self, evidence: Evidence) -> Analysis:
        """Effects with intervals, ranked, and interactions as far as they can be told apart."""
        from allometry.studies.readings.sooner import analyse

        return analyse(self, evidence)
