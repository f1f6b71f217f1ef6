"""The study of shape: shapes of one N, and an excess that is what was planted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from allometry.studies.core.study import StudyData, study
from allometry.studies.shape import baseline, excess, shapes, variants
from allometry.train.config import DataConfig

NOISE = 0.002


def planted(penalty_of_depth: float = 0.05) -> pd.DataFrame:
    """Runs whose loss is a power of N, with a penalty for every doubling of the depth beyond two."""
    rng = np.random.default_rng(0)
    runs = shapes(3e13, DataConfig())
    rows = []
    for run in runs:
        model = run.model.model_dump()
        N = run.model.counts().N
        loss = 3 * N**-0.08 * (1 + penalty_of_depth * max(0.0, np.log2(model["n_layer"] / 2)))
        rows.append(
            {
                "run": run.id,
                "status": "done",
                "N": N,
                "D": run.train.tokens,
                "S": run.train.steps,
                "unique": 1e7,
                "seed": run.train.seed,
                "loss": loss * np.exp(NOISE * rng.standard_normal()),
                **{key: model[key] for key in ("n_layer", "d_model", "d_ff", "n_head")},
            }
        )
    return pd.DataFrame(rows)


def evidence(runs: pd.DataFrame) -> StudyData:
    return StudyData(runs=runs, curves=pd.DataFrame(), planned=tuple(runs["run"]))


def test_all_shapes_have_the_same_size() -> None:
    models = variants(1e5, 256)
    sizes = np.array([model.counts().N for model in models[:-2]])
    assert abs(np.log(sizes / 1e5)).max() < 0.03
    assert len({model.n_layer for model in models}) >= 6
    ratios = [model.d_ff / model.d_model for model in models]
    assert max(ratios) / min(ratios) > 10


def test_finds_the_planted_penalty_and_none_elsewhere() -> None:
    runs = planted()
    base = baseline(runs)
    table = excess(runs, base)
    deepest = table[(table["dial"] == "depth")].sort_values("n_layer").iloc[-1]
    assert deepest["low"] < 10 < deepest["high"]
    heads = table[table["dial"] == "heads"]
    assert heads["excess"].abs().max() < 1
    assert base.slope == pytest.approx(-0.08, abs=0.02)


def test_says_how_much_shape_matters() -> None:
    little = study("shape").analyse(evidence(planted(0.0)))
    much = study("shape").analyse(evidence(planted(0.05)))
    assert "as the paper finds" in little.answer
    assert "more than the few per cent" in much.answer
    assert len(much.sections[0].evidence) == 4


def test_without_the_baseline_it_says_why() -> None:
    runs = planted()
    alone = study("shape").analyse(evidence(runs[runs["n_layer"] > 2].reset_index(drop=True)))
    assert "several seeds" in alone.sections[0].text
