"""Which runs are packed, how many together, and what that makes of plans: decisions from given timings."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from allometry.core.env import cache_dir
from allometry.core.errors import AllometryError
from allometry.sweeps import local
from allometry.sweeps.calibrate import calibrate
from allometry.sweeps.cost import CostModel, Packing, Timing, best_size, estimated_memory, shape_key, step_of
from allometry.sweeps.local import Gpu, LocalPool, device_for, open_pool
from allometry.sweeps.measure import measure_packs, sizes
from allometry.sweeps.placement import Placement, on
from allometry.sweeps.schedule import Job, makespan

PACKS = {1: 0.1, 2: 0.1, 4: 0.1, 8: 0.16, 16: 0.31}
"""Seconds of a step of packs on a device that a pack of eight fills."""


@pytest.fixture
def fast(make_run):
    return lambda steps, d_model=16, **train: make_run(steps, d_model, **train).replace(engine="fast")


def timing(step: float = 0.4, packs: dict[int, float] | None = None) -> Timing:
    return Timing(
        family="transformer", engine="fast", flops_per_token=1e6, batch_tokens=128,
        step=step, evaluation=1e-12, start=1e-12, memory=4e8, packs=packs or {}, packs_to=64 if packs else 0,
    )  # fmt: skip


def model(run, most: int | None = None, room: float | None = None, **given) -> CostModel:
    """A cost model for that run's shape, on a pool that packs."""
    cost = CostModel({shape_key(run): timing(**given)})
    cost.packing = Packing(cost.runs, most, room)
    return cost


class Slots:
    """A pool of so many slots, as far as placing jobs goes."""

    device, device_memory, pack, paces = "cuda", None, None, {}

    def __init__(self, count: int) -> None:
        self.slots, self.workers = dict.fromkeys(range(count), 1.0), count

    def node(self, slot: int) -> str:
        return "here"

    def width(self, devices: int) -> int:
        return devices


def test_the_smallest_pack_near_the_best_is_taken():
    assert best_size(0.4, PACKS) == 8  # of 16, 3 % more would be had
    assert best_size(0.1, {1: 0.1, 2: 0.19, 4: 0.38}) == 0
    assert best_size(0.1, {1: 0.05, 2: 0.1}) == 1
    assert best_size(0.1, {}) == 0
    assert step_of(3, 0.4, PACKS) == pytest.approx(0.1)
    assert step_of(32, 0.4, PACKS) == pytest.approx(0.62)
    assert step_of(3, 0.4, {}) == pytest.approx(1.2)
    assert list(sizes(1)) == [1]
    assert list(sizes(6)) == [1, 2, 4, 6]
    assert list(sizes(8)) == [1, 2, 4, 8]
    assert list(sizes(0)) == []


def test_what_may_be_packed(fast, make_run):
    run = fast(10)
    packing = model(run, packs=PACKS).packing
    assert packing.kind(run) == packing.kind(fast(20, seed=3, lr=0.1)) is not None
    assert packing.kind(fast(10, d_model=32)) != packing.kind(run)
    dropout = run.replace(model=run.model.replace(dropout=0.1))
    assert all(packing.kind(other) is None for other in (make_run(10), on(run, 2), dropout))
    assert packing.size(run) == 8
    packing.apart.add(run.id)
    assert packing.size(run) == 1
    assert packing.size(fast(20)) == 8
    assert model(run, most=1, packs=PACKS).packing.kind(run) is None
    assert model(run, most=3).packing.size(run) == 3
    assert model(run, packs={1: 0.4, 2: 0.8}).packing.kind(run) is None


def test_a_pack_fits_the_memory_that_there_is(fast):
    run = fast(10, d_model=64)
    each = estimated_memory(run) - 3.5e8
    packing = model(run, room=(3.5e8 + 5.5 * each) / 0.8, packs=PACKS).packing
    assert packing.fitting(run) == packing.size(run) == packing.worth_measuring(run, 40) == 5
    assert packing.worth_measuring(run, 3) == 3
    assert model(run, most=4).packing.worth_measuring(run, 1) == 0
    assert model(run, most=4).packing.worth_measuring(run, 9) == 4


def test_jobs_are_spread_over_slots_and_then_packed(fast):
    run = fast(100)
    jobs = [Job(config=fast(100 - seed, seed=seed)) for seed in range(20)]
    other = Job(config=fast(90, d_model=32))
    cost = model(run, packs=PACKS)
    cost.timings[shape_key(other.config)] = timing()
    placed = lambda todo, slots: {  # noqa: E731
        slot: [job.config.train.steps for job in jobs]
        for slot, jobs in _places(cost, slots).start(lambda: todo, Slots(slots)).items()
    }
    assert placed(jobs[:2], 2) == {(0,): [100], (1,): [99]}
    assert placed(jobs[:5], 2) == {(0,): [100, 98, 96], (1,): [99, 97]}
    assert placed(jobs, 1) == {(0,): list(range(100, 92, -1))}
    assert placed([jobs[0], other, *jobs[1:4]], 2) == {(0,): [100, 99, 98, 97], (1,): [90]}
    assert placed([other, *jobs], 1) == {(0,): [90]}


def _places(cost: CostModel, slots: int) -> Placement:
    places = Placement(cost)
    places.look(Slots(slots))
    return places


def test_a_slot_is_busy_until_the_last_of_its_pack_leaves(fast):
    run = fast(100)
    places = _places(model(run, packs=PACKS), 1)
    jobs = [Job(config=fast(100 - seed, seed=seed)) for seed in range(3)]
    places.start(lambda: jobs, Slots(1))
    assert places.packs() == [[job.id for job in jobs]]
    assert [at.stretch for at in places.on(0)] == [pytest.approx(0.1 / 0.4)] * 3
    assert places.leave(jobs[0].id) == 0.0
    assert places.leave(jobs[1].id) == 0.0
    assert not places.start(lambda: [Job(config=fast(50, seed=9))], Slots(1))
    assert places.leave(jobs[2].id) > 0.0
    assert places.start(lambda: [Job(config=fast(50, seed=9))], Slots(1))


def test_plans_know_what_packs_gain(fast):
    run = fast(100)
    cost = model(run, packs=PACKS)
    alone = cost.seconds(run)
    runs = [fast(100, seed=seed) for seed in range(16)]
    jobs = [Job(config=each) for each in runs]
    span = lambda jobs, workers: makespan(jobs, cost.between, workers, packing=cost.packing)  # noqa: E731
    assert alone == pytest.approx(40.0)
    assert span(jobs[:1], 1) == pytest.approx(10.0)  # a pack of one
    assert span(jobs[:4], 1) == pytest.approx(10.0)
    assert span(jobs[:8], 1) == pytest.approx(16.0)
    assert span(jobs, 1) == pytest.approx(32.0)
    assert span(jobs[:8], 2) == pytest.approx(10.0)  # four on each
    assert cost.total(runs, workers=1).seconds == pytest.approx(32.0)
    half = [replace(job, start=50) for job in jobs[:4]]
    under_way = makespan([*half, *jobs[4:8]], cost.between, 1, [[job.id for job in half]], cost.packing)
    assert under_way == pytest.approx(5.0 + 10.0)
    assert model(run, most=1, packs=PACKS).total(runs, workers=1).seconds == pytest.approx(16 * alone)


def test_a_branch_is_packed_once_it_may_start(fast):
    leaders = [fast(100, seed=seed) for seed in range(2)]
    branches = [fast(50, seed=seed) for seed in range(2)]
    cost = model(leaders[0], packs=PACKS)
    todo = [Job(config=run, branch_at=(40,)) for run in leaders]
    todo += [Job(config=run, start=40, source=(leaders[0].id, 40)) for run in branches]
    assert makespan(todo, cost.between, 1, packing=cost.packing) == pytest.approx(10.0 + 1.0)


def test_a_shape_that_was_not_timed_gains_what_a_larger_one_does(fast):
    small, middle, large = (fast(10, d_model=d) for d in (16, 32, 64))
    flops = lambda run: float(run.model.counts().flops_per_token("attention"))  # noqa: E731
    cost = CostModel(
        {
            shape_key(small): replace(timing(0.4, PACKS), flops_per_token=flops(small)),
            shape_key(large): replace(timing(0.4, {1: 0.4, 2: 0.5}), flops_per_token=flops(large)),
        }
    )
    step, packs = cost.runs.steps(middle)
    assert packs == {1: pytest.approx(step), 2: pytest.approx(1.25 * step)}


@pytest.mark.slow
def test_larger_packs_are_timed_once_there_are_runs_for_them(
    fast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ALLOMETRY_CACHE", str(tmp_path))
    runs = [fast(50, seed=seed) for seed in range(4)]
    seen: list[int] = []
    with LocalPool(1, pack=4) as pool:
        tell = lambda done, total: seen.append(total)  # noqa: E731
        assert calibrate(runs[:1], pool=pool, on_shape=tell).runs.steps(runs[0])[1] == {}
        cost = calibrate(runs, pool=pool, on_shape=tell)
        again = calibrate(runs, pool=pool, on_shape=tell)
    assert seen == [1, 1]
    packs = cost.runs.steps(runs[0])[1]
    assert packs.keys() >= {1, 2}
    assert all(seconds > 0 for seconds in packs.values())
    assert again.timings == cost.timings
    (path,) = cache_dir("timings").glob("*.json")
    stored = json.loads(path.read_text())[shape_key(runs[0])]
    assert stored["packs"].keys() == {str(size) for size in packs}


def test_packs_that_do_not_work_are_not_tried_again(fast, make_run, capsys: pytest.CaptureFixture[str]):
    assert measure_packs(make_run(10), 2) == {"packs": {}, "packs_to": 64}
    assert "asks for engine 'reference'" in capsys.readouterr().err
    assert measure_packs(fast(10), 0) == {"packs": {}, "packs_to": 0}


def test_each_gpu_has_a_worker(fast, monkeypatch: pytest.MonkeyPatch):
    two = (Gpu("Large", 80e9, "0"), Gpu("Small", 24e9, "3"))
    monkeypatch.setattr(local, "ask_for_gpus", lambda: two)
    with open_pool(device="cuda") as pool:
        assert pool.kinds == {"Large": 1, "Small": 1}
        assert pool.device_memory == 24e9
        assert pool.pack is None
        pool.paces.update({"Small": 0.5})
        assert pool.slots == {0: 1.0, 1: 0.5}
        assert CostModel().on(pool).packing.most is None
        assert CostModel().on(pool).packing.worth_measuring(fast(10), 1) == 1
    with open_pool(device="cuda", per_gpu=2, pack=1) as pool:
        assert pool.workers == 4
        assert pool.device_memory == 12e9
        assert CostModel().on(pool).packing.most == 1
    with LocalPool(1) as pool:
        assert CostModel().on(pool).packing.most == 1


def test_gpus_that_are_asked_for_and_not_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(local, "ask_for_gpus", lambda: ())
    assert device_for("auto") == device_for("cpu") == "cpu"
    with pytest.raises(AllometryError, match="PyTorch sees no GPU here") as caught:
        open_pool(device="cuda")
    assert "--device cpu" in str(caught.value)
