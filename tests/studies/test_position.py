"""The study of positions: planted power laws along the context are found again."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from allometry.studies.core.study import StudyData, study
from allometry.train.config import DataConfig


@pytest.fixture(scope="module")
def evidence() -> StudyData:
    """Losses a(N) + 2/T^0.62 that fall in training towards their last value, late positions last."""
    rng = np.random.default_rng(2)
    rows, places = [], []
    for run in study("position").sweep(4e13, DataConfig()):
        N, n_ctx, B = run.model.counts().N, run.model.n_ctx, run.train.batch_tokens
        T = np.arange(1, n_ctx + 1)
        last = 5 * N**-0.12 + 2 / T**0.62 * (1 if n_ctx > 8 else 0.97)
        for step in np.unique(np.geomspace(16, run.train.steps, 8).astype(int)):
            progress = 1 + 30 * T**0.3 / step * (1 - step / run.train.steps)
            loss = last * progress * np.exp(0.002 * rng.standard_normal(n_ctx))
            places.append(pd.DataFrame({"run": run.id, "step": step, "position": T, "loss": loss}))
        rows.append(
            {
                "run": run.id,
                "status": "done",
                "N": N,
                "D": run.train.tokens,
                "S": run.train.steps,
                "B": B,
                "n_ctx": n_ctx,
                "seed": run.train.seed,
                "unique": 1e7,
                "loss": last.mean(),
            }
        )
    runs, positions = pd.DataFrame(rows), pd.concat(places, ignore_index=True)
    return StudyData(runs=runs, curves=pd.DataFrame(), positions=positions, planned=tuple(runs["run"]))


def test_finds_what_was_planted(evidence: StudyData) -> None:
    analysis = study("position").analyse(evidence)
    fall = next(row for row in analysis.constants if row.symbol == "c")
    assert fall.ours == pytest.approx(0.62, abs=0.05)
    verdicts = {row.name: row.verdict for row in analysis.constants}
    assert verdicts["slope in N, late less early"] == "agrees"
    assert verdicts["short over long context, early tokens, %"] == "agrees"
    assert "after position 1 does" in analysis.answer


def test_without_positions_it_says_so(evidence: StudyData) -> None:
    bare = StudyData(runs=evidence.runs, curves=evidence.curves, planned=evidence.planned)
    analysis = study("position").analyse(bare)
    assert not analysis.constants
    assert all("could not be answered" in section.text for section in analysis.sections)
