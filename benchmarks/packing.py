"""What packing K models into one program gains, against the same models one after the other:

    python benchmarks/packing.py                              this machine's GPU if it has one, else its CPU
    python benchmarks/packing.py --device cpu --models 1 --models 8 --shape 2x32 --batch 512
    python benchmarks/packing.py --sweep 16 --steps 400       sweeps of 16 runs of each shape

"x fast" and "x native" compare tokens per second of the whole pack with one model on that engine. The pack
and the others take turns within one run. "of peak" is the models' FLOPs per second over those of PyTorch's
matrix product in the precision that the engine uses. A pack that the device cannot hold ends its row.

With --sweep a whole sweep is trained as users train it, with workers, evaluations and checkpoints: once run
by run, once with packs as the executor chooses them (or of up to --pack). "predicted" is what the plan says.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from train import Case, environment, matrix_peak

from allometry.core import env
from allometry.experimental.packs import Pack
from allometry.runs.store import Store
from allometry.sweeps import Sweep
from allometry.sweeps.calibrate import calibrate
from allometry.sweeps.execute import execute
from allometry.sweeps.local import LocalPool
from allometry.train.config import DataConfig, TrainConfig
from allometry.train.engines.base import Engine, Step
from allometry.train.engines.fast import FastEngine, best_precision
from allometry.train.engines.select import engine_class

Run = Callable[[int], float]
"""Does that many steps and gives the seconds of one."""

MODELS = (1, 2, 4, 8, 16, 32, 64)
SHAPES = {
    "cpu": ("2x32", "4x64"),
    "cuda": ("2x32", "2x64", "4x64", "4x128", "6x192", "6x256", "8x512", "12x768"),
}
AHEAD = 8
"""Steps that the device is given at once, between two moments at which the CPU waits for it."""


@dataclasses.dataclass(frozen=True)
class Row:
    """Tokens per second of a pack of `models`, of one model alone by engine, and FLOPs a second over peak."""

    shape: str
    batch: int
    models: int
    pace: float
    alone: dict[str, float]
    of_peak: float


def clock(device: str) -> Callable[[], float]:
    """Return a clock: the process's time on CPUs, for others may have the core; on GPUs the wall's, once the
    work is done.
    """
    if not device.startswith("cuda"):
        return time.process_time

    def after_the_device() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return after_the_device


def packed(case: Case, models: int, device: str) -> Run:
    """Return the steps of a pack, each with batches of its own."""
    configs = [
        case.config().replace(train={**case.config().train.model_dump(), "seed": s}) for s in range(models)
    ]
    pack, now, done = Pack(configs, device=device), clock(device), 0
    batch = tokens(case, models * AHEAD).reshape(AHEAD, models, -1, case.context + 1)

    def run(steps: int) -> float:
        nonlocal done
        began = now()
        for first in range(0, steps, AHEAD):
            ahead = range(min(AHEAD, steps - first))
            pack.steps({k: [Step(batch[s, k], 1e-3, done + s + 1) for s in ahead] for k in range(models)})
            done += len(ahead)
        return (now() - began) / steps

    return run


def alone(engine: Engine, case: Case, device: str) -> Run:
    """Return the steps of one model."""
    now, done = clock(device), 0
    batches = tokens(case, AHEAD)

    def run(steps: int) -> float:
        nonlocal done
        began = now()
        for number in range(steps):
            done += 1
            engine.step(batches[number % AHEAD], lr=1e-3, step=done)
        return (now() - began) / steps

    return run


def tokens(case: Case, batches: int) -> np.ndarray:
    """Return random token ids, (batches, sequences, context + 1)."""
    shape = (batches, case.batch // case.context, case.context + 1)
    return np.random.default_rng(0).integers(0, case.vocab, shape)


def peak(device: str) -> float:
    """Return the FLOPs per second of PyTorch's matrix product in the engine's precision, the best of five."""
    size, precision = 8192 if device.startswith("cuda") else 1024, best_precision(torch.device(device))
    return matrix_peak(clock(device), size, turns=5, device=device, dtype=precision)


def measure(case: Case, models: int, device: str, seconds: float) -> Row:
    """Return medians of a pack and of its peers, which take turns until each has had so many seconds."""
    config = case.config()
    runs = {
        "packed": packed(case, models, device),
        "fast": alone(FastEngine(config, device=device), case, device),
    }
    native = engine_class("native")
    if not device.startswith("cuda") and native.unsupported_reason(config) is None:
        runs["native"] = alone(native(config), case, device)
    steps = {name: max(1, round(0.2 * seconds / max(run(2), 1e-5))) for name, run in runs.items()}
    samples: dict[str, list[float]] = {name: [] for name in runs}
    while any(sum(found) * steps[name] < seconds for name, found in samples.items()):
        for name, run in runs.items():
            samples[name].append(run(steps[name]))
    step = {name: statistics.median(found) for name, found in samples.items()}
    paces = {name: case.batch / step[name] for name in step if name != "packed"}
    of_peak = models * case.flops() / step["packed"] / peak(device)
    return Row(config.model.shape, case.batch, models, models * case.batch / step["packed"], paces, of_peak)


def table(rows: Sequence[Row]) -> Table:
    """Return tokens per second of each pack, ratios to one model alone, and the part of the peak."""
    result = Table()
    engines = sorted({name for row in rows for name in row.alone})
    for column in ("shape", "batch", "K", "tok/s", *(f"x {name}" for name in engines), "of peak"):
        result.add_column(column, justify="right")
    for row in rows:
        ratios = [f"{row.pace / row.alone[name]:.2f}" if name in row.alone else "–" for name in engines]
        cells = (row.shape, row.batch, row.models, f"{row.pace:,.0f}", *ratios, f"{row.of_peak:.1%}")
        result.add_row(*map(str, cells))
    return result


def the_sweep(cases: Sequence[Case], seeds: int, steps: int) -> Sweep:
    """Return runs of each case with as many seeds."""
    data = DataConfig(eval_tokens=16_384)
    runs = [
        case.config().replace(
            data=data,
            train=TrainConfig(tokens=steps * case.batch, batch_tokens=case.batch, lr=1e-3, seed=seed),
        )
        for case in cases
        for seed in range(seeds)
    ]
    return Sweep("packs", "What do packs gain in a whole sweep?", tuple(runs))


def whole_sweeps(sweep: Sweep, device: str, pack: int | None) -> Table:
    """Time the same sweep with packs and without, on one worker for each GPU (on CPUs one worker in all)."""
    result = Table()
    for column in ("packs", "of up to", "predicted, s", "taken, s", "tok/s", "busy"):
        result.add_column(column, justify="right")
    tokens = sum(run.train.steps * run.train.batch_tokens for run in sweep)
    for name, most in (("never", 1), ("auto" if pack is None else "asked for", pack)):
        workers = None if device.startswith("cuda") else 1
        with (
            tempfile.TemporaryDirectory() as folder,
            LocalPool(workers, device=device, pack=most) as pool,
        ):
            cost = calibrate(sweep, pool=pool)
            sizes = ", ".join(sorted({str(cost.packing.size(run)) for run in sweep}, key=int))
            began = time.perf_counter()
            summary = execute(sweep, Store(Path(folder) / "runs", create=True), pool=pool, cost=cost)
            seconds = time.perf_counter() - began
        assert len(summary.done) == len(sweep), summary.failed
        predicted = f"{cost.total(sweep.runs).seconds:.1f}"
        result.add_row(
            name, sizes, predicted, f"{seconds:.1f}", f"{tokens / seconds:,.0f}", f"{summary.busy:.0%}"
        )
    return result


def ladder(case: Case, models: Sequence[int], device: str, seconds: float, console: Console) -> list[Row]:
    """Measure one shape at every K that the device can hold."""
    rows = []
    for count in models:
        try:
            rows.append(measure(case, count, device, seconds))
        except torch.OutOfMemoryError:
            console.print(f"{case.n_layer}x{case.d_model}: {count} models do not fit", highlight=False)
            break
    return rows


@click.command()
@click.option("--device", help="cpu or cuda; by default the GPU if there is one.")
@click.option("--models", multiple=True, type=int, help="Models in a pack; by default 1, 2, 4, … 64.")
@click.option("--shape", "shapes", multiple=True, help="Depth x width, such as 4x64; may be repeated.")
@click.option("--vocab", default=256, show_default=True, help="Vocabulary size.")
@click.option("--context", default=128, show_default=True, help="Context length.")
@click.option(
    "--batch", default=(512, 4096), multiple=True, show_default=True, help="Tokens of a model's batch."
)
@click.option("--sweep", type=int, help="Time whole sweeps instead, of so many runs of each shape.")
@click.option("--steps", default=400, show_default=True, help="Steps of each run of a sweep.")
@click.option("--pack", type=int, help="Packs of up to so many in a sweep; by default as many as pay.")
@click.option("--seconds", default=1.0, show_default=True, help="Time for each contender.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write the rows here.")
def main(
    device: str | None,
    models: tuple[int, ...],
    shapes: tuple[str, ...],
    vocab: int,
    context: int,
    batch: tuple[int, ...],
    sweep: int | None,
    steps: int,
    pack: int | None,
    seconds: float,
    json_path: Path | None,
) -> None:
    """Time packs of K models against the same models alone."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    env.set_threads(1)
    console = Console(width=120)
    lines = environment(1)
    if device.startswith("cuda"):
        lines.append(f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}")
    for line in lines:
        console.print(line, highlight=False)
    names = shapes or SHAPES["cuda" if device.startswith("cuda") else "cpu"]
    pairs = [tuple(map(int, shape.split("x"))) for shape in names]
    cases = [Case(depth, width, vocab, context, size) for depth, width in pairs for size in batch]
    if sweep:
        console.print(whole_sweeps(the_sweep(cases, sweep, steps), device, pack))
        return
    rows = [row for case in cases for row in ladder(case, models or MODELS, device, seconds, console)]
    console.print(table(rows))
    if json_path:
        found = {"environment": lines, "rows": [dataclasses.asdict(row) for row in rows]}
        json_path.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
