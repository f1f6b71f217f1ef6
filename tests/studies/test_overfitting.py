"""The studies of data and of overfitting: their design, and planted laws that their readings must find."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from allometry.core.errors import AllometryError
from allometry.studies.core.study import StudyData, study
from allometry.studies.overfitting import joint_law
from allometry.studies.shared.subsets import early_stopped, subsets
from allometry.train.config import DataConfig

ALPHA_N, ALPHA_D, N_C, D_C = 0.12, 0.16, 2e7, 4e5
SIZES = (6_000.0, 16_000.0, 43_000.0, 115_000.0, 300_000.0)
SETS = tuple(11_813_438 // 2**k for k in range(5, 11))


def planted(n: float, d: float) -> float:
    """Kaplan's L(N, D)."""
    return float(((N_C / n) ** (ALPHA_N / ALPHA_D) + D_C / d) ** ALPHA_D)


def synthetic(noise: float = 0.002, seed: int = 0) -> StudyData:
    """Every size on every set and on all the text; small sets turn, large ones do not."""
    rng = np.random.default_rng(seed)
    rows, curves = [], []
    at = np.unique(np.round(128 * 2 ** np.arange(0, 5.25, 0.25)))
    for n in SIZES:
        for limit in (np.nan, *SETS):
            d = 11_813_438 if np.isnan(limit) else limit
            best = planted(n, d) * np.exp(noise * rng.standard_normal())
            stop = min(1.0, (d / 4e5) ** 0.5) * at[-1]
            rise = 0.05 * np.clip(np.log(at / stop), 0, None)
            loss = best + 30 * np.clip(1 / at - 1 / stop, 0, None) ** 0.76 + rise
            run = f"{n:.0f}-{limit}"
            gap = 0.6 * (3e4 / d) ** 0.5
            curves.append(pd.DataFrame({"run": run, "step": at, "loss": loss, "train_loss": loss - gap}))
            rows.append({"run": run, "N": n, "limit": limit, "unique": d, "loss": loss.min(), "S": at[-1]})
    runs = pd.DataFrame(rows).assign(
        status="done", family="transformer", schedule="constant", early_stop=3, dropout=0.1, n_ctx=64,
        B=512, D=at[-1] * 512, warmup=100, seed=0, lr=0.003,
    )  # fmt: skip
    return StudyData(runs=runs, curves=pd.concat(curves, ignore_index=True), planned=tuple(runs["run"]))


@pytest.mark.parametrize("compute", [1.5e11, 5.6e13, 4e14])
def test_every_size_has_all_the_text_and_nested_sets(compute: float) -> None:
    runs = subsets(compute, DataConfig())
    sizes = {run.model.counts().N for run in runs}
    assert len(sizes) >= 3
    sets = {run.data.limit for run in runs}
    assert None in sets
    assert len(sets) >= 3
    for n in sizes:
        assert {run.data.limit for run in runs if n == run.model.counts().N} == sets
    assert len({run.data.spread for run in runs if run.data.limit}) == 1
    assert {run.model.dropout for run in runs} == {0.1}  # type: ignore[attr-defined]
    assert all(run.train.early_stop and run.train.schedule == "constant" for run in runs)
    whole = [run.train.tokens for run in runs if run.data.limit is None]
    assert len(set(whole)) == 1
    assert max(limit for limit in sets if limit) < whole[0]


def test_the_design_says_when_it_is_too_small() -> None:
    with pytest.raises(AllometryError, match="too few"):
        subsets(1e10, DataConfig())


def test_a_planted_joint_law_is_found() -> None:
    analysis = study("overfitting").analyse(synthetic())
    rows = {row.symbol: row for row in analysis.constants}
    for symbol, truth in (("α_N", ALPHA_N), ("α_D", ALPHA_D), ("α_N/α_D", ALPHA_N / ALPHA_D)):
        assert rows[symbol].low <= truth <= rows[symbol].high
        assert rows[symbol].ours == pytest.approx(truth, rel=0.15)
    assert rows["α_N/α_D"].verdict == "agrees"
    assert {section.title for section in analysis.sections} >= {"When to stop", "Training and test loss"}
    assert "One law of N and D" in analysis.answer
    assert any("had not turned" in warning for warning in analysis.warnings)


def test_a_planted_power_of_data_is_found() -> None:
    evidence = synthetic()
    runs = evidence.runs
    wobble = np.exp(0.002 * np.random.default_rng(0).standard_normal(len(runs)))
    power = wobble * np.where(runs["limit"].isna(), 1.0, 2.5 * (runs["unique"] / 1e4) ** -0.05)
    runs = runs.assign(loss=power, D=3 * runs["unique"].max())
    runs["status"] = np.where(runs["N"] == SIZES[0], "diverged", "done")
    analysis = study("data").analyse(replace(evidence, runs=runs))
    (row,) = analysis.constants
    assert row.low <= 0.05 <= row.high
    assert row.verdict == "differs"
    assert any("too small for this horizon" in warning for warning in analysis.warnings)
    assert analysis.excluded is not None
    assert set(analysis.excluded["reason"]) == {"diverged"}


def test_sizes_and_sets_that_are_missing_are_named() -> None:
    evidence = synthetic()
    one = evidence.runs[evidence.runs["N"] == SIZES[0]]
    with pytest.raises(AllometryError, match="do not make a law of both"):
        joint_law(early_stopped(one, evidence.curves))
    none = evidence.runs[evidence.runs["limit"].isna()]
    assert "not be answered" in study("data").analyse(replace(evidence, runs=none)).answer
