"""What a cluster costs: Ray against the local executor, packing on unequal nodes, and the driver's own load.

    python benchmarks/ray_overhead.py packing      four simulated nodes of unequal speed
    python benchmarks/ray_overhead.py driver       64 simulated GPUs, ten thousand runs: seconds and memory
    python benchmarks/ray_overhead.py overhead     the same sweep locally and on Ray, on the same cores

Simulated nodes answer in simulated time, through the real executor; nothing is trained. `overhead` trains for
some minutes and wants a quiet machine; it prints the ratio of the sweeps' times, start-up apart.
"""

from __future__ import annotations

import argparse
import heapq
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from allometry.models.transformer import TransformerConfig
from allometry.runs.store import Store
from allometry.sweeps import Sweep
from allometry.sweeps.cost import CostModel
from allometry.sweeps.execute import execute
from allometry.sweeps.local import open_pool
from allometry.sweeps.pool import Message, Pool
from allometry.sweeps.progress import Event
from allometry.train.config import DataConfig, RunConfig, Schedule, TrainConfig


class SimulatedPool:
    """Slots of given speeds that take as long as the cost model says, on a clock of their own.

    `scatter` is the relative scatter of a run's time around its prediction. Progress is reported by all that
    run whenever one ends.
    """

    device = "simulated"
    device_memory = None
    shared = lends = False
    pack: int | None = 1

    def __init__(self, speeds: list[float], cost: CostModel, *, scatter: float = 0.05) -> None:
        self.slots = dict(enumerate(speeds))
        self.paces: dict[str, float] = {}
        self.cost, self.scatter = cost, scatter
        self.now = self.worked = 0.0
        self.sent = 0
        self._random = np.random.default_rng(0)
        self._ends: list[tuple[float, int]] = []
        self._tasks: dict[int, tuple[float, float, Mapping[str, Any]]] = {}

    @property
    def workers(self) -> int:
        """How many slots there are."""
        return len(self.slots)

    @property
    def kinds(self) -> dict[str, int]:
        """One kind."""
        return {"simulated": self.workers}

    def kind(self, slot: int) -> str:
        """Return the one kind."""
        return "simulated"

    def node(self, slot: int) -> str:
        """Return the one machine."""
        return "simulated"

    def width(self, devices: int) -> int:
        """Return a slot for each device."""
        return devices

    def settle(self, sweep: Sweep, store: Store) -> dict[str, str]:
        """Do nothing."""
        return {}

    def send(self, worker: int, task: Mapping[str, Any]) -> None:
        """Note when the run will end."""
        config = RunConfig.model_validate(task["config"])
        start = task["source"][1] if task["source"] else 0
        alone = self.cost.seconds(config, start) * float(np.exp(self._random.normal(0, self.scatter)))
        self.worked += alone
        end = self.now + alone / self.slots[worker]
        self._tasks[worker] = (self.now, end, {**task, "steps": config.train.steps, "start": start})
        heapq.heappush(self._ends, (end, worker))

    def messages(self, timeout: float) -> Iterator[tuple[int, Message]]:
        """Go on to the next end, and let all that run send a message."""
        self.now, ended = heapq.heappop(self._ends)
        for worker, (began, end, task) in list(self._tasks.items()):
            share = (self.now - began) / max(end - began, 1e-9)
            step = round(task["start"] + share * (task["steps"] - task["start"]))
            while task["branch_at"] and task["branch_at"][0] <= step:
                yield worker, {"is": "left", "step": task["branch_at"].pop(0)}
            self.sent += 1
            told = {"step": step, "loss": 3.0, "train_loss": 3.0, "pace": 1e4, "threads": 1}
            yield worker, {"is": "progress", **told}
        del self._tasks[ended]
        yield ended, {"is": "done", "result": {"status": "done", "loss": 3.0}}

    def __enter__(self) -> SimulatedPool:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def stop(self, grace: float = 2.0) -> None:
        """Do nothing."""
        return

    def close(self) -> None:
        """Do nothing."""
        return


def a_run(
    n_layer: int, d_model: int, steps: int, seed: int = 0, schedule: Schedule = "wsd", d_head: int = 32
) -> RunConfig:
    """Return a run on the default corpus."""
    return RunConfig(
        model=TransformerConfig(
            n_layer=n_layer, d_model=d_model, n_head=max(1, d_model // d_head), n_ctx=64, n_vocab=256
        ),
        data=DataConfig(eval_tokens=8192),
        train=TrainConfig(tokens=512 * steps, batch_tokens=512, lr=0.002, schedule=schedule, seed=seed),
    )


def a_grid(count: int, schedule: Schedule) -> Sweep:
    """Return sizes times horizons, over a factor of 300 in cost, with as many seeds as it takes."""
    shapes, horizons = [(2, 32), (2, 64), (3, 96), (4, 128)], [200, 400, 800, 1600]
    runs = [
        a_run(n_layer, width, steps, seed, schedule)
        for seed in range(-(-count // 16))
        for n_layer, width in shapes
        for steps in horizons
    ]
    return Sweep("grid", "How well is it packed?", tuple(runs[:count]))


def packing() -> None:
    """Print ideal time over simulated time. Ideal: all work at the sum of all speeds, but no less than the
    longest run on the fastest slot.
    """
    speeds = [speed for speed in (1.0, 0.8, 0.5, 0.3) for _ in range(4)]
    for schedule in ("cosine", "wsd"):
        for count in (64, 160):
            cost = CostModel()
            pool = SimulatedPool(speeds, cost)
            simulated(a_grid(count, schedule), pool, cost)
            longest = max(cost.seconds(run) for run in a_grid(count, schedule))
            ideal = max(pool.worked / sum(speeds), longest / max(speeds))
            trunks = "shared trunks" if schedule == "wsd" else "no trunks"
            print(f"{count} runs, {trunks}: {ideal / pool.now:.1%} of ideal packing on 4 x 4 unequal slots")


def driver(count: int) -> None:
    """Print the processor time of the driver and its memory, over a whole sweep on 64 slots."""
    cost = CostModel()
    pool = SimulatedPool([1.0] * 64, cost)
    sweep = a_grid(count, "wsd")
    before = time.process_time()
    simulated(sweep, pool, cost)
    spent = time.process_time() - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{count} runs on 64 slots: {spent:.1f} s of the driver's processor, {1e3 * spent / count:.1f} ms "
        f"a run, {1e6 * spent / pool.sent:.0f} us a message ({pool.sent} of them); {peak:.0f} MB"
    )


def simulated(sweep: Sweep, pool: SimulatedPool, cost: CostModel) -> None:
    """Execute a sweep in simulated time, in a store that is thrown away."""
    folder = Path(tempfile.mkdtemp(prefix="simulated-"))
    try:
        execute(sweep, Store(folder / "runs", create=True), pool=pool, cost=cost)
    finally:
        shutil.rmtree(folder)


def overhead(rounds: int) -> None:
    """Time the same sweep on the same two cores, locally and on Ray by turns: the ratio of seconds."""
    runs = [
        a_run(layers, 32, steps, schedule="cosine") for layers in (1, 2) for steps in (400, 800, 1600, 1600)
    ]
    sweep = Sweep("overhead", "What does Ray cost?", tuple(runs))
    seconds: dict[str, list[float]] = {"local": [], "ray": []}
    for name in seconds:
        with open_pool(name, 2) as pool:
            trained(sweep, pool)  # loads torch, compiles, tokenises
            seconds[name] = [trained(sweep, pool) for _ in range(rounds)]
    best = {name: statistics.median(each) for name, each in seconds.items()}
    print(f"local {best['local']:.1f} s, Ray {best['ray']:.1f} s: ratio {best['ray'] / best['local']:.3f}")


def trained(sweep: Sweep, pool: Pool) -> float:
    """Train the sweep; return the seconds from the first run's start to the end of the last."""
    folder, marks = Path(tempfile.mkdtemp(prefix="overhead-")), []

    def mark(event: Event) -> None:
        if event.kind in ("start", "end"):
            marks.append(time.monotonic())

    try:
        execute(sweep, Store(folder / "runs", create=True), pool=pool, on_event=mark)
    finally:
        shutil.rmtree(folder)
    return marks[-1] - marks[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("packing", "driver", "overhead"))
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.what == "packing":
        packing()
    elif options.what == "driver":
        driver(options.runs)
    else:
        overhead(options.rounds)


if __name__ == "__main__":
    main()
