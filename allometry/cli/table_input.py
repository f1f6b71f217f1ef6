"""What every command that reads a table of runs has in common: its options, and the table they make."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from allometry.core.errors import AllometryError
from allometry.core.units import parse_number

if TYPE_CHECKING:
    import pandas as pd

    from allometry.runs.importers import Imported

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--let",
        multiple=True,
        metavar="SYMBOL=COLUMN",
        help="What a symbol is: a column (N=params), a number (N=25M) or arithmetic of columns "
        "('D=C/(6*N)'); odd names between backticks ('N=`Params (M)`*1e6').",
    ),
    click.option(
        "--where",
        metavar="FILTER",
        multiple=True,
        callback=lambda *given: " ".join(given[-1]) or None,
        help="Only rows that satisfy conditions such as 'N>1e6 lr<=0.01' (again for more: all must hold).",
    ),
    click.option(
        "--drop-highest-loss", "drop", type=click.IntRange(min=0), default=0, help="Leave out the worst rows."
    ),
    click.option(
        "--row",
        type=click.Choice(["last", "best", "all"]),
        help="Rows kept of each run (default: the last if every file is the log of one run, else all).",
    ),
    click.option(
        "--decimal",
        type=click.Choice([".", ","]),
        help="Mark before decimals, where the table leaves it open.",
    ),
    click.option("--encoding", metavar="NAME", help="Encoding of text that is not Unicode, such as cp1252."),
    click.option("--save-columns", is_flag=True, help="Remember the --let columns in TABLE.columns.json."),
)


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """What the command line says of a table of runs; see `table_inputs`."""

    let: tuple[str, ...] = ()
    where: str | None = None
    drop: int = 0
    row: Any = None
    decimal: Any = None
    encoding: str | None = None
    save_columns: bool = False


def table_inputs(command: Decorated) -> Decorated:
    """Add the options that say how a table is read; the command receives them as `inputs` (TableOptions)."""
    names = [field.name for field in fields(TableOptions)]

    @functools.wraps(command)
    def gathered(**given: Any) -> Any:
        inputs = TableOptions(**{name: given.pop(name) for name in names})
        return command(**given, inputs=inputs)

    for option in reversed(_OPTIONS):
        gathered = option(gathered)
    return cast(Decorated, gathered)


group_option = click.option(
    "--group", metavar="COLUMN", help="Rows to resample together (default: run, if there is one)."
)
"""The option --group of the commands that fit a law."""


def objective_options(command: Decorated) -> Decorated:
    """Add --objective and --delta; the command receives both as `objective`, the name with its threshold."""

    @functools.wraps(command)
    def named(*, objective: str, delta: float | None, **given: Any) -> Any:
        return command(objective=objective if delta is None else f"{objective}@{delta!r}", **given)

    shown = click.option(
        "--objective", default="huber-log", show_default=True, metavar="NAME", help=_OBJECTIVE_HELP
    )
    threshold = click.option(
        "--delta", type=float, metavar="NUMBER", help="Threshold of a Huber loss (default: 1e-3)."
    )
    return cast(Decorated, shown(threshold(named)))


_OBJECTIVE_HELP = (
    "Loss function of the fit: huber-log, huber-log-scale, huber-linear, lad-log, lad, lsq-log, lsq, lower-envelope"
    " (log: of log residuals)."
)


@dataclass(frozen=True, kw_only=True, eq=False)
class TableInput:
    """A table as the laws want it, its rows numbered from 0.

    `columns` says where symbols are read from. `reasons` says of each row, by position, why it is left out;
    ""
    for those that are not.
    """

    frame: pd.DataFrame
    columns: dict[str, str]
    reasons: tuple[str, ...]
    notices: tuple[str, ...]

    @property
    def exclude(self) -> dict[Any, str]:
        """The rows that are left out, with the reason."""
        return {row: reason for row, reason in enumerate(self.reasons) if reason}

    def kept(self) -> pd.DataFrame:
        """Return the rows that are not left out."""
        return self.frame[[not reason for reason in self.reasons]]


def load(table: str | Sequence[str], inputs: TableOptions) -> TableInput:
    """Read one table or several as one, and decide its columns and what is left out; say on stderr what was
    guessed.

    Raises AllometryError for unreadable tables, options and filters.
    """
    import numpy as np

    from allometry.runs.importers import read_table, save_mapping
    from allometry.runs.query import mask

    tables = [table] if isinstance(table, str) else list(table)
    columns = assignments(inputs.let, "--let")
    columns = {("L" if name == "loss" else name): text for name, text in columns.items()}
    named = {("loss" if name == "L" else name): text for name, text in columns.items()}
    read = read_table(tables, columns=named, row=inputs.row, decimal=inputs.decimal, encoding=inputs.encoding)
    if inputs.save_columns:
        _save(tables, {n: text for n, text in named.items() if text in read.frame.columns}, save_mapping)
    columns = {**columns, **_in_ones(read, columns)}
    reasons = np.full(len(read.frame), "", dtype=object)
    if inputs.where:
        reasons[~mask(read.frame, inputs.where)] = f"does not satisfy --where {inputs.where!r}"
    _leave_out_worst(read.frame, columns, inputs.drop, reasons)
    notices = [*read.notices, *_from_six_nd(columns, set(read.frame.columns))]
    for notice in notices:
        click.echo(f"note: {notice}", err=True)
    return TableInput(frame=read.frame, columns=columns, reasons=tuple(reasons), notices=tuple(notices))


def _save(tables: list[str], direct: dict[str, str], save: Callable[[str, dict[str, str]], Any]) -> None:

    if len(tables) != 1 or not Path(tables[0]).is_file():
        raise AllometryError(
            "--save-columns remembers the columns of one file",
            hint="name one table, or leave out --save-columns",
        )
    save(tables[0], direct)


def _in_ones(read: Imported, said: dict[str, str]) -> dict[str, str]:
    """Return, for the symbols whose values `read_table` scaled, and for a guessed loss, the column that
    holds them."""
    from allometry.runs.tables.columns import read_heading

    symbols = {"loss": "L", "unique": "U"}
    found = {}
    for symbol, name in read.columns.items():
        short = symbols.get(symbol, symbol)
        if symbol == "run" or not {symbol, name} <= set(read.frame.columns):
            continue
        if (symbol == "loss" and short not in said) or read_heading(name).scale != 1:
            found[short] = symbol
    return found


def _from_six_nd(columns: dict[str, str], known: set[str]) -> list[str]:
    """Compute the one of D and C that a table lacks from the other, and say so."""
    has = known | set(columns)
    for name, other, formula in (("D", "C", "C/(6*N)"), ("C", "D", "6*N*D")):
        if name not in has and {"N", other} <= has:
            columns[name] = formula
            return [f"{name} is computed as {formula}"]
    return []


def _leave_out_worst(frame: pd.DataFrame, columns: dict[str, str], drop: int, reasons: Any) -> None:
    """Mark the rows with the highest losses among those that are not left out yet."""
    if drop:
        import numpy as np

        from allometry.laws.observations import read_symbol

        losses = read_symbol(frame, "L", columns)
        open_rows = np.flatnonzero((reasons == "") & np.isfinite(losses))
        worst = open_rows[np.argsort(-losses[open_rows], kind="stable")][:drop]
        reasons[worst] = f"one of the {drop} highest losses"


def assignments(texts: tuple[str, ...], option: str) -> dict[str, str]:
    """Read NAME=VALUE options as a mapping; raise AllometryError for anything else."""

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
    """Read NAME=NUMBER options; numbers may have units (N=10M)."""

    return {
        name: parse_number(value, f"{option} {name}") for name, value in assignments(texts, option).items()
    }


def listed(text: str | None, what: str) -> list[float]:
    """Read a comma-separated list of numbers, such as "0.5,0.7" or "1e18,1e19"."""

    return [parse_number(part, what) for part in text.split(",") if part.strip()] if text else []
