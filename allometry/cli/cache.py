"""`allometry cache`: list and delete what can be made or fetched again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from allometry.cli.tables import Form, print_table, table_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from allometry.data.cached import Cached


def command(name: str) -> click.Command:
    """Return the command `name` of this module."""
    assert name == "cache"
    return cache


@click.group()
def cache() -> None:
    """List and delete what is kept to be used again: tokens, packages, timings.

    It lies in ~/.cache/allometry, or where ALLOMETRY_CACHE says. Runs and reports are not in it.
    """


@cache.command("list")
@table_options
def list_cache(form: Form | None) -> None:
    """List the cache: what, how large, when written."""
    from allometry.core.env import cache_root
    from allometry.core.units import format_bytes
    from allometry.data.cached import contents

    there = contents()
    print_table(_table(there), form, formats={"size": format_bytes}, empty="the cache is empty")
    if form is None:
        click.echo(f"{format_bytes(sum(each.size for each in there))} in {cache_root()}")


@cache.command("clean")
@click.argument("what", nargs=-1, metavar="[KIND|NAME]...")
def clean_cache(what: tuple[str, ...]) -> None:
    """Delete the cache, or only the given kinds (tokens, packages, …) or names, as the list has them."""
    from allometry.core.units import format_bytes
    from allometry.data.cached import clean

    gone = clean(what)
    click.echo(f"{len(gone)} deleted, {format_bytes(sum(each.size for each in gone))} freed")


def _table(there: Sequence[Cached]) -> pd.DataFrame:
    from datetime import UTC, datetime

    import pandas as pd

    rows = [
        {
            "name": each.name,
            "kind": each.kind,
            "size": each.size,
            "written": datetime.fromtimestamp(each.used, UTC).strftime("%Y-%m-%d"),
        }
        for each in there
    ]
    return pd.DataFrame(rows, columns=["name", "kind", "size", "written"])
