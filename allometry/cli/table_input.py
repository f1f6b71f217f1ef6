"""What every command that reads a table of runs has in common: its options, and the table they make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    import pandas as pd

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--let",
        multiple=True,
        metavar="SYMBOL=COLUMN",
        help="What a symbol is: a column (N=params) or arithmetic of columns ('D=C/(6*N)').",
    ),
    click.option(
        "--where", metavar="FILTER", help="Only rows that satisfy conditions such as 'N>1e6 lr<=0.01'."
    ),
    click.option(
        "--drop-highest-loss", "drop", type=click.IntRange(min=0), default=0, help="Leave out the worst rows."
    ),
    click.option("--save-columns", is_flag=True, help="Remember the --let columns in TABLE.columns.json."),
)


def table_inputs(command: Decorated) -> Decorated:
    """Decorator that adds --let, --where, --drop-highest-loss and --save-columns."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


group_option = click.option(
    "--group", metavar="COLUMN", help="Rows to resample together (default: run, if there is one)."
)
"""The option --group of the commands that fit a law."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TableInput:
    """A table as the laws want it. `exclude` names rows left out by label, with the reason."""

    frame: pd.DataFrame
    columns: dict[str, str]
    exclude: dict[Any, str]
    notices: tuple[str, ...]

    def kept(self) -> pd.DataFrame:
        """The rows that are not left out."""
        return self.frame.drop(index=list(self.exclude))


def load(table: str, let: tuple[str, ...], where: str | None, drop: int, save: bool) -> TableInput:
    """Read a table, and decide its columns and what is left out. What was guessed is said on stderr.

    Raises AllometryError for unreadable tables, options and filters.
    """
    from allometry.runs.importers import read_table, save_mapping
    from allometry.runs.query import mask

    columns = assignments(let, "--let")
    columns = {("L" if name == "loss" else name): text for name, text in columns.items()}
    named = {("loss" if name == "L" else name): text for name, text in columns.items()}
    read = read_table(table, columns=named)
    direct = {name: text for name, text in named.items() if text in read.frame.columns}
    if save:
        save_mapping(table, direct)
    exclude: dict[Any, str] = {}
    if where:
        kept = mask(read.frame, where)
        exclude = dict.fromkeys(read.frame.index[~kept], f"does not satisfy --where {where!r}")
    exclude |= _worst(read.frame.drop(index=list(exclude)), columns, drop)
    notices = [*read.notices, *_from_six_nd(columns, set(read.frame.columns))]
    for notice in notices:
        click.echo(f"note: {notice}", err=True)
    return TableInput(frame=read.frame, columns=columns, exclude=exclude, notices=tuple(notices))


def _from_six_nd(columns: dict[str, str], known: set[str]) -> list[str]:
    """Of D and C, the one that a table lacks follows from the other, and is said."""
    has = known | set(columns)
    for name, other, formula in (("D", "C", "C/(6*N)"), ("C", "D", "6*N*D")):
        if name not in has and {"N", other} <= has:
            columns[name] = formula
            return [f"{name} is computed as {formula}"]
    return []


def _worst(frame: pd.DataFrame, columns: dict[str, str], drop: int) -> dict[Any, str]:
    from allometry.errors import AllometryError

    if not drop:
        return {}
    name = columns.get("L", "loss")
    if name not in frame.columns:
        raise AllometryError(
            f"--drop-highest-loss needs a column of losses; the table has no {name!r}",
            hint="--let loss=COLUMN",
        )
    return dict.fromkeys(frame[name].nlargest(drop).index, f"one of the {drop} highest losses")


def assignments(texts: tuple[str, ...], option: str) -> dict[str, str]:
    """NAME=VALUE options as a mapping; AllometryError for anything else."""
    from allometry.errors import AllometryError

    found = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not (sign and name.strip() and value.strip()):
            raise AllometryError(
                f"{option} {text!r} is not NAME=VALUE", hint=f"write it like {option} N=params"
            )
        found[name.strip()] = value.strip()
    return found


def numbers(texts: tuple[str, ...], option: str) -> dict[str, float]:
    """NAME=NUMBER options; numbers may have units (N=10M)."""
    from allometry.units import parse_number

    return {
        name: parse_number(value, f"{option} {name}") for name, value in assignments(texts, option).items()
    }


def listed(text: str | None, what: str) -> list[float]:
    """A comma-separated list of numbers, such as "0.5,0.7" or "1e18,1e19"."""
    from allometry.units import parse_number

    return [parse_number(part, what) for part in text.split(",") if part.strip()] if text else []
