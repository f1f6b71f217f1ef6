"""How fast each engine trains, against loops that people would use instead. One command, one table:

    python benchmarks/train.py --quick
    python benchmarks/train.py --quick --family lstm --context 64 --batch 512

Every contender trains the same shapes on the same tokens with AdamW and clipping; they take turns within one
run, so that a busy machine slows all of them alike, and the table compares medians. On one thread the clock
is the process's CPU time, which does not run while other processes have the core; on more it is the wall's.
"of peak" is the model's FLOPs per second over those of PyTorch's 1024^3 fp32 matrix product in the same run.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from train_peers import (
    Clock,
    litgpt_model,
    missing_for_litgpt,
    missing_for_trainer,
    plain_loop,
    plain_model,
    trainer_loop,
)

from allometry.core import env
from allometry.core.errors import AllometryError
from allometry.models.base import family as family_called
from allometry.train.config import RunConfig, TrainConfig
from allometry.train.engines import bindings
from allometry.train.engines.base import Engine
from allometry.train.engines.select import engine_class

Seconds = Callable[[int], list[float]]
"""Does that many steps and gives the seconds of each."""

LADDER = ((2, 32), (2, 64), (4, 64), (4, 128), (6, 192), (6, 256))
QUICK = ((2, 32), (4, 64), (4, 128))
ENGINES = ("native", "native-bf16", "fast", "reference")
FAMILIES = ("transformer", "universal", "lstm")
PLAIN, LITGPT, TRAINER = "plain loop", "LitGPT", "HF Trainer"


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the ladder: a shape, its batch and its context, in tokens."""

    n_layer: int
    d_model: int
    vocab: int
    context: int
    batch: int
    family: str = "transformer"

    def config(self) -> RunConfig:
        """Return the run that every contender trains."""
        model = family_called(self.family)(
            n_layer=self.n_layer, d_model=self.d_model, n_vocab=self.vocab, n_ctx=self.context
        )
        train = TrainConfig(tokens=self.batch, batch_tokens=self.batch, lr=1e-3)
        return RunConfig(model=model, train=train)

    def flops(self) -> float:
        """Return the FLOPs of one step: three times the forward FLOPs of blocks, causal attention and head."""
        counts = self.config().model.counts()
        return 3.0 * self.batch * (counts.flops_blocks + counts.flops_attention + counts.flops_head)


def engine_loop(engine: Engine, tokens: np.ndarray, config: RunConfig, clock: Clock) -> Seconds:
    """Return the steps of one of Allometry's engines, each with a batch of its own gathered from the tokens."""
    sequences, context = config.train.batch_tokens // config.model.n_ctx, config.model.n_ctx
    random, done = np.random.default_rng(0), 0

    def seconds(steps: int) -> list[float]:
        nonlocal done
        durations = []
        for _ in range(steps):
            began = clock()
            starts = random.integers(0, len(tokens) - context - 1, (sequences, 1))
            done += 1
            engine.step(tokens[starts + np.arange(context + 1)], lr=1e-3, step=done)
            durations.append(clock() - began)
        return durations

    return seconds


def contenders(case: Case, threads: int, skip_trainer: bool) -> dict[str, Seconds]:
    """Return everything that can run this case here, by name; the peers have transformers only."""
    config, clock = case.config(), clock_for(threads)
    tokens = np.random.default_rng(1).integers(0, case.vocab, 1 << 20).astype(np.uint16)
    loops: dict[str, Seconds] = {PLAIN: plain_loop(plain_model(config.model), config, tokens, clock)}
    if case.family == "transformer" and missing_for_litgpt() is None:
        loops[LITGPT] = plain_loop(litgpt_model(config.model), config, tokens, clock)
    if case.family == "transformer" and not skip_trainer and missing_for_trainer() is None:
        loops[TRAINER] = trainer_loop(config, tokens, clock)
    for name in ENGINES:
        kind = engine_class(name)
        if kind.unsupported_reason(config) is None:
            loops[name] = engine_loop(kind(config, threads=threads), tokens, config, clock)
    return loops


def clock_for(threads: int) -> Clock:
    """Return CPU time where it equals the work done, wall time where threads wait for each other."""
    return time.process_time if threads == 1 else time.perf_counter


def matrix_peak(
    clock: Clock, size: int = 1024, *, turns: int = 2, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> float:
    """Return the FLOPs per second of PyTorch's matrix product, the best of `turns`."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(turns):
        began = clock()
        torch.mm(a, b)
        best = min(best, clock() - began)
    return 2.0 * size**3 / best


def measure(case: Case, threads: int, seconds: float, skip_trainer: bool) -> dict[str, float]:
    """Return the median seconds of a step by contender, and "peak", in turns until each has had `seconds`."""
    loops = contenders(case, threads, skip_trainer)
    steps = {name: max(3, round(0.1 / max(loop(2)[1], 1e-4))) for name, loop in loops.items()}
    samples: dict[str, list[float]] = {name: [] for name in loops}
    peaks = []
    while any(sum(s) < seconds for s in samples.values()):
        peaks.append(matrix_peak(clock_for(threads)))
        for name, loop in loops.items():
            samples[name] += loop(steps[name])
    return {name: statistics.median(s) for name, s in samples.items()} | {"peak": statistics.median(peaks)}


def environment(threads: int) -> list[str]:
    """Return what decides the numbers, in lines."""
    try:
        version = subprocess.check_output([bindings.compiler(), "--version"], text=True).splitlines()[0]
    except (AllometryError, subprocess.SubprocessError) as error:
        version = str(error)
    flags = [f for f in ("avx2", "avx512f", "amx_bf16", "asimd") if f in env.cpu_flags()]
    return [
        f"{env.cpu_model()}, {env.cores()} cores, {' '.join(flags)}; {threads} thread(s)",
        f"torch {torch.__version__}, {version}; load average {os.getloadavg()[0]:.1f}",
    ]


def table(rows: Sequence[tuple[Case, dict[str, float]]]) -> Table:
    """Return tokens per second, ratios to the plain loop, and the native engine's part of the peak."""
    result = Table()
    for column in (
        "shape",
        "V",
        "ctx",
        "batch",
        f"{PLAIN} tok/s",
        *(f"× {peer}" for peer in (LITGPT, TRAINER)),
        *(f"× {e}" for e in ENGINES),
    ):
        result.add_column(column, justify="right")
    result.add_column("native GF/s", justify="right")
    result.add_column("of peak", justify="right")
    for case, times in rows:
        ratios = [
            f"{times[PLAIN] / times[n]:.2f}" if n in times else "–" for n in (LITGPT, TRAINER, *ENGINES)
        ]
        pace = case.flops() / times["native"] if "native" in times else float("nan")
        start = (case.config().model.shape, case.vocab, case.context, case.batch)
        cells = [*start, f"{case.batch / times[PLAIN]:,.0f}", *ratios, f"{pace / 1e9:.0f}"]
        result.add_row(*map(str, cells), f"{pace / times['peak']:.0%}")
    return result


@click.command()
@click.option("--quick", is_flag=True, help="Three shapes, half a second for each contender.")
@click.option(
    "--family", type=click.Choice(FAMILIES), default=FAMILIES[0], show_default=True, help="What to train."
)
@click.option("--threads", default=1, show_default=True, help="Threads of each contender.")
@click.option("--vocab", default=(256,), multiple=True, show_default=True, help="Vocabulary sizes.")
@click.option("--context", default=(128,), multiple=True, show_default=True, help="Context lengths.")
@click.option("--batch", default=(4096,), multiple=True, show_default=True, help="Tokens in a batch.")
@click.option("--seconds", default=3.0, show_default=True, help="Time for each contender and case.")
@click.option("--skip-trainer", is_flag=True, help="Leave out Hugging Face's Trainer.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write the medians here.")
def main(
    quick: bool,
    family: str,
    threads: int,
    vocab: tuple[int, ...],
    context: tuple[int, ...],
    batch: tuple[int, ...],
    seconds: float,
    skip_trainer: bool,
    json_path: Path | None,
) -> None:
    """Time one training step of every engine and of the loops that people use instead."""
    env.set_threads(threads)
    console = Console(width=120)
    for line in environment(threads):
        console.print(line, highlight=False)
    for peer, reason in ((LITGPT, missing_for_litgpt()), (TRAINER, missing_for_trainer())):
        if reason:
            console.print(f"without {peer}: {reason}", highlight=False)
    shapes = QUICK if quick else LADDER
    cases = [Case(*s, v, c, b, family) for s in shapes for v in vocab for c in context for b in batch]
    rows = [(case, measure(case, threads, 0.5 if quick else seconds, skip_trainer)) for case in cases]
    console.print(table(rows))
    if json_path:
        records = [{**dataclasses.asdict(case), **times} for case, times in rows]
        json_path.write_text(json.dumps({"environment": environment(threads), "cases": records}, indent=1))


if __name__ == "__main__":
    main()
