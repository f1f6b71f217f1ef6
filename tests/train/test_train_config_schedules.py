"""Learning rates and evaluation points."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allometry.core.errors import AllometryError
from allometry.models.transformer import TransformerConfig
from allometry.train.config import (
    DataConfig,
    RunConfig,
    TrainConfig,
    evaluation_steps,
    kaplan_learning_rate,
    learning_rate,
    lr_for_width,
)

SCHEDULES = ("wsd", "cosine", "linear", "constant")


def recipe(schedule: str = "wsd", steps: int = 1000, **changes: object) -> TrainConfig:
    return TrainConfig(tokens=steps * 1024, lr=0.01, schedule=schedule, **{"warmup": 100, **changes})


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warms_up_linearly_then_peaks(schedule: str) -> None:
    train = recipe(schedule)
    assert learning_rate(train, 1) == pytest.approx(0.01 / 100)
    assert learning_rate(train, 50) == pytest.approx(0.005)
    assert learning_rate(train, 100) == pytest.approx(0.01)


@pytest.mark.parametrize("schedule", SCHEDULES[:3])
def test_falls_to_the_final_rate(schedule: str) -> None:
    train = recipe(schedule, final_lr=0.1)
    last = learning_rate(train, train.steps)
    assert 0.001 < last < 0.0012  # the last update still moves
    rates = [learning_rate(train, step) for step in range(100, 1001)]
    assert rates == sorted(rates, reverse=True)


def test_wsd_decays_over_its_last_part() -> None:
    train = recipe(decay=0.2)
    assert train.decay_start == 800
    assert learning_rate(train, 800) == 0.01
    assert learning_rate(train, 850) == pytest.approx(0.01 * (1 - math.sqrt(50 / 201)))


@settings(max_examples=50, derandomize=True)
@given(short=st.integers(1, 3000), extra=st.integers(0, 3000), warmup=st.integers(0, 500))
def test_wsd_does_not_know_its_horizon_before_the_decay(short: int, extra: int, warmup: int) -> None:
    a, b = recipe(steps=short, warmup=warmup), recipe(steps=short + extra, warmup=warmup)
    for step in range(1, min(a.decay_start, b.decay_start) + 1):
        assert learning_rate(a, step) == learning_rate(b, step)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_run_of_one_step_has_a_rate(schedule: str) -> None:
    assert learning_rate(recipe(schedule, steps=1, warmup=0), 1) > 0


def test_kaplan_rule_matches_the_paper() -> None:
    assert kaplan_learning_rate(1e6) == pytest.approx(1.31e-3, rel=5e-3)
    assert kaplan_learning_rate(768) == pytest.approx(2.31e-3, rel=5e-3)
    with pytest.raises(AllometryError, match="holds below 1e10"):
        kaplan_learning_rate(1e11)


def test_rate_goes_as_one_over_width() -> None:
    assert lr_for_width(64) == pytest.approx(0.004)
    assert lr_for_width(128, constant=0.512) == pytest.approx(0.004)


def evaluated(steps: int, **data: int) -> list[int]:
    model = TransformerConfig(n_layer=2, d_model=16)
    return evaluation_steps(RunConfig(model=model, data=DataConfig(**data), train=recipe(steps=steps)))


def test_evaluation_grid_does_not_depend_on_the_horizon() -> None:
    short, long = evaluated(500, eval_tokens=4096), evaluated(8192, eval_tokens=4096)
    assert short[-1] == 500
    assert short[:-1] == [step for step in long if step < 500]
    assert long[:6] == [4, 6, 8, 11, 16, 23]
    assert long[-1] == 8192


def test_evaluation_costs_a_small_share() -> None:
    steps = evaluated(8192)
    assert steps[0] == 128  # 131,072 evaluated tokens / 1,024 tokens a step
    assert len(steps) * 131_072 / 3 < 0.1 * 8192 * 1024  # a forward pass is a third of a training step
