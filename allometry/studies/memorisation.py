"""Memorisation: what do models memorise, from how much, and what becomes of it?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from allometry.studies.core.study import Study, register

if TYPE_CHECKING:
    from allometry.report.content import Analysis
    from allometry.studies.core.study import Evidence


@register
class Memorisation(Study):
    """Measures what is stored rather than understood, where the two can be told apart.

    Seven ways to ask it, most with something that was put there on purpose: random sequences that hold
    nothing to generalise, and sets of text beside a larger model that has not seen them (Morris et al. 2025);
    canaries and passages inserted a known number of times (Carlini et al. 2019, 2022); documents that half of
    many models have seen (Feldman and Zhang 2020, Zhang et al. 2021); a batch that is seen once (Tirumala et
    al. 2022); and what models write, looked up in what they were trained on (McCoy et al. 2021).
    """

    name: ClassVar[str] = "memorisation"
    question: ClassVar[str] = (
        "What is memorised, by models of which size, from how many repetitions, and for how long?"
    )
    expected: ClassVar[str] = (
        "Two to four bits per parameter of random data, limited by optimisation rather than by capacity at "
        "these budgets. Canaries seen once at chance, exposure rising with every doubling and with N; whole "
        "passages given back only after tens of repetitions. A batch seen once nearly forgotten, more slowly "
        "by larger models. Of text, bits memorised beyond a reference rise with the set until it holds more "
        "than the capacity, and fall; the test loss may descend twice near there, weakly if at all. What "
        "small models write by plain sampling holds fewer n-grams of their training text than people's text "
        "does, of every n, but where a set was repeated hundreds of times and is known by heart."
    )
    budget: ClassVar[str] = "15m"
    designs: ClassVar[dict[str, float]] = {
        "capacity": 0.34, "texts": 0.16, "planted": 0.25, "halves": 0.17, "injected": 0.08,
    }  # fmt: skip

    def analyse(self, evidence: Evidence) -> Analysis:
        """Capacity, memorised text, exposure, extraction, counterfactuals, forgetting and novelty."""
        from allometry.studies.readings.memorisation import analyse

        return analyse(self, evidence)
