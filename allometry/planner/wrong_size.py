"""What it costs to train a model of another size than the best."""

from __future__ import annotations

import numpy as np
import pandas as pd

from allometry.planner.allocate import Allocation
from allometry.planner.kaplan import excess_compute
from allometry.planner.optimum import FLOPS_PER_PARAMETER_TOKEN, tokens_for
from allometry.planner.source import Source

RATIOS = (0.25, 0.5, 0.7, 1.4, 2.0, 4.0)


def wrong_sizes(source: Source, best: Allocation, unique: float | None = None) -> pd.DataFrame:
    """Compare sizes at `RATIOS` times the planned one: columns ratio, N, loss_change, compute_ratio.

    `loss_change` is relative, at the same compute; `compute_ratio` is the compute for the same loss,
    infinite where a size never reaches it. For Kaplan's L(N, S) the closed form B.16 gives the latter,
    and the former is left out.
    """
    ratio = np.array(RATIOS)
    N, C, target = float(best.N[0]) * ratio, float(best.C[0]), float(best.loss[0])
    if source.law.name == "kaplan-ns":
        alphas = (float(source.parameters["alpha_N"][0]), float(source.parameters["alpha_S"][0]))
        compute, change = excess_compute(ratio, *alphas), np.full(len(ratio), np.nan)
    else:
        params = {k: np.repeat(v, len(ratio)) for k, v in source.parameters.items()}
        tokens = tokens_for(source, params, N, target, unique)
        compute = FLOPS_PER_PARAMETER_TOKEN * N * tokens / C
        change = source.loss(params, N, C / (FLOPS_PER_PARAMETER_TOKEN * N), unique) / target - 1
    return pd.DataFrame({"ratio": ratio, "N": N, "loss_change": change, "compute_ratio": compute})
