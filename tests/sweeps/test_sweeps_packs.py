"""Sweeps whose runs are trained in packs: the same losses, through failures, kills and interruptions. On
cores, where packs must be asked for; what a GPU adds is the engine's business.
"""

import json
import os
import signal
from pathlib import Path

import pytest
from bitwise import run_bytes
from drivers import LEASE, two_drivers
from mortal import MortalPool
from test_sweeps_execute import Watcher

from allometry.models.base import family as family_of
from allometry.runs.store import Store
from allometry.sweeps import Sweep
from allometry.sweeps.calibrate import calibrate
from allometry.sweeps.execute import execute
from allometry.sweeps.local import LocalPool, open_pool
from allometry.sweeps.progress import Event, Summary
from allometry.sweeps.worker import Service
from allometry.train.config import RunConfig


@pytest.fixture(scope="session")
def fast(make_run):
    return lambda steps, d_model=16, **train: make_run(steps, d_model, **train).replace(engine="fast")


@pytest.fixture(scope="module")
def family(fast) -> list[RunConfig]:
    """Two trunks with branches, two other shapes, and one that diverges."""
    runs = [fast(steps, seed=seed) for steps in (40, 20, 10) for seed in (0, 1)]
    runs += [fast(15, 32, seed=seed) for seed in (0, 1, 2)]
    return [*runs, fast(25, 24), fast(20, lr=1e30, clip=None, warmup=0, schedule="cosine")]


@pytest.fixture(scope="module")
def packing(own_cache) -> LocalPool:
    """One worker that trains packs of up to four."""
    with LocalPool(1, pack=4) as pool:
        yield pool


@pytest.fixture(scope="module")
def unpacked(family, pool, tmp_path_factory) -> Store:
    store = Store(tmp_path_factory.mktemp("unpacked") / "runs", create=True)
    train(family, store, pool)
    return store


def train(runs, store: Store, pool: LocalPool, act=None, **options) -> tuple[Summary, Watcher]:
    watcher = Watcher(act)
    summary = execute(Sweep("s", "?", tuple(runs)), store, pool=pool, on_event=watcher, **options)
    return summary, watcher


def results(store: Store, runs) -> dict[str, dict]:
    return {run.id: json.loads((store.directory(run.id) / "result.json").read_text()) for run in runs}


def assert_same(store: Store, other: Store, runs) -> None:
    """Both stores have the same results to rounding."""
    found, expected = results(store, runs), results(other, runs)
    for run in runs:
        assert found[run.id]["status"] == expected[run.id]["status"]
        if found[run.id]["status"] == "done":
            assert found[run.id]["loss"] == pytest.approx(expected[run.id]["loss"], rel=1e-5)


def test_packed_runs_are_what_they_are_alone(
    family, unpacked: Store, packing: LocalPool, store: Store, tmp_path: Path
):
    summary, watcher = train(family, store, packing)
    *calm, wild = family
    assert set(summary.done) == {run.id for run in calm}
    assert summary.diverged == (wild.id,)
    assert_same(store, unpacked, family)
    engines = {run: result["engine"] for run, result in results(store, family).items()}
    assert engines.pop(family[9].id) == "fast"  # the only one of its shape
    assert set(engines.values()) == {"packed"}
    starts = {event.run.id: event.step for event in watcher.events if event.kind == "start" and event.run}
    assert all(starts[run.id] == run.train.decay_start > 0 for run in family[2:6])
    assert not list(store.path.glob("*/checkpoints/branch-*"))
    again = Store(tmp_path / "again", create=True)
    train(family, again, packing)
    assert all(run_bytes(store, run) == run_bytes(again, run) for run in calm)


def test_what_fails_leaves_its_pack(fast, packing: LocalPool, store: Store):
    good = [fast(12, seed=seed) for seed in range(2)]
    bad = good[0].replace(data=good[0].data.replace(corpus=f"files:{store.path}/nowhere"))
    summary, _ = train([bad, *good], store, packing)
    assert set(summary.done) == {run.id for run in good}
    assert "nowhere" in summary.failed[bad.id]
    assert store.status(bad.id) == "failed"
    assert {result["engine"] for result in results(store, good).values()} == {"packed"}


def test_a_family_that_cannot_be_packed_is_trained_alone(fast, packing: LocalPool, store: Store):
    model = family_of("lstm").from_n_params(3000, n_ctx=32, n_vocab=256)
    runs = [fast(8, seed=seed).replace(model=model) for seed in range(2)]
    summary, watcher = train(runs, store, packing)
    assert set(summary.done) == {run.id for run in runs}
    assert set(watcher.of("retry")) == {run.id for run in runs}
    assert "cannot be packed" in next(event.text for event in watcher.events if event.kind == "retry")
    assert {result["engine"] for result in results(store, runs).values()} == {"fast"}


def test_a_worker_that_dies_with_a_pack_concerns_all_of_it(
    fast, packing: LocalPool, store: Store, monkeypatch: pytest.MonkeyPatch
):
    """It is killed before it has read what it was sent."""
    runs = [fast(12, seed=seed) for seed in range(2)]
    killed, send = [], packing.send

    def deadly(worker: int, task: dict) -> None:
        if killed or task["do"] != "pack":
            send(worker, task)
            return
        killed.append(packing.pids[worker])
        os.kill(killed[0], signal.SIGSTOP)
        send(worker, task)
        os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr(packing, "send", deadly)
    summary, watcher = train(runs, store, packing)
    assert len(killed) == 1
    assert sorted(watcher.of("retry")) == sorted(run.id for run in runs)
    assert set(summary.done) == {run.id for run in runs}


@pytest.mark.slow
def test_a_killed_worker_concerns_all_of_its_pack(fast, store: Store, pool: LocalPool, tmp_path: Path):
    runs = [fast(40, seed=seed, lr=0.003) for seed in range(3)]
    with MortalPool(1, tmp_path / "deaths", step=20, pack=4) as own:
        summary, watcher = train(runs, store, own, checkpoint_every=0.0)
    assert own.deaths == 1
    assert set(watcher.of("retry")) == {run.id for run in runs}
    assert set(summary.done) == {run.id for run in runs}
    assert all(event.step >= 19 for event in watcher.events if event.kind == "retry")
    alone = Store(tmp_path / "alone", create=True)
    train(runs, alone, pool)
    assert_same(store, alone, runs)


@pytest.mark.slow
def test_ctrl_c_leaves_checkpoints_from_which_each_goes_on_alone(
    fast, store: Store, pool: LocalPool, tmp_path: Path
):
    runs = [fast(60, seed=seed, lr=0.003) for seed in range(3)]
    begun: set[str] = set()

    def interrupt(event: Event) -> None:
        if event.kind == "progress" and event.run:
            begun.add(event.run.id)
        if len(begun) == len(runs):
            raise KeyboardInterrupt

    with (
        MortalPool(1, tmp_path / "halt", step=20, act="halt", pack=4) as own,
        pytest.raises(KeyboardInterrupt),
    ):
        train(runs, store, own, interrupt)
    assert {store.status(run.id) for run in runs} == {"partial"}
    assert all(list(store.directory(run.id).glob("checkpoints/step-*.safetensors")) for run in runs)
    summary, watcher = train(runs[:1], store, pool)
    assert summary.done == (runs[0].id,)
    assert watcher.events[0].text.startswith("1 resumes at step")
    assert "goes on with engine fast after packed" in (store.directory(runs[0].id) / "log.txt").read_text()


@pytest.mark.slow
def test_two_drivers_train_packs_of_what_the_other_has_not(
    fast, store: Store, pool: LocalPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    runs = [fast(20 - seed, seed=seed) for seed in range(4)]
    summaries = two_drivers(runs, store, monkeypatch, pack=2)
    assert len(summaries) == 2
    assert all({*each.done, *each.skipped} == {run.id for run in runs} for each in summaries)
    for run in runs:
        assert (store.directory(run.id) / "log.txt").read_text().count("done after step") == 1
    assert not store.place.names(".claims")
    alone = Store(tmp_path / "alone", create=True)
    train(runs, alone, pool)
    assert_same(store, alone, runs)


def pack_of(runs, store: Store) -> dict:
    """A pack of these runs, as an executor sends it."""
    one = {"do": "train", "store": str(store.path), "branch_at": [], "source": None, "threads": 1}
    one |= {"checkpoint_every": 15.0, "claim": None, "data": {}}
    tasks = [{**one, "run": run.id, "config": run.model_dump(mode="json")} for run in runs]
    return {"do": "pack", "tasks": tasks, "device": "cpu"}


def test_messages_of_a_pack_name_their_run(fast, store: Store, monkeypatch: pytest.MonkeyPatch):
    runs = [fast(6, seed=seed) for seed in range(2)]
    said: list[dict] = []
    service = Service(lambda kind, **fields: said.append({"is": kind, **fields}), lambda: False)
    with monkeypatch.context() as patch:
        patch.setattr("allometry.experimental.packs.Pack._step", lambda pack: 1 / 0)
        service.serve(pack_of(runs, store))
    assert [(report["is"], report.get("run")) for report in said[-1:]] == [("parted", None)]
    assert {report["run"]: report["error"] for report in said[:-1]} == dict.fromkeys(
        (run.id for run in runs), "ZeroDivisionError: division by zero"
    )
    assert {report["is"] for report in said[:-1]} == {"unpacked"}
    said.clear()
    service.serve(pack_of(runs, store))
    assert {report["run"] for report in said if report["is"] == "done"} == {run.id for run in runs}
    assert not any(store.status(run.id) == "failed" for run in runs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_packs_into_a_bucket(fast, bucket: str, pool: LocalPool, tmp_path: Path):
    runs = [fast(steps, seed=seed) for steps in (60, 30) for seed in (0, 1)]
    alone = Store(tmp_path / "alone", create=True)
    train(runs, alone, pool)
    store = Store(bucket, create=True)
    with LocalPool(1, pack=4) as own:  # started here: its worker needs the bucket's end point
        summary, _ = train(runs, store, own, checkpoint_every=0.3, lease=LEASE)
    assert set(summary.done) == {run.id for run in runs}
    ours, theirs = (each.frame().set_index("run") for each in (Store(bucket), alone))
    for run in runs:
        assert ours.loc[run.id, "loss"] == pytest.approx(theirs.loc[run.id, "loss"], rel=1e-5)
        assert ours.loc[run.id, "engine"] == "packed"
    assert not store.place.names(".claims")


@pytest.mark.gpu
def test_a_gpu_trains_packs_as_many_as_pay(fast, store: Store, tmp_path: Path):
    """As users get it: nothing is asked for but the GPU; predictions are those of the plan."""
    runs = [fast(300, seed=seed, lr=0.003) for seed in range(8)]
    alone = Store(tmp_path / "alone", create=True)
    with open_pool(device="cuda", workers=1, pack=1) as one_by_one:
        train(runs, alone, one_by_one)
    with open_pool(device="cuda", workers=1) as gpu:
        cost = calibrate(runs, pool=gpu)
        assert cost.packing.size(runs[0]) > 1
        summary, watcher = train(runs, store, gpu, cost=cost)
    assert set(summary.done) == {run.id for run in runs}
    assert not watcher.of("retry")
    found, expected = results(store, runs), results(alone, runs)
    for run in runs:
        assert found[run.id]["engine"] == "packed"
        assert found[run.id]["loss"] == pytest.approx(expected[run.id]["loss"], abs=0.02)  # bf16
