"""Architectures: are the laws those of the transformer, or of learning from text by whatever means?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from allometry.studies.core.study import Study, register

if TYPE_CHECKING:
    from allometry.report.content import Analysis
    from allometry.studies.core.study import Evidence


@register
class Architectures(Study):
    """Trains LSTMs and Universal Transformers at the sizes of a ladder of transformers, on the same tokens.

    Kaplan et al. 2020 compare the three in section 3.2.1 (figure 7) and appendix D.2 (figure 17): an LSTM
    keeps up with the transformer on the first tokens of a context and falls behind later, and re-using a
    transformer's blocks gains a little at equal N and loses a little at equal compute. Runs are paired by N,
    so that a difference has an interval.
    """

    name: ClassVar[str] = "architectures"
    question: ClassVar[str] = (
        "At equal N and equal data, how do an LSTM and a Universal Transformer compare with the transformer, "
        "early and late in the context?"
    )
    expected: ClassVar[str] = (
        "The LSTM as good as the transformer on early tokens and worse on late ones; the Universal "
        "Transformer "
        "slightly better at equal N and worse at equal compute. A context of 64 bytes is about a dozen "
        "words, "
        "so the LSTM's deficit may only begin to show, and more in the pair with 256."
    )
    designs: ClassVar[dict[str, float]] = {"recurrent": 1.0}

    def analyse(self, evidence: Evidence) -> Analysis:
        """Paired differences with intervals, by size and by position."""
        from allometry.studies.readings.architectures import analyse

        return analyse(self, evidence)
