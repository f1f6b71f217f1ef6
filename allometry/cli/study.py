"""The commands `run`, `report` and `studies`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from allometry.cli.tables import PIPED, say

if TYPE_CHECKING:
    from allometry.report.content import Analysis
    from allometry.runs.store import Store
    from allometry.studies.core.plan import StudyPlan
    from allometry.sweeps.cost.cost import CostModel
    from allometry.sweeps.run.events import Event
    from allometry.sweeps.run.progress import Display as Progress


def command(name: str) -> click.Command:
    """Return the click command of that name."""
    return {"run": run, "report": report, "studies": studies}[name]


@click.command()
@click.argument("study")
@click.option("--budget", help="Time to spend, such as 2m, 10m or 1h (default: the study's own).")
@click.option("--compute", help="FLOPs to spend instead of a time, such as 5e13; 0 for the smallest study.")
@click.option(
    "--store", default="runs", show_default=True, type=click.Path(path_type=Path), help="Where runs are kept."
)
@click.option(
    "--data", default="sotu", show_default=True, help="Corpus to train on (see `allometry data list`)."
)
@click.option("--tokenizer", default="bytes", show_default=True, help="bytes, bpe:V or gpt2.")
@click.option("--workers", type=click.IntRange(min=1), help="Worker processes (default: the cores, or GPUs).")
@click.option("--on", help="Where to train: local (default), ray, or ray://HOST:PORT.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Train on cores (cpu) or GPUs (cuda); auto times both, if there are both.",
)
@click.option("--shard", help="This task's part of a job array that shares the store, such as 2/8.")
@click.option(
    "--devices",
    type=click.IntRange(min=1),
    help="Maximum devices (cores; GPUs of a node) for one long run.",
)
@click.option(
    "--per-gpu",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Workers that share each GPU.",
)
@click.option(
    "--pack",
    type=click.IntRange(min=1),
    metavar="K",
    help="Train up to K runs of one shape as one program (default: chosen by timing on GPUs; off on CPUs).",
)
@click.option("--dry-run", is_flag=True, help="Plan, print, and stop.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first run that fails.")
@click.option("--quiet", is_flag=True, help="Print the plan and the answer only.")
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
    from allometry.core.errors import require
    from allometry.studies.core.study import study as study_of

    asked = study_of(study)
    require("torch", "safetensors", purpose="a study, which times this machine and trains,")
    from allometry.core.units import parse_duration, parse_number
    from allometry.studies.core.run import StudyRequest, run_study
    from allometry.sweeps.run.progress import Display as Progress
    from allometry.sweeps.run.shard import parse_shard
    from allometry.train.config import DataConfig

    request = StudyRequest(
        study=study,
        budget=parse_duration(budget or asked.budget, "--budget"),
        compute=None if compute is None else parse_number(compute, "--compute"),
        store=store,
        data=DataConfig(corpus=data, tokenizer=tokenizer),
        command=_command_line(),
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


def _command_line() -> str:
    """Return the command that was typed, without options that change nothing about the result."""
    import shlex

    kept = [a for a in sys.argv[1:] if a not in ("--quiet", "--debug")]
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
    from allometry.core.errors import AllometryError

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
        from allometry.studies.core.reporting import report as write_report

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

    def event(self, event: Event) -> None:
        """Show the progress of the sweep."""
        self.progress(event)

    def calibrating(self, done: int, total: int) -> None:
        """Show the progress of the calibration."""
        self.progress.calibrating(done, total)

    def plan(self, plan: StudyPlan, store: Store | None, cost: CostModel) -> None:
        """Print the plan as a table: what is trained, what it costs, and what is predicted before it is trained."""
        from allometry.cli.plan_table import print_plan

        print_plan(plan, store, cost)

    def answer(self, analysis: Analysis, path: Path, seconds: float) -> None:
        """Print the constants beside the published ones, the answer, and where the report is."""
        from allometry.cli.plan_table import print_answer
        from allometry.core.units import format_duration

        print_answer(analysis)
        print(f"\nreport: {path}   ({format_duration(seconds)})")
