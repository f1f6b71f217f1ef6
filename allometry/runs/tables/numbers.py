"""Columns of text as numbers: the decimal mark and the thousands separator are decided once a column, from
all
its cells and, where those leave it open, from the other columns.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from allometry.core.units import Decimal, readings

BLANK = {
    "", "nan", "na", "n/a", "none", "null", "nil", "-", "--", "—", "–", "?", ".", "#n/a", "#na", "#value!",
    "#div/0!",
    "#ref!", "#name?", "#num!", "<na>", "nat",
}  # fmt: skip
"""Cells that mean a missing value, in lower case."""

_INFINITE = {"inf": np.inf, "+inf": np.inf, "infinity": np.inf, "+infinity": np.inf, "∞": np.inf,
             "-inf": -np.inf, "-infinity": -np.inf}  # fmt: skip


def is_blank(cell: Any) -> bool:
    """Return whether a cell holds no value."""
    if isinstance(cell, str):
        return cell.strip().strip("\"'").strip().lower() in BLANK
    return cell is None or cell is pd.NA or cell is pd.NaT or (isinstance(cell, float) and np.isnan(cell))


def is_text(column: pd.Series) -> bool:
    """Return whether a column holds anything but numbers and truth values."""
    return not pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_datetime64_any_dtype(column)


@dataclass(frozen=True, kw_only=True)
class Ambiguous:
    """A column whose cells are numbers with either decimal mark: an example, and both its values."""

    example: str
    point: float
    comma: float

    def __str__(self) -> str:
        return f"{self.example!r} may be {self.point:.10g} or {self.comma:.10g}"


@dataclass(kw_only=True)
class TextColumn:
    """The possible values of a column's cells.

    `cells` maps each distinct text to its readings (see `units.readings`), blank ones left out; `values`
    gives the number of a cell that is one already. `numbers` says whether most of the cells are numbers.
    """

    cells: dict[str, dict[Decimal, float]]
    numbers: bool
    firm: set[Decimal] = field(default_factory=set)
    weak: set[Decimal] = field(default_factory=set)

    @property
    def own(self) -> Decimal | None:
        """The decimal mark that the column's cells settle by themselves, if any."""
        return next(iter(self.firm)) if len(self.firm) == 1 else None

    @property
    def mixed(self) -> bool:
        """Whether some cells are numbers only with a point and others only with a comma."""
        return len(self.firm) > 1


def examine(column: pd.Series) -> TextColumn:
    """Return the possible values of a column of text."""
    cells: dict[str, dict[Decimal, float]] = {}
    good = total = 0
    for cell, count in _counted(column):
        text = cell.strip().strip("\"'").strip()
        if text.lower() in BLANK:
            continue
        infinite = _INFINITE.get(text.lower())
        found: dict[Decimal, float] = (
            {".": infinite, ",": infinite} if infinite is not None else readings(text)
        )
        cells[cell] = found
        total += count
        good += count if found else 0
    result = TextColumn(cells=cells, numbers=2 * good > total)
    for text, found in cells.items():
        if len(found) == 1:
            result.firm |= set(found)
        elif found and found["."] != found[","]:
            result.weak.add("," if "," in text else ".")
    return result


def _counted(column: pd.Series) -> Iterable[tuple[str, int]]:
    return Counter(cell for cell in column if isinstance(cell, str)).items()


def file_mark(columns: Iterable[TextColumn]) -> Decimal | None:
    """Return the decimal mark that all columns of numbers which settle one agree on; None otherwise."""
    marks = {mark for column in columns if column.numbers and not column.mixed for mark in column.firm}
    return next(iter(marks)) if len(marks) == 1 else None


def decide(column: TextColumn, whole: Decimal | None, wanted: Decimal | None) -> Decimal | Ambiguous:
    """Return the decimal mark of a column: the user's (`wanted`), its own, or that of the file (`whole`).

    `Ambiguous` where nothing settles it: each number with a comma then has two values.
    """
    mark = wanted or column.own or whole
    if mark is not None:
        return mark
    if "," not in column.weak:
        return "."
    text, found = next((t, f) for t, f in column.cells.items() if "," in t and len(f) == 2)
    return Ambiguous(example=text.strip(), point=found["."], comma=found[","])


_UNIT, _BARE = 1e5, 1e4


def partly_in_units(cells: TextColumn) -> tuple[str, str] | None:
    """Return a cell with a unit and one that seems to lack it ("10M" and "158"), if a column of counts has
    both.

    A count below 10,000 beside counts in thousands or millions is hardly a count.
    """
    values = {text: next(iter(found.values())) for text, found in cells.cells.items() if found}
    named = {t for t in values if re.search(r"[A-Za-z]", re.sub(r"[eE][+-]?\d|inf\w*", "", t))}
    large = next((t for t in values if t in named and np.isfinite(values[t]) and values[t] >= _UNIT), None)
    small = next((t for t in values if t not in named and 0 < values[t] < _BARE), None)
    return None if large is None or small is None else (large.strip(), small.strip())


def convert(column: pd.Series, cells: TextColumn, mark: Decimal) -> tuple[NDArray[np.float64], list[int]]:
    """Return a column's values, nan where they are missing or no numbers, and the positions of the latter."""
    known = {text: found.get(mark) for text, found in cells.cells.items()}
    values, bad = np.full(len(column), np.nan), []
    for i, cell in enumerate(column):
        if isinstance(cell, str):
            if cell in known:
                value = known[cell]
                if value is None:
                    bad.append(i)
                else:
                    values[i] = value
        elif not is_blank(cell):
            try:
                values[i] = float(cell)
            except (TypeError, ValueError, OverflowError):
                bad.append(i)
    return values, bad
