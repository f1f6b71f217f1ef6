import json
from pathlib import Path

import pytest

from allometry.core.env import cache_dir
from allometry.runs.store import Store
from allometry.sweeps.calibrate import calibrate
from allometry.sweeps.cost import CostModel, Timing, shape_key
from allometry.sweeps.local import LocalPool


def timing(flops: float, pace: float, batch: int = 128) -> Timing:
    return Timing(
        family="transformer",
        engine="reference",
        flops_per_token=flops,
        batch_tokens=batch,
        step=flops * batch / pace,
        evaluation=flops / 3 / pace,
        start=0.1,
        memory=4e8,
    )


def flops(run) -> float:
    return float(run.model.counts().flops_per_token("attention"))


def test_a_run_costs_its_steps_and_its_evaluations(make_run):
    run = make_run(100)
    model = CostModel({shape_key(run): timing(flops(run), 1e9)})
    step, forward = flops(run) * 128 / 1e9, flops(run) / 3 * run.data.eval_tokens / 1e9
    assert model.between(run, 0, 1) == pytest.approx(step)
    assert model.between(run, 0, 4) == pytest.approx(4 * step + forward)  # the first evaluation is at step 4
    assert model.seconds(run) > 100 * step
    halves = model.between(run, 0, 50) + model.between(run, 50, 100)
    assert halves == pytest.approx(model.seconds(run))
    assert model.between(run, 60, 60) == 0


def test_a_shape_between_two_timed_ones_gets_a_speed_between_theirs(make_run):
    small, middle, large = (make_run(100, d_model=d) for d in (16, 32, 64))
    model = CostModel(
        {shape_key(small): timing(flops(small), 1e9), shape_key(large): timing(flops(large), 4e9)}
    )
    pace = flops(middle) * 128 / model.between(middle, 0, 1)
    assert 1e9 < pace < 4e9
    larger = make_run(100, d_model=128)
    assert flops(larger) * 128 / model.between(larger, 0, 1) == pytest.approx(4e9)
    assert not CostModel().measured
    assert CostModel().seconds(middle) > 0


def test_shared_trunks_are_not_paid_twice(make_run, store: Store):
    runs = [make_run(steps) for steps in (1000, 500, 250)]
    model = CostModel()
    cost = model.total(runs, store, workers=2)
    alone = [model.seconds(run) for run in runs]
    assert max(alone) <= cost.seconds
    assert cost.work == pytest.approx(
        alone[0] + sum(model.seconds(run, run.train.decay_start) for run in runs[1:])
    )
    assert cost.work < 0.75 * sum(alone)
    assert cost.memory > 7e8
    assert cost.disk > 0


def test_each_shape_is_timed_once(make_run, pool: LocalPool):
    runs = [make_run(100), make_run(50), make_run(100, d_model=32)]
    seen: list[tuple[int, int]] = []
    model = calibrate(runs, pool=pool, on_shape=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]
    assert model.measured
    assert model.timings[shape_key(runs[0])].engine == "reference"
    assert model.seconds(runs[0]) > model.seconds(runs[1]) > 0
    seen.clear()
    again = calibrate(runs, pool=pool, on_shape=lambda done, total: seen.append((done, total)))
    assert seen == []
    assert again.timings == model.timings


def timings_of_shapes() -> Path:
    """Return the file of this machine's timings of shapes."""
    (path,) = cache_dir("timings").glob("*.json")
    return path


@pytest.mark.usefixtures("own_empty_cache")
def test_a_timing_of_a_busy_machine_is_taken_anew(make_run, pool: LocalPool):
    small, large = make_run(100), make_run(100, d_model=64)
    good = calibrate([small, large], pool=pool)
    path = timings_of_shapes()
    stored = json.loads(path.read_text())
    stored[shape_key(small)]["evaluation"] = 100 * stored[shape_key(large)]["evaluation"]
    path.write_text(json.dumps(stored))
    again = calibrate([small, large], pool=pool)
    assert again.timings[shape_key(large)] == good.timings[shape_key(large)]
    assert again.timings[shape_key(small)].evaluation < 10 * good.timings[shape_key(small)].evaluation


@pytest.mark.usefixtures("own_empty_cache")
def test_a_damaged_timing_file_is_taken_anew(make_run, pool: LocalPool):
    run = make_run(100)
    calibrate([run], pool=pool)
    path = timings_of_shapes()
    Path(path).write_text("{")
    assert calibrate([run], pool=pool).measured
