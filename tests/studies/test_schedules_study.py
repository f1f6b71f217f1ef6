"""The study of schedules: its design, and what its reading says of planted losses."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from allometry.studies.core.study import StudyData, study
from allometry.studies.schedules import _alike, scheduled, schedules
from allometry.train.config import DataConfig, RunConfig


def run_table(runs: tuple[RunConfig, ...]) -> pd.DataFrame:
    """A run table of finished runs of these configurations, without losses."""
    rows = []
    for run in runs:
        settings = run.train.model_dump()
        wanted = ("lr", "schedule", "warmup", "decay", "final_lr", "seed")
        rows.append({name: settings[name] for name in wanted} | {"run": run.id, "S": run.train.steps})
    return pd.DataFrame(rows).assign(
        status="done", family="transformer", N=24_576, B=512, D=runs[0].train.tokens, unique=1e7
    )


def evidence(decay_gain: float = 0.03, shape: float = 0.0, noise: float = 0.003) -> StudyData:
    """Losses in which only the final decay matters, or the cosine's shape too."""
    runs = run_table(schedules(2e12, DataConfig()))
    rng = np.random.default_rng(1)
    decays = (runs["schedule"] != "constant") & ~(runs["final_lr"] > 0)
    log_loss = 0.5 - decay_gain * decays + shape * (runs["schedule"] == "cosine")
    loss = np.exp(log_loss + noise * rng.standard_normal(len(runs)))
    return StudyData(runs=runs.assign(loss=loss), curves=pd.DataFrame(), planned=tuple(runs["run"]))


@pytest.mark.parametrize("compute", [5e10, 1.2e13])
def test_the_design_has_every_shape_and_seeds(compute: float) -> None:
    runs = schedules(compute, DataConfig())
    assert {run.train.schedule for run in runs} == {"wsd", "cosine", "linear", "constant"}
    assert len({run.train.seed for run in runs}) == 3
    assert len({(run.model.shape, run.train.tokens) for run in runs}) == 1


def test_summed_rates_are_those_of_the_schedule() -> None:
    table, noise, dof = scheduled(evidence().runs)
    assert dof == 4
    assert 0 < noise < 0.01
    steps = float(table["D"].iloc[0] / table["B"].iloc[0])
    flat = table[(table["schedule"] == "constant")].iloc[0]
    assert flat["summed"] == pytest.approx(flat["lr"] * (steps - (flat["warmup"] - 1) / 2))
    assert not flat["decays"]
    cosine = table[(table["schedule"] == "cosine") & (table["warmup"] == 0) & (table["final_lr"] == 0)].iloc[
        0
    ]
    assert cosine["summed"] == pytest.approx(cosine["lr"] * steps / 2, rel=0.01)
    assert cosine["decays"]
    assert not cosine["warms"]


def test_schedules_that_differ_by_noise_agree_with_the_claim() -> None:
    analysis = study("schedules").analyse(evidence())
    (row,) = analysis.constants
    assert row.verdict == "agrees"
    assert "no difference between them is seen" in analysis.answer
    noise = scheduled(evidence().runs)[1]
    assert row.low < np.exp(0.5) * noise < row.high < 0.05  # nats; the losses lie about e^0.5
    (cost,) = re.findall(r"Leaving the decay out costs ([\d.]+) %", analysis.answer)
    assert float(cost) == pytest.approx(100 * np.expm1(0.03), abs=0.6)  # two standard deviations of a run


def test_a_shape_that_matters_is_seen() -> None:
    (row,) = study("schedules").analyse(evidence(shape=0.4)).constants
    assert row.verdict == "differs"
    (row,) = study("schedules").analyse(evidence(shape=0.05)).constants
    assert row.verdict == "cannot tell"  # near the paper's ± 0.05 nats


def test_too_few_schedules_say_so() -> None:
    few = evidence().runs.query("schedule == 'wsd'").head(2)
    analysis = study("schedules").analyse(StudyData(runs=few, curves=pd.DataFrame(), planned=()))
    assert "not be answered" in analysis.answer


@pytest.mark.parametrize(("schedules_", "dof"), [(3, 0), (2, 5)])
def test_without_seeds_or_with_two_schedules_no_spread_is_judged(schedules_: int, dof: int) -> None:
    table = pd.DataFrame(
        {
            "schedule": "wsd",
            "warms": True,
            "decays": True,
            "summed": 1.0,
            "loss": [1.5, 1.6, 1.55],
            "seeds": 1,
        }
    ).head(schedules_)
    assert _alike(table, 0.01, dof)[1] is None
