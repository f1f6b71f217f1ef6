"""How every command prints text and tables: for people at the width of their console, or with --json and
--csv for programs."""

from __future__ import annotations

import math
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from allometry.core.errors import printable

if TYPE_CHECKING:
    import pandas as pd


Form = Literal["json", "csv"]
Formatter = Callable[[Any], str]
MANY = 400
"""Rows from which on a table is laid out by itself: rich takes milliseconds a row."""

PIPED = 110
"""Width of prose and of a study's tables where there is no console, so that logs hold whole tables."""

NARROWEST = 18
"""Characters that a column of prose keeps at least."""

GAP = "   "
_LABEL = re.compile(r"\s*\S+\s{2,}|(warning|note): |! ")
"""What the words of a line hang below: "residuals  ", "warning: "."""

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def table_options(command: Decorated) -> Decorated:
    """Add --json and --csv; the command receives `form` ("json", "csv" or None)."""
    for form in ("csv", "json"):
        command = click.option(
            f"--{form}", "form", flag_value=form, default=None, help=f"Print the table as {form.upper()}."
        )(command)
    return command


def store_option(command: Decorated) -> Decorated:
    """Add --store; the command receives `store`, the path of the run store."""
    return click.option(
        "--store", default="runs", show_default=True, metavar="PATH", help="The run store's folder."
    )(command)


def width() -> int | None:
    """Return the columns that output may take: COLUMNS if set, else the terminal's; None for what is piped
    elsewhere, which is never cut or wrapped.
    """
    told = os.environ.get("COLUMNS", "")
    if told.isdigit() and int(told):
        return int(told)
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def say(text: str, *, piped: int | None = None, hang: int | None = None) -> None:
    """Print text for people, each line wrapped once at the console's width (`piped`: where there is none).

    What goes on in the next line stands below the words after its label, as here:

        residuals  rms log residual 0.00859, largest 0.0313; a new
                   run scatters by 0.0089
    """
    columns = width() or piped
    lines = text.splitlines() or [""]
    click.echo("\n".join(part for line in lines for part in _folded(line, columns, hang)))


def _folded(line: str, columns: int | None, hang: int | None) -> list[str]:
    """Fold a line into lines of at most `columns`, all but the first indented by `hang`, or below its label.
    A word that is longer stays whole.
    """
    if columns is None or len(line) <= columns:
        return [line]
    label = _LABEL.match(line)
    if hang is None:
        hang = label.end() if label and label.end() <= columns // 3 else _indent(line) + 2
    # spaces between columns are kept as long as both sides stand on one line
    return textwrap.wrap(
        line, columns, subsequent_indent=" " * hang, break_long_words=False, break_on_hyphens=False
    )


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def one_line(text: str) -> str:
    """Return text cut to the console's width, with … for what is left out."""
    columns = width() or PIPED
    return text if len(text) <= columns else text[: columns - 2].rstrip() + " …"


def print_table(
    frame: pd.DataFrame,
    form: Form | None = None,
    *,
    formats: Mapping[str, Formatter] | None = None,
    title: str | None = None,
    empty: str = "nothing to show",
    short: Mapping[str, Sequence[str]] | None = None,
    drop: Sequence[str] = (),
    wrap: Sequence[str] = (),
    right: Sequence[str] = (),
    piped: int | None = None,
) -> None:
    """Print a frame: for people with `formats` by column (default: four digits), else complete and exact.

    Where a console is too narrow for the table, columns of `short` take the short texts given for them; then
    columns of `drop` are left out, the first first, which is said below; columns of `wrap` go on in further
    lines. All others keep their text whole. `right`: text that is aligned as numbers are. `piped`: the width
    where there is no console (default: any).
    """
    if form == "json":
        click.echo(to_json(frame))
        return
    if form == "csv":
        click.echo(frame.to_csv(index=False), nl=False)
        return
    if frame.empty:
        click.echo(empty)
        return
    columns = _cells(frame, formats or {}, right)
    room = width() or piped
    left_out = _fitted(columns, room, short or {}, drop, wrap)
    if len(frame) > MANY or room is None:
        _print_plain(columns, title)
    else:
        _print_rich(columns, title, room, wrap)
    if left_out:
        click.echo(f"not shown at this width: {', '.join(left_out)}")


@dataclass(kw_only=True)
class _Column:
    """A column as it is printed: its cells as text, and whether they are aligned at the right."""

    cells: list[str]
    right: bool

    def room(self, name: str) -> int:
        """Return the characters that the longest cell, or the heading, takes."""
        return max(len(name), *map(len, self.cells))


def _cells(frame: pd.DataFrame, formats: Mapping[str, Formatter], right: Sequence[str]) -> dict[str, _Column]:
    from pandas.api.types import is_numeric_dtype

    return {
        str(name): _Column(
            cells=[cell(value, formats.get(str(name))) for value in frame[name].tolist()],
            right=is_numeric_dtype(frame[name]) or name in right,
        )
        for name in frame.columns
    }


def _fitted(
    columns: dict[str, _Column],
    room: int | None,
    short: Mapping[str, Sequence[str]],
    drop: Sequence[str],
    wrap: Sequence[str],
) -> list[str]:
    """Shorten and leave out columns, in place, until the rest fits; return the names of those left out."""

    def too_wide() -> bool:
        widths = (
            min(column.room(name), NARROWEST) if name in wrap else column.room(name)
            for name, column in columns.items()
        )
        return room is not None and sum(widths) + len(GAP) * (len(columns) - 1) + 2 > room

    for name in short:
        if name in columns and too_wide():
            columns[name].cells = list(short[name])
    left_out = []
    for name in drop:
        if name in columns and too_wide():
            del columns[name]
            left_out.append(name)
    return left_out


def to_json(frame: pd.DataFrame) -> str:
    """Return a JSON array with an object a row; missing values are null."""
    text: str = frame.to_json(orient="records", indent=1, double_precision=15)
    return text


def _print_rich(columns: Mapping[str, _Column], title: str | None, room: int, wrap: Sequence[str]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(
        title=title and printable(title, lines=True),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        pad_edge=False,
    )
    for name, column in columns.items():
        table.add_column(
            printable(name),
            justify="right" if column.right else "left",
            no_wrap=name not in wrap,
            overflow="fold",
        )
    for row in zip(*(column.cells for column in columns.values()), strict=True):
        table.add_row(*row)
    console(room).print(table)


def _print_plain(columns: Mapping[str, _Column], title: str | None) -> None:
    """Print the same layout as `_print_rich`, for long tables and for what is piped elsewhere."""
    widths = [column.room(name) for name, column in columns.items()]

    def line(cells: Sequence[str]) -> str:
        placed = [
            text.rjust(width) if column.right else text.ljust(width)
            for text, width, column in zip(cells, widths, columns.values(), strict=True)
        ]
        return (" " + GAP.join(placed)).rstrip()

    rule = " " + "─" * (sum(widths) + len(GAP) * (len(widths) - 1))
    head = [*([title] if title else []), line([printable(name) for name in columns]), rule]
    rows = zip(*(column.cells for column in columns.values()), strict=True)
    click.echo("\n".join(["", *head, *map(line, rows), ""]))


def console(room: int | None = None) -> Any:
    """Return a rich console of that width (default: the console's, or PIPED), which takes text literally."""
    from rich.console import Console

    return Console(width=room or width() or PIPED, markup=False, highlight=False, emoji=False)


def cell(value: Any, format: Formatter | None = None) -> str:
    """Return a value as text for people: "" for a missing one, four digits for a number without a format."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if format is not None:
        return format(value)
    return f"{value:.4g}" if isinstance(value, float) else printable(str(value))
