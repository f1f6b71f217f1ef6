"""Tables in text: the separator of columns, the table's beginning and end, lines that are not runs."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError
from allometry.core.units import counted, readings
from allometry.runs.tables.columns import NAMES, guess, is_blank, plain

_MARKS = ("\t", ";", "|", ",")
_SUMMARIES = {
    "mean", "average", "avg", "total", "totals", "sum", "median", "min", "max", "minimum", "maximum", "std",
    "stdev",
    "std_dev", "sd", "stderr", "sem", "count", "n_runs", "var", "variance", "grand_total", "subtotal",
    "mittelwert", "summe",
    "moyenne", "media", "gesamt",
}  # fmt: skip
_UNIT_ROW = re.compile(
    r"[(\[]?(?:k|m|b|t|bn|millions?|billions?|trillions?|thousands?|nats.*|1e\d+|10\^\d+)[)\]]?", re.I
)
MOST_COLUMNS = 20_000
"""Columns of the widest table that is read."""

_LOOKED_AT = 60
"""Lines from which the layout is seen."""


def read_text(source: Path, whole: str, notices: list[str]) -> pd.DataFrame:
    """Return a table in text as a frame of text cells.

    Lines above the header, comments, repeated headers, lines of means or totals and a cut last line are left
    out, and said. Raises AllometryError, naming the line, where cells and header do not match.
    """
    _refuse_conflicts(source, whole)
    if whole[:4].lower() == "sep=":
        whole = whole.partition("\n")[2]
        notices.append("left out the line sep=… above the header")
    sample = [line for line in whole[:200_000].splitlines()[: 4 * _LOOKED_AT] if line.strip()]
    mark = _mark(sample)
    if sample and mark not in sample[0] and _is_blank_separated(sample):
        notices.append("read with blanks between the columns")
        split = [(i, _blank_separated(line)) for i, line in enumerate(whole.splitlines(), 1)]
        rows = [(i, cells) for i, cells in split if cells]
        return from_rows(source, rows, notices, cut=not whole.endswith(("\n", "\r")))
    if mark != "," and source.suffix.lower() == ".csv":
        notices.append(f"read with {mark!r} between the columns")
    lines: list[tuple[int, list[str]]] = []
    reader = csv.reader(io.StringIO(whole, newline=""), delimiter=mark, skipinitialspace=True)
    try:
        before = 0
        for cells in reader:
            number, before = before + 1, reader.line_num
            if any(cell.strip() for cell in cells):
                lines.append((number, [cell.strip() for cell in cells]))
    except csv.Error as error:
        raise AllometryError(
            f"{source}, line {reader.line_num}: {error}",
            hint="check the line in an editor, for a quote left open",
        ) from None
    return from_rows(source, lines, notices, cut=not whole.endswith(("\n", "\r")))


def _blank_separated(line: str) -> list[str]:
    """Return the cells of a line that has blanks between them, and perhaps quotes about them (as R writes it)."""
    cells = re.findall(r'"(?:[^"]|"")*"|\S+', line)
    return [cell[1:-1].replace('""', '"') if cell[:1] == '"' == cell[-1:] else cell for cell in cells]


def _is_blank_separated(sample: list[str]) -> bool:
    """Return whether lines are a table with blanks between its columns.

    Its rows have one width, that of the header or one more (a name of the row first), and at least two
    columns of numbers.
    """
    if len(sample) < 3:
        return False
    header, *body = (_blank_separated(line) for line in sample)
    width = len(body[0])
    if (
        len(header) < 2
        or width not in (len(header), len(header) + 1)
        or any(readings(name) for name in header)
    ):
        return False
    whole = body[:-1] if len(body) > 2 else body  # the last line may be cut
    if any(len(cells) != width for cells in whole):
        return False
    return sum(all(readings(cells[i]) or is_blank(cells[i]) for cells in whole) for i in range(width)) >= 2


def from_rows(
    source: Path, lines: list[tuple[int, list[str]]], notices: list[str], cut: bool = False
) -> pd.DataFrame:
    """Return rows of text cells, each with its line number, as a frame; see `read_text`."""
    if not lines:
        raise AllometryError(f"{source} holds no cells", hint="export the table again")
    lines = _upright(lines, notices)
    start = _header(lines, notices)
    header, body = lines[start][1], lines[start + 1 :]
    if _is_data(header):
        body = lines[start:]
        width = max(len(cells) for _, cells in body)
        header = [f"column{i + 1}" for i in range(width)]
        shown = ", ".join(header) if width <= 8 else f"column1 … column{width}"
        notices.append(f"the first line holds numbers, so the columns were called {shown}")
    if len(header) > MOST_COLUMNS:
        raise AllometryError(
            f"{source} has {len(header):,} columns; at most {MOST_COLUMNS:,} are read",
            hint="check what separates its columns, or turn it so that runs are rows",
        )
    header = [" ".join(name.split()) for name in (header[0].lstrip("#").strip(), *header[1:])]
    body = [line for line in body if not line[1][0].startswith("#")]
    header, body = _headed_twice(header, body, notices)
    header, body = _fitted(source, header, body, notices, cut)
    body = _without_headers(source, header, body, notices)
    header, body = _unit_row(header, body, notices)
    body = _without_summaries(header, body, notices)
    frame = pd.DataFrame([cells for _, cells in body], columns=range(len(header)), dtype=object)
    return _labelled(frame, header, notices)


_MOST_HEADERS = 4


def _headed_twice(
    header: list[str], body: list[tuple[int, list[str]]], notices: list[str]
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return one header for a table with several (pandas writes a line for each level), joined by slashes.

    A further line of names has words, at least two different ones, over columns of numbers, and no number.
    """
    numbers = [
        i
        for i in range(len(header))
        for cells in [[row[i] for _, row in body[_MOST_HEADERS:] if i < len(row) and not is_blank(row[i])]]
        if cells and 2 * sum(bool(readings(cell)) for cell in cells) > len(cells)
    ]
    found = 0
    for _, cells in body[:_MOST_HEADERS]:
        words = {cells[i] for i in numbers if i < len(cells) and not is_blank(cells[i])}
        units = all(is_blank(cell) or _UNIT_ROW.fullmatch(cell) for cell in cells)
        again = cells == header or sum(cell in header for cell in cells if cell) > len(words) / 2
        if len(words) < 2 or units or again or any(readings(cell) for cell in cells):
            break
        found += 1
    if not found or len(numbers) < 2:
        return header, body
    levels = [header, *(cells + [""] * (len(header) - len(cells)) for _, cells in body[:found])]
    joined = ["/".join(level[i] for level in levels if level[i]) for i in range(len(header))]
    last = [next((level[i] for level in reversed(levels) if level[i]), "") for i in range(len(header))]
    chosen = last if len(set(last)) == len(last) and _understood(last) > _understood(joined) else joined
    how = "which were joined" if chosen is joined else "of which the last was taken"
    notices.append(f"the header has {found + 1} lines, {how}: {', '.join(chosen[:6])}")
    return chosen, body[found:]


def _understood(header: list[str]) -> int:
    """Return how many of parameters, tokens, compute and loss a header names."""
    return len({*guess(header), *header} & set(_QUANTITIES))


def _upright(lines: list[tuple[int, list[str]]], notices: list[str]) -> list[tuple[int, list[str]]]:
    """Return a table whose rows are quantities turned, so that its rows are runs; any other as it is.

    Its first cells are at least two names of different quantities; what follows them in their rows is numbers.
    """
    names = [cells[0] for _, cells in lines]
    width = max(len(cells) for _, cells in lines)
    known = dict(guess(names).items()) | {n: [n] for n in names if n in NAMES}
    symbols = {symbol for symbol in (*known, *(["loss"] if "loss" in names else [])) if symbol in _QUANTITIES}
    first = lines[0][1]
    if len(symbols) < 2 or len(lines) > 200 or width < 4 or any(plain(cell) in names for cell in first[1:]):
        return lines
    if guess([*first[1:], ""]) or not all(
        readings(cell) or is_blank(cell)
        for name in {name for symbol in symbols for name in known.get(symbol, [symbol])}
        for cell in lines[names.index(name)][1][1:]
    ):
        return lines
    if not names[0] or readings(names[0]) or not (guess([names[0]]) or names[0] in (*NAMES, "loss")):
        lines = lines[1:]  # the runs' numbers, as pandas writes them above a turned table
    notices.append("the table's rows are quantities and its columns are runs: it was turned")
    filled = [cells + [""] * (width - len(cells)) for _, cells in lines]
    return [(i, list(cells)) for i, cells in enumerate(zip(*filled, strict=True), 1)]


_QUANTITIES = ("N", "D", "C", "loss")


def _refuse_conflicts(source: Path, whole: str) -> None:
    found = re.search(r"^(?:<{7} |>{7} )", whole, re.MULTILINE)
    if found:
        line = whole.count("\n", 0, found.start()) + 1
        raise AllometryError(
            f"{source}, line {line}: a merge conflict of git", hint="resolve it in an editor"
        )


def _mark(sample: list[str]) -> str:
    """Return the separator of columns: the mark with which most lines have the same number of cells, more than 1,
    and of two such marks the one with which the first line has it too: labels in the rows may hold the other.
    """
    best, chosen = (0.0, False, 0), ","
    for mark in _MARKS:
        try:
            widths = [len(cells) for cells in csv.reader(sample, delimiter=mark, skipinitialspace=True)]
        except csv.Error:
            continue
        counts = Counter(widths)
        width, lines = max(
            ((w, n) for w, n in counts.items() if w > 1), key=lambda wn: wn[::-1], default=(1, 0)
        )
        score = (round(lines / max(len(widths), 1), 1), widths[:1] == [width], -_MARKS.index(mark))
        if width > 1 and score > best:
            best, chosen = score, mark
    return chosen


def _header(lines: list[tuple[int, list[str]]], notices: list[str]) -> int:
    """Return the line of the column names: the first that is as full as the others, comments aside."""
    looked = lines[:_LOOKED_AT]
    filled = [sum(cell != "" for cell in cells) for _, cells in looked]
    usual = Counter(filled[-max(1, 2 * len(filled) // 3) :]).most_common(1)[0][0]
    start = 0
    for i, (_, cells) in enumerate(looked):
        comment = cells[0].startswith("#")
        last_comment = comment and i + 1 < len(looked) and _is_data(looked[i + 1][1])
        if (not comment or last_comment) and filled[i] >= max(2, 0.5 * usual):
            start = i
            break
    words = (
        i
        for i, (_, cells) in enumerate(looked)
        if filled[i] >= usual and not any(readings(cell) for cell in cells) and not cells[0].startswith("#")
    )
    full = next(words, start)
    if full > start and not any(_is_row(cells, usual) for _, cells in looked[start:full]):
        start = full  # what stands above, of fewer cells, is a title
    if start:
        notices.append(
            f"left out {start} line{'s' if start > 1 else ''} above the header, such as {_shown(lines[0][1])}"
        )
    return start


def _is_row(cells: list[str], usual: int) -> bool:
    """Return whether a line may be a row of a table with `usual` filled cells: about as full, with numbers."""
    return sum(cell != "" for cell in cells) >= usual - 1 and any(readings(cell) for cell in cells)


def _shown(cells: list[str]) -> str:
    text = ",".join(cell for cell in cells if cell)
    return repr(text if len(text) <= 50 else f"{text[:50]}…")


def _is_data(cells: list[str]) -> bool:
    """Return whether a line is data: every cell is a number."""
    return bool(cells) and all(readings(cell.strip("\"'")) for cell in cells if cell) and any(cells)


def _fitted(
    source: Path, header: list[str], body: list[tuple[int, list[str]]], notices: list[str], cut: bool
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return header and rows of one width; refuse a row that is wider than the header."""
    while (
        len(header) > 1
        and not header[-1]
        and all(len(c) < len(header) or not c[len(header) - 1] for _, c in body)
    ):
        header = header[:-1]
    rows = []
    for number, cells in body:
        while len(cells) > len(header) and not cells[-1]:
            cells = cells[:-1]
        rows.append((number, cells))
    if rows and all(len(cells) == len(header) + 1 for _, cells in rows):
        notices.append("the rows have one cell more than the header: the first was taken for the rows' names")
        header = ["row", *header]
    wide = [(number, cells) for number, cells in rows if len(cells) > len(header)]
    if wide:
        number, cells = wide[0]
        more = f" (and {len(wide) - 1} more lines)" if len(wide) > 1 else ""
        raise AllometryError(
            f"{source}, line {number}: {counted(len(cells), 'cell')} where the header has {len(header)}{more}: "
            f"{_shown(cells)}",
            hint='put text with commas between double quotes ("a, b"), or remove the line',
        )
    if cut and len(rows) > 1 and len(rows[-1][1]) < len(header) == len(rows[-2][1]):
        number, cells = rows.pop()
        notices.append(f"the last line ({number}) is cut, {_shown(cells)}: it was left out")
    return header, [(number, cells + [""] * (len(header) - len(cells))) for number, cells in rows]


def _without_headers(
    source: Path, header: list[str], body: list[tuple[int, list[str]]], notices: list[str]
) -> list[tuple[int, list[str]]]:
    """Return the rows that do not repeat the header; refuse another header among them."""
    again = [number for number, cells in body if cells == header]
    if again:
        notices.append(f"the header is repeated in {_lines(again)}: left out")
        body = [line for line in body if line[1] != header]
    names = {name for name in header if name and not readings(name)}
    for number, cells in body:
        filled = [cell for cell in cells if cell]
        if len(filled) >= 2 and len(names) >= 2 and sum(cell in names for cell in filled) > len(filled) / 2:
            raise AllometryError(
                f"{source}, line {number} is another header ({_shown(cells)}): the columns change there",
                hint="split the file there, and name both files",
            )
    return body


def _lines(numbers: list[int]) -> str:
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return f"line{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers[:5]))}{more}"


def _unit_row(
    header: list[str], body: list[tuple[int, list[str]]], notices: list[str]
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header with the units of a row of units below it, which is no run."""
    if len(body) < 2 or any(readings(cell) for cell in body[0][1]):
        return header, body
    units = body[0][1]
    found = [bool(_UNIT_ROW.fullmatch(cell)) for cell in units]
    if not any(found) or not all(ok or is_blank(cell) or not readings(body[1][1][i])
                                 for i, (ok, cell) in enumerate(zip(found, units, strict=True))):  # fmt: skip
        return header, body
    notices.append(f"line {body[0][0]} holds units ({_shown(units)}), and was joined to the header")
    named = [f"{h} ({u.strip('()[]')})" if ok else h for h, u, ok in zip(header, units, found, strict=True)]
    return named, body[1:]


def _without_summaries(
    header: list[str], body: list[tuple[int, list[str]]], notices: list[str]
) -> list[tuple[int, list[str]]]:
    """Return the rows without lines of means, totals, … at the end: by their label, or by their numbers."""
    while len(body) >= 3:
        number, cells = body[-1]
        label = next((cell for cell in cells if cell and not readings(cell)), "")
        word = plain(label)
        others = {plain(other[1][cells.index(label)]) for other in body[:-1]} if label else set()
        by_word = word in _SUMMARIES and not others <= _SUMMARIES
        statistic = _statistic(cells, [row for _, row in body[:-1]])
        if not by_word and not (statistic and not label):
            break
        notices.append(f"line {number} ({label or statistic}) sums up the others and is no run: left out")
        body = body[:-1]
    return body


def _statistic(cells: list[str], rows: list[list[str]]) -> str | None:
    """Return which statistic of the rows above a row holds in all its cells, at least two; None if none."""
    matches: set[str] | None = None
    count = 0
    for i, cell in enumerate(cells):
        value = readings(cell).get(".")
        if value is None:
            continue
        above = np.array([v for v in (readings(row[i]).get(".") for row in rows[-5000:]) if v is not None])
        if len(above) < 3 or len(set(above)) == 1:
            continue
        table = {"mean": above.mean(), "total": above.sum(), "median": float(np.median(above))}
        here = {name for name, number in table.items() if np.isclose(value, number, rtol=1e-4, atol=0)}
        matches = here if matches is None else matches & here
        count += 1
    return next(iter(sorted(matches))) if matches and count >= 2 else None


def _labelled(frame: pd.DataFrame, header: list[str], notices: list[str]) -> pd.DataFrame:
    """Return the frame with distinct column names: equal columns once, other namesakes by their number."""
    names = [name or f"column{i + 1}" for i, name in enumerate(header)]
    keep, final = [], []
    for i, name in enumerate(names):
        same = [j for j in range(len(names)) if names[j] == name] if names.count(name) > 1 else [i]
        twin = next((j for j in same if j < i and frame[j].equals(frame[i])), None)
        if twin is not None:
            continue
        rivals = [j for j in same if not frame[j].equals(frame[i])]
        keep.append(i)
        final.append(f"{name} (column {i + 1})" if rivals else name)
    doubled = [name for name, count in Counter(names).items() if count > 1]
    if doubled:
        new = [name for name in final if re.search(r" \(column \d+\)$", name)]
        said = f"several columns are called {', '.join(map(repr, doubled[:4]))}"
        notices.append(
            f"{said}: equal ones count once"
            + (f", the others are now {', '.join(map(repr, new[:6]))}" if new else "")
        )
    out = frame[keep]
    out.columns = final
    return out
