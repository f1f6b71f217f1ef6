"""Transfer test: what does a loss on one text say about the loss on another?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from allometry.studies.core.study import Study, register

if TYPE_CHECKING:
    from allometry.report.content import Analysis
    from allometry.studies.core.study import Evidence


@register
class TransferTest(Study):
    """Tests a ladder of sizes on texts that none of them was trained on, after and during training.

    Kaplan et al. 2020, section 3.2.2 (figure 8): the loss elsewhere falls along with the loss here, at an
    almost constant offset, and depends on the loss here alone, not on whether it was reached by a small model
    after training or by a large one in the midst of it.
    """

    name: ClassVar[str] = "transfer_test"
    question: ClassVar[str] = (
        "Is the loss on other distributions a function of the loss on the training distribution, whatever "
        "the "
        "model's size and however far it is trained?"
    )
    expected: ClassVar[str] = (
        "Nearly parallel lines for other English prose; dictionaries, markup and code off the line, since "
        "most "
        "of what makes them hard is never seen here."
    )
    designs: ClassVar[dict[str, float]] = {"distributions": 1.0}

    def analyse(self, evidence: Evidence) -> Analysis:
        """Loss-to-loss exponents, and training curves against finished models."""
        from allometry.studies.readings.distributions import analyse

        return analyse(self, evidence)
