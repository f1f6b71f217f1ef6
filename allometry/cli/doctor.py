"""`allometry doctor`: what this machine and installation can do, and what is in the way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click

from allometry.cli.output import say, store_option
from allometry.core import env
from allometry.core.env import cache_dir
from allometry.core.errors import AllometryError, extra_of, require
from allometry.core.units import counted, format_bytes


class Finding(NamedTuple):
    """One line of the examination: `fine` is False for what needs attention, None for what is merely so."""

    name: str
    value: str
    fine: bool | None = None


def command(name: str) -> click.Command:
    """Return the command `name` of this module."""
    assert name == "doctor"
    return doctor


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@store_option
def doctor(as_json: bool, store: str) -> None:
    """Show versions, cores, engines (and why one is not available), cache, run store and disk."""
    findings = [*_software(), *_machine(), *_engines(), *_places(Path(store))]
    if as_json:
        click.echo(json.dumps([finding._asdict() for finding in findings], indent=1))
        return
    marks = {True: "ok", False: "!!", None: "  "}
    for finding in findings:
        say(f"{marks[finding.fine]}  {finding.name:12} {finding.value}", hang=17)
    problems = sum(finding.fine is False for finding in findings)
    click.echo(f"\n{problems} need attention" if problems else "\nall is well")


def _software() -> Iterator[Finding]:

    found = env.snapshot()
    yield Finding("allometry", found["allometry"])
    yield Finding("python", found["python"])
    for package in env.PACKAGES:
        version = found["packages"].get(package)
        yield Finding(package, version or f"not installed: {_line_that_installs(package)}")
    if found["git"]:
        yield Finding(
            "source", found["git"]["commit"][:12] + (" with changes" if found["git"]["dirty"] else "")
        )


def _line_that_installs(package: str) -> str:

    extra = extra_of(package)
    return f"pip install 'allometry[{extra}]' (only training needs it)" if extra else f"pip install {package}"


def _machine() -> Iterator[Finding]:
    from allometry.sweeps.local import gpus

    useful = [
        flag for flag in ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16") if flag in env.cpu_flags()
    ]
    yield Finding("processor", f"{env.cpu_model()} ({', '.join(useful) or 'no vector extensions known'})")
    found = gpus()
    for gpu in found:
        memory = format_bytes(gpu.memory)
        yield Finding("gpu", f"{gpu.name} ({memory}): a study trains there where that is quicker", True)
    many = "on them " if found else ""
    yield Finding("cores", f"{env.cores()}: {many}a sweep trains as many runs at a time", True)
    if not found:
        version = env.package_version("torch")
        yield Finding("gpu", f"none that PyTorch {version} can use" if version else "not looked for")
    yield Finding("memory", format_bytes(env.memory()))


def _engines() -> Iterator[Finding]:
    """Try each engine on a small model: available, or the sentence that says why not."""
    from allometry.models.base import family
    from allometry.train.config import RunConfig, TrainConfig
    from allometry.train.engines.base import ENGINES

    try:
        require("torch", "safetensors", purpose="training")
    except AllometryError as error:
        yield Finding("engine", f"none: {error.message}: {error.cli_hint}")
        return
    model = family("transformer").from_n_params(100_000, n_ctx=64, n_vocab=256)
    config = RunConfig(model=model, train=TrainConfig(tokens=64_000, batch_tokens=512, lr=1e-3))
    for name, kind in ENGINES.all().items():
        try:
            lack = kind.unsupported_reason(config)
        except AllometryError as error:
            lack = error.message
        yield Finding("engine", f"{name}: {lack or 'available'}", lack is None or None)


def _places(store: Path) -> Iterator[Finding]:
    """Find where things are kept, and the room there."""

    try:
        cache = cache_dir()
        yield Finding("cache", f"{cache} ({format_bytes(_size(cache))})", True)
    except AllometryError as error:
        yield Finding("cache", str(error), False)
    yield _examine_store(store)
    there = next(folder for folder in (store.absolute(), *store.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    yield Finding("disk", f"{format_bytes(free)} free at {there}", free > 1e9)


def _examine_store(path: Path) -> Finding:
    from allometry.runs.store import Store

    if not path.exists():
        return Finding("store", f"none at {path} yet: allometry run quickstart makes one")
    try:
        table = (opened := Store(path)).frame()
    except AllometryError as error:
        return Finding("store", str(error), False)
    counts = ", ".join(f"{count} {status}" for status, count in table["status"].value_counts().items())
    notes = "".join(f"; {note}" for note in opened.notes)
    return Finding(
        "store", f"{path}: {counted(len(table), 'run')}{f' ({counts})' if counts else ''}{notes}", not notes
    )


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
