"""Sweeps whose store is shared: shards of a job array, and stores at a URL."""

import os
import shutil
from pathlib import Path

import pytest
from bitwise import run_bytes
from drivers import LEASE, two_drivers

from allometry.core.errors import AllometryError
from allometry.data import tokens
from allometry.models.transformer import TransformerConfig
from allometry.runs.place import place
from allometry.runs.store import Store
from allometry.sweeps import Sweep, pool
from allometry.sweeps.execute import execute
from allometry.sweeps.local import LocalPool
from allometry.sweeps.placement import Shard, assign, own_part, parse_shard
from allometry.sweeps.schedule import Job
from allometry.train.config import DataConfig, RunConfig, TrainConfig
from allometry.train.inputs import load_inputs


def test_shards_are_whole_trunks_and_cover_everything(make_run):
    runs = [make_run(steps, seed=seed) for steps in (10, 20, 40) for seed in range(5)]
    runs += [make_run(15, schedule="cosine", seed=seed) for seed in range(3)]
    parts = [own_part(runs, Shard(number, 3)) for number in (1, 2, 3)]
    assert sum(map(len, parts)) == len(runs)
    assert frozenset().union(*parts) == {run.id for run in runs}
    for part in parts:
        trunks = {run.trunk for run in runs if run.id in part and run.trunk}
        assert all(run.id in part for run in runs if run.trunk in trunks)
    work = [sum(run.train.steps for run in runs if run.id in part) for part in parts]
    assert max(work) < 1.8 * min(work)
    assert parts == [own_part(runs[::-1], Shard(number, 3)) for number in (1, 2, 3)]


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", ""])
def test_what_is_no_shard(text: str):
    with pytest.raises(AllometryError, match="no part of a whole"):
        parse_shard(text)
    assert parse_shard("3/8") == Shard(3, 8)


def test_slow_slots_get_what_would_not_end_sooner_elsewhere(make_run):
    seconds = lambda run, start, stop: float(stop - start)  # noqa: E731
    jobs = [Job(config=make_run(steps)) for steps in (100, 90, 20, 10)]
    assert assign(jobs, {0: 0.0, 1: 0.0}, {0: 1.0, 1: 1.0}, seconds) == {(0,): jobs[0], (1,): jobs[1]}
    unequal = assign(jobs, {0: 0.0, 1: 0.0}, {0: 10.0, 1: 1.0}, seconds)
    assert unequal == {(0,): jobs[0], (1,): jobs[2]}  # the second is done sooner after the first
    assert assign(jobs[:1], {0: 5.0, 1: 0.0}, {0: 10.0, 1: 1.0}, seconds) == {}
    assert assign(jobs[:1], {0: 95.0, 1: 0.0}, {0: 10.0, 1: 1.0}, seconds) == {(1,): jobs[0]}


def test_two_drivers_train_every_run_once(
    make_run, store: Store, pool: LocalPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    runs = [make_run(30), make_run(15), make_run(12, seed=1), make_run(12, seed=2)]
    alone = Store(tmp_path / "alone", create=True)
    execute(Sweep("s", "?", tuple(runs)), alone, pool=pool)
    summaries = two_drivers(runs, store, monkeypatch)
    assert len(summaries) == 2
    for summary in summaries:
        assert {*summary.done, *summary.skipped} == {run.id for run in runs}
    for run in runs:
        assert run_bytes(store, run) == run_bytes(alone, run)
        assert (store.directory(run.id) / "log.txt").read_text().count("done after step") == 1


def test_a_node_without_the_corpus_gets_its_tokens_from_the_store(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number}.txt").write_text(
            f"text number {number}, of some words and no great weight. " * 9
        )
    config = RunConfig(
        model=TransformerConfig(n_layer=2, d_model=16, n_ctx=32, n_vocab=256),
        data=DataConfig(corpus=f"files:{folder}", eval_tokens=512),
        train=TrainConfig(tokens=1280, batch_tokens=128, lr=0.01),
    )

    def each_node(function, arguments):
        with monkeypatch.context() as node:
            node.setenv("ALLOMETRY_CACHE", str(tmp_path / "cache-of-the-node"))
            return [function(*arguments)]

    names = pool.settle(Sweep("s", "?", (config,)), store, each_node)
    here = load_inputs(config)
    shutil.rmtree(folder)
    monkeypatch.setenv("ALLOMETRY_CACHE", str(tmp_path / "cache-of-the-node"))
    there = load_inputs(config, tokens.settle(names, store.place))
    assert (there.order.batch(3) == here.order.batch(3)).all()
    assert there.unique == here.unique
    assert not store.place.names(pool.FOLDER)
    with pytest.raises(AllometryError, match="texts"):
        load_inputs(config)


def test_a_store_that_a_node_does_not_see(make_run, store: Store):
    def each_node(function, arguments):
        _, nonce, names = arguments
        return [function(str(store.path.parent / "elsewhere"), nonce, names)]

    with pytest.raises(AllometryError, match="does not see it") as caught:
        pool.settle(Sweep("s", "?", (make_run(10),)), store, each_node)
    assert "s3://" in str(caught.value)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_store_in_a_bucket(make_run, bucket: str, pool: LocalPool, tmp_path: Path):
    runs = [make_run(60), make_run(30), make_run(12, schedule="cosine")]
    alone = Store(tmp_path / "alone", create=True)
    execute(Sweep("s", "?", tuple(runs)), alone, pool=pool)
    store = Store(bucket, create=True)
    with LocalPool(2) as own:  # started here: its workers need the bucket's end point
        summary = execute(Sweep("s", "?", tuple(runs)), store, pool=own, checkpoint_every=0.3, lease=LEASE)
    assert set(summary.done) == {run.id for run in runs}
    ours, theirs = alone.frame(), Store(bucket).frame()
    same = [name for name in ours.columns if name not in ("seconds", "started", "finished")]
    assert ours[same].equals(theirs[same])
    for run in runs:
        name = f"{run.id}/checkpoints/final.safetensors"
        assert store.place.read(name) is not None
        assert store.place.names(f"{run.id}/checkpoints").keys() == {name}
    assert not place(bucket).names(".claims")
    assert os.environ["AWS_ENDPOINT_URL"].startswith("http://127.0.0.1:")
