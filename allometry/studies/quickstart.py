"""The first study: do small transformers on real text obey a scaling law, and does it predict the largest of
them?
"""

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
class Quickstart(Study):
    """Trains a ladder of sizes to several horizons, fits every basic law to it, and predicts its largest
    models first.

    One grid answers several questions, as in Kaplan et al. 2020 and Hoffmann et al. 2022: L(N) at a common
    horizon, L(D) for the largest models, L(N, D) over all, L(C) and N_opt(C) along the compute-efficient
    frontier. The two largest sizes are trained last, after their losses have been predicted from the others
    and written down.
    """

    name: ClassVar[str] = "quickstart"
    question: ClassVar[str] = (
        "Does the test loss of small transformers on real text follow power laws in parameters, data and "
        "compute, and do the laws of the smaller ones predict the largest?"
    )
    expected: ClassVar[str] = (
        "Straight lines in log-log over two orders of magnitude of N, with exponents near Kaplan's, and the "
        "two largest sizes within 2 % of what the smaller ones foretell."
    )
    designs: ClassVar[dict[str, float]] = {"bare_grid": 1.0}

    def held_back(self, run: RunConfig, sweep: Sweep) -> bool:
        """The two largest sizes, at every horizon."""
        from allometry.studies.designs.grid import largest_sizes

        return largest_sizes(run, sweep.runs)

    def predict(self, runs: pd.DataFrame, held_back: pd.DataFrame) -> pd.DataFrame:
        """Forecast of the laws, weighted by their back-test on the smaller sizes."""
        from allometry.studies.readings.prediction import forecast

        return forecast(runs, held_back)

    def analyse(self, evidence: Evidence) -> Analysis:
        """Fits, intervals, figures and verdicts."""
        from allometry.studies.readings.grid import analyse

        return analyse(self, evidence)
