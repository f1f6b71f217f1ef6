"""Position: how much does a token gain from what stands before it?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from allometry.studies.core.study import Study, register

if TYPE_CHECKING:
    from allometry.report.content import Analysis
    from allometry.studies.core.study import Evidence


@register
class Position(Study):
    """Reads the loss at each position of the context from a ladder of sizes, and from models of other
    contexts.

    Kaplan et al. 2020, appendix D.5 (figures 20 and 21): the loss falls as a power of the position towards a
    floor that sinks with N; larger models gain more from late positions; a model of a short context is better
    at early positions than one of a long context; and short-range structure is learned first.
    """

    name: ClassVar[str] = "position"
    question: ClassVar[str] = (
        "How does the loss fall along the context, how does that change with N, and what is learned first?"
    )
    expected: ClassVar[str] = (
        "Power laws a + b/T^c with c near 0.5 to 0.6 and a floor a that sinks with N; hardly any gain with N "
        "where only one token is known; models of 8 tokens of context better on early tokens."
    )
    designs: ClassVar[dict[str, float]] = {"grid": 0.8, "contexts": 0.2}

    def analyse(self, evidence: Evidence) -> Analysis:
        """Fits by size, slopes by position, and short contexts against long ones."""
        from allometry.studies.readings.positions import analyse

        return analyse(self, evidence)
