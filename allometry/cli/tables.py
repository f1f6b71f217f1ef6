"""How every command prints a table: for people, or with --json and --csv for programs."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from allometry.errors import printable

if TYPE_CHECKING:
    import pandas as pd

Form = Literal["json", "csv"]
Formatter = Callable[[Any], str]
MANY = 400
"""Rows from which on a table is laid out by itself: rich takes milliseconds a row."""

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def table_options(command: Decorated) -> Decorated:
    """Decorator that adds --json and --csv; the command receives `form` ("json", "csv" or None)."""
    for form in ("csv", "json"):
        command = click.option(
            f"--{form}", "form", flag_value=form, default=None, help=f"Print the table as {form.upper()}."
        )(command)
    return command


def store_option(command: Decorated) -> Decorated:
    """Decorator that adds --store; the command receives `store`, the path of the run store."""
    return click.option(
        "--store", default="runs", show_default=True, metavar="PATH", help="The run store's folder."
    )(command)


def print_table(
    frame: pd.DataFrame,
    form: Form | None = None,
    *,
    formats: Mapping[str, Formatter] | None = None,
    title: str | None = None,
    empty: str = "nothing to show",
) -> None:
    """Print a frame: for people with `formats` by column (default: four digits), else complete and exact."""
    if form == "json":
        click.echo(to_json(frame))
    elif form == "csv":
        click.echo(frame.to_csv(index=False), nl=False)
    elif frame.empty:
        click.echo(empty)
    elif len(frame) > MANY:
        _print_plain(frame, formats or {}, title)
    else:
        _print_rich(frame, formats or {}, title)


def to_json(frame: pd.DataFrame) -> str:
    """A JSON array with an object a row; missing values are null."""
    text: str = frame.to_json(orient="records", indent=1, double_precision=15)
    return text


def _print_rich(frame: pd.DataFrame, formats: Mapping[str, Formatter], title: str | None) -> None:
    from pandas.api.types import is_numeric_dtype
    from rich import box
    from rich.table import Table

    table = Table(
        title=title and printable(title, lines=True),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        pad_edge=False,
    )
    for name in frame.columns:
        table.add_column(
            printable(str(name)), justify="right" if is_numeric_dtype(frame[name]) else "left", no_wrap=True
        )
    for row in frame.itertuples(index=False):
        cells = (cell(value, formats.get(str(name))) for name, value in zip(frame.columns, row, strict=True))
        table.add_row(*cells)
    console().print(table)


def _print_plain(frame: pd.DataFrame, formats: Mapping[str, Formatter], title: str | None) -> None:
    """The same layout as `_print_rich`, for long tables."""
    from pandas.api.types import is_numeric_dtype

    columns = [[cell(value, formats.get(str(name))) for value in frame[name].tolist()] for name in frame]
    names = [printable(str(name)) for name in frame]
    widths = [max(len(name), *map(len, cells)) for name, cells in zip(names, columns, strict=True)]
    right = [is_numeric_dtype(frame[name]) for name in frame]

    def line(cells: Sequence[str]) -> str:
        placed = [
            text.rjust(width) if is_number else text.ljust(width)
            for text, width, is_number in zip(cells, widths, right, strict=True)
        ]
        return (" " + "   ".join(placed)).rstrip()

    rule = " " + "─" * (sum(widths) + 3 * (len(widths) - 1))
    head = [*([title] if title else []), line(names), rule]
    click.echo("\n".join(["", *head, *map(line, zip(*columns, strict=True)), ""]))


def console() -> Any:
    """A rich console that never cuts what is piped elsewhere, and takes text literally (no markup)."""
    from rich.console import Console

    wide = None if sys.stdout.isatty() else 10_000
    return Console(width=wide, markup=False, highlight=False, emoji=False)


def cell(value: Any, format: Formatter | None = None) -> str:
    """One value for people: "" for a missing one, four digits for a number without a format of its own."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if format is not None:
        return format(value)
    return f"{value:.4g}" if isinstance(value, float) else printable(str(value))
