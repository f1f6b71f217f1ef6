"""Kill workers, nodes and drivers of a Ray cluster at random while a sweep runs; compare with a calm one.

    python benchmarks/kill_cluster.py [--kills 50] [--seed 0]

A cluster of a head and two nodes runs on this machine. SIGKILL falls on a task's process, on a node (which is
replaced) or on the driver (which is started again), each a third of the time. At the end every curve and
every trained parameter must equal those of the undisturbed sweep, bit for bit, and every run must have ended
once; sweeps follow each other until all kills are done. Exit status 1 otherwise.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
from kill_sweep import differences, missing, start, the_sweep

from allometry.runs.store import Store

_MEMORY = 100_000_000


def child(path: Path) -> None:
    """Train the sweep in the store at `path` on the cluster that RAY_ADDRESS names (the driver)."""
    from allometry.sweeps.execute import execute
    from allometry.sweeps.ray import RayPool

    with RayPool("ray") as pool:
        execute(the_sweep(), Store(path, create=True), pool=pool, checkpoint_every=0.5, lease=5.0)


def driver(path: Path) -> subprocess.Popen[bytes]:
    """Start the driver as a process of its own."""
    return subprocess.Popen([sys.executable, __file__, "--child", str(path)], stderr=subprocess.DEVNULL)


def a_cluster() -> Any:
    """Start a head that trains nothing and two nodes with a core each."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": _MEMORY}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.extra = [cluster.add_node(num_cpus=1, object_store_memory=_MEMORY) for _ in range(2)]
    return cluster


def strike(cluster: Any, process: subprocess.Popen[bytes], chance: random.Random) -> str | None:
    """Kill something that is there, chosen by chance; return what was hit."""
    kind = chance.choice(("worker", "node", "driver"))
    if kind == "worker":
        tasks = [each for each in psutil.process_iter(["cmdline"]) if is_task(each)]
        if not tasks:
            return None
        chance.choice(tasks).kill()
    elif kind == "node":
        cluster.remove_node(cluster.extra.pop(chance.randrange(2)), allow_graceful=False)
        cluster.extra.append(cluster.add_node(num_cpus=1, object_store_memory=_MEMORY))
    else:
        process.kill()
        process.wait()
    return kind


def is_task(process: psutil.Process) -> bool:
    """Return whether a process is training for the cluster."""
    return "ray::carry_out" in " ".join(process.info["cmdline"] or [])


def disturbed(path: Path, kills: int, chance: random.Random) -> Counter[str]:
    """Train with kills; how many fell on what. Drivers are started again until nothing is missing."""
    cluster = a_cluster()
    os.environ["RAY_ADDRESS"] = cluster.address
    hits: Counter[str] = Counter()
    process = driver(path)
    try:
        while missing(path):
            time.sleep(chance.uniform(0.5, 4.0))
            if process.poll() is not None:
                process = driver(path)
            elif hits.total() < kills and (hit := strike(cluster, process, chance)):
                hits[hit] += 1
    finally:
        process.kill()
        process.wait()
        cluster.shutdown()
    return hits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", type=Path)
    options = parser.parse_args()
    if options.child:
        child(options.child)
        return
    folder = Path(tempfile.mkdtemp(prefix="kill-cluster-"))
    try:
        start(folder / "calm").wait()
        began, chance, hits = time.monotonic(), random.Random(options.seed), Counter[str]()
        different: list[str] = []
        twice: list[str] = []
        while hits.total() < options.kills:
            storm = folder / f"storm-{hits.total()}"
            hits += disturbed(storm, options.kills - hits.total(), chance)
            different += differences(folder / "calm", storm)
            logs = {run: (storm / run / "log.txt").read_text() for run in the_sweep().ids}
            twice += [run for run, log in logs.items() if log.count("done after step") != 1]
        print(f"kills: {dict(hits)}, in {time.monotonic() - began:.0f} s")
        print(f"runs that differ: {', '.join(different) or 'none'}")
        print(f"runs that did not end exactly once: {', '.join(twice) or 'none'}")
        sys.exit(1 if different or twice else 0)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
