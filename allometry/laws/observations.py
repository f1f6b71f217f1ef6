"""From a table of runs to the points of a fit, or to (run, N, D, C, loss): columns named or computed, what is left
out and why.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from allometry.core.errors import AllometryError
from allometry.core.units import Decimal, counted, parse_number, readings
from allometry.laws.grouping import Grouping, find_grouping, not_a_run, numbered
from allometry.laws.law import Law, evaluate, names_in
from allometry.runs.tables.columns import (
    Ambiguous,
    column_for,
    conversion,
    convert,
    decide,
    examine,
    file_mark,
    is_text,
    partly_in_units,
    scale_notice,
    scaled,
    similar,
)
from allometry.runs.tables.trackers import ended_otherwise, finished, status_column

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Observations:
    """The points of a fit.

    `inputs` and `output` are arrays of shape (n,), `weights` too (mean 1). `grouping` says which rows are
    resampled together, or may have to be. `frame` holds the used values under the law's symbols with the
    table's index; `excluded` the rows left out, with the column `reason`. `columns` says where each symbol
    came from, `notes` what was read otherwise than literally, `problems` what was found wrong with the
    values: (column, what, remedy). `kept` says of each row of the table whether it is used. `original` (n,)
    is the position among the points of the first row that is equal in every column: its own, except for
    copies. A copy counts in the estimate (two runs of a sweep may print the same numbers), and is no
    evidence of its own.
    """

    law: Law
    inputs: dict[str, Array]
    output: Array
    weights: Array
    grouping: Grouping
    frame: pd.DataFrame
    excluded: pd.DataFrame
    columns: dict[str, str]
    notes: tuple[str, ...]
    problems: tuple[tuple[str, str, str], ...]
    kept: NDArray[np.bool_]
    original: NDArray[np.int_]

    @property
    def copies(self) -> NDArray[np.bool_]:
        """Which points (n,) repeat an earlier one in every column."""
        return self.original != np.arange(len(self.original))

    def __len__(self) -> int:
        return len(self.output)


def observe(
    frame: pd.DataFrame,
    law: Law,
    *,
    columns: Mapping[str, str] | None = None,
    weights: str | None = None,
    group: str | None = None,
    exclude: Mapping[Any, str] | Sequence[Any] | None = None,
) -> Observations:
    """Read a law's inputs and output from a table of runs.

    `columns` maps symbols to column names or to arithmetic of columns and of other mapped symbols; others are
    looked for by their usual names (`runs.tables.columns`), with the unit in the heading. Rows are left out
    (and listed, with the reason) when they are named in `exclude` (index labels, or labels mapped to
    reasons),
    when their status says that the run did not finish (`runs.tables.trackers`), and when a value is missing,
    unreadable, infinite or not positive: a training log has rows without a test loss. Raises AllometryError
    when a column is missing, when more than half of a column is text, infinite or not positive, or when
    nothing
    is left.
    """
    if not isinstance(frame, pd.DataFrame):
        frame = pd.DataFrame(frame)
    reader = _Reader(frame, dict(columns or {}))
    wanted = {**{name: name not in law.linear for name in law.inputs}, law.output: True}
    values = {symbol: reader.read(symbol) for symbol in wanted}
    if weights is not None:
        values["weight"] = reader.read(weights)
        wanted["weight"] = True
    reasons = pd.Series("", index=range(len(frame)), dtype=object)
    reader.notes += _exclude_named(frame, exclude, reasons)
    problems = list(reader.problems)
    for symbol, positive in wanted.items():
        problems += _exclude_unusable(symbol, reader.source(symbol), values[symbol], positive, reasons, frame)
    keep = (reasons == "").to_numpy()
    if not keep.any():
        raise AllometryError(
            f"no row of the table can be used for the law {law.name!r}: {_tally(reasons[reasons != ''])}",
            hint="check the columns that the law is given: "
            + ", ".join(f"{s}={reader.source(s)}" for s in wanted),
        )
    used = pd.DataFrame({s: values[s][keep] for s in wanted}, index=frame.index[keep])
    left_out = frame[~keep].assign(reason=reasons[~keep].to_numpy())
    inputs = {s: values[s][keep] for s in law.inputs}
    grouping, remarks = _grouping(frame[keep], group, inputs)
    weight = values["weight"][keep] if weights is not None else np.ones(int(keep.sum()))
    return Observations(
        law=law,
        inputs=inputs,
        output=values[law.output][keep],
        weights=weight / weight.mean(),
        grouping=grouping,
        frame=used,
        excluded=left_out,
        columns={**reader.mapping, **{s: reader.source(s) for s in wanted}},
        notes=(*reader.notes, *remarks),
        problems=tuple(problems),
        kept=keep,
        original=originals(frame[keep]),
    )


def with_unique_labels(
    frame: pd.DataFrame, exclude: Mapping[Any, str] | Sequence[Any] | None
) -> tuple[pd.DataFrame, Mapping[Any, str] | Sequence[Any] | None]:
    """Return a table whose rows can be told apart by label, and `exclude` in those labels.

    A table with repeated labels is numbered from 0; every row of an excluded label stays excluded.
    """
    if not hasattr(frame, "index") or frame.index.is_unique:
        return frame, exclude
    named = exclude if isinstance(exclude, Mapping) else dict.fromkeys(exclude or (), "excluded by hand")
    rows = {i: named[label] for i, label in enumerate(frame.index) if label in named}
    return frame.reset_index(drop=True), rows or None


def read_inputs(frame: pd.DataFrame, law: Law, columns: Mapping[str, str]) -> dict[str, Array]:
    """Read a law's inputs from a table (shape (n,) each), as a fit's were or from columns of the symbols'
    names.

    Raises AllometryError when a column is missing.
    """
    reader = _Reader(frame, dict(columns))
    plain = _Reader(frame, {})
    values = {}
    for symbol in law.inputs:
        try:
            values[symbol] = reader.read(symbol)
        except AllometryError:
            if symbol not in frame.columns:
                raise
            values[symbol] = plain.read(symbol)
    return values


def read_symbol(frame: pd.DataFrame, symbol: str, columns: Mapping[str, str]) -> Array:
    """Return the values of one symbol, shape (n,), nan where missing: read as `observe` does.

    Raises AllometryError when a column is missing.
    """
    return _Reader(frame, dict(columns)).read(symbol)


class _Reader:
    """Reads symbols from a table: from the mapping first, then from columns of that name or its aliases."""

    def __init__(self, frame: pd.DataFrame, mapping: dict[str, str]) -> None:
        self.frame = frame
        self.mapping = mapping
        self.notes: list[str] = []
        self.problems: list[tuple[str, str, str]] = []
        self._done: dict[str, Array] = {}
        self._sources: dict[str, str] = {}
        self._written: set[str] = set()
        self._whole: Decimal | None = None
        self._looked = False

    def source(self, symbol: str) -> str:
        """Return the column, or the expression, that a symbol was read from."""
        return self._sources.get(symbol, symbol)

    def read(self, symbol: str, pending: tuple[str, ...] = ()) -> Array:
        """Return the values of a symbol, nan where they are missing or unreadable."""
        if symbol not in self._done:
            text = self.mapping.get(symbol, symbol)
            if symbol not in self.mapping:
                found, said = column_for(self.frame, symbol)
                text = symbol if found is None else found
                self.notes += [said] if said else []
            self._sources[symbol] = text
            if text in self.frame.columns:
                values, said = scaled(text, self._column(text), text in self._written)
                self.notes += [said] if said else []
                self._done[symbol] = values
            else:
                self._done[symbol] = self._compute(symbol, text, pending)
        return self._done[symbol]

    def _compute(self, symbol: str, text: str, pending: tuple[str, ...]) -> Array:
        if readings(text):
            return np.full(len(self.frame), parse_number(text, symbol))
        names = [text] if re.fullmatch(r"[^\W\d]\w*", text) else self._names(symbol, text)
        if symbol in pending:
            raise AllometryError(
                f"the columns {', '.join(pending)} are defined by each other", hint="name a column"
            )
        values: dict[str, Array] = {}
        for name in names:
            if name in self.mapping and name != symbol:
                values[name] = self.read(name, (*pending, symbol))
            elif name in self.frame.columns:
                values[name] = self._column(name)
            elif name != symbol and column_for(self.frame, name)[0] is not None:
                values[name] = self.read(name, (*pending, symbol))
            else:
                raise _missing(symbol, name, self.frame, text)
        size = len(self.frame)
        return np.broadcast_to(np.asarray(evaluate(text, values), dtype=float), (size,)).copy()

    def _names(self, symbol: str, text: str) -> list[str]:
        """Return the columns in an expression; the error for an odd name without backticks shows them."""
        try:
            return names_in(text)
        except AllometryError:
            if any(str(c) in text for c in self.frame.columns if not re.fullmatch(r"[^\W\d]\w*", str(c))):
                raise _missing(symbol, text, self.frame, text) from None
            raise

    def _column(self, name: str) -> Array:
        """Read a column as numbers: counts such as "1.2B" are read, with a note; unreadable text becomes nan."""
        column = self.frame[name]
        if isinstance(column, pd.DataFrame):
            raise AllometryError(
                f"the table has {column.shape[1]} columns called {name!r}", hint="rename one of them"
            )
        if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
            return column.to_numpy(dtype=float, na_value=np.nan)
        cells = examine(column)
        mark = decide(cells, self._file_mark(), None)
        if cells.numbers and (cells.mixed or isinstance(mark, Ambiguous)):
            what = (
                str(mark)
                if isinstance(mark, Ambiguous)
                else "some have decimal points, others decimal commas"
            )
            raise AllometryError(
                f"numbers in the column {name!r} can be read in two ways: {what}",
                hint="make it a column of numbers, or read the file with read_table(path, decimal=',')",
                cli_hint="--decimal , or --decimal . settles it",
            )
        mark = "." if isinstance(mark, Ambiguous) else mark
        partial = partly_in_units(cells)
        if partial is not None:
            raise AllometryError(
                f"the column {name!r} has numbers with a unit and without: {partial[0]!r}, {partial[1]!r}",
                hint="write the unit in every cell (10M, 1.2B), or every number in full (10000000)",
            )
        values, bad = convert(column, cells, mark)
        units = [
            cell for cell in column if isinstance(cell, str) and cell in cells.cells and not _is_float(cell)
        ]
        units = [cell for cell in units if mark in cells.cells[cell]]
        if units:
            self.notes.append(
                f"column {name!r}: {counted(len(units), 'value')} with units, such as {units[0]!r}, read as numbers"
            )
            self._written |= {name} if any(re.search("[A-Za-z]", cell) for cell in units) else set()
        if bad:
            rows = _rows(self.frame, bad)
            example = str(column.iloc[bad[0]])
            if 2 * len(bad) > len(column):
                raise AllometryError(
                    f"column {name!r} is not a column of numbers: {rows} hold text such as {example!r}",
                    hint="map the symbol to a numeric column, or write counts like 1e9 or 1.2B",
                )
            self.problems.append(
                (name, f"{rows} hold text such as {example!r}", "write numbers there, or drop these rows")
            )
        return values

    def _file_mark(self) -> Decimal | None:
        """Return the decimal mark that the table's columns of text agree on."""
        if not self._looked:
            columns = [self.frame.iloc[:, i] for i in range(self.frame.shape[1])]
            self._whole = file_mark(examine(column) for column in columns if is_text(column))
            self._looked = True
        return self._whole


def _is_float(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _missing(symbol: str, name: str, frame: pd.DataFrame, text: str | None = None) -> AllometryError:
    """Return the error for a column that a symbol needs: what may be meant, and how to say so."""
    columns = [str(c) for c in frame.columns]
    what = "" if symbol == name else f", needed for {symbol}"
    spaced = [
        c
        for c in columns
        if not re.fullmatch(r"[^\W\d]\w*", c) and text and c in text and f"`{c}`" not in text
    ]
    letter = "loss" if symbol == "L" else symbol
    if spaced and text:
        quoted = text.replace(max(spaced, key=len), f"`{max(spaced, key=len)}`")
        said, remedy = "put names with spaces, brackets or slashes between backticks: ", quoted
    else:
        near = similar(columns, symbol)
        said = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        shown = ", ".join(columns[:30]) + (f" and {len(columns) - 30} more" if len(columns) > 30 else "")
        said += (
            f"The columns are: {shown}. Name one, or arithmetic of columns (odd names between backticks): "
        )
        remedy = conversion(near[0]) if near else "COLUMN"
    return AllometryError(
        f"the table has no column {name!r}{what}",
        hint=f"{said}columns={{{symbol!r}: {remedy!r}}}",
        cli_hint=f"{said}--group COLUMN"
        if symbol == "group"
        else f"{said}--let {_quoted(f'{letter}={remedy}')}",
    )


def _quoted(text: str) -> str:
    """Return a word as a shell takes it."""
    return text if re.fullmatch(r"[\w=./-]+", text) else "'" + text.replace("'", "'\\''") + "'"


def _exclude_named(
    frame: pd.DataFrame, exclude: Mapping[Any, str] | Sequence[Any] | None, reasons: pd.Series
) -> list[str]:
    """Mark rows that are excluded by label, and runs that did not finish; return what is to be said of
    them."""
    if exclude is not None:
        named = exclude if isinstance(exclude, Mapping) else dict.fromkeys(exclude, "excluded by hand")
        absent = [label for label in named if label not in frame.index]
        if absent:
            raise AllometryError(
                f"exclude names rows that the table does not have: {', '.join(map(str, absent[:5]))}",
                hint="name rows by the table's index",
            )
        for i, label in enumerate(frame.index):
            if label in named:
                reasons[i] = named[label]
    for name, answer, rows in ended_otherwise(frame):
        for row in np.flatnonzero(rows.to_numpy(dtype=bool)).tolist():
            reasons[row] = reasons[row] or f"{name} is {answer}"
    status = status_column([str(c) for c in frame.columns])
    if status is None or not is_text(frame[status]):
        return []
    ended, said = finished(frame[status])
    for i, (done, word) in enumerate(zip(ended, frame[status], strict=True)):
        if not done and not reasons[i]:
            reasons[i] = f"{status} is {word}"
    return [said] if said else []


def _exclude_unusable(
    symbol: str, source: str, values: Array, positive: bool, reasons: pd.Series, frame: pd.DataFrame
) -> list[tuple[str, str, str]]:
    """Mark rows whose value cannot be used; say so once a column, unless it is only missing."""
    kinds = [("is missing or not a number", np.isnan(values)), ("is infinite", np.isinf(values))]
    if positive:
        kinds.append(("is not positive", np.isfinite(values) & (values <= 0)))
    label = symbol if symbol == source else f"{symbol} ({source})"
    problems = []
    for what, mask in kinds:
        fresh = [int(i) for i in np.flatnonzero(mask) if not reasons[int(i)]]
        for i in fresh:
            reasons[i] = f"{label} {what}"
        if not fresh:
            continue
        if 2 * len(fresh) > len(values) and what == kinds[0][0]:
            continue  # a log of training, with few rows of evaluation: those left out are listed
        if 2 * len(fresh) > len(values):
            letter = "loss" if symbol == "L" else symbol
            raise AllometryError(
                f"{label} {what} in {len(fresh)} of {counted(len(values), 'row')}: {_rows(frame, fresh)}",
                hint=f"map {symbol} to another column: columns={{{symbol!r}: 'name or arithmetic'}}",
                cli_hint=f"name another column, or arithmetic of columns: --let {letter}=COLUMN",
            )
        problems.append(
            (
                source,
                f"{symbol} {what} in {_rows(frame, fresh)}",
                "correct the values, or accept the exclusion",
            )
        )
    return problems


_ROW_NUMBERS = {
    *("", "#", "index", "idx", "level_0", "no", "no.", "nr", "nr.", "row", "row id", "row name", "row names"),
    *("row number", "rownames", "rownumber", "rows"),
}
"""Headings (lower case, single spaces) of columns that number the rows of a table, and say nothing of runs."""


def originals(frame: pd.DataFrame) -> NDArray[np.int_]:
    """Return for each row, (n,), the position of the first row that is equal in every column.

    Columns that only number the rows do not count: a run that was pasted twice has two row numbers.
    """
    floats = [pd.api.types.is_float_dtype(kind) for kind in frame.dtypes]
    alike, told = np.zeros(len(frame), dtype=int), False
    for i in sorted(range(frame.shape[1]), key=lambda i: not floats[i]):  # a loss tells most rows apart
        if told and alike.max(initial=0) + 1 == len(frame):
            break
        column = frame.iloc[:, i]
        if _numbers_rows(str(frame.columns[i]), column):
            continue
        if not floats[i]:
            column = column.map(lambda v: str(v) if isinstance(v, list | dict | np.ndarray) else v)
        values = pd.factorize(column, use_na_sentinel=False)[0]
        alike, told = pd.factorize(alike * (values.max(initial=0) + 1) + values)[0], True
    if not told:
        return np.arange(len(frame))
    _, first, at = np.unique(alike, return_index=True, return_inverse=True)
    return np.asarray(first[at.reshape(-1)], dtype=int)


def _numbers_rows(name: str, column: pd.Series) -> bool:
    """Return whether a column numbers the rows: by its heading, or a key that counts up one by one."""
    heading = re.sub(r"[\s_-]+", " ", name).strip().lower()
    unnamed = re.fullmatch(r"unnamed: ?\d+", heading) is not None
    counting = re.fullmatch(r"id|column\d+", heading) is not None
    if not (unnamed or counting or heading in _ROW_NUMBERS):
        return False
    try:
        values = column.to_numpy(dtype=float)
    except (TypeError, ValueError):
        return False
    if not np.isfinite(values).all() or (values != np.round(values)).any():
        return False
    return not counting or bool((np.diff(values) == 1).all())


def about_copies(points: Observations) -> str:
    """Return which rows are copies of earlier ones, "" if none are."""
    where = np.flatnonzero(points.copies)
    if not len(where):
        return ""
    verb = "repeats" if len(where) == 1 else "repeat"
    return f"{_rows(points.frame, [int(i) for i in where])} {verb} an earlier row in every column"


def _grouping(
    frame: pd.DataFrame, name: str | None, inputs: Mapping[str, Array]
) -> tuple[Grouping, list[str]]:
    """Group the rows to resample together: by the column `name` if one is given, else as the table suggests."""
    if name is None:
        return find_grouping(frame, inputs)
    if name not in frame.columns:
        raise _missing("group", name, frame)
    return Grouping(group=numbered(frame[name]), name=name), []


def _rows(frame: pd.DataFrame, positions: Sequence[int]) -> str:
    """Return the labels of some rows: "rows 3, 7, 9 and 4 more"."""
    labels = [str(frame.index[i]) for i in positions]
    more = f" and {len(labels) - 5} more" if len(labels) > 5 else ""
    return f"row{'s' if len(labels) > 1 else ''} {', '.join(labels[:5])}{more}"


def _tally(reasons: pd.Series) -> str:
    counts = reasons.value_counts()
    return "; ".join(f"{reason} ({count})" for reason, count in counts.items())


_SHAPE = Law(
    name="runs by size and compute",
    title="a table of runs",
    expression="C/(N*D)",
    inputs={"N": "parameters", "D": "training tokens", "C": "training compute, FLOPs"},
    parameters=(),
    source="C = 6ND (Kaplan et al. 2020, section 2.1)",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Runs:
    """`table`: columns run, N, D, C, loss (index of the original); `excluded`: rows left out with a
    `reason`."""

    table: pd.DataFrame
    excluded: pd.DataFrame
    notes: tuple[str, ...]


OFF_COUNT, OFF_CONSTANT = 2.0, 1.25
"""Factors between C and 6ND beyond which it is another count: where it varies with size, and where it does not."""


def log_count(table: pd.DataFrame) -> Array:
    """Return log C/(6ND) of the rows (n,) of a table with columns N, D, C."""
    return np.asarray(np.log(table["C"] / (6 * table["N"] * table["D"])), dtype=float)


def other_count(table: pd.DataFrame) -> tuple[float, str] | None:
    """Return the median of C/(6ND) of a table (columns N, D, C), and a sentence, where C is another count.

    None where C is about 6ND: counts of attention and embeddings differ by a share that falls with size.
    """
    ratio = log_count(table)
    middle = float(np.median(ratio))
    low, high = np.quantile(ratio, [0.1, 0.9])
    constant = high - low < 0.05
    if abs(middle) < np.log(OFF_CONSTANT if constant else OFF_COUNT):
        return None
    size = f"{np.exp(middle):.3g}" if constant else f"{np.exp(low):.3g} to {np.exp(high):.3g}"
    what = (
        f"C is {size} times 6ND: a unit, or another count of compute (a forward pass alone is 2ND, and a table"
        " of sizes without embeddings counts less). Exponents do not depend on a constant factor; the best size"
        " at a given C does"
    )
    return float(np.exp(middle)), what


def read_runs(frame: pd.DataFrame, columns: Mapping[str, str] | None = None) -> Runs:
    """Read N, D, C and the loss; of D and C one may be missing and follows from C = 6ND.

    `columns` maps N, D, C and loss (or L) to columns of `frame` or to arithmetic of columns. Raises
    AllometryError for missing columns; rows that cannot be used are listed in `excluded`, not dropped
    silently. So are copies of earlier rows: a mean of repeats needs a measurement once.
    """
    mapping = {("L" if name == "loss" else name): text for name, text in (columns or {}).items()}
    notes = []
    has = {s: s in mapping or column_for(frame, s)[0] is not None for s in ("D", "C")}
    if not has["D"] and has["C"]:
        mapping |= {name: _alias(frame, name) for name in ("N", "C") if name not in mapping}
        mapping["D"] = "C/(6*N)"
        notes.append("D was computed as C/(6N)")
    elif not has["C"]:
        mapping |= {name: _alias(frame, name) for name in ("N", "D") if name not in mapping}
        mapping["C"] = "6*N*D"
        notes.append("C was computed as 6ND")
    seen = observe(frame, _SHAPE, columns=mapping)
    copied = about_copies(seen)
    if copied:
        notes.append(f"{copied}, and left out; a column that tells runs apart (run, seed) keeps them")
    rows = np.flatnonzero(seen.kept)[~seen.copies]
    copies = frame.iloc[np.flatnonzero(seen.kept)[seen.copies]].assign(reason="a copy of an earlier row")
    excluded = pd.concat([seen.excluded, copies]) if copied else seen.excluded
    table = seen.frame[~seen.copies].rename(columns={"L": "loss"})
    run = np.arange(len(table)).astype(str)
    if "run" in frame.columns:
        problem = not_a_run(numbered(frame["run"].iloc[rows]), table["N"].to_numpy(float))
        if problem:
            notes.append(f"column 'run' {problem}: its rows are taken as runs of their own")
        else:
            run = frame["run"].to_numpy()[rows]
    sizes = snapped(table["N"].to_numpy(float))
    if len(np.unique(sizes)) < table["N"].nunique():
        notes.append(
            f"{table['N'].nunique()} values of N within 1 % of each other: {len(np.unique(sizes))} sizes"
        )
    doubts = (scale_notice(name, table[name]) for name in ("N", "D", "C"))
    notes += [doubt for doubt in doubts if doubt]
    return Runs(table=table.assign(run=run, N=sizes), excluded=excluded, notes=(*seen.notes, *notes))


def _alias(frame: pd.DataFrame, symbol: str) -> str:
    return column_for(frame, symbol)[0] or symbol


def snapped(sizes: Array) -> Array:
    """Merge sizes that lie within 1 % of their neighbour (as digitised tables have them) into one size, their
    mean.
    """
    distinct = np.unique(sizes)
    group = np.concatenate([[0], np.cumsum(np.diff(np.log(distinct)) > 0.01)])
    means = np.bincount(group, weights=distinct) / np.bincount(group)
    return np.asarray(means[group[np.searchsorted(distinct, sizes)]])
