"""What a run costs besides its steps, in a worker that is already there.

    python benchmarks/run_start.py [--runs 40]

Runs of one step each go through one warm worker: order, configuration, parameters, tokens, engine, step,
two evaluations, curve, checkpoint, result, and the next order. The time is the wall's, from one result to
the next, of which the steps and evaluations (timed apart, in this process) are taken off.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from allometry.core import env
from allometry.models.transformer import TransformerConfig
from allometry.runs.store import Store
from allometry.sweeps import Sweep
from allometry.sweeps.execute import execute
from allometry.sweeps.local import LocalPool
from allometry.sweeps.progress import Event
from allometry.train.config import DataConfig, RunConfig, TrainConfig
from allometry.train.engines.select import engine

SHAPES = ((2, 32), (4, 64), (4, 128), (6, 256))
CONTEXT, VOCAB, BATCH, TESTED = 128, 256, 512, 4096


def one_step(n_layer: int, d_model: int, seed: int) -> RunConfig:
    """Return a run of one step."""
    return RunConfig(
        model=TransformerConfig(n_layer=n_layer, d_model=d_model, n_ctx=CONTEXT, n_vocab=VOCAB),
        data=DataConfig(eval_tokens=TESTED),
        train=TrainConfig(tokens=BATCH, batch_tokens=BATCH, lr=1e-3, seed=seed),
        engine="native",
    )


def between_results(runs: int, n_layer: int, d_model: int, pool: LocalPool) -> list[float]:
    """Return the seconds from each run's result to the next one's."""
    ends: list[float] = []

    def hear(event: Event) -> None:
        if event.kind == "done":
            ends.append(time.perf_counter())

    sweep = Sweep("starts", "", tuple(one_step(n_layer, d_model, seed) for seed in range(runs)))
    with tempfile.TemporaryDirectory() as folder:
        execute(sweep, Store(Path(folder) / "runs", create=True), pool=pool, on_event=hear)
    return list(np.diff(ends))


def inside(config: RunConfig) -> float:
    """Return the seconds of the run's step and evaluation, here."""
    trained = engine("native", config)
    random = np.random.default_rng(0)
    batch, test = (random.integers(0, VOCAB, (n // CONTEXT, CONTEXT + 1)) for n in (BATCH, TESTED))
    durations = []
    for step in range(1, 12):
        began = time.perf_counter()
        trained.step(batch, lr=1e-3, step=step)
        trained.losses(test)
        durations.append(time.perf_counter() - began)
    return statistics.median(durations)


@click.command()
@click.option("--runs", default=40, show_default=True, help="Runs of each shape.")
def main(runs: int) -> None:
    """Time the starts of runs in a warm worker."""
    click.echo(
        f"{env.cpu_model()}, {env.cores()} cores; milliseconds of a run besides its step and evaluation"
    )
    with LocalPool(1) as pool:
        for n_layer, d_model in SHAPES:
            times = np.array(between_results(runs, n_layer, d_model, pool)) - inside(
                one_step(n_layer, d_model, 0)
            )
            low, middle, high = (1000 * np.quantile(times, q) for q in (0.1, 0.5, 0.9))
            click.echo(f"{n_layer}x{d_model}: {middle:.0f} (10 to 90 %: {low:.0f} to {high:.0f})")


if __name__ == "__main__":
    main()
