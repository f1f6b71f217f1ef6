"""The command `sweep`: a grid from options or a TOML file, trained and read as studies are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from allometry.cli.study import Terminal, command_line, training_options
from allometry.core.errors import AllometryError, require
from allometry.core.units import parse_duration, parse_number

INIT = "sweep.toml"


def command(name: str) -> click.Command:
    """Return the click command of that name."""
    return {"sweep": sweep}[name]


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path), metavar="[FILE]")
@click.option("--family", help="Model families: transformer, lstm, universal, or a plugin's, such as a,b.")
@click.option("--n", "n", metavar="SIZES", help="Parameters: LOW:HIGH:COUNT or a list (default: 1e4:3e5:6).")
@click.option("--shapes", help="In place of --n: layers x width, such as 2x32,2x64.")
@click.option("--tokens", help="Horizons, such as 1M,2M,4M (default: what the budget allows).")
@click.option("--passes", help="In place of --tokens: passes over the training text, such as 1,2,4.")
@click.option("--seeds", type=int, help="Seeds of every run; 2 or more give effects an interval.")
@click.option("--rate", help="rule (default), or learning rates, such as 0.003,0.01.")
@click.option("--context", type=int, help="Tokens that a model sees (default: 64).")
@click.option("--batch", type=int, help="Tokens a batch (default: 512, or one context).")
@click.option(
    "--set",
    "axes",
    multiple=True,
    metavar="FIELD=V,V",
    help="Any field as an axis, such as train.weight_decay=0,0.1,1; may be repeated.",
)
@click.option("--name", help="What the sweep is called (default: sweep).")
@click.option("--init", is_flag=True, help=f"Write a commented file, {INIT} or FILE, and stop.")
@click.option(
    "--yes", is_flag=True, help="Train a grid of given horizons even if it takes more than an hour."
)
@training_options
@click.pass_context
def sweep(
    ctx: click.Context,
    file: Path | None,
    family: str | None,
    n: str | None,
    shapes: str | None,
    tokens: str | None,
    passes: str | None,
    seeds: int | None,
    rate: str | None,
    context: int | None,
    batch: int | None,
    axes: tuple[str, ...],
    name: str | None,
    init: bool,
    yes: bool,
    budget: str | None,
    compute: str | None,
    store: Path,
    data: str,
    tokenizer: str,
    workers: int | None,
    on: str | None,
    device: str,
    shard: str | None,
    devices: int | None,
    per_gpu: int,
    pack: int | None,
    dry_run: bool,
    fail_fast: bool,
    quiet: bool,
) -> None:
    """Train a grid of your own: families, sizes, horizons, seeds and any setting as an axis, from options or from
    FILE, a TOML file (options win). Then fit L(N), L(D), L(N, D), tell what each axis does, and report.

    The same command continues after any interruption.

    \b
      allometry sweep --family transformer,lstm --n 1e4:3e5:6 --seeds 2
      allometry sweep --set train.weight_decay=0,0.1,1 --tokens 1M,2M
    """
    if init:
        _write(file or Path(INIT))
        return
    require("torch", "safetensors", purpose="a sweep, which times this machine and trains,")
    from allometry.studies.sweep.grid import Grid, read_grid
    from allometry.studies.sweep.start import run_sweep, sweep_request
    from allometry.sweeps.placement import parse_shard
    from allometry.sweeps.progress import Display as Progress
    from allometry.train.config import DataConfig

    given = {
        "family": family, "n": n, "shapes": shapes, "tokens": tokens, "passes": passes, "seeds": seeds,
        "rate": rate, "context": context, "batch": batch, "name": name,
    }  # fmt: skip
    entries: dict[str, Any] = read_grid(file) if file is not None else {}
    texts = {"corpus": entries.pop("data", data), "tokenizer": entries.pop("tokenizer", tokenizer)}
    for option, value in (("data", data), ("tokenizer", tokenizer)):
        if ctx.get_parameter_source(option) == ParameterSource.COMMANDLINE:
            texts["corpus" if option == "data" else option] = value
    entries |= {key: value for key, value in given.items() if value is not None}
    entries["set"] = {**entries.get("set", {}), **dict(_axis(text) for text in axes)}
    grid = Grid(**entries)
    fixed = grid.fixed
    request = sweep_request(
        grid,
        DataConfig(**texts),
        budget=None if fixed and budget is None else parse_duration(budget or "10m", "--budget"),
        compute=None if compute is None else parse_number(compute, "--compute"),
        store=store,
        command=command_line(),
        workers=workers,
        on=on,
        shard=None if shard is None else parse_shard(shard),
        devices=devices,
        per_gpu=per_gpu,
        device=device,
        pack=pack,
        fail_fast=fail_fast,
    )
    with Progress(quiet=quiet) as progress:
        run_sweep(request, Terminal(progress, quiet=quiet), dry_run=dry_run, yes=yes)


def _axis(text: str) -> tuple[str, str]:
    """Return the field and the values of `--set FIELD=V,V`."""
    field, equals, values = text.partition("=")
    if not equals or not field.strip():
        raise AllometryError(f"--set {text} names no values", hint="--set train.weight_decay=0,0.1,1")
    return field.strip(), values


def _write(path: Path) -> None:
    """Write the commented example, and say what runs it; an existing file is left alone."""
    from allometry.core.files import create
    from allometry.studies.sweep.grid import TEMPLATE

    if not create(path, TEMPLATE):
        raise AllometryError(
            f"{path} is there already", hint="name another file: allometry sweep my.toml --init"
        )
    click.echo(f"wrote {path}; allometry sweep {path} --dry-run shows what it trains and what that costs")
