"""The first study: do small transformers on real text obey a scaling law, and does it predict the largest of
them?
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from allometry.errors import AllometryError
from allometry.studies.base import Study, register

if TYPE_CHECKING:
    import pandas as pd

    from allometry.models.base import ModelConfig
    from allometry.report.content import Analysis
    from allometry.studies.base import Evidence
    from allometry.sweeps.sweep import Sweep
    from allometry.train.config import DataConfig, RunConfig

SIZES = 8
"""Model sizes along the ladder; the smallest and the largest differ by two orders of magnitude of N."""

SPAN = 110
"""N of the largest model over N of the smallest: two orders of magnitude, and a little for rounding to real
shapes.
"""

HORIZONS = 5
"""Horizons D per size, each sqrt(2) shorter than the next; with a shared trunk a further horizon costs a
fifth of its D.
"""

SEEDS = 4
"""Seeds at one size, so that the noise of a run is measured and not assumed."""

REFERENCE = 4e13
"""FLOPs at which the largest model has N_AT_REFERENCE parameters."""

N_AT_REFERENCE = 5e5
FEWEST_UPDATES = 500


@register
class Quickstart(Study):
    """Trains a ladder of sizes over several horizons, fits every basic law to it, and predicts its largest
    models first.

    One grid answers several questions, as in Kaplan et al. 2020 and Hoffmann et al. 2022: L(N) along the
    longest horizon, L(D) for the largest models, L(N, D) over all, L(C) and N_opt(C) along the
    compute-efficient frontier. The two largest models are trained last, after their losses have been
    predicted from the others and written down.
    """

    name: ClassVar[str] = "quickstart"
    question: ClassVar[str] = (
        "Does the test loss of small transformers on real text follow power laws in parameters, data and compute, "
        "and do the laws of the smaller ones predict the largest?"
    )

    def sweep(self, compute: float, data: DataConfig) -> Sweep:
        """A grid of sizes x horizons that spends `compute` FLOPs, with repeated seeds at one of the middle
        sizes.
        """
        from allometry.studies.recipe import BATCH_TOKENS, small_run
        from allometry.sweeps.sweep import Sweep

        models = self._ladder(compute)
        repeated = models[len(models) // 2 - 1]
        longest = self._longest_horizon(compute, models, repeated)
        if longest < FEWEST_UPDATES * BATCH_TOKENS:
            raise AllometryError(
                f"{compute:.1e} FLOPs are too few for the quickstart study", hint="allow more time"
            )
        runs = []
        for level in range(HORIZONS):
            steps = round(longest / 2 ** (level / 2) / BATCH_TOKENS)
            runs += [small_run(model, tokens=steps * BATCH_TOKENS, data=data) for model in models]
            runs += [
                small_run(repeated, tokens=steps * BATCH_TOKENS, data=data, seed=s) for s in range(1, SEEDS)
            ]
        return Sweep(name=self.name, question=self.question, runs=tuple(runs))

    def held_back(self, run: RunConfig, sweep: Sweep) -> bool:
        """The two largest sizes, at every horizon."""
        sizes = sorted({other.model.counts().N for other in sweep.runs})
        return sizes[-2] <= run.model.counts().N

    def _ladder(self, compute: float) -> list[ModelConfig]:
        """Sizes in equal steps of log N; the largest grows with the square root of the compute, as does the
        horizon.
        """
        from allometry.models.transformer import TransformerConfig
        from allometry.studies.recipe import CONTEXT

        largest = N_AT_REFERENCE * (compute / REFERENCE) ** 0.5
        targets = [largest / SPAN ** (1 - i / (SIZES - 1)) for i in range(SIZES)]
        models = {TransformerConfig.of_size(max(1, round(n)), n_ctx=CONTEXT): None for n in targets}
        return list(models)

    def _longest_horizon(self, compute: float, models: list[ModelConfig], repeated: ModelConfig) -> float:
        """The D at which trunks, decays and evaluations of the whole grid cost `compute`."""
        decays = sum(0.2 * 2 ** (-level / 2) for level in range(1, HORIZONS))
        per_token = sum(m.counts().flops_per_token("attention") for m in models)
        per_token += (SEEDS - 1) * repeated.counts().flops_per_token("attention")
        return compute / (per_token * (1 + decays))

    def predict(self, runs: pd.DataFrame, held_back: pd.DataFrame) -> pd.DataFrame:
        """Forecast of the laws weighted by their back-test on the smaller runs."""
        raise NotImplementedError

    def analyse(self, evidence: Evidence) -> Analysis:
        """Fits, intervals, figures and verdicts."""
        raise NotImplementedError
