"""Shape: does it matter how a fixed number of parameters is laid out?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from allometry.studies.core.study import Study, register

if TYPE_CHECKING:
    from allometry.report.content import Analysis
    from allometry.studies.core.study import Evidence


@register
class Shape(Study):
    """Varies the feed-forward width, the depth and the heads of one model, one at a time, at fixed N.

    If shape mattered as much as size, L(N) would be a law of whoever chose the shapes. Kaplan et al. 2020
    (section 3.1, figures 5 and 24) find that over wide ranges it moves the loss by a few per cent. The runs
    here are read as theirs: the loss over that of the law L(N) at each model's own N, since widths are whole
    numbers and N cannot be held exactly.
    """

    name: ClassVar[str] = "shape"
    question: ClassVar[str] = (
        "At a fixed number of parameters, how much does the loss depend on the feed-forward width, the depth "
        "and the heads?"
    )
    expected: ClassVar[str] = (
        "A few per cent over a factor of ten in each dial, as in figure 5 of the paper; at this size heads "
        "of 8 to 16 should beat wider ones, and a third layer should buy nothing."
    )
    designs: ClassVar[dict[str, float]] = {"shapes": 1.0}

    def analyse(self, evidence: Evidence) -> Analysis:
        """The excess loss of each shape, with intervals from the seeds of the baseline."""
        from allometry.studies.readings.shapes import analyse

        return analyse(self, evidence)
