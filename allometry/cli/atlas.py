"""The command `atlas`: public tables of scaling runs, fetched to this machine, and their papers' constants checked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from allometry.cli import Group
from allometry.cli.output import PIPED, Form, print_table, say, table_options
from allometry.core.errors import AllometryError

if TYPE_CHECKING:
    from allometry.sources.atlas import Atlas


def command(name: str) -> click.Command:
    """Return the click command of that name."""
    return {"atlas": atlas}[name]


@click.group(cls=Group)
def atlas() -> None:
    """List, fetch and check public tables of scaling runs.

    A source is fetched once, from its own public address at a pinned commit, and its SHA-256 compared. After
    that every command that reads a table takes atlas:ID, or atlas:ID/PART for another of its tables.

    \b
      allometry atlas list
      allometry atlas fetch hoffmann2022
      allometry fit atlas:hoffmann2022 --law chinchilla
      allometry atlas verify hoffmann2022
    """


def _every(ids: tuple[str, ...]) -> list[Atlas]:
    from allometry.sources.atlas import Atlas
    from allometry.sources.source import SOURCES

    return [Atlas(SOURCES[id]) for id in dict.fromkeys(ids or SOURCES)]


@atlas.command("list")
@table_options
def list_sources(form: Form | None) -> None:
    """List the sources: what they hold, their licence, and whether they are here."""
    from allometry.sources.atlas import listing

    frame = listing()
    shown = frame if form else frame[["id", "title", "files", "size", "constants", "here"]]
    print_table(shown, form, wrap=("title",), drop=("files", "constants"), piped=PIPED)


@atlas.command()
@click.argument("id")
@table_options
def show(id: str, form: Form | None) -> None:
    """Show a source: what it counts, its parts and columns, caveats, and the command to type.

    ID is that of `allometry atlas list`, or ID/PART.
    """
    from allometry.sources.atlas import Atlas
    from allometry.sources.source import find

    source, part = find(id)
    found = Atlas(source)
    if form == "json":
        click.echo(json.dumps(found.to_dict(), indent=1, allow_nan=False))
    elif form == "csv":
        print_table(found.table(part), form)
    else:
        say(found.report())


@atlas.command()
@click.argument("ids", nargs=-1, metavar="[ID]…")
@click.option(
    "--from", "place", metavar="PLACE", help="Address or folder that holds the files at that commit."
)
@click.option("--accept", is_flag=True, help="Take files that differ from those recorded, and record theirs.")
def fetch(ids: tuple[str, ...], place: str | None, accept: bool) -> None:
    """Fetch sources into the cache (all of them without ID); what is there already is not fetched again.

    An interrupted fetch goes on where it stopped. A file whose SHA-256 is not the recorded one is shown and
    not used; after a look at it, --accept takes it.
    """
    from allometry.core.units import counted, format_bytes

    if (place or accept) and len(ids) != 1:
        raise AllometryError("--from and --accept are for one source", hint="name its ID")
    for each in _every(ids):
        if not each.state.complete:
            size = format_bytes(each.source.size)
            where = place or f"github.com/{each.source.repository}"
            say(
                f"{each.id}: {counted(each.state.files, 'file')}, {size}, from {where}; licence: {each.source.licence}"
            )
        each.fetch(place=place, accept=accept, say=lambda text: click.echo(f"  {text}", err=True))
        say(f"{each.id}: complete ({counted(each.state.files, 'file')})")


@atlas.command()
@click.argument("ids", nargs=-1, metavar="[ID]…")
@table_options
def verify(ids: tuple[str, ...], form: Form | None) -> None:
    """Derive the constants that the papers printed again, from the tables that are here (all of them without ID)."""
    import pandas as pd

    from allometry.laws.verify import verify as derive

    chosen = _every(ids)
    if not ids:
        absent = [each.id for each in chosen if each.source.constants and not each.state.complete]
        chosen = [each for each in chosen if each.source.constants and each.state.complete]
        if not chosen:
            raise AllometryError("no source is on this machine yet", hint="allometry atlas fetch")
        if absent:
            click.echo(f"note: not fetched: {', '.join(absent)}", err=True)
    parts: list[Any] = []
    for each in chosen:
        if not each.source.constants:
            raise AllometryError(
                f"no constants are kept of {each.id}", hint=f"allometry atlas show {each.id}"
            )
        parts.append(derive(each.source).table)
    frame = pd.concat(parts, ignore_index=True)
    if form:
        print_table(frame, form)
        return
    from allometry.laws.verify import printed

    print_table(printed(frame), wrap=("part", "verdict"), drop=("95 %",), piped=PIPED)
    count = frame["verdict"].value_counts()
    say(", ".join(f"{count[verdict]} {verdict}" for verdict in count.index))
    for reason, rows in frame[frame["reason"] != ""].groupby("reason", sort=False):
        names = list(dict.fromkeys(f"{row['source']} {row['name']}" for _, row in rows.iterrows()))
        say(f"{', '.join(names)}: {reason}")
