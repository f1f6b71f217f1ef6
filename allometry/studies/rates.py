"""Rates: is the learning-rate rule that every other study uses the best one, for each family?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from allometry.studies.core.study import Study, register

if TYPE_CHECKING:
    from allometry.report.content import Analysis
    from allometry.studies.core.study import Evidence


@register
class Rates(Study):
    """Trains each family at two sizes with rates from a quarter of the recipe's to four times it.

    A law of size is a law of tuned models: one rate for all sizes turns their order around. The published
    rules are fitted to models a thousand times larger and disagree by a factor of twenty here, so the recipe
    has its own (`docs/log.md`). This study says what that rule costs in loss, and warns where it costs much.
    """

    name: ClassVar[str] = "rates"
    question: ClassVar[str] = (
        "Is the learning-rate rule of the other studies near the best rate of each family and size, and what "
        "does it cost where it is not?"
    )
    expected: ClassVar[str] = (
        "The best rate of transformers within a factor of 1.5 of the rule and going as one over the width; "
        "LSTMs best at one rate for all widths; a cost below 1 % of the loss. The published rules should be "
        "off by factors of 3 to 10, to both sides."
    )
    designs: ClassVar[dict[str, float]] = {"rates": 1.0}

    def analyse(self, evidence: Evidence) -> Analysis:
        """A parabola in the log of the rate for each family and size, with the rule's cost."""
        from allometry.studies.readings.rates import analyse

        return analyse(self, evidence)
