"""The batch study: what its design promises, and planted critical batches that its reading must find."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from allometry.core.errors import AllometryError
from allometry.studies.shared.batches import BATCHES, batches, critical_batch, rate_for_batch
from allometry.train.config import DataConfig

B_STAR, ALPHA = 12_000.0, 0.25
SIZES = (14_000.0, 55_000.0)


def reached(loss: np.ndarray, n: float) -> np.ndarray:
    """Fewest steps to a loss, of a size."""
    return 40 * (loss - 0.9 * (14_000 / n) ** 0.1) ** -3.0


def synthetic(noise: float = 0.0, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Runs and curves of a scan whose critical batch is planted: the rate in the middle is the best."""
    rng = np.random.default_rng(seed)
    losses = np.geomspace(30.0, 1.05, 800)
    runs, curves = [], []
    for n in SIZES:
        for batch in BATCHES:
            slow = np.exp(noise * rng.standard_normal())
            for rate, penalty in ((0.5, 1.3), (1.0, 1.0), (2.0, 1.5)):
                run = f"{n:.0f}-{batch}-{rate}"
                steps = slow * penalty * reached(losses, n) * (1 + B_STAR / losses ** (1 / ALPHA) / batch)
                last = 3e3 * (1 + 2000 / batch)
                at = np.unique(np.round(2 ** np.arange(4, np.log2(last), 0.25)))
                loss = np.interp(np.log(at), np.log(steps), losses)
                runs.append(
                    {"run": run, "N": n, "B": batch, "lr": 0.01 * rate, "S": at[-1], "D": at[-1] * batch}
                )
                curves.append(pd.DataFrame({"run": run, "step": at, "loss": loss, "train_loss": loss}))
    frame = pd.DataFrame(runs).assign(
        status="done", family="transformer", schedule="constant", early_stop=np.nan, limit=np.nan,
        dropout=0.0, n_ctx=64, warmup=10, seed=0, unique=1e7, loss=1.5,
    )  # fmt: skip
    return frame, pd.concat(curves, ignore_index=True)


@pytest.mark.parametrize("compute", [1.5e11, 5e13, 4e14])
def test_the_design_spans_batches_and_rates_at_two_sizes(compute: float) -> None:
    runs = batches(compute, DataConfig())
    sizes = {run.model.counts().N for run in runs}
    assert len(sizes) == 2
    assert max(sizes) / min(sizes) > 3
    tried = {run.train.batch_tokens for run in runs}
    assert max(tried) / min(tried) >= 16
    for batch in tried:
        assert len({run.train.lr for run in runs if run.train.batch_tokens == batch}) >= 2
    assert {run.train.schedule for run in runs} == {"constant"}
    assert min(run.train.steps for run in runs) >= 100
    assert {run.model.counts().N for run in runs if run.train.noise_batches} == sizes
    spent = sum(run.model.counts().flops_per_token("attention") * run.train.tokens for run in runs)
    assert spent == pytest.approx(compute, rel=0.02)


def test_a_design_too_small_says_so() -> None:
    with pytest.raises(AllometryError, match="batch scan"):
        batches(1e10, DataConfig())


def test_rates_grow_as_the_square_root_and_saturate() -> None:
    assert rate_for_batch(0.01, 512, at=512) == pytest.approx(0.01)
    assert rate_for_batch(1.0, 64, at=32) == pytest.approx(2**0.5, rel=0.02)
    assert rate_for_batch(1.0, 1e6, at=5e5) == pytest.approx(1, rel=0.01)


def test_a_planted_critical_batch_is_found() -> None:
    law = critical_batch(*synthetic())
    for loss in (1.8, 2.2, 2.6):
        assert law(loss) == pytest.approx(B_STAR / loss ** (1 / ALPHA), rel=0.1)
    assert law.alpha_B.value == pytest.approx(ALPHA, rel=0.1)
    assert law.draws([1.8, 2.2]).shape == (400, 2)
    assert set(law.targets["lr"]) == {0.01}


def test_its_interval_holds_the_planted_value_under_noise() -> None:
    hits = 0
    for seed in range(5):
        law = critical_batch(*synthetic(0.05, seed))
        low, high = law.at(2.0).interval(0.95)
        hits += low <= B_STAR / 2.0 ** (1 / ALPHA) <= high
    assert hits >= 4


def test_without_a_scan_there_is_no_critical_batch() -> None:
    runs, curves = synthetic()
    with pytest.raises(AllometryError, match="B_crit is not measured"):
        critical_batch(runs[runs["B"] <= 256], curves)
    with pytest.raises(AllometryError, match="B_crit is not measured"):
        critical_batch(runs.assign(schedule="wsd"), curves)
