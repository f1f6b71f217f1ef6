"""Batch: how many tokens a step is worth, and when larger batches stop to pay."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from allometry.studies.core.study import Study, register

if TYPE_CHECKING:
    from allometry.report.content import Analysis
    from allometry.studies.core.study import Evidence


@register
class Batch(Study):
    """Trains two sizes at many batches and learning rates, and asks in how many steps and tokens each batch
    reaches a loss.

    Kaplan et al. 2020 (section 5.1, figures 10 and 18) find a hyperbola between the two, whose corner, the
    critical batch, depends on the loss alone. Their compute-efficient frontier rests on it. The gradient
    noise scale of McCandlish et al. 2018 should foretell it without a scan, and is measured beside it.
    """

    name: ClassVar[str] = "batch"
    question: ClassVar[str] = (
        "How do steps and tokens trade off at a fixed loss, is the critical batch a function of the loss "
        "alone, and does the gradient noise scale tell it?"
    )
    expected: ClassVar[str] = (
        "Hyperbolas within some 10 % in steps, the same critical batch for both sizes, some thousand tokens "
        "near 2 nats and growing as the loss falls, about as L^(-1/0.21); the noise scale of the same order, "
        "but not equal: it assumes plain gradient descent on a round valley, and we train with Adam."
    )
    designs: ClassVar[dict[str, float]] = {"batches": 1.0}

    def analyse(self, evidence: Evidence) -> Analysis:
        """S_min, E_min and B_crit at each loss, the law B_crit(L), and the noise scale at equal loss."""
        from allometry.studies.readings.batch_scan import analyse

        return analyse(self, evidence)
