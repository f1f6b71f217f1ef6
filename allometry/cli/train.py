"""The command `train`: one run from its configuration, on one device or several."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from allometry.core.env import cores
from allometry.core.errors import require
from allometry.core.locks import exclusive

if TYPE_CHECKING:
    from allometry.train.config import RunConfig
    from allometry.train.loop import Progress


def command(name: str) -> click.Command:
    """Return the click command of that name."""
    return {"train": train}[name]


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--store", default="runs", show_default=True, type=click.Path(path_type=Path), help="Where runs are kept."
)
@click.option("--devices", type=click.IntRange(min=1), help="Processes (default: the configuration's).")
@click.option(
    "--sharded",
    type=click.Choice(["auto", "yes", "no"]),
    default="auto",
    show_default=True,
    help="Divide the model among the devices (FSDP2) or copy it to each (DDP).",
)
@click.option("--quiet", is_flag=True, help="Print only how it ended.")
def train(config: Path, store: Path, devices: int | None, sharded: str, quiet: bool) -> None:
    """Train one run from CONFIG, a JSON or TOML file such as the config.json of a run.

    On more than one device it is started by torchrun. The same command continues after any interruption, also
    on other devices.

    \b
      {"model": {"family": "transformer", "n_layer": 2, "d_model": 64},
       "train": {"tokens": "5M", "lr": 0.01}}
    """
    from allometry.experimental.torchrun import arguments, read_config
    from allometry.runs.store import Store

    run = read_config(config)
    require("torch", "safetensors", purpose="training")
    opened = Store(store, create=True)
    _make_room(run, opened.path)
    count = devices or run.devices
    if count > 1:
        argv = arguments(config, opened.path, count, ["--sharded", sharded])
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        os.execv(argv[0], argv)
    _alone(run, opened.path / run.id, quiet)


def _make_room(run: RunConfig, store: Path) -> None:
    """Put the run aside, and say so, if the store has it on other text than its corpus holds now."""
    from allometry.train.texts import compare, settle

    said = (found := compare([run], store)).sentences()
    if found.changed:
        with exclusive(store):
            said = settle([run], store)[1]
    for sentence in said:
        click.echo(f"note: {sentence}", err=True)


def _alone(run: RunConfig, directory: Path, quiet: bool) -> None:
    import torch

    from allometry.train.engines.select import why_not_native
    from allometry.train.loop import train as train_run

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if run.engine == "auto" and (reason := why_not_native(run, device)):
        click.echo(f"note: {reason}", err=True)
    with exclusive(directory.parent), _shown(run, quiet) as on_progress:
        result = train_run(run, directory, device=device, more_threads=cores, on_progress=on_progress)
    loss = f"loss {result['loss']:.4f}" if "loss" in result else result["status"]
    print(f"{run.id}  {loss}")


@contextmanager
def _shown(run: RunConfig, quiet: bool) -> Iterator[Callable[[Progress], None] | None]:
    """Show the run as it goes on: a bar on a terminal, a line for each evaluation elsewhere."""
    if quiet or not sys.stderr.isatty():
        yield None if quiet else _printer()
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    from allometry.experimental.torchrun import measured

    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    columns = (TextColumn("{task.percentage:>3.0f} %", markup=False), BarColumn(bar_width=20))
    note = TextColumn("{task.fields[note]}", markup=False)
    with Bars(*columns, note, console=console, refresh_per_second=5) as bars:
        task = bars.add_task("", total=run.train.steps, note="")
        yield lambda at: bars.update(task, completed=at.step, note=measured(at))


def _printer() -> Callable[[Progress], None]:
    from allometry.experimental.torchrun import Printer

    return Printer()
