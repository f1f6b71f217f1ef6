"""Cores without a run work on the runs of others: who gets them, and that no bit changes."""

import json
from collections.abc import Callable

import pytest
from bitwise import run_bytes

from allometry.runs.store import Store
from allometry.sweeps import Sweep
from allometry.sweeps.execute import execute
from allometry.sweeps.local import LocalPool
from allometry.sweeps.schedule import MOST_THREADS, lend, speedup
from allometry.train.config import RunConfig
from allometry.train.engines.native import NativeEngine
from allometry.train.loop import train

MakeRun = Callable[..., RunConfig]


def threads_of(store: Store, run: RunConfig) -> int:
    return json.loads((store.directory(run.id) / "result.json").read_text())["threads"]


def test_idle_cores_go_to_what_would_end_last():
    assert lend({"long": 100.0, "short": 10.0}, idle=3) == {"long": 4, "short": 1}
    assert lend({"a": 10.0, "b": 9.0}, idle=2) == {"a": 2, "b": 2}
    assert lend({"a": 10.0}, idle=0) == {"a": 1}
    assert lend({}, idle=5) == {}


def test_a_run_gets_no_more_threads_than_help_it():
    assert lend({"a": 10.0, "b": 1.0}, idle=100) == {"a": MOST_THREADS, "b": MOST_THREADS}
    assert speedup(1) == 1 < speedup(2) < 2


def test_the_last_run_of_a_sweep_takes_the_idle_core_and_keeps_its_bits(
    store: Store, pool: LocalPool, make_run: MakeRun, tmp_path
):
    run = make_run(500, d_model=32, batch_tokens=512, tokens=500 * 512).replace(engine="native")
    if reason := NativeEngine.unsupported_reason(run):
        pytest.skip(reason)
    execute(Sweep("one", "", (run,)), store, pool=pool)
    alone = Store(tmp_path / "alone", create=True)
    train(run, alone.directory(run.id))
    assert [threads_of(each, run) for each in (store, alone)] == [2, 1]
    assert run_bytes(store, run) == run_bytes(alone, run)


def test_engines_whose_bits_depend_on_threads_keep_to_one(store: Store, pool: LocalPool, make_run: MakeRun):
    run = make_run(400)
    execute(Sweep("one", "", (run,)), store, pool=pool)
    assert threads_of(store, run) == 1
