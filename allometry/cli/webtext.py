"""`allometry webtext`: from links to a data set, all at once or stage by stage."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from allometry.cli import webtext_options as flags
from allometry.cli.output import print_table, table_options
from allometry.core.errors import AllometryError

if TYPE_CHECKING:
    from allometry.data.webtext.workspace import Summary

_FOLDER = click.argument("folder", metavar="DIR")
_LINKS = click.argument("links", nargs=-1, required=True, metavar="LINKS...")
_OUT = click.option("--out", required=True, metavar="DIR", help="The folder of the corpus.")
_PARTS = click.option(
    "--parts", type=click.IntRange(1, 99_999), help="Parts to divide the links into (default: 8)."
)
_AGAINST = click.option(
    "--against", multiple=True, metavar="FILE", help="An evaluation set (again for more)."
)


def command(name: str) -> click.Command:
    """Return the command of this module."""
    assert name == "webtext"
    return _group


@click.group("webtext")
def _group() -> None:
    """Build a WebText-like corpus from links: links, fetch, extract, filter, dedup, build.

    Every command continues where it was stopped. What a stage drops is listed, with the reason, in
    DIR/removed.
    """


@_group.command("run")
@_LINKS
@_OUT
@_PARTS
@_AGAINST
@flags.link_flags
@flags.fetch_flags
@flags.extract_flags
@flags.opt_out_flags
@flags.filter_flags
@flags.dedup_flags
@flags.contamination_flags
@flags.build_flags
@flags.machine_flags
@table_options
def _run(
    links: tuple[str, ...], out: str, parts: int | None, against: tuple[str, ...], form: Any, **values: Any
) -> None:
    """Run all stages, from lists of links to the data set."""
    from allometry.data.webtext import pipeline
    from allometry.data.webtext.workspace import Workspace

    options = pipeline.PipelineOptions(
        links=flags.link_options(values),
        fetch=flags.fetch_options(values),
        extract=flags.extract_options(values),
        filter=flags.filter_options(values),
        dedup=flags.dedup_options(values),
        contamination=flags.contamination_options(values),
        build=flags.build_options(values),
        against=tuple(flags.paths(against)),
    )
    summaries = pipeline.run(
        Workspace(Path(out), parts=parts),
        flags.paths(links),
        options,
        on=values["on"],
        workers=values["workers"],
        command=_command_line(),
        stream=sys.stderr,
    )
    _show(summaries, form)
    if form is None:
        click.echo(
            f"The data set is in {out}; train on it with: allometry run quickstart --data webtext:{out}"
        )


@_group.command("links")
@_LINKS
@_OUT
@_PARTS
@flags.link_flags
@table_options
def _links(links: tuple[str, ...], out: str, parts: int | None, form: Any, **values: Any) -> None:
    """Choose the links worth fetching from dumps (.zst, .xz, .bz2, .gz, .jsonl), lists (.csv, .jsonl, .txt)
    or WARC files."""
    from allometry.data.webtext import links as stage
    from allometry.data.webtext.workspace import Workspace

    options = flags.link_options(values)
    workspace = Workspace(Path(out), parts=parts)
    _show([stage.run(workspace, flags.paths(links), options, stream=sys.stderr)], form)


@_group.command("fetch")
@_FOLDER
@flags.fetch_flags
@flags.opt_out_flags
@click.option(
    "--only", metavar="I/N", help="Fetch the I-th of N shares of the parts, such as 1/4; one share a machine."
)
@table_options
def _fetch(folder: str, only: str | None, form: Any, **values: Any) -> None:
    """Fetch the pages into WARC files, obeying robots.txt and sparing the hosts."""
    from allometry.data.webtext import fetch as stage
    from allometry.data.webtext.workspace import Workspace

    workspace = Workspace.existing(Path(folder))
    parts = None if only is None else _share(only, workspace.parts)
    _show([stage.run(workspace, flags.fetch_options(values), parts=parts, stream=sys.stderr)], form)


@_group.command("extract")
@_FOLDER
@flags.extract_flags
@flags.opt_out_flags
@flags.machine_flags
@table_options
def _extract(folder: str, on: str, workers: int | None, form: Any, **values: Any) -> None:
    """Extract the text of the pages."""
    from allometry.data.webtext import extract as stage
    from allometry.data.webtext.workspace import Workspace

    options = flags.extract_options(values)
    _show(
        [stage.run(Workspace.existing(Path(folder)), options, on=on, workers=workers, stream=sys.stderr)],
        form,
    )


@_group.command("filter")
@_FOLDER
@flags.filter_flags
@flags.machine_flags
@table_options
def _filter(folder: str, on: str, workers: int | None, form: Any, **values: Any) -> None:
    """Keep documents of the language, of at least 128 tokens, that pass the rules on quality and
    repetition."""
    from allometry.data.webtext import filter as stage
    from allometry.data.webtext.workspace import Workspace

    options = flags.filter_options(values)
    _show(
        [stage.run(Workspace.existing(Path(folder)), options, on=on, workers=workers, stream=sys.stderr)],
        form,
    )


@_group.command("dedup")
@_FOLDER
@flags.dedup_flags
@flags.machine_flags
@table_options
def _dedup(folder: str, on: str, workers: int | None, form: Any, **values: Any) -> None:
    """Find exact and near duplicates; the first seen stays."""
    from allometry.data.webtext import dedup as stage
    from allometry.data.webtext.workspace import Workspace

    options = flags.dedup_options(values)
    _show(
        [stage.run(Workspace.existing(Path(folder)), options, on=on, workers=workers, stream=sys.stderr)],
        form,
    )


@_group.command("contamination")
@_FOLDER
@_AGAINST
@flags.contamination_flags
@flags.machine_flags
@table_options
def _contamination(
    folder: str, against: tuple[str, ...], on: str, workers: int | None, form: Any, **values: Any
) -> None:
    """Report, and with --remove leave out, what the corpus shares with an evaluation set."""
    from allometry.data.webtext import contamination as stage
    from allometry.data.webtext.workspace import Workspace

    workspace = Workspace.existing(Path(folder))
    options = flags.contamination_options(values)
    summary = stage.run(workspace, flags.paths(against), options, on=on, workers=workers, stream=sys.stderr)
    _show([summary], form)
    if form is None:
        click.echo(f"by document: {workspace.path('contamination') / 'report.json'}")
        if options.remove:
            click.echo(f"to leave them out: allometry webtext build {folder}")


@_group.command("build")
@_FOLDER
@flags.build_flags
@table_options
def _build(folder: str, form: Any, **values: Any) -> None:
    """Write the Parquet shards and the card."""
    from allometry.data.webtext import build as stage
    from allometry.data.webtext.workspace import Workspace

    options = flags.build_options(values)
    workspace = Workspace.existing(Path(folder))
    _show([stage.run(workspace, options, command=_command_line(), stream=sys.stderr)], form)


@_group.command("remove")
@_FOLDER
@click.argument("targets", nargs=-1, required=True, metavar="URL-OR-HOST...")
@table_options
def _remove(folder: str, targets: tuple[str, ...], form: Any) -> None:
    """Take pages or whole hosts out for good: of the data set, the archive and every stage, and of later
    runs."""
    from allometry.data.webtext import consent
    from allometry.data.webtext.workspace import Workspace

    _show([consent.run(Workspace.existing(Path(folder)), targets)], form)


@_group.command("status")
@_FOLDER
@table_options
def _status(folder: str, form: Any) -> None:
    """Show what each stage has done."""
    from allometry.data.webtext.workspace import STAGES, Workspace

    workspace = Workspace.existing(Path(folder))
    _show([summary for stage in STAGES if (summary := workspace.summary(stage)) is not None], form)


def _share(text: str, parts: int) -> list[int]:
    """Return the parts of share I of N: every N-th, from the I-th."""

    number, slash, of = text.partition("/")
    if not (slash and number.isdigit() and of.isdigit() and 1 <= int(number) <= int(of)):
        raise AllometryError(f"--only {text!r} is no share", hint="write it like 1/4: the first of four")
    return list(range(int(number) - 1, parts, int(of)))


def _command_line() -> str:
    return shlex.join(["allometry", *sys.argv[1:]])


def _show(summaries: list[Summary], form: Any) -> None:
    """Print a row per stage for people; a row per count for programs."""
    import pandas as pd

    from allometry.data.webtext.workspace import duration

    if form is not None:
        rows = [
            {"stage": s.stage, "kind": kind, "name": name, "value": value}
            for s in summaries
            for kind, counted in (("count", s.counts), ("removed", s.removed))
            for name, value in counted.items()
        ]
        print_table(pd.DataFrame(rows, columns=["stage", "kind", "name", "value"]), form)
        return
    table = pd.DataFrame(
        [
            {
                "stage": summary.stage,
                "counts": ", ".join(f"{name} {n:,}" for name, n in summary.counts.items()),
                "dropped": ", ".join(f"{name} {n:,}" for name, n in summary.removed.most_common(5) if n),
                "time": duration(summary.seconds),
            }
            for summary in summaries
        ]
    )
    print_table(table, None)
    for summary in summaries:
        for note in summary.notes:
            click.echo(f"note: {note}")
