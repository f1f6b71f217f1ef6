"""Laws of generalisation: of the gap between test and training, and of the time until it closes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from allometry.studies.core.study import Study, register

if TYPE_CHECKING:
    import pandas as pd

    from allometry.report.content import Analysis
    from allometry.studies.core.study import Evidence
    from allometry.sweeps.sweep import Sweep
    from allometry.train.config import RunConfig


@register
class GapLaws(Study):
    """Fits forms of the gap in N, the size of the set and repeats, and of the time to generalise in N, the
    share of the table and weight decay; the largest models are predicted before they are trained.

    Forms are compared by what they foretell of larger models. Where the test loss rises and falls again,
    along training, size or data (Nakkiran et al. 2019, arXiv 1912.02292), no such law can hold: so descents
    are looked for first.
    """

    name: ClassVar[str] = "gap_laws"
    question: ClassVar[str] = (
        "Are there laws of generalisation: can the gap between test and training loss, and the time until a "
        "model generalises, be foretold for larger models from smaller ones?"
    )
    expected: ClassVar[str] = (
        "The gap is a power of repeats and of N per token to within a fifth, and saturates where a set "
        "is known "
        "by heart; strong weight decay removes most of it (Lovelace et al. 2026: about 70 %). The time to "
        "generalise rises steeply towards a critical share and falls with weight decay and size. Double "
        "descent "
        "along training in arithmetic, where it is what grokking is; none on text at these sizes."
    )
    budget: ClassVar[str] = "15m"
    designs: ClassVar[dict[str, float]] = {"epochs": 0.6, "grokking": 0.4}

    def held_back(self, run: RunConfig, sweep: Sweep) -> bool:
        """The largest size on text, on every set, and the largest on equations."""
        from allometry.studies.designs.epochs import largest_size
        from allometry.studies.designs.grokking import widest

        return largest_size(run, sweep.runs) or widest(run)

    def predict(self, runs: pd.DataFrame, held_back: pd.DataFrame) -> pd.DataFrame:
        """Final losses on text, by forms weighted by their back-test, and times to generalise on
        equations.
        """
        from allometry.studies.readings.foretold import foretell

        return foretell(runs, held_back)

    def analyse(self, evidence: Evidence) -> Analysis:
        """Forms of the gap and of the time, what they foretell, and where losses descend twice."""
        from allometry.studies.readings.gap_laws import analyse

        return analyse(self, evidence)
