"""The commands `run`, `report`, `studies` and `watch`, and what they print: the plan before it trains, and the
constants beside the published ones after.
"""

from __future__ import annotations

import math
import shlex
import sys
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pandas as pd

from allometry.cli.output import PIPED, one_line, print_table, say
from allometry.core.errors import AllometryError, require
from allometry.core.units import (
    counted,
    format_count,
    format_duration,
    format_flops,
    parse_duration,
    parse_number,
)
from allometry.studies.core.texts import sentences
from allometry.sweeps.cost import Cost, CostModel, plan_frame

if TYPE_CHECKING:
    from allometry.report.build import Analysis, Constant
    from allometry.runs.store import Store
    from allometry.studies.core.plan import StudyPlan
    from allometry.sweeps.cost import CostModel
    from allometry.sweeps.progress import Display as Progress
    from allometry.sweeps.progress import Event


# ones.


def command(name: str) -> click.Command:
    """Return the click command of that name."""
    return {"run": run, "report": report, "studies": studies, "watch": watch}[name]


_TRAINING = (
    click.option(
        "--budget", help="Time to spend, such as 2m, 10m or 1h (default: the study's own; a sweep's 10m)."
    ),
    click.option(
        "--compute", help="FLOPs to spend instead of a time, such as 5e13; 0 for the smallest study."
    ),
    click.option(
        "--store",
        default="runs",
        show_default=True,
        type=click.Path(path_type=Path),
        help="Where runs are kept.",
    ),
    click.option(
        "--data", default="sotu", show_default=True, help="Corpus to train on (see `allometry data list`)."
    ),
    click.option("--tokenizer", default="bytes", show_default=True, help="bytes, bpe:V or gpt2."),
    click.option(
        "--workers", type=click.IntRange(min=1), help="Worker processes (default: the cores, or GPUs)."
    ),
    click.option("--on", help="Where to train: local (default), ray, or ray://HOST:PORT."),
    click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda"]),
        default="auto",
        show_default=True,
        help="Train on cores (cpu) or GPUs (cuda); auto times both, if there are both.",
    ),
    click.option("--shard", help="This task's part of a job array that shares the store, such as 2/8."),
    click.option(
        "--devices",
        type=click.IntRange(min=1),
        help="Maximum devices (cores; GPUs of a node) for one long run.",
    ),
    click.option(
        "--per-gpu",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Workers that share each GPU.",
    ),
    click.option(
        "--pack",
        type=click.IntRange(min=1),
        metavar="K",
        help="Train up to K runs of one shape as one program (default: chosen by timing on GPUs; off on CPUs).",
    ),
    click.option("--dry-run", is_flag=True, help="Plan, print, and stop."),
    click.option("--fail-fast", is_flag=True, help="Stop at the first run that fails."),
    click.option("--quiet", is_flag=True, help="Print the plan and the answer only."),
)


def training_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that every command which plans and trains has (a decorator)."""
    for option in reversed(_TRAINING):
        command = option(command)
    return command


def _of_a_grid(ctx: click.Context, option: click.Parameter, value: str | None) -> None:
    """Refuse an option that only a grid has, and say what takes it."""
    if value is not None:
        raise AllometryError(
            f"{option.opts[0]} is of a grid of your own; a study has the runs of its question",
            hint=f"allometry sweep, with {option.opts[0].replace('--sizes', '--n')} {value}",
        )


def _grid_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of `allometry sweep` that people try with `run`, each refused (a decorator)."""
    for name in ("--family", "--n", "--sizes", "--context", "--set", "--seeds", "--rate", "--tokens"):
        option = click.option(name, hidden=True, callback=_of_a_grid, expose_value=False)
        command = option(command)
    return command


@click.command()
@click.argument("study")
@_grid_options
@training_options
def run(
    study: str,
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
    """Run a STUDY: plan it, train what is missing, fit, report. The same command continues after any
    interruption."""
    from allometry.studies.core.study import study as study_of

    asked = study_of(study)
    if not asked.listed:
        raise AllometryError(
            f"{study!r} needs a grid to run",
            hint="allometry sweep --family transformer --n 1e4:1e6:5 --tokens 5M",
        )
    require("torch", "safetensors", purpose="a study, which times this machine and trains,")
    from allometry.studies.core.run import StudyRequest, run_study
    from allometry.sweeps.placement import parse_shard
    from allometry.sweeps.progress import Display as Progress
    from allometry.train.config import DataConfig

    request = StudyRequest(
        study=study,
        budget=parse_duration(budget or asked.budget, "--budget"),
        compute=None if compute is None else parse_number(compute, "--compute"),
        store=store,
        data=DataConfig(corpus=data, tokenizer=tokenizer),
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
        run_study(request, Terminal(progress, quiet=quiet), dry_run=dry_run)


def command_line() -> str:
    """Return the command that was typed, without options that change nothing about the result."""

    kept = [a for a in sys.argv[1:] if a not in ("--quiet", "--debug", "--yes")]
    return shlex.join(["allometry", *kept])


@click.command()
@click.argument("study", required=False)
@click.option(
    "--store", default="runs", show_default=True, type=click.Path(path_type=Path), help="Where runs are kept."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="File to write (default: beside the plan in the store).",
)
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    help="Write the results (tables, curves, report) into this folder, to be kept without the store.",
)
@click.option(
    "--from",
    "saved",
    type=click.Path(path_type=Path),
    help="Write the report of results that --save wrote; needs no store.",
)
@click.option("--figures", type=click.Path(path_type=Path), help="Also export every figure into this folder.")
@click.option(
    "--format",
    "suffix",
    type=click.Choice(["svg", "png", "pdf", "html"]),
    help="Format of exported figures (default: svg).",
)
def report(
    study: str | None,
    store: Path,
    output: Path | None,
    save: Path | None,
    saved: Path | None,
    figures: Path | None,
    suffix: str | None,
) -> None:
    """Write the report of a STUDY (default: the latest) from the runs in the store; nothing is trained."""

    if saved is not None and (study is not None or save is not None):
        raise AllometryError(
            "--from names the results to read: no study and no --save with it",
            hint=f"allometry report --from {saved}",
        )
    if suffix is not None and figures is None:
        raise AllometryError(
            f"--format {suffix} is for exported figures, and none are asked for; the report is HTML",
            hint=f"--figures figures --format {suffix}",
        )
    if saved is not None:
        from allometry.studies.core.results import rebuild

        analysis, path = rebuild(saved, output)
    else:
        from allometry.studies.core.results import report as write_report

        analysis, path = write_report(store, study, output, save)
    if save is not None:
        print(f"results: {save}")
    print(f"report: {path}")
    if figures is not None:
        _export(analysis, figures, suffix or "svg")


def _export(analysis: Analysis, folder: Path, suffix: str) -> None:
    """Write every figure as a file; those of a collection are named by their study."""
    from allometry.figures.theme import Figure, save

    folder.mkdir(parents=True, exist_ok=True)
    for entry in (analysis, *analysis.chapters):
        prefix = "" if entry is analysis else f"{entry.study}-"
        for item in (item for section in entry.sections for item in section.evidence):
            if isinstance(item, Figure):
                print(f"figure: {save(item, folder / f'{prefix}{item.name}.{suffix}')}")


@click.command()
def studies() -> None:
    """List the studies and the questions they ask."""
    from allometry.studies.core.study import studies as known

    for name, study in known().items():
        print(f"{name}   (default: --budget {study.budget})")
        say(f"    {study.question}", piped=PIPED, hang=4)


class Terminal:
    """Prints the messages of `run_study`; the progress of the sweep goes to its own display."""

    def __init__(self, progress: Progress, *, quiet: bool = False) -> None:
        """Show the events of sweeps by `progress`; `quiet` leaves only the plan and the answer."""
        self.progress = progress
        self.quiet = quiet

    def say(self, text: str) -> None:
        """Print a line for the user."""
        if not self.quiet:
            say(text)
            sys.stdout.flush()

    def warn(self, text: str) -> None:
        """Print a warning as one line."""
        click.echo(one_line(f"warning: {text}"))

    def event(self, event: Event) -> None:
        """Show the progress of the sweep."""
        self.progress(event)

    def calibrating(self, done: int, total: int) -> None:
        """Show the progress of the calibration."""
        self.progress.calibrating(done, total)

    def plan(self, plan: StudyPlan, store: Store | None, cost: CostModel) -> None:
        """Print the plan as a table: what is trained, what it costs, and what is predicted before it is trained."""

        print_plan(plan, store, cost)

    def answer(self, analysis: Analysis, path: Path, seconds: float) -> None:
        """Print the constants beside the published ones, the answer, and where the report is."""
        self.progress.stop()
        print_answer(analysis)
        print(f"\nreport: {path}   ({format_duration(seconds)})")


def print_plan(plan: StudyPlan, store: Store | None, cost: CostModel) -> None:
    """Print the question, one row per run set (or per model size, for a study of one run set), and the total
    with its predicted time.
    """
    click.echo(f"\n{click.style(plan.study, bold=True)}")
    say(f"{plan.sweep.question}\n", piped=PIPED, hang=0)
    frame = plan_frame(plan.sweep, store, cost)
    frame["held"] = frame["run"].isin(plan.held_back)
    many = len(plan.run_sets) > 1
    if many:
        _print_run_sets(frame, plan, cost)
    else:
        _print_shapes(frame, cost.device)
    if many and len(plan.parts) > 1 and plan.parts.keys() != plan.run_sets.keys():
        _print_studies(frame, plan)
    for sentence in sentences(plan.sweep.runs):
        say(sentence, piped=PIPED)
    total = cost.total(plan.sweep.runs, store=store)
    measured = "timed on this machine" if total.measured else "not calibrated"
    where = _places(total) + _packs(plan, cost)
    say(
        f"{counted(len(frame), 'run')}, {format_flops(frame['C'].sum())} FLOPs; left to do: "
        f"{format_duration(total.seconds)} of training on {where} ({measured}; runs of one "
        f"size share their trunk), {total.memory / 1e9:.1f} GB of memory, "
        f"{total.disk / 1e6:.0f} MB of disk\n",
        piped=PIPED,
        hang=0,
    )


def _places(total: Cost) -> str:
    """Return what trains: "2 cores", "1 GPU"."""
    kind = "GPU" if total.device.startswith("cuda") else "core"
    return f"{total.workers} {kind}{'' if total.workers == 1 else 's'}"


def _packs(plan: StudyPlan, cost: CostModel) -> str:
    """Say how many runs are trained together at most, if any are."""
    largest = max((cost.packing.size(run) for run in plan.sweep), default=1)
    return f" in packs of up to {largest} runs" if largest > 1 else ""


def _print_shapes(frame: pd.DataFrame, device: str) -> None:
    """Print one row per model size."""
    wide = bool((frame["devices"] > 1).any())
    alone = "alone" if wide else f"alone, 1 {'GPU' if device.startswith('cuda') else 'core'}"
    _print(
        [
            {
                "model": str(shape), "N": format_count(part["N"].iloc[0]), "runs": len(part),
                "seeds": part["seed"].nunique(), "tokens D": _span(part["D"]),
                "FLOPs 6ND": format_flops(part["C"].sum()), alone: format_duration(part["seconds"].sum()),
                **({"devices": _span(part["devices"])} if wide else {}), "state": _state(part),
            }
            for shape, part in frame.groupby("shape", sort=False)
        ],
        drop=("FLOPs 6ND", "seeds", alone),
    )  # fmt: skip


def _print_run_sets(frame: pd.DataFrame, plan: StudyPlan, cost: CostModel) -> None:
    """Print one row a run set; a run of several run sets is counted with the first."""
    wide = bool((frame["devices"] > 1).any())
    configs = {run.id: run for run in plan.sweep}
    counted: set[str] = set()
    rows = []
    for name, ids in plan.run_sets.items():
        own = [run for run in ids if run not in counted]
        counted.update(own)
        part = frame[frame["run"].isin(own)]
        if not len(part):
            continue
        work = cost.total([configs[run] for run in own]).work
        rows.append({
            "run set": name, "runs": len(part), "N": _span(part["N"]), "tokens D": _span(part["D"]),
            "FLOPs 6ND": format_flops(part["C"].sum()), "core time": format_duration(work),
            **({"devices": _span(part["devices"])} if wide else {}), "state": _state(part),
        })  # fmt: skip
    _print(rows, drop=("FLOPs 6ND", "core time"))


def _print_studies(frame: pd.DataFrame, plan: StudyPlan) -> None:
    _print(
        [
            {
                "study": name, "runs that it reads": len(ids),
                "predicted first": str(int(frame.loc[frame["run"].isin(ids), "held"].sum()) or "-"),
            }
            for name, ids in plan.parts.items()
        ]
    )  # fmt: skip


def _print(rows: list[dict[str, Any]], drop: Sequence[str] = ()) -> None:
    """Print a table whose first column is text and whose others are numbers, formatted already."""
    table = pd.DataFrame(rows)
    print_table(table, right=list(table.columns[1:]), drop=drop, wrap=["state"], piped=PIPED)


def _span(column: pd.Series) -> str:
    low, high = column.min(), column.max()
    return format_count(low) if low == high else f"{format_count(low)} - {format_count(high)}"


def _state(part: pd.DataFrame) -> str:
    states = part["state"].fillna("new").value_counts()
    state = ", ".join(f"{count} {name}" for name, count in states.items())
    return state + (" (predicted first)" if part["held"].any() else "")


def print_answer(analysis: Analysis) -> None:
    """Print warnings, a line each, our constants beside the published ones, and at last the answer in words.

    Why a verdict is what it is, and warnings in full, stand in the report.
    """
    rows: list[dict[str, Any]] = []
    for entry in (analysis, *analysis.chapters):
        if entry.constants and entry is not analysis:
            rows.append({"quantity": f"{entry.study}:"})
        rows += map(_constant, entry.constants)
    for warning in analysis.warnings:
        click.echo(one_line(f"warning: {warning}"))
    for entry in analysis.chapters:
        if not entry.sections:
            click.echo(one_line(f"no answer: {entry.study}: {entry.answer}"))
    if rows:
        table = pd.DataFrame(rows, columns=["quantity", "published", "ours", "interval", "design", "verdict"])
        wrap, right = ("quantity", "published"), ("ours", "interval", "design")
        print_table(table.fillna(""), wrap=wrap, right=right, drop=["published", "design"], piped=PIPED)
    say(analysis.answer, piped=PIPED, hang=0)


def _constant(constant: Constant) -> dict[str, Any]:
    published = ", ".join(f"{value:.3g} ({paper})" for paper, value in constant.published.items())
    return {
        "quantity": f"{constant.symbol}  {constant.name}",
        "published": published or "-",
        "ours": f"{constant.ours:.3g}",
        "interval": _interval(constant),
        "design": constant.design,
        "verdict": constant.verdict,
    }


def _interval(constant: Constant) -> str:
    if not math.isfinite(constant.high - constant.low):
        return "none"
    return f"[{constant.low:.3g}, {constant.high:.3g}] {100 * constant.level:.0f} %"


@click.command()
@click.argument("place", required=False, metavar="[STORE]")
@click.option("--store", metavar="PATH", help="The same as STORE (default: runs).")
@click.option(
    "--port", default=8765, show_default=True, type=click.IntRange(0, 65535), help="0 for any free."
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to serve on; others than this machine's own are served on with a token only.",
)
@click.option("--open", "browse", is_flag=True, help="Open the page in the browser.")
@click.option("--no-fits", is_flag=True, help="Fit no laws: leave the cores to training.")
def watch(place: str | None, store: str | None, port: int, host: str, browse: bool, no_fits: bool) -> None:
    """Serve a live page about the runs in STORE (a folder or URL): progress, curves as they grow, the laws so
    far, predictions and failures. It only reads the store."""
    from allometry.runs.store import Store
    from allometry.watch.server import Server

    if place and store and place != store:
        raise click.UsageError(f"STORE is {place} and --store {store}: name one")
    store = place or store or "runs"
    server = Server(Store(store), host=host, port=port, fits=not no_fits)
    try:
        click.echo(f"watching {store}: {server.url}   (ctrl-C ends it)")
        if browse:
            webbrowser.open(server.url)
        server.serve_forever()
    except KeyboardInterrupt:
        click.echo("stopped; training goes on")
    finally:
        server.stop()
