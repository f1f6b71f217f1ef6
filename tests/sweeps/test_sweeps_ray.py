"""Sweeps on Ray: the same bits as on this machine's cores, through the loss of workers, nodes and drivers."""

import gc
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytest.importorskip("ray", reason="the extra 'ray' is not installed")

from bitwise import run_bytes

from allometry.cluster import _left_behind, connect
from allometry.core.errors import AllometryError
from allometry.runs.store import Store
from allometry.sweeps import Sweep, pool
from allometry.sweeps.execute import execute
from allometry.sweeps.local import LocalPool, open_pool
from allometry.sweeps.progress import Event
from allometry.sweeps.ray import RayPool
from allometry.train.config import RunConfig

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own


@pytest.fixture(scope="module")
def family(make_run) -> list[RunConfig]:
    """A trunk with two branches, and one with another schedule."""
    return [make_run(40), make_run(20), make_run(10), make_run(10, schedule="cosine")]


@pytest.fixture(autouse=True)
def only_clusters_made_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    yield
    gc.collect()  # processes of a Ray that did not start, whose warnings would fail a test after these


def train(runs, store: Store, pool, act=None, **options):
    events: list[Event] = []

    def watch(event: Event) -> None:
        events.append(event)
        if act:
            act(event)

    return execute(Sweep("s", "?", tuple(runs)), store, pool=pool, on_event=watch, **options), events


def a_pool(**options: int) -> RayPool:
    """A cluster of two cores; on a machine that is so busy that Ray does not start, the test is skipped."""
    try:
        return RayPool("ray", workers=2, **options)
    except AllometryError as error:
        if "did not start" in error.message:
            pytest.skip(error.message)
        raise


@pytest.mark.slow
def test_a_cluster_of_this_machine_trains_the_same_bits(
    family, store: Store, pool: LocalPool, tmp_path: Path
):
    alone = Store(tmp_path / "alone", create=True)
    train(family, alone, pool)
    with a_pool() as cluster:
        assert cluster.workers == 2
        summary, events = train(family, store, cluster)
    assert set(summary.done) == {run.id for run in family}
    assert any(event.kind == "progress" for event in events)
    starts = {event.run.id: event.step for event in events if event.kind == "start" and event.run}
    assert starts[family[1].id] == family[1].train.decay_start > 0
    for run in family:
        assert run_bytes(store, run) == run_bytes(alone, run)
    assert not store.place.names(".claims")
    assert not list(store.path.glob("*/checkpoints/branch-*"))


@pytest.mark.slow
def test_a_run_of_two_devices_takes_two_slots_of_a_node(
    make_run, store: Store, pool: LocalPool, tmp_path: Path
):
    wide, narrow = make_run(30).model_copy(update={"devices": 2}), make_run(10, seed=3)
    alone = Store(tmp_path / "alone", create=True)
    train([make_run(30), narrow], alone, pool)
    with a_pool() as cluster:
        summary, _ = train([wide, narrow], store, cluster)
    assert set(summary.done) == {wide.id, narrow.id}
    found, expected = (s.frame().set_index("run")["loss"] for s in (store, alone))
    assert found[wide.id] == pytest.approx(expected[wide.id], rel=1e-5)
    assert run_bytes(store, narrow) == run_bytes(alone, narrow)


@pytest.mark.slow
def test_a_cluster_trains_packs(make_run, store: Store, pool: LocalPool, tmp_path: Path):
    runs = [make_run(steps, seed=seed).replace(engine="fast") for steps in (40, 20) for seed in (0, 1, 2)]
    alone = Store(tmp_path / "alone", create=True)
    train(runs, alone, pool)
    with a_pool(pack=4) as cluster:
        summary, events = train(runs, store, cluster)
    assert set(summary.done) == {run.id for run in runs}
    assert {event.run.id for event in events if event.kind == "progress" and event.run}
    found, expected = (s.frame().set_index("run") for s in (store, alone))
    assert "packed" in set(found["engine"])
    for run in runs:
        assert found.loc[run.id, "loss"] == pytest.approx(expected.loc[run.id, "loss"], rel=1e-5)
    assert not store.place.names(".claims")


def test_a_cluster_that_died_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))  # and nobody listens
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{other.getsockname()[1]}")
        monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
        assert _left_behind()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "elsewhere"))
    assert not _left_behind()


def test_a_cluster_that_does_not_answer(monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    monkeypatch.setattr("ray.init", lambda **options: pytest.fail("Ray itself would wait for minutes"))
    with pytest.raises(AllometryError, match="no Ray cluster answers"):
        connect(f"ray://{address}")
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(AllometryError, match="no Ray cluster answers"):
        connect("ray")
    with pytest.raises(AllometryError, match="no address"):
        connect("ray://head")
    with pytest.raises(AllometryError, match="cannot run on 'slurm'"):
        open_pool("slurm")


def test_versions_that_differ_are_named():
    node = pool.Node(host="n7", versions={**pool.versions(), "ray": "2.1.0"}, kind="cpu")
    with pytest.raises(AllometryError, match=r"node n7 runs ray 2\.1\.0") as caught:
        pool.require_same_versions([node])
    assert "pip install ray==" in str(caught.value)


# What follows takes a cluster of several nodes, and half a minute or more.


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator:
    from ray.cluster_utils import Cluster

    small = {"include_dashboard": False, "object_store_memory": 100_000_000}
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    nodes.extra = [nodes.add_node(num_cpus=1, object_store_memory=100_000_000) for _ in range(2)]
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    yield nodes
    nodes.shutdown()


@pytest.fixture
def undisturbed(make_run, pool: LocalPool, tmp_path: Path) -> tuple[list[RunConfig], Store]:
    """Runs of some seconds, and what they are when nothing happens."""
    runs = [make_run(steps, seed=seed) for steps in (1500, 700) for seed in (0, 1)]
    store = Store(tmp_path / "undisturbed", create=True)
    train(runs, store, pool)
    return runs, store


def assert_same(runs, store: Store, other: Store) -> None:
    for run in runs:
        assert run_bytes(store, run) == run_bytes(other, run)
        assert (store.directory(run.id) / "log.txt").read_text().count("done after step") == 1


@pytest.mark.slow
def test_lost_workers_and_nodes_cost_nothing(cluster, undisturbed, store: Store):
    runs, calm = undisturbed
    struck: list[str] = []

    def strike(event: Event) -> None:
        if event.kind == "progress" and event.step > 100 and not struck:
            struck.append("worker")
            tasks = [
                p for p in psutil.process_iter(["cmdline"]) if "ray::carry_out" in str(p.info["cmdline"])
            ]
            tasks[0].kill()
        elif event.kind == "progress" and event.finished == 1 and len(struck) == 1:
            struck.append("node")
            cluster.remove_node(cluster.extra.pop(), allow_graceful=False)
            cluster.extra.append(cluster.add_node(num_cpus=1, object_store_memory=100_000_000))

    with RayPool("ray") as pool:
        assert pool.workers == 2
        summary, events = train(runs, store, pool, strike, checkpoint_every=0.2, lease=5.0)
    assert struck == ["worker", "node"]
    assert not summary.failed
    assert any(event.kind == "retry" for event in events)
    assert_same(runs, store, calm)


DRIVER = """
import sys
from allometry.runs.store import Store
from allometry.sweeps.execute import execute
from allometry.sweeps.ray import RayPool
from allometry.sweeps import Sweep
from allometry.train.config import RunConfig
store = Store(sys.argv[1], create=True)
runs = tuple(RunConfig.model_validate_json(line) for line in open(sys.argv[2]))
def tell(event):
    if event.kind == "progress":
        print(event.step, flush=True)
with RayPool("ray") as pool:
    execute(Sweep("s", "?", runs), store, pool=pool, on_event=tell, checkpoint_every=0.2, lease=4.0)
"""


def driver(runs, store: Store, todo: Path) -> subprocess.Popen:
    todo.write_text("".join(run.model_dump_json() + "\n" for run in runs))
    command = [sys.executable, "-c", DRIVER, str(store.path), str(todo)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_a_lost_worker_concerns_all_of_its_pack(
    cluster, make_run, store: Store, pool: LocalPool, tmp_path: Path
):
    runs = [make_run(1500, seed=seed, lr=0.003).replace(engine="fast") for seed in range(3)]
    calm = Store(tmp_path / "calm", create=True)
    train(runs, calm, pool)
    struck: list[int] = []

    def strike(event: Event) -> None:
        if event.kind == "progress" and event.step > 100 and not struck:
            tasks = [
                p for p in psutil.process_iter(["cmdline"]) if "ray::carry_out" in str(p.info["cmdline"])
            ]
            tasks[0].kill()
            struck.append(event.step)

    with RayPool("ray", workers=1, pack=4) as nodes:
        summary, events = train(runs, store, nodes, strike, checkpoint_every=0.2, lease=5.0)
    assert struck
    assert set(summary.done) == {run.id for run in runs}
    assert {event.run.id for event in events if event.kind == "retry" and event.run} == set(summary.done)
    found, expected = (s.frame().set_index("run")["loss"] for s in (store, calm))
    # rounding grows over so many steps
    assert found.loc[expected.index].tolist() == pytest.approx(expected.tolist(), rel=1e-2)


@pytest.mark.slow
def test_a_driver_that_dies_and_one_beside_it(cluster, undisturbed, store: Store, tmp_path: Path):
    runs, calm = undisturbed
    with driver(runs, store, tmp_path / "todo") as first:
        assert first.stdout is not None
        first.stdout.readline()
        os.kill(first.pid, signal.SIGKILL)
    with (
        driver(runs, store, tmp_path / "todo-2") as second,
        driver(runs[::-1], store, tmp_path / "todo-3") as third,
    ):
        for each in (second, third):
            assert each.stdout is not None
            each.stdout.read()
            assert each.wait() == 0
    assert_same(runs, store, calm)


@pytest.mark.slow
def test_a_store_that_nodes_do_not_see(cluster, make_run, monkeypatch: pytest.MonkeyPatch):
    store = Store("memory://hidden/runs", create=True)  # in the memory of this process
    with RayPool("ray") as pool, pytest.raises(AllometryError, match="does not see it") as caught:
        train([make_run(10)], store, pool)
    assert "s3://" in str(caught.value)


@pytest.mark.slow
def test_nodes_of_another_version_are_refused(cluster, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pool, "__version__", "99.0")
    with pytest.raises(AllometryError, match=r"this machine 99\.0"):
        RayPool("ray")
