"""The forecast of a sweep in which idle cores help, against the same sweep in simulated time."""

from collections.abc import Callable

import pytest

from allometry.models.transformer import TransformerConfig
from allometry.sweeps.cost import CostModel
from allometry.sweeps.progress import Forecast
from allometry.sweeps.schedule import Job, jobs, makespan, makespan_when_lent, speedup
from allometry.train.config import DataConfig, RunConfig, TrainConfig


def a_run(steps: int, seed: int = 0, d_model: int = 16) -> RunConfig:
    return RunConfig(
        model=TransformerConfig(n_layer=2, d_model=d_model, n_ctx=32, n_vocab=256),
        data=DataConfig(),
        train=TrainConfig(tokens=steps * 128, batch_tokens=128, lr=0.01, seed=seed),
    )


def second_a_step(config: RunConfig, start: int, stop: int) -> float:
    return float(stop - start)


def always(config: RunConfig) -> bool:
    return True


def never(config: RunConfig) -> bool:
    return False


def test_one_run_on_two_cores_takes_what_two_threads_take() -> None:
    todo = [Job(config=a_run(100))]
    assert makespan_when_lent(todo, second_a_step, 2, always) == pytest.approx(100 / speedup(2))
    assert makespan_when_lent(todo, second_a_step, 2, never) == 100
    assert makespan_when_lent(todo, second_a_step, 1, always) == 100


def test_the_last_run_is_helped_once_the_other_core_is_free() -> None:
    todo = [Job(config=a_run(100)), Job(config=a_run(40, seed=1))]
    assert makespan_when_lent(todo, second_a_step, 2, always) == pytest.approx(40 + 60 / speedup(2))


def test_a_trunk_is_helped_while_its_branches_wait() -> None:
    long, short = a_run(100), a_run(50)  # the branch starts at step 40 of the trunk, and has 10 of its own
    todo = jobs([long, short], {}, {})
    expected = 40 / speedup(2) + 10 + 50 / speedup(2)
    assert makespan_when_lent(todo, second_a_step, 2, always) == pytest.approx(expected)


@pytest.mark.parametrize("cores", [1, 2, 3, 8])
def test_without_engines_that_take_threads_both_forecasts_agree(cores: int) -> None:
    todo = jobs([a_run(steps, seed) for seed, steps in enumerate((100, 70, 55, 55, 30, 10, 5))], {}, {})
    assert makespan_when_lent(todo, second_a_step, cores, never) == pytest.approx(
        makespan(todo, second_a_step, cores)
    )


class Lending(CostModel):
    """A cost model of a second a step, for two cores that are lent."""

    def __init__(self, able: Callable[[RunConfig], bool]) -> None:
        super().__init__()
        self.lends, self.able = True, able
        self.packing.most = 1

    def between(self, config: RunConfig, start: int, stop: int) -> float:
        return second_a_step(config, start, max(start, stop))

    def _takes_threads(self, config: RunConfig) -> bool:
        return self.able(config)


def test_the_time_left_falls_as_time_passes_from_the_start_to_the_end() -> None:
    """Two large runs that share a trunk, on two cores: as when held-back runs begin."""
    cost, trunk, branch = Lending(always), a_run(400), a_run(200)
    forecast = Forecast(cost, 450.0)
    todo = jobs([trunk, branch], {}, {})
    leave = branch.train.decay_start
    told: list[tuple[float, float]] = []  # the clock, and the seconds that are said to be left

    def tell(now: float, left: list[Job], under_way: list[list[str]]) -> None:
        told.append((now, forecast.now(lambda: (left, under_way), [1.0, 1.0], fresh=True)[1]))

    now, at, own = 0.0, 0.0, float(leave)  # steps of the trunk and of the branch
    tell(now, todo, [])
    while at < 400:
        both = leave <= at and own < 200
        speed = 1.0 if both else speedup(2)
        now, before = now + 1.0, at
        at = min(400.0, at + speed)
        cost.learn((at - before) / speed, 1.0)
        if both:
            own = min(200.0, own + 1.0)
        left = [Job(config=trunk, start=int(at), branch_at=(leave,) if at < leave else ())]
        if at < leave:
            left.append(Job(config=branch, start=leave, source=(trunk.id, leave)))
        elif own < 200:
            left.append(Job(config=branch, start=int(own)))
        under_way = [[trunk.id]] + ([[branch.id]] if leave <= at and own < 200 else [])
        tell(now, left, under_way)
    ended = told[-1][0]
    assert all(clock + left == pytest.approx(ended, abs=4.0) for clock, left in told)


def test_what_was_learnt_in_one_stage_holds_in_the_next() -> None:
    cost = Lending(never)
    cost.learn(995.0, 1995.0)  # twice as slow as predicted
    todo = [Job(config=a_run(100))]
    _, left = Forecast(cost, 100.0).now(lambda: (todo, []), [1.0, 1.0], fresh=True)
    assert left == pytest.approx(200.0)
