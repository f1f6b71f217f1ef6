"""Runs of a sweep that several devices train: the same losses, through kills and interruptions."""

import json

import psutil
import pytest
from mortal import MortalPool
from waiting import until

from allometry.core.errors import AllometryError
from allometry.runs.store import Store
from allometry.sweeps import Sweep
from allometry.sweeps.calibrate import fits_one
from allometry.sweeps.cost import CostModel, Timing, shape_key
from allometry.sweeps.execute import execute
from allometry.sweeps.local import LocalPool
from allometry.sweeps.placement import (
    assign,
    largest_node,
    memory_on,
    on,
    require_devices,
    slower_engine,
    with_devices,
)
from allometry.sweeps.progress import Event
from allometry.sweeps.schedule import Job, makespan


def seconds(run, start: int, stop: int) -> float:
    return float(stop - start)


def placed(jobs, free, node=lambda slot: "here"):
    found = assign(
        jobs, free, dict.fromkeys(free, 1.0), seconds, width=lambda job: job.config.devices, node=node
    )
    return {slots: job.config.train.steps for slots, job in found.items()}


def test_a_wide_run_takes_slots_of_one_node_and_short_ones_fill_its_wait(make_run):
    wide = Job(config=on(make_run(100), 2))
    short, long = Job(config=make_run(20)), Job(config=make_run(90))
    idle = dict.fromkeys(range(4), 0.0)
    assert placed([wide, long, short], idle) == {(0, 1): 100, (2,): 90, (3,): 20}
    apart = placed([wide, short], {0: 0.0, 1: 0.0, 2: 0.0}, node=lambda slot: "ab"[slot > 0])
    assert apart == {(1, 2): 100, (0,): 20}
    assert placed([wide], {0: 0.0, 1: 50.0}) == {}
    assert placed([wide, long, short], {0: 0.0, 1: 50.0}) == {(0,): 20}  # ends before slot 1 is free
    assert placed([wide], {0: 0.0, 1: 0.0}, node=str) == {}
    assert makespan([wide, long, short], seconds, 2) == 100 + 90
    assert makespan([wide], seconds, 1) == 100


class FourSlots:
    """Four slots on nodes of two, each with a device of its own."""

    slots = dict.fromkeys(range(4), 1.0)
    device_memory: float | None = None
    size = 2

    def node(self, slot: int) -> str:
        return f"node {slot // self.size}"

    def width(self, devices: int) -> int:
        return devices


def test_devices_are_chosen_where_one_does_not_hold_the_run_or_lets_the_sweep_wait(make_run):
    small, large = make_run(10), make_run(1000, d_model=64)
    timing = Timing(
        family="transformer", engine="reference", flops_per_token=1e6, batch_tokens=128,
        step=0.1, evaluation=0.0, start=0.0, memory=1e9,
    )  # fmt: skip
    cost, pool = CostModel({shape_key(small): timing, shape_key(large): timing}), FourSlots()
    sweep = Sweep("s", "?", (small, large))
    chosen = lambda **options: [run.devices for run in with_devices(sweep, cost, pool, **options)]  # noqa: E731
    assert chosen() == [1, 1]
    assert chosen(most=2) == [1, 2]
    assert with_devices(sweep, cost, pool, 2).ids == sweep.ids
    assert cost.seconds(on(large, 2)) == pytest.approx(cost.seconds(large) / 1.8)
    with pytest.raises(AllometryError, match="no machine of the pool has more than 2"):
        chosen(most=4)
    pool.device_memory = memory_on(large, 1e9) - 1
    assert fits_one(small, pool)
    assert not fits_one(large, pool)
    assert chosen() == [1, 2]
    assert largest_node(pool) == 2
    with pytest.raises(AllometryError, match="no machine has more than 2"):
        require_devices([on(large, 3)], pool)
    pool.size = 4
    with pytest.raises(AllometryError, match="4 sequences cannot be divided evenly among 3"):
        require_devices([on(large, 3)], pool)


# What follows starts torchrun, which takes its time.


def result(store: Store, run) -> dict:
    return json.loads((store.directory(run.id) / "result.json").read_text())


@pytest.mark.slow
def test_a_sweep_trains_a_run_on_two_devices_as_on_one(make_run, pool: LocalPool, store: Store, tmp_path):
    runs = [on(make_run(30), 2), make_run(15), make_run(10, seed=3)]
    events: list[Event] = []
    summary = execute(Sweep("s", "?", tuple(runs)), store, pool=pool, on_event=events.append)
    assert set(summary.done) == {run.id for run in runs}
    alone = Store(tmp_path / "alone", create=True)
    execute(Sweep("s", "?", tuple(on(run, 1) for run in runs)), alone, pool=pool)
    assert result(store, runs[0])["engine"] == "parallel"
    for run in runs:
        assert result(store, run)["loss"] == pytest.approx(result(alone, run)["loss"], rel=1e-5)
    starts = {event.run.id: event.step for event in events if event.kind == "start" and event.run}
    assert starts[runs[1].id] == runs[1].train.decay_start  # from the trunk that two devices trained
    assert not list(store.path.glob("*/checkpoints/*.dcp"))


def ranks() -> list[psutil.Process]:
    """The processes of this test's workers that train a run together."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            line = process.cmdline()
        except psutil.Error:
            continue
        ranked = "allometry.experimental.torchrun" in line or "rank" in line  # the program of mortal.py
        if ranked and "allometry.experimental.launcher" not in line:
            found.append(process)
    return found


@pytest.mark.slow
def test_a_killed_process_costs_an_interval_and_ctrl_c_leaves_nothing_running(
    make_run, pool: LocalPool, store: Store, tmp_path
):
    run = make_run(30, lr=0.003)  # a rate at which rounding does not grow
    alone = Store(tmp_path / "alone", create=True)
    execute(Sweep("s", "?", (run,)), alone, pool=pool)
    sweep, retries = Sweep("s", "?", (on(run, 2),)), []

    def interrupt(event: Event) -> None:
        if event.kind == "progress":
            raise KeyboardInterrupt

    with (
        MortalPool(2, tmp_path / "halt", step=4, act="rank halts") as own,
        pytest.raises(KeyboardInterrupt),
    ):
        execute(sweep, store, pool=own, checkpoint_every=0.0, on_event=interrupt)
    until(lambda: not ranks())
    assert store.status(run.id) == "partial"
    assert list((store.directory(run.id) / "checkpoints").glob("*.dcp/position.json"))

    def watch(event: Event) -> None:
        if event.kind == "retry":
            retries.append(event)

    with MortalPool(2, tmp_path / "deaths", step=4, act="rank dies") as own:
        summary = execute(sweep, store, pool=own, checkpoint_every=0.0, on_event=watch)
    assert own.deaths == 1
    assert summary.done == (run.id,)
    assert ["SIGKILL" in event.text for event in retries] == [True]
    assert retries[0].step > 0
    assert "continues after step" in (store.directory(run.id) / "log.txt").read_text()
    assert result(store, run)["loss"] == pytest.approx(result(alone, run)["loss"], rel=1e-5)


def test_what_keeps_runs_from_the_native_engine_is_said_once(make_run, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    runs = [make_run(10, seed=seed).replace(engine="auto") for seed in range(3)]
    (said,) = slower_engine(runs, "cpu")
    assert "no C++ compiler (no-such-compiler)" in said
    assert slower_engine(runs, "cuda") == []
    assert slower_engine([run.replace(engine="reference") for run in runs], "cpu") == []
