"""Kill a sweep at random moments, run the same command until it is done, and compare with an undisturbed one.

    python benchmarks/kill_sweep.py [--kills 20] [--seed 0]

SIGKILL falls on workers and on the parent in turn. The sweep trains two sizes over three horizons with
shared trunks, a second seed and a cosine schedule. At the end every curve and every trained parameter must
equal those of the undisturbed sweep, bit for bit; the share of the cores' time that the undisturbed sweep
used is printed. Exit status 1 if anything differs, or if a worker outlives its parent.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from allometry.core.env import cores
from allometry.models.transformer import TransformerConfig
from allometry.runs.store import Store
from allometry.sweeps import Sweep
from allometry.sweeps.execute import execute
from allometry.sweeps.progress import Event
from allometry.train.config import DataConfig, RunConfig, Schedule, TrainConfig


def a_run(n_layer: int, d_model: int, steps: int, schedule: Schedule = "wsd", seed: int = 0) -> RunConfig:
    """Return a small run on the default corpus."""
    return RunConfig(
        model=TransformerConfig(
            n_layer=n_layer, d_model=d_model, n_head=d_model // 32, n_ctx=64, n_vocab=256
        ),
        data=DataConfig(eval_tokens=8192),
        train=TrainConfig(
            tokens=512 * steps, batch_tokens=512, lr=0.256 / d_model, warmup=20, schedule=schedule, seed=seed
        ),
    )


def the_sweep() -> Sweep:
    """Return eight runs, of which four branch off a trunk."""
    runs = [a_run(n_layer, 32, steps) for n_layer in (1, 2) for steps in (400, 800, 1600)]
    runs += [a_run(1, 32, 800, seed=1), a_run(1, 32, 800, "cosine")]
    return Sweep("kill", "Does a killed sweep end like an undisturbed one?", tuple(runs))


def child(path: Path) -> None:
    """Train the sweep in the store at `path`; the process that is killed. Says when training has begun."""
    told = False

    def tell(event: Event) -> None:
        nonlocal told
        if event.kind in ("progress", "done") and not told:
            told = True
            print("training", flush=True)

    execute(the_sweep(), Store(path, create=True), checkpoint_every=0.5, on_event=tell)


def start(path: Path) -> subprocess.Popen[bytes]:
    """Start the sweep as a process of its own; return when it has trained its first steps or has ended."""
    process = subprocess.Popen([sys.executable, __file__, "--child", str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def undisturbed(path: Path) -> tuple[float, float, float]:
    """Train without kills: seconds of training, and the shares of the cores that workers used and wanted.

    What they wanted includes the time that other processes kept them waiting for a core.
    """
    process, began = start(path), time.monotonic()
    workers = [worker.pid for worker in psutil.Process(process.pid).children()]
    first = last = [processor_time(pid) for pid in workers]
    while process.poll() is None:
        last = [processor_time(pid) or before for pid, before in zip(workers, last, strict=True)]
        time.sleep(0.05)
    seconds = (time.monotonic() - began) * cores()
    ran, waited = (
        sum(end[kind] - start[kind] for start, end in zip(first, last, strict=True) if start and end)
        for kind in (0, 1)
    )
    return seconds / cores(), ran / seconds, (ran + waited) / seconds


def processor_time(pid: int) -> tuple[float, float] | None:
    """Return the seconds that a process ran, and that it was ready but had no core (Linux)."""
    try:
        ran, waited, _ = Path(f"/proc/{pid}/schedstat").read_text().split()
    except (OSError, ValueError):
        return None
    return int(ran) / 1e9, int(waited) / 1e9


def disturbed(path: Path, kills: int, seconds: float, chance: random.Random) -> tuple[int, int, int]:
    """Train with kills; how many hit the parent and workers, and how many workers outlived their parent."""
    parents = workers = orphans = 0
    process = start(path)
    while parents + workers < kills and missing(path):
        time.sleep(chance.uniform(0, 2 * seconds / kills))
        if process.poll() is not None:  # a run was given up after too many deaths: the same command goes on
            process = start(path)
            continue
        children = psutil.Process(process.pid).children()
        if children and chance.random() < 0.5:
            chance.choice(children).kill()
            workers += 1
        else:
            process.kill()
            process.wait()
            parents += 1
            orphans += len(running_after(5.0, children))
            process = start(path)
    process.wait()
    while missing(path):
        start(path).wait()
    return parents, workers, orphans


def running_after(seconds: float, processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return those of the processes that still run after a while; ended ones that nobody has waited for do
    not count.
    """
    until = time.monotonic() + seconds
    while (left := [process for process in processes if is_running(process)]) and time.monotonic() < until:
        time.sleep(0.05)
    return left


def is_running(process: psutil.Process) -> bool:
    """Return whether the process still computes or could."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def missing(path: Path) -> list[str]:
    """Return the runs of the sweep that have no result in the store yet."""
    store = Store(path, create=True)
    return [run for run in the_sweep().ids if store.status(run) not in ("done", "diverged")]


def differences(first: Path, second: Path) -> list[str]:
    """Return the runs whose curves or trained parameters differ between two stores."""
    from allometry.train.checkpoint import final_parameters

    different = []
    for run in the_sweep().ids:
        curves = [(path / run / "curve.jsonl").read_bytes() for path in (first, second)]
        weights = [final_parameters(path / run) for path in (first, second)]
        same = weights[0].keys() == weights[1].keys() and all(
            value.tobytes() == weights[1][name].tobytes() for name, value in weights[0].items()
        )
        if curves[0] != curves[1] or not same:
            different.append(run)
    return different


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", type=Path)
    options = parser.parse_args()
    if options.child:
        child(options.child)
        return
    folder = Path(tempfile.mkdtemp(prefix="kill-sweep-"))
    try:
        seconds, used, wanted = undisturbed(folder / "calm")
        print(
            f"undisturbed: {seconds:.1f} s; workers used {used:.0%} of {cores()} cores, wanted {wanted:.0%}"
        )
        chance = random.Random(options.seed)
        parents, workers, orphans = disturbed(folder / "storm", options.kills, seconds, chance)
        print(
            f"kills: {parents} of the parent, {workers} of workers; {orphans} workers outlived their parent"
        )
        different = differences(folder / "calm", folder / "storm")
        print(f"runs that differ: {', '.join(different) or 'none'} of {len(the_sweep())}")
        sys.exit(1 if different or orphans else 0)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
