"""How fast a whole sweep is trained, against the same runs in a plain PyTorch loop, one after the other.

    python benchmarks/train_sweep.py [--steps 400] [--rounds 2]
    python benchmarks/train_sweep.py --shape 4x128 --batch 4096 --context 128 --steps 60

Allometry's side is all that a sweep is: worker processes of one thread each that start, import, share the
runs, evaluate at every half octave and write curves, checkpoints and results. The plain side only trains, in
one process with as many threads as there are workers; it neither evaluates nor writes. Both take turns, and
the time is the wall's.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import torch
from train_peers import plain_loop, plain_model

from allometry.core import env
from allometry.models.transformer import TransformerConfig
from allometry.runs.store import Store
from allometry.sweeps import Sweep
from allometry.sweeps.execute import execute
from allometry.train.config import DataConfig, RunConfig, TrainConfig

VOCAB = 256


def the_sweep(shapes: Sequence[str], steps: int, batch: int, context: int, seeds: int, engine: str) -> Sweep:
    """Return each shape with each seed, over the same number of steps."""
    runs = [
        RunConfig(
            model=TransformerConfig(n_layer=n_layer, d_model=d_model, n_ctx=context, n_vocab=VOCAB),
            data=DataConfig(eval_tokens=16_384),
            train=TrainConfig(tokens=steps * batch, batch_tokens=batch, lr=1e-3, seed=seed),
            engine=engine,
        )
        for n_layer, d_model in (map(int, shape.split("x")) for shape in shapes)
        for seed in range(seeds)
    ]
    return Sweep("speed", "How fast is a sweep?", tuple(runs))


def allometry_seconds(sweep: Sweep, workers: int) -> float:
    """Return the seconds from the call of `execute` to its return, in an empty store."""
    with tempfile.TemporaryDirectory() as folder:
        store, began = Store(Path(folder) / "runs", create=True), time.perf_counter()
        summary = execute(sweep, store, workers=workers)
        seconds = time.perf_counter() - began
    assert len(summary.done) == len(sweep), summary.failed
    return seconds


def plain_seconds(sweep: Sweep, threads: int) -> float:
    """Return the seconds of the same steps of the same shapes, training alone, on random tokens."""
    torch.set_num_threads(threads)
    tokens = np.random.default_rng(0).integers(0, VOCAB, 1 << 20).astype(np.uint16)
    began = time.perf_counter()
    for run in sweep:
        steps = run.train.tokens // run.train.batch_tokens
        plain_loop(plain_model(run.model), run, tokens, time.perf_counter)(steps)
    return time.perf_counter() - began


@click.command()
@click.option(
    "--shape", "shapes", default=("2x32", "4x64"), multiple=True, show_default=True, help="Layers x width."
)
@click.option("--steps", default=400, show_default=True, help="Steps of every run.")
@click.option("--batch", default=1024, show_default=True, help="Tokens in a batch.")
@click.option("--context", default=64, show_default=True, help="Tokens that a model sees.")
@click.option("--seeds", default=4, show_default=True, help="Runs of each shape.")
@click.option("--rounds", default=2, show_default=True, help="Turns of each side; the better one counts.")
@click.option(
    "--workers", default=env.cores(), show_default=True, help="Worker processes, and plain threads."
)
@click.option("--engine", default="native", show_default=True, help="Allometry's engine.")
def main(
    shapes: tuple[str, ...],
    steps: int,
    batch: int,
    context: int,
    seeds: int,
    rounds: int,
    workers: int,
    engine: str,
) -> None:
    """Time a sweep on all cores and the plain loop over the same runs."""
    sweep = the_sweep(shapes, steps, batch, context, seeds, engine)
    times = [(allometry_seconds(sweep, workers), plain_seconds(sweep, workers)) for _ in range(rounds)]
    ours, theirs = min(a for a, _ in times), min(b for _, b in times)
    click.echo(
        f"{len(sweep)} runs ({', '.join(shapes)}) of {steps} steps of {batch} tokens, {env.cpu_model()}"
    )
    click.echo(f"sweep, {workers} workers, engine {engine}: {ours:.1f} s")
    click.echo(
        f"plain loop, {workers} threads, training only: {theirs:.1f} s ({theirs / ours:.2f} times as long)"
    )


if __name__ == "__main__":
    main()
