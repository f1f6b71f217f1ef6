"""Training an LSTM: Allometry's layers against torch.nn.LSTM, and its engines against a plain loop around it.

    python benchmarks/lstm.py                   a minute, one thread, widths 32 to 256
    python benchmarks/lstm.py --batch 4096      larger batches

Everybody takes turns in one run, so that other load falls on all alike. "layers": forward and backward of the
recurrent layers alone. The other columns are whole training steps. Times are CPU time of the process.
"""

from __future__ import annotations

import statistics
import time

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from train import ENGINES, Seconds, engine_loop, environment
from train_peers import plain_loop

from allometry import env
from allometry.models.lstm import LSTM, LSTMConfig
from allometry.train.config import RunConfig, TrainConfig
from allometry.train.engines.select import engine_class

VOCAB = 256
PLAIN, LAYERS, TORCH = "plain loop", "layers", "nn.LSTM"


def layers_loop(model: nn.Module, sequences: int, context: int, width: int) -> Seconds:
    """Forward and backward of a recurrent network on its own, from embeddings, batch first."""
    x = torch.randn(sequences, context, width, requires_grad=True)

    def once() -> float:
        began = time.process_time()
        if isinstance(model, LSTM):
            y, start = x.transpose(0, 1), x.new_zeros(1, sequences, width)
            for layer in model.layers:
                y = layer(y, start)
        else:
            y = model(x)[0]
        y.sum().backward()
        return time.process_time() - began

    return lambda steps: [once() for _ in range(steps)]


def contenders(layers: int, width: int, context: int, batch: int) -> dict[str, Seconds]:
    """Everything that runs this shape here, by name."""
    model = LSTMConfig(n_layer=layers, d_model=width, n_ctx=context, n_vocab=VOCAB)
    config = RunConfig(model=model, train=TrainConfig(tokens=batch, batch_tokens=batch, lr=1e-3))
    tokens = np.random.default_rng(1).integers(0, VOCAB, 1 << 20).astype(np.uint16)
    loops = {
        LAYERS: layers_loop(model.build(), batch // context, context, width),
        TORCH: layers_loop(nn.LSTM(width, width, layers, batch_first=True), batch // context, context, width),
        PLAIN: plain_loop(config, tokens, time.process_time),
    }
    for name in ENGINES:
        kind = engine_class(name)
        if kind.lacks(config) is None:
            loops[name] = engine_loop(kind(config), tokens, config, time.process_time)
    return loops


def measure(loops: dict[str, Seconds], seconds: float) -> dict[str, float]:
    """Median seconds of a step by contender, in turns until each has had `seconds`."""
    steps = {name: max(3, round(0.05 / max(loop(2)[1], 1e-4))) for name, loop in loops.items()}
    samples: dict[str, list[float]] = {name: [] for name in loops}
    while any(sum(s) < seconds for s in samples.values()):
        for name, loop in loops.items():
            samples[name] += loop(steps[name])
    return {name: statistics.median(s) for name, s in samples.items()}


@click.command()
@click.option("--layers", default=2, show_default=True, help="Layers of every shape.")
@click.option("--context", default=64, show_default=True, help="Tokens of a sequence.")
@click.option("--batch", default=512, show_default=True, help="Tokens of a batch.")
@click.option("--seconds", default=2.0, show_default=True, help="Time for each contender and width.")
def main(layers: int, context: int, batch: int, seconds: float) -> None:
    """Time LSTM training at several widths."""
    env.set_threads(1)
    console = Console(width=120)
    for line in environment(1):
        console.print(line, highlight=False)
    table = Table()
    for column in ("shape", f"{LAYERS} × {TORCH}", f"{PLAIN} tok/s", *(f"× {name}" for name in ENGINES)):
        table.add_column(column, justify="right")
    for width in (32, 64, 128, 256):
        times = measure(contenders(layers, width, context, batch), seconds)
        ratios = [f"{times[PLAIN] / times[n]:.2f}" if n in times else "–" for n in ENGINES]
        pace = f"{batch / times[PLAIN]:,.0f}"
        table.add_row(f"{layers}x{width}", f"{times[TORCH] / times[LAYERS]:.2f}", pace, *ratios)
    console.print(table)


if __name__ == "__main__":
    main()
