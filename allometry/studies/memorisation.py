"""Memorisation: what do models memorise, from how much, and what becomes of it?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from allometry.studies.base import Study, register

if TYPE_CHECKING:
    from allometry.report.content import Analysis
    from allometry.studies.base import Evidence


@register
class Memorisation(Study):
    """Measures what is stored rather than understood, where the two can be told apart.

    Five ways to ask it, each with something that was put there on purpose: random sequences that hold nothing
    to generalise (Morris et al. 2025); canaries and passages inserted a known number of times (Carlini et al.
    2019, 2022); documents that half of many models have seen (Feldman and Zhang 2020, Zhang et al. 2021); a
    batch that is seen once (Tirumala et al. 2022).
    """

    name: ClassVar[str] = "memorisation"
    question: ClassVar[str] = (
        "What is memorised, by models of which size, from how many repetitions, and for how long?"
    )
    expected: ClassVar[str] = (
        "Two to four bits per parameter of random data, limited by optimisation rather than by capacity at "
        "these budgets. Canaries seen once at chance, exposure rising with every doubling and with N; whole "
        "passages given back only after tens of repetitions. A batch seen once nearly forgotten, more slowly "
        "by larger models."
    )
    budget: ClassVar[str] = "15m"
    designs: ClassVar[dict[str, float]] = {"capacity": 0.4, "planted": 0.3, "halves": 0.2, "injected": 0.1}

    def analyse(self, evidence: Evidence) -> Analysis:
        """Capacity, exposure, extraction, counterfactual memorisation and forgetting, with intervals."""
        from allometry.studies.readings.memorisation import analyse

        return analyse(self, evidence)
