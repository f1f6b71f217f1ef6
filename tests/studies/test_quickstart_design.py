"""The quickstart's grid: what it must be able to answer, at any budget."""

from __future__ import annotations

import pytest

from allometry.core.errors import AllometryError
from allometry.studies.core.plan import of_compute, within_budget
from allometry.studies.core.study import heads, small_model, study
from allometry.sweeps import Sweep
from allometry.sweeps.cost import CostModel, plan_frame
from allometry.train.config import DataConfig

QUICKSTART = study("quickstart")


@pytest.fixture(scope="module", params=[2e13, 5e13, 4e14])
def sweep(request: pytest.FixtureRequest) -> Sweep:
    return QUICKSTART.sweep(request.param, DataConfig())


def test_sizes_and_horizons(sweep: Sweep) -> None:
    frame = plan_frame(sweep)
    assert frame["N"].nunique() >= 6
    assert len(frame) >= 24
    assert frame.groupby("N")["D"].nunique().min() >= 4
    assert frame["N"].max() / frame["N"].min() >= 60


def test_two_orders_of_magnitude_in_ten_minutes() -> None:
    frame = plan_frame(QUICKSTART.sweep(5e13, DataConfig()))
    assert frame["N"].max() / frame["N"].min() >= 100


def test_a_horizon_is_common_to_all_sizes_and_seeds_repeat_it(sweep: Sweep) -> None:
    frame = plan_frame(sweep)
    shared = frame.groupby("D")["N"].nunique()
    common = shared[shared == frame["N"].nunique()].index
    assert len(common) >= 4
    repeats = frame[frame["D"].isin(common)].groupby(["N", "D"])["seed"].nunique()
    assert repeats.max() >= 4


def test_runs_of_a_size_share_their_trunk(sweep: Sweep) -> None:
    trunks = {(run.model.shape, run.train.seed): run.trunk for run in sweep}
    assert all(run.trunk == trunks[run.model.shape, run.train.seed] is not None for run in sweep)


def test_the_largest_are_held_back(sweep: Sweep) -> None:
    held = [run for run in sweep if QUICKSTART.held_back(run, sweep)]
    rest = [run for run in sweep if run not in held]
    assert held
    assert min(run.model.counts().N for run in held) > max(run.model.counts().N for run in rest)


def test_time_buys_compute_and_too_little_says_what_works() -> None:
    cost = CostModel()  # a nominal speed
    short = within_budget(QUICKSTART, 600, DataConfig(), cost, 2)
    long = within_budget(QUICKSTART, 3600, DataConfig(), cost, 2)
    assert long.compute > 4 * short.compute
    assert short.seconds <= 600
    with pytest.raises(AllometryError, match="too small") as error:
        within_budget(QUICKSTART, 13, DataConfig(), cost, 2)
    assert "--budget" in str(error.value.hint)


def test_the_smallest_study_is_the_smallest() -> None:
    least = of_compute(QUICKSTART, 0, DataConfig()).compute
    with pytest.raises(AllometryError):
        QUICKSTART.sweep(least * 0.8, DataConfig())


@pytest.mark.parametrize("width", range(8, 400, 8))
def test_heads_divide_the_width_into_multiples_of_eight(width: int) -> None:
    assert width % heads(width) == 0
    assert (width // heads(width)) % 8 == 0


def test_the_ladder_is_monotone() -> None:
    sizes = [small_model(round(10 ** (3.3 + k / 20)), n_vocab=256).counts().N for k in range(60)]
    assert sizes == sorted(sizes)
