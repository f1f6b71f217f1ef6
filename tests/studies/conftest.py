"""Evidence with planted laws: the runs that a design asks for, with losses by formula and no training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import pytest

from allometry.runs.record import sizes
from allometry.studies.core.study import StudyData
from allometry.train.config import RunConfig, evaluation_steps

Law = Callable[[dict[str, Any], Any], Any]
"""(row of the run table, tokens so far) -> loss."""

Plant = Callable[..., StudyData]


def row(config: RunConfig) -> dict[str, Any]:
    """A run as the store's table would have it, but for its loss."""
    model, train = config.model, config.train
    tokens = train.steps * train.batch_tokens
    counts = {key: value for key, value in asdict(model.counts()).items() if isinstance(value, int)}
    return {
        "run": config.id, "status": "done", "family": "transformer", "n_layer": model.n_layer,
        "d_model": model.d_model, "n_ctx": model.n_ctx, **sizes(counts, tokens), "D": tokens, "unique": 1e9,
        "B": train.batch_tokens, "S": train.steps, "lr": train.lr, "schedule": train.schedule,
        "seed": train.seed, "warmup": train.warmup, "decay": train.decay, "limit": np.nan,
        "early_stop": np.nan, "dropout": 0.0, "finished": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip


def plant(
    configs: Sequence[RunConfig], law: Law, *, along: Law | None = None, noise: float = 0.0, seed: int = 0
) -> StudyData:
    """Evidence of these runs: `law` where they end, `along` (default: it too) before; noise by run."""
    rng = np.random.default_rng(seed)
    rows, curves = [], []
    for config in configs:
        known = row(config)
        factor = float(np.exp(noise * rng.standard_normal()))
        rows.append(known | {"loss": float(law(known, known["D"])) * factor})
        steps = np.array(evaluation_steps(config))
        tokens = steps * known["B"]
        loss = np.asarray((along or law)(known, tokens), float) * factor
        loss[-1] = rows[-1]["loss"]
        seen = {"step": steps, "tokens": tokens, "C": known["C"] * tokens / known["D"], "loss": loss}
        curves.append(pd.DataFrame({"run": config.id, **seen}))
    frame = pd.DataFrame(rows)
    return StudyData(
        runs=frame, curves=pd.concat(curves, ignore_index=True), planned=tuple(frame["run"]), command="test"
    )


@pytest.fixture(scope="session")
def planted() -> Plant:
    """The function `plant`."""
    return plant
