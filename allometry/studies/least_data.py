"""Least data: how little text, or how small a part of a table, does a model need to generalise?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from allometry.studies.core.study import Study, register

if TYPE_CHECKING:
    from allometry.report.content import Analysis
    from allometry.studies.core.study import Evidence


@register
class LeastData(Study):
    """Trains sizes on nested sets of text for up to hundreds of passes, and small models on parts of the
    table of modular division and of the permutations of five things.

    On text the question is what repetition costs (Kaplan et al. 2020, section 4; Muennighoff et al. 2023,
    arXiv 2305.16264): D*(N), the set from which a model loses less than 1, 2 or 5 % to a model on fresh text,
    early-stopped and not. On equations generalisation is all or nothing, and may come long after the examples
    are known by heart (Power et al. 2022, arXiv 2201.02177): what share of the table it takes, and how long.
    """

    name: ClassVar[str] = "least_data"
    question: ClassVar[str] = (
        "How few data are enough for a model of a given size to generalise, and what do weight decay and "
        "patience change about that?"
    )
    expected: ClassVar[str] = (
        "Early-stopped, D* grows more slowly than N (Kaplan: N^0.74); at a fixed horizon it is larger and "
        "steeper, because large models learn small sets by heart sooner. Repeats are worth less than the "
        "15 of "
        "Muennighoff et al. Division needs a third or so of its table; with weight decay it is "
        "understood soon "
        "after it is memorised, and without at least ten times as late, if within the horizon at all."
    )
    budget: ClassVar[str] = "15m"
    designs: ClassVar[dict[str, float]] = {"epochs": 0.6, "grokking": 0.4}

    def analyse(self, evidence: Evidence) -> Analysis:
        """D*(N), the data-constrained law, and times and shares of grokking."""
        from allometry.studies.readings.least_data import analyse

        return analyse(self, evidence)
