"""`allometry runs`: list, show, compare, export, mirror and remove runs."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from allometry.cli import Group
from allometry.cli.output import Form, print_table, say, store_option, table_options
from allometry.core.errors import printable
from allometry.core.units import counted, format_bytes, format_count, format_duration, format_flops

if TYPE_CHECKING:
    import pandas as pd

    from allometry.runs.record import RunRecord
    from allometry.runs.store import Store

LISTED = ("run", "status", "shape", "N", "D", "C", "lr", "loss", "seconds", "study")
"""Columns of the list for people; --json and --csv have all."""

DROPPED = ("study", "lr", "seconds", "C", "shape", "status")
"""Columns of the list that a narrow console goes without, the first first."""

SHORTEST = 8
"""Characters of a short id: the hash that every id ends in."""

_CONDITION = re.compile(r"[<>=]")


class _Runs(Group):
    """The group lists when no command is given, also with filters: `allometry runs 'N>1e5'`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        named = next((arg for arg in args if arg in self.commands), None)
        helping = any(arg in ("-h", "--help") for arg in args)
        if named is None and not helping and all(map(_belongs_to_list, args, [None, *args])):
            args = ["list", *args]
        return super().parse_args(ctx, args)


def _belongs_to_list(argument: str, before: str | None) -> bool:
    """Return whether an argument can only belong to the list: an option, the value of the option before it, a
    condition.
    """
    return (
        before in ("--store", "--sort", "--limit")
        or argument.startswith("--")
        or bool(_CONDITION.search(argument))
    )


def command(name: str) -> click.Command:
    """Return the command `name` of this module."""
    assert name == "runs"
    return runs


@click.group(cls=_Runs, context_settings={"help_option_names": ["-h", "--help"]})
def runs() -> None:
    """List, show, compare, export and remove runs.

    Without a command, lists. A FILTER is a condition such as family=transformer, 'N>1e5', status=done,
    'lr<=0.01', corpus=sotu or study=quickstart; several must all hold. Quote those with < or >.
    """


@runs.command("list")
@click.argument("filters", nargs=-1, metavar="[FILTER]...")
@click.option(
    "--sort", default=None, metavar="COLUMN", help="Sort by a column; -COLUMN for the largest first."
)
@click.option("--limit", type=click.IntRange(min=1), help="Limit the number of rows.")
@store_option
@table_options
def list_runs(
    filters: tuple[str, ...], sort: str | None, limit: int | None, store: str, form: Form | None
) -> None:
    """List runs: their status, size, cost and loss."""
    opened = _open(store)
    table = _sorted(opened.frame(" ".join(filters)), sort)
    total = len(table)
    table = table.head(limit) if limit else table
    _warn(opened.notes)
    if form is None:
        table = _for_people(table)
    print_table(
        table, form, formats=_formats(), empty=_nothing(filters, store), drop=DROPPED,
        short={} if form else {"run": shortened(list(table["run"]), _ids(opened))},
    )  # fmt: skip
    if form is None and total > len(table):
        click.echo(f"{total - len(table)} more")


@runs.command("show")
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@store_option
def show(run: str, as_json: bool, store: str) -> None:
    """Show one run: configuration, counts, result, curve. RUN is an id, or the start or end of one."""
    record = _open(store).get(run)
    if as_json:
        click.echo(json.dumps(_everything(record), indent=1, sort_keys=True))
    else:
        _show(record)


@runs.command("diff")
@click.argument("first")
@click.argument("second")
@store_option
@table_options
def diff_runs(first: str, second: str, store: str, form: Form | None) -> None:
    """Compare two runs: keys of the configuration that differ, then results."""
    from allometry.runs.query import diff

    opened = _open(store)
    a, b = opened.get(first), opened.get(second)
    table = diff(a, b)
    if form is None:
        click.echo(f"a  {a.id}\nb  {b.id}")
    print_table(table, form, empty="the two runs are the same", wrap=list(table.columns[1:]))


@runs.command("export")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("filters", nargs=-1, metavar="[FILTER]...")
@click.option("--curves", is_flag=True, help="Write the training curves instead of the table of runs.")
@store_option
def export_runs(file: Path, filters: tuple[str, ...], curves: bool, store: str) -> None:
    """Write runs to FILE: .csv, .parquet or .json by its ending."""
    from allometry.runs.query import export

    opened = _open(store)
    table = opened.frame(" ".join(filters))
    _warn(opened.notes)
    count = len(table)
    if curves:
        table = opened.curves(table["run"])
        _warn(opened.notes)
    export(table, file)
    click.echo(f"{file}: {counted(len(table), 'row')} from {counted(count, 'run')}")


@runs.command("sync")
@click.argument("filters", nargs=-1, metavar="[FILTER]...")
@click.option(
    "--to",
    "target",
    required=True,
    metavar="TRACKER",
    help="tensorboard:FOLDER, wandb[:PROJECT] or trackio[:PROJECT].",
)
@click.option("--offline", is_flag=True, help="wandb only: write files for `wandb sync` to upload.")
@store_option
def sync_runs(filters: tuple[str, ...], target: str, offline: bool, store: str) -> None:
    """Mirror runs in an experiment tracker: configurations, curves, final values. Again: only what is new."""
    from allometry.runs.sync import sync, tracker

    opened = _open(store)
    done = sync(opened, tracker(target, opened, offline=offline), " ".join(filters))
    _warn(opened.notes)
    click.echo(
        f"{target}: {counted(done.new, 'run')} new, {done.continued} continued, {done.unchanged} as they were"
    )


@runs.command("rm")
@click.argument("runs_or_filters", nargs=-1, required=True, metavar="RUN|FILTER...")
@click.option("--purge", is_flag=True, help="Delete them for good.")
@store_option
def remove(runs_or_filters: tuple[str, ...], purge: bool, store: str) -> None:
    """Remove runs, by id or by FILTER. `allometry runs undo` brings them back, until they are purged."""
    opened = _open(store)
    conditions = [argument for argument in runs_or_filters if _CONDITION.search(argument)]
    chosen = [argument for argument in runs_or_filters if argument not in conditions]
    if conditions:
        chosen += list(opened.frame(" ".join(conditions))["run"])
    removed = opened.remove(chosen)
    click.echo("\n".join(removed) if removed else _nothing(tuple(conditions), store))
    if removed and purge:
        click.echo(f"{len(removed)} deleted, {format_bytes(opened.purge(removed))} freed")
    elif removed:
        click.echo(f"{len(removed)} removed; to bring back: allometry runs undo{_store_flag(store)}")


@runs.command("size")
@store_option
@table_options
def size_of_runs(store: str, form: Form | None) -> None:
    """Show how much disk the runs take, and what is removed or put aside."""
    import pandas as pd

    sizes = _open(store).sizes()
    table = pd.DataFrame(list(sizes.items()), columns=["what", "size"])
    print_table(table, form, formats={"size": format_bytes})


@runs.command("purge")
@store_option
def purge(store: str) -> None:
    """Delete for good what was removed, and runs that are kept of texts that have changed since."""

    click.echo(f"{format_bytes(_open(store).purge())} freed")


@runs.command("undo")
@store_option
def undo(store: str) -> None:
    """Bring back what the last rm removed."""
    restored = _open(store).undo()
    click.echo("\n".join(restored))
    click.echo(f"{len(restored)} restored")


def _open(path: str) -> Store:
    from allometry.runs.store import Store

    return Store(path)


def _ids(store: Store) -> list[str]:
    from allometry.runs.index import run_directories

    return [directory.name for directory in run_directories(store.path)]


def _store_flag(store: str) -> str:
    return "" if store == "runs" else f" --store {store}"


def _nothing(filters: tuple[str, ...], store: str) -> str:
    return printable(
        f"no run in {store} satisfies {' '.join(filters)}"
        if filters
        else f"the store {store} has no runs yet"
    )


def _notes(record: RunRecord) -> list[str]:
    """Return what the run recorded of itself, such as why it stopped early, and what of it could not be read."""
    return [*record.result.get("notes", ()), *record.notes, *record.curve.notes]


def _warn(notes: tuple[str, ...]) -> None:
    for note in notes:
        click.echo(f"note: {printable(note)}", err=True)


def _sorted(table: pd.DataFrame, by: str | None) -> pd.DataFrame:
    from allometry.runs.query import column

    if by is None:
        return table
    return table.sort_values(
        column(table, by.lstrip("-")), ascending=not by.startswith("-"), ignore_index=True
    )


def shortened(runs: Sequence[str], known: Iterable[str]) -> list[str]:
    """Return the ends of these ids, as long as it takes for none to be the end, or start, of another id
    among `known`: `Store.get` finds the run by it.
    """
    ids = [*known]
    length = SHORTEST
    while length < max(map(len, ids), default=0):
        ends = Counter(run[-length:] for run in ids)
        starts = {run[:length] for run in ids}
        if all(ends[run[-length:]] == 1 and run[-length:] not in starts for run in runs):
            break
        length += 1
    return [run[-length:] for run in runs]


def _for_people(table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of LISTED, without those that no run has anything in."""
    return table[[name for name in LISTED if name != "study" or (table["study"] != "").any()]]


def _text(record: RunRecord) -> dict[str, str]:
    """Return the token sets that the run has read, by the first digits of their SHA-256."""
    text = record.text
    if text is None:
        return {"digest": "not recorded: this run is of an earlier release"}
    return {"digest": text.digest} | {name: each["tokens"][:12] for name, each in text.sets.items()}


def _formats() -> dict[str, Any]:

    return {
        **dict.fromkeys(("N", "D"), format_count),
        "C": format_flops,
        "seconds": format_duration,
        "loss": lambda loss: f"{loss:.4f}",
    }


def _everything(record: RunRecord) -> dict[str, Any]:
    return {
        "run": record.id,
        "status": record.status,
        "path": str(record.path),
        "config": record.config,
        "counts": record.counts,
        "result": record.result,
        "text": _text(record),
        "environment": record.environment,
        "error": record.error,
        "notes": _notes(record),
        "curve": json.loads(record.curve.frame.to_json(orient="records", double_precision=15)),
    }


def _dropped_of_curve(curve: pd.DataFrame) -> list[str]:
    """Return the columns of a curve that a narrow console leaves out: all but steps, tokens and losses first."""
    kept = ("step", "tokens", "loss", "train_loss")
    return [*reversed([name for name in map(str, curve.columns) if name not in kept]), "train_loss"]


def _show(record: RunRecord) -> None:
    from allometry.runs.query import flatten

    click.echo(f"{record.id}   {record.status}\n{record.path}")
    parts = {
        "configuration": record.config,
        "counts": record.counts,
        "result": {key: value for key, value in record.result.items() if key not in ("counts", "notes")},
        "text": _text(record),
        "environment": record.environment,
    }
    for title, part in parts.items():
        if part:
            click.echo(f"\n{title}")
            for key, value in flatten(part).items():
                say(f"  {printable(key):24}  {'–' if value is None else printable(str(value))}")
    curve = record.curve.frame.drop(columns="run").dropna(axis=1, how="all")
    if len(curve):
        print_table(
            curve.tail(12), title="\ncurve (last rows)", formats=_formats(), drop=_dropped_of_curve(curve)
        )
    for note in _notes(record):
        say(f"note: {printable(note)}")
    if record.error:
        click.echo(f"\nerror\n{record.error}")
