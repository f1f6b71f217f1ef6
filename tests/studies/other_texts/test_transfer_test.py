"""The study of other distributions: planted loss-to-loss exponents are found again."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from allometry.studies.core.study import StudyData, study
from allometry.studies.other_texts.transfer_test import AT_HAND, WANTED, distributions
from allometry.train.config import DataConfig

PLANTED = {"milton": 1.0, "stdlib": 0.5}


@pytest.fixture(scope="module")
def evidence() -> StudyData:
    """Losses elsewhere that are powers of the loss here, in training as after it."""
    rng = np.random.default_rng(3)
    sizes = [int(5e3 * 2.3**k) for k in range(6)]
    rows, curves = [], []
    for N in sizes:
        for seed in range(3 if sizes[3] == N else 1):
            here = 3 * N**-0.08
            run = f"run-{N}-{seed}"
            rows.append(
                {
                    "run": run,
                    "status": "done",
                    "N": N,
                    "D": 3e6,
                    "S": 6000,
                    "unique": 1e7,
                    "seed": seed,
                    "corpus": "sotu",
                    **_losses(here, rng),
                }
            )
            for tokens in np.geomspace(1e4, 3e6, 20):
                row = _losses(here * (1 + 2e4 / tokens), rng)
                curves.append({"run": run, "step": tokens // 512, "tokens": tokens, **row})
    runs = pd.DataFrame(rows)
    return StudyData(runs=runs, curves=pd.DataFrame(curves), planned=tuple(runs["run"]))


def _losses(here: float, rng: np.random.Generator) -> dict[str, float]:
    noise = np.exp(0.001 * rng.standard_normal(3))
    others = {f"loss_{k}": 1.6 * here**v * n for (k, v), n in zip(PLANTED.items(), noise[1:], strict=True)}
    return {"loss": here * noise[0], **others}


def test_finds_what_was_planted(evidence: StudyData) -> None:
    analysis = study("transfer_test").analyse(evidence)
    rows = {row.name: row for row in analysis.constants}
    runs = evidence.runs.groupby("N")["loss"].mean()
    for name, exponent in PLANTED.items():  # d there / d here of 1.6 L^κ, over the range of the losses
        ends = 1.6 * np.array([runs.max(), runs.min()]) ** exponent
        row = rows[f"loss on {name} against loss here"]
        slope = (ends[0] - ends[1]) / (runs.max() - runs.min())
        assert row.ours == pytest.approx(slope, rel=0.05), name
        assert row.low < row.ours < row.high
        assert row.verdict == "cannot tell"  # one genre against others is another experiment
    assert rows["loss elsewhere at equal loss here, after over during, %"].verdict == "agrees"


def test_says_which_distributions_could_not_be_had(evidence: StudyData) -> None:
    warning = next(w for w in study("transfer_test").analyse(evidence).warnings if "could not be had" in w)
    assert "allometry data prepare web-bible" in warning
    assert all(name in warning for name in WANTED if name not in PLANTED)


def test_a_small_study_needs_no_download() -> None:
    runs = distributions(5e11, DataConfig())
    assert {run.data.eval_on for run in runs} == {AT_HAND}
