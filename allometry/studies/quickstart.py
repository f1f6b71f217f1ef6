"""The first study: do small transformers on real text obey a scaling law, and does it predict the largest of
them?
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from allometry.errors import AllometryError
from allometry.studies.base import Study, register
from allometry.train.config import TrainConfig

if TYPE_CHECKING:
    import pandas as pd

    from allometry.models.base import ModelConfig
    from allometry.report.content import Analysis
    from allometry.studies.base import Evidence
    from allometry.sweeps.sweep import Sweep
    from allometry.train.config import DataConfig, RunConfig

SIZES = 8
"""Model sizes along the ladder."""

SPAN = 110
"""N of the largest model over N of the smallest: two orders of magnitude, and a little for rounding to real
shapes."""

PER_OCTAVE = 3
"""Horizons D in a doubling of D; with a shared trunk a further horizon costs a fifth of its D."""

COMMON = 4
"""Horizons that every size is trained to: one doubling. Still shorter ones would end in the plateau before a
model uses its context, where losses say when it leaves and not how large it is."""

LONGER = 0.35
"""Smaller models are trained longer, to (N_max / N)^LONGER times the horizon of the largest: slices of equal
compute through the grid then cross several sizes, and a small model's tokens are cheap."""

SEEDS = 4
"""Seeds at one size, so that the noise of a run is measured and not assumed."""

REFERENCE = 5.3e13
"""FLOPs at which the largest model has N_AT_REFERENCE parameters."""

N_AT_REFERENCE = 7e5

FEWEST_UPDATES = 200
"""Updates of the shortest run: with fewer, warm-up and decay are all there is."""


FEWEST_SIZES = 5
"""Sizes without which no law is asked for: two are predicted, and three parameters fitted to the others."""


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

    def sweep(self, compute: float, data: DataConfig) -> Sweep:
        """A grid of sizes and horizons that spends `compute` FLOPs, with several seeds at one size."""
        from allometry.studies.recipe import BATCH_TOKENS, small_run, vocabulary
        from allometry.sweeps.sweep import Sweep

        models = self._ladder(compute, vocabulary(data))
        if len(models) < FEWEST_SIZES:
            raise _too_little(compute)
        levels = [_levels(model, models[-1]) for model in models]
        repeated = models[2]
        shortest = self._shortest(compute, models, levels, repeated)
        if shortest < FEWEST_UPDATES * BATCH_TOKENS:
            raise _too_little(compute)

        def run(model: ModelConfig, level: int, seed: int = 0) -> RunConfig:
            steps = round(shortest * 2 ** (level / PER_OCTAVE) / BATCH_TOKENS)
            return small_run(model, tokens=steps * BATCH_TOKENS, data=data, seed=seed)

        runs = [
            run(model, level) for model, count in zip(models, levels, strict=True) for level in range(count)
        ]
        runs += [run(repeated, level, seed) for seed in range(1, SEEDS) for level in range(COMMON)]
        return Sweep(name=self.name, question=self.question, runs=tuple(runs))

    def held_back(self, run: RunConfig, sweep: Sweep) -> bool:
        """The two largest sizes, at every horizon."""
        sizes = sorted({other.model.counts().N for other in sweep.runs})
        return sizes[-2] <= run.model.counts().N

    def _ladder(self, compute: float, n_vocab: int) -> list[ModelConfig]:
        """Sizes in equal steps of log N; the largest grows with the square root of the compute, as the
        horizon does."""
        from allometry.studies.recipe import small_model

        largest = N_AT_REFERENCE * (compute / REFERENCE) ** 0.5
        targets = [largest / SPAN ** (1 - i / (SIZES - 1)) for i in range(SIZES)]
        return list(dict.fromkeys(small_model(max(1, round(n)), n_vocab=n_vocab) for n in targets))

    def _shortest(
        self, compute: float, models: list[ModelConfig], levels: list[int], repeated: ModelConfig
    ) -> float:
        """The shortest horizon (tokens) with which trunks and decays of the whole grid cost `compute`."""
        cost = sum(_relative_cost(model, count) for model, count in zip(models, levels, strict=True))
        return compute / (cost + (SEEDS - 1) * _relative_cost(repeated, COMMON))

    def predict(self, runs: pd.DataFrame, held_back: pd.DataFrame) -> pd.DataFrame:
        """Forecast of the laws, weighted by their back-test on the smaller sizes."""
        from allometry.studies.prediction_reading import forecast

        return forecast(runs, held_back)

    def analyse(self, evidence: Evidence) -> Analysis:
        """Fits, intervals, figures and verdicts."""
        from allometry.studies.quickstart_analysis import analyse

        return analyse(self, evidence)


def _too_little(compute: float) -> AllometryError:
    return AllometryError(f"{compute:.1e} FLOPs are too few for the quickstart study", hint="allow more time")


def _levels(model: ModelConfig, largest: ModelConfig) -> int:
    """How many horizons a size is trained to."""
    return COMMON + round(PER_OCTAVE * LONGER * math.log2(largest.counts().N / model.counts().N))


def _relative_cost(model: ModelConfig, levels: int) -> float:
    """FLOPs of one size's trunk and decays, over the shortest horizon in tokens."""
    decay = TrainConfig.model_fields["decay"].default
    horizons = [2 ** (level / PER_OCTAVE) for level in range(levels)]
    return model.counts().flops_per_token("attention") * (horizons[-1] + decay * sum(horizons[:-1]))
