import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from bitwise import run_bytes
from mortal import MortalPool
from waiting import until_ended

from allometry.core.errors import AllometryError
from allometry.core.locks import exclusive
from allometry.runs.store import Store
from allometry.sweeps import Sweep
from allometry.sweeps.execute import execute
from allometry.sweeps.local import LocalPool
from allometry.sweeps.progress import Event, Summary
from allometry.sweeps.schedule import survey
from allometry.train.config import RunConfig


class Watcher:
    """Remembers events, and may do something at one."""

    def __init__(self, act=None):
        self.events: list[Event] = []
        self.act = act or (lambda event: None)

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self.act(event)

    def of(self, kind: str) -> list[str]:
        return [event.run.id for event in self.events if event.kind == kind and event.run]


def train(runs, store: Store, pool: LocalPool | None = None, act=None, **options) -> tuple[Summary, Watcher]:
    watcher = Watcher(act)
    options = options or {"workers": 2}
    summary = execute(Sweep("s", "?", tuple(runs)), store, pool=pool, on_event=watcher, **options)
    return summary, watcher


@pytest.fixture(scope="module")
def family(make_run) -> list[RunConfig]:
    """Three horizons of one run, and one with another schedule."""
    return [make_run(40), make_run(20), make_run(10), make_run(10, schedule="cosine")]


@pytest.fixture(scope="module")
def alone(family, pool, tmp_path_factory) -> Store:
    """A store in which each run was trained by itself."""
    store = Store(tmp_path_factory.mktemp("alone") / "runs", create=True)
    for run in family:
        train([run], store, pool)
    return store


def test_branched_runs_equal_runs_trained_alone(family, alone: Store, store: Store, pool: LocalPool):
    summary, watcher = train(family, store, pool)
    assert set(summary.done) == {run.id for run in family}
    starts = {event.run.id: event.step for event in watcher.events if event.kind == "start" and event.run}
    assert starts[family[1].id] == family[1].train.decay_start > 0
    assert starts[family[2].id] == family[2].train.decay_start > 0
    for run in family:
        assert run_bytes(store, run) == run_bytes(alone, run)
    assert not list(store.path.glob("*/checkpoints/branch-*"))
    assert not list(store.path.glob("**/*.tmp"))


def test_the_same_call_does_nothing_twice(family, alone: Store, pool: LocalPool):
    summary, watcher = train(family, alone, pool)
    assert set(summary.skipped) == {run.id for run in family}
    assert summary.done == ()
    assert [event.text for event in watcher.events] == ["4 done"]


def test_a_failure_is_a_result_and_is_tried_again(make_run, store: Store, pool: LocalPool):
    good = make_run(10)
    missing = good.data.replace(corpus=f"files:{store.path}/nowhere")
    bad = RunConfig(model=good.model, data=missing, train=good.train, engine="reference")
    summary, watcher = train([bad, good], store, pool)
    assert summary.done == (good.id,)
    assert "nowhere" in summary.failed[bad.id]
    assert watcher.of("failed") == [bad.id]
    assert store.status(bad.id) == "failed"
    assert survey([bad, good], store).sentence == "1 done, 1 failed before and will be tried again"
    assert train([bad, good], store, pool)[0].failed.keys() == {bad.id}
    corpus = store.path / "nowhere"
    corpus.mkdir()
    for number in range(30):
        (corpus / f"{number}.txt").write_text(
            f"the number {number} and some more words of no great weight " * 9
        )
    summary, _ = train([bad, good], store, pool)
    assert summary.done == (bad.id,)
    assert not (store.directory(bad.id) / "error.txt").exists()


def test_a_run_that_starts_from_another_is_trained_after_it(make_run, store: Store, pool: LocalPool):
    parent = make_run(20)
    children = [make_run(steps, init_from=parent.id) for steps in (30, 20)]  # share a trunk
    summary, watcher = train([*children, parent], store, pool)
    assert set(summary.done) == {parent.id, *(run.id for run in children)}
    assert watcher.of("start")[0] == parent.id
    assert watcher.of("done")[0] == parent.id
    again = Store(store.path.parent / "again", create=True)
    train([parent], again, pool)
    train([children[1]], again, pool)  # the parent is in the store, and no part of this sweep
    assert run_bytes(again, children[1]) == run_bytes(store, children[1])


def test_what_cannot_start_from_another_run_is_refused_or_fails(make_run, store: Store, pool: LocalPool):
    wild = make_run(20, lr=50.0, clip=None, warmup=0)
    child = make_run(10, init_from=wild.id)
    with pytest.raises(AllometryError, match="neither in the sweep nor in"):
        train([make_run(10), child], store, pool)
    wide = make_run(10, d_model=32, init_from=wild.id)
    with pytest.raises(AllometryError, match="d_model 16 instead of 32"):
        train([wild, wide], store, pool)
    assert not any(store.status(run.id) for run in (wild, wide, child, make_run(10)))
    summary, _ = train([child, wild], store, pool)
    assert summary.diverged == (wild.id,)
    assert "it diverged" in summary.failed[child.id]
    gone = make_run(10)
    gone = gone.replace(data=gone.data.replace(corpus=f"files:{store.path}/nowhere"))
    orphan = make_run(10, init_from=gone.id)
    summary, _ = train([orphan, gone], store, pool)
    assert "it failed" in summary.failed[orphan.id]
    assert "nowhere" in summary.failed[orphan.id]


def test_a_killed_worker_costs_nothing(make_run, store: Store, alone: Store, family, tmp_path: Path):
    with MortalPool(1, tmp_path / "deaths", step=7) as pool:
        summary, watcher = train([family[0]], store, pool, checkpoint_every=0.0)
    assert pool.deaths == 1
    assert [(event.step, event.text) for event in watcher.events if event.kind == "retry"] == [
        (7, "its worker was killed (SIGKILL)")
    ]
    assert summary.done == (family[0].id,)
    assert run_bytes(store, family[0]) == run_bytes(alone, family[0])


def test_a_run_whose_worker_keeps_dying_fails(
    make_run, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("allometry.sweeps.execute.DEATHS_ALLOWED", 1)
    run = make_run(40)
    with MortalPool(1, tmp_path / "deaths", step=3, most=9) as pool:
        summary, watcher = train([run], store, pool)
    assert pool.deaths == 2
    assert "memory" in summary.failed[run.id]
    assert len(watcher.of("retry")) == 1
    assert store.status(run.id) == "failed"


def test_one_writer_per_store(make_run, store: Store, pool: LocalPool):
    with exclusive(store.path), pytest.raises(AllometryError, match=f"process {os.getpid()} is writing"):
        train([make_run(10)], store, pool)


def test_a_full_disk_stops_the_sweep_and_loses_nothing(
    make_run, store: Store, pool: LocalPool, tmp_path: Path
):
    run, other = make_run(10), make_run(12, seed=1)
    with (
        MortalPool(1, tmp_path / "deaths", step=0, act="full") as full,
        pytest.raises(AllometryError, match="disk is full") as caught,
    ):
        train([run, other], store, full)
    assert "same command" in str(caught.value)
    summary, _ = train([run, other], store, pool)
    assert {*summary.done, *summary.skipped} == {run.id, other.id}


def test_a_damaged_result_is_made_again(make_run, store: Store, pool: LocalPool):
    run = make_run(10)
    train([run], store, pool)
    result = store.directory(run.id) / "result.json"
    before = json.loads(result.read_text())["loss"]
    result.write_text(result.read_text()[:40])
    assert store.status(run.id) == "partial"
    _, watcher = train([run], store, pool)
    assert "set aside" in watcher.events[0].text
    assert json.loads(result.read_text())["loss"] == before


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[2])
from allometry.runs.store import Store
from allometry.sweeps.execute import execute
from allometry.sweeps import Sweep
from allometry.train.config import RunConfig
runs = tuple(RunConfig.model_validate_json(line) for line in open(sys.argv[1] + "/todo"))
def tell(event):
    if event.kind == "progress":
        print(event.step, flush=True)
store = Store(sys.argv[1], create=True)
execute(Sweep("s", "?", runs), store, workers=1, on_event=tell, checkpoint_every=0.1)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_stopped_parent_leaves_nothing_running(make_run, store: Store, how: signal.Signals):
    run = make_run(10_000_000)  # nobody sees its end
    (store.path / "todo").write_text(run.model_dump_json() + "\n")
    arguments = [sys.executable, "-c", SCRIPT, str(store.path), str(Path(__file__).parents[2])]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        while int(parent.stdout.readline()) < 20:
            pass
        workers = psutil.Process(parent.pid).children()
        assert workers
        parent.send_signal(how)
        parent.wait()
        until_ended(workers)
    found = survey([run], store)
    assert found.resumes[run.id] > 0
    assert found.sentence.startswith("1 resumes at step ")
