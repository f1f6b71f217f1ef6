"""The command `train`: one run from its configuration, on one device or several."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from allometry.train.config import RunConfig


def command(name: str) -> click.Command:
    """The click command of that name."""
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
def train(config: Path, store: Path, devices: int | None, sharded: str) -> None:
    """Train one run from CONFIG, a JSON file such as the config.json of a run. On more than one device it is
    started by torchrun. The same command continues after any interruption, also on other devices."""
    from allometry.runs.store import Store
    from allometry.train.torchrun import arguments, read_config

    run = read_config(config)
    opened = Store(store, create=True)
    _make_room(run, opened.path)
    count = devices or run.devices
    if count > 1:
        argv = arguments(config, opened.path, count, ["--sharded", sharded])
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        os.execv(argv[0], argv)
    _alone(run, opened.path / run.id)


def _make_room(run: RunConfig, store: Path) -> None:
    """Put the run aside, and say so, if the store has it on other text than its corpus holds now."""
    from allometry.runs.lock import exclusive
    from allometry.train.texts import compare, settle

    said = (found := compare([run], store)).sentences()
    if found.changed:
        with exclusive(store):
            said = settle([run], store)[1]
    for sentence in said:
        click.echo(f"note: {sentence}", err=True)


def _alone(run: RunConfig, directory: Path) -> None:
    import torch

    from allometry.env import cores
    from allometry.runs.lock import exclusive
    from allometry.train.engines.select import why_not_native
    from allometry.train.loop import train as train_run

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if run.engine == "auto" and (reason := why_not_native(run, device)):
        click.echo(f"note: {reason}", err=True)
    with exclusive(directory.parent):
        result = train_run(run, directory, device=device, more_threads=cores)
    loss = f"loss {result['loss']:.4f}" if "loss" in result else result["status"]
    print(f"{run.id}  {loss}")
