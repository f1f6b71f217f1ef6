"""Allometry's LSTM layers against torch.nn.LSTM, forward and backward, in turns within one run:

    python benchmarks/lstm.py                   half a minute, one thread, widths 32 to 256
    python benchmarks/lstm.py --batch 4096      larger batches

Both read the same embeddings and give the same numbers; times are CPU time of the process.
Whole steps of every engine: `python benchmarks/train.py --family lstm --context 64 --batch 512`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from train import environment

from allometry.core import env
from allometry.models.lstm import LSTMConfig
from allometry.models.modules.lstm import LSTM

WIDTHS = (32, 64, 128, 256)


def ours(model: LSTM, x: Tensor) -> Tensor:
    """Run the recurrent layers alone, (B, T, d) to (T, B, d)."""
    y, start = x.transpose(0, 1), x.new_zeros(1, x.shape[0], x.shape[2])
    for layer in model.layers:
        y = layer(y, start)
    return y


def torchs(model: LSTM) -> nn.LSTM:
    """Return a torch.nn.LSTM with the same weights."""
    layers, width = model.config.n_layer, model.config.d_model
    theirs = nn.LSTM(width, width, layers, batch_first=True)
    with torch.no_grad():
        for i, layer in enumerate(model.layers):
            getattr(theirs, f"weight_ih_l{i}").copy_(layer.input.weight)
            getattr(theirs, f"weight_hh_l{i}").copy_(layer.recurrent.weight)
            getattr(theirs, f"bias_ih_l{i}").copy_(layer.bias)
            getattr(theirs, f"bias_hh_l{i}").zero_()
    return theirs


def seconds(forward: Callable[[], Tensor], times: int) -> list[float]:
    """Return CPU seconds of each of `times` forward and backward passes."""
    durations = []
    for _ in range(times):
        began = time.process_time()
        forward().sum().backward()
        durations.append(time.process_time() - began)
    return durations


def measure(layers: int, width: int, context: int, batch: int, budget: float) -> tuple[float, float]:
    """Return the median seconds of a pass: Allometry's and PyTorch's."""
    model = LSTMConfig(n_layer=layers, d_model=width, n_ctx=context).build()
    x = torch.randn(batch // context, context, width, requires_grad=True)
    theirs = torchs(model)
    passes: tuple[Callable[[], Tensor], ...] = (lambda: ours(model, x), lambda: theirs(x)[0])
    samples: list[list[float]] = [[], []]
    for forward in passes:
        seconds(forward, 3)
    while sum(map(sum, samples)) < 2 * budget:
        for forward, taken in zip(passes, samples, strict=True):
            taken += seconds(forward, 5)
    return statistics.median(samples[0]), statistics.median(samples[1])


@click.command()
@click.option("--layers", default=2, show_default=True, help="Layers of every shape.")
@click.option("--context", default=64, show_default=True, help="Tokens of a sequence.")
@click.option("--batch", default=512, show_default=True, help="Tokens of a batch.")
@click.option("--budget", default=3.0, show_default=True, help="Seconds for each side and width.")
def main(layers: int, context: int, batch: int, budget: float) -> None:
    """Time the recurrent layers at several widths."""
    env.set_threads(1)
    console = Console(width=120)
    for line in environment(1):
        console.print(line, highlight=False)
    table = Table()
    for column in ("shape", "nn.LSTM, tokens/s", "Allometry, tokens/s", "ratio"):
        table.add_column(column, justify="right")
    for width in WIDTHS:
        mine, theirs = measure(layers, width, context, batch, budget)
        paces = (f"{batch / theirs:,.0f}", f"{batch / mine:,.0f}")
        table.add_row(f"{layers}x{width}", *paces, f"{theirs / mine:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
