"""Read a table of runs: from a file in any usual form, several files, a folder of logs, or a run store.

Columns keep their names; those that are recognised are added under the names the laws use, and every guess
is said.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError, require
from allometry.core.files import read_json, write_json
from allometry.core.units import Decimal, counted, readings
from allometry.runs.store import Store
from allometry.runs.tables import files, text
from allometry.runs.tables.columns import (
    COUNTS,
    NAMES,
    STEPS,
    Ambiguous,
    TextColumn,
    convert,
    decide,
    examine,
    file_mark,
    guess,
    is_blank,
    is_text,
    is_training_loss,
    partly_in_units,
    plain,
    read_heading,
    run_column,
    scale_notice,
    scaled,
)
from allometry.runs.tables.records import read_json_lines, read_json_table, spread
from allometry.runs.tables.trackers import (
    event_files,
    from_chart,
    from_events,
    is_tensorboard,
    read_log,
    tensorboard_run,
    wide_notice,
)
from allometry.sources import catalogue
from allometry.sources.source import PREFIX

Rows = Literal["last", "best", "all"]
"""Which rows of a training run's curve are kept."""

_TABLES = (".csv", ".tsv", ".parquet", ".pq", ".jsonl", ".ndjson", ".xlsx")
_PACKINGS = (".gz", ".bz2", ".xz", ".zst")
_PROSE = (".log", ".txt", ".out")
_MOST_FILES = 10_000
_MOST_CELLS = 100_000_000
_IDS = {"run", "id", "name", "uuid", "hash", "commit", "sha", "git_sha"}
_LOSSES = ("loss", "L")


@dataclass(frozen=True, kw_only=True, eq=False)
class Imported:
    """A table of runs (rows numbered from 0), what was guessed or changed in reading it, and which column
    each
    symbol was taken from."""

    frame: pd.DataFrame
    notices: tuple[str, ...]
    columns: dict[str, str]


def read_table(
    path: Path | str | Sequence[Path | str],
    *,
    columns: Mapping[str, str] | None = None,
    decimal: Decimal | None = None,
    encoding: str | None = None,
    row: Rows | None = None,
) -> Imported:
    """Read a table of runs from a file, or from several as one table.

    Parameters
    ----------
    path
        CSV in any dialect, Parquet, Excel, JSON, JSON lines, an export or log of a tracker, or a run store; or
        several of them, patterns such as logs/*.csv, or a folder. "atlas:ID" is a public table (`allometry.atlas`).
    columns
        Symbols (N, D, C, loss, …) -> column names. What it does not name is looked for in a saved mapping
        beside the file (see `save_mapping`), then guessed from common names.
    decimal
        The mark before decimals, needed only where the file does not settle it.
    encoding
        That of text which is not Unicode.
    row
        Of runs with many rows, keep the "last", the "best" (lowest loss) or "all" (default: the last where every
        file is the curve of one run, else all).

    Returns
    -------
    Imported
        The table (`frame`), what was guessed or changed in reading it (`notices`), and which column each symbol
        was taken from. Cells such as "1.2B" are numbers there, and columns such as "Params (M)" in ones.

    Raises
    ------
    AllometryError
        For a missing, empty or unreadable file, for a table of one column, and for numbers that can be read in
        two ways.

    Examples
    --------
    >>> import allometry
    >>> table = allometry.read_table("examples/runs.csv")
    >>> table.frame[["N", "D", "loss"]].shape
    (72, 3)
    """
    paths = [path] if isinstance(path, str | Path) else list(path)
    if any(str(each).startswith(PREFIX) for each in paths):
        return _public(paths, {_name(k): v for k, v in (columns or {}).items()}, row)
    sources = _sources(paths)
    notices: list[str] = []
    saved = _saved(sources[0]) if len(sources) == 1 else {}
    chosen = {_name(k): v for k, v in (columns or {}).items()}
    parts, written, curves = [], set(), True
    for source in sources:
        said: list[str] = []
        wanted = {**saved, **chosen}
        frame, units = _one(source, wanted, decimal, encoding, said)
        curves = curves and _is_curve(frame)
        written |= units
        parts.append(frame)
        notices += said if len(sources) == 1 else [f"{source.name}: {notice}" for notice in said]
    if len(sources) > 1:
        notices = _shortened(notices)
        frame = _joined(sources, parts, notices)
    chosen = {**{k: v for k, v in saved.items() if v in frame}, **chosen}
    found = _named(frame, chosen, written, notices)
    keep = row or ("last" if curves and len(sources) > 1 else "all")
    if keep != "all":
        return _one_row_a_run(found, keep, asked=row is not None)
    return found


def _public(paths: Sequence[Path | str], chosen: dict[str, str], row: Rows | None) -> Imported:
    """Read a public table of runs, named as atlas:ID or atlas:ID/PART."""
    if len(paths) > 1:
        raise AllometryError("a table of the atlas is read alone", hint="name one table")
    frame, said = catalogue.table(str(paths[0]))
    notices = [said]
    found = _named(frame, chosen, set(), notices)
    return found if row in (None, "all") else _one_row_a_run(found, row, asked=True)


def save_mapping(path: Path | str, columns: Mapping[str, str]) -> Path:
    """Record which column is which symbol, in TABLE.columns.json beside the table; `read_table` then uses it."""
    target = _mapping_file(Path(path))
    write_json(target, dict(columns))
    return target


def _mapping_file(source: Path) -> Path:
    return source.with_name(source.name + ".columns.json")


def _saved(source: Path) -> dict[str, str]:
    stored = read_json(_mapping_file(source)) if source.name else None
    return {_name(k): v for k, v in stored.items() if isinstance(v, str)} if isinstance(stored, dict) else {}


def _name(symbol: str) -> str:
    return "loss" if symbol == "L" else symbol


def _sources(paths: Sequence[Path | str]) -> list[Path]:
    """Return the files, stores and folders of event files that paths, patterns and folders stand for."""
    found: list[Path] = []
    for path in paths:
        source = Path(path)
        if source.is_dir():
            found += _in_folder(source)
        elif source.exists():
            if not source.is_file():
                raise AllometryError(f"{source} is not a file", hint="name a table, or a folder of logs")
            found.append(source)
        else:
            matches = sorted(glob.glob(str(path), recursive=True)) if re.search(r"[*?\[]", str(path)) else []
            found += [Path(match) for match in matches if Path(match).is_file() and not _aside(Path(match))]
            if not matches:
                raise AllometryError(f"there is no table at {path}", hint=_nearby(source, str(path)))
    found = list(dict.fromkeys(found))
    if not found:
        raise AllometryError("no table is named", hint="name a .csv, .parquet, .json or .jsonl file")
    if len(found) > _MOST_FILES:
        raise AllometryError(f"{len(found):,} files are too many for one table", hint="name fewer")
    return found


def _aside(path: Path) -> bool:
    return path.name.startswith(".") or path.name.endswith(".columns.json")


def _nearby(source: Path, asked: str) -> str:
    if "://" in asked:
        return "download it first, and name the file"
    folder = source.parent
    names = (
        sorted(p.name for p in folder.iterdir() if _ending(p) in (*_TABLES, ".json"))
        if folder.is_dir()
        else []
    )
    names = [name for name in names if not _aside(Path(name))]
    return (
        f"tables in {folder}: {', '.join(names[:8])}"
        if names
        else "name a .csv, .parquet, .json or .jsonl file"
    )


def _ending(path: Path) -> str:
    """Return the ending of a file's name, without that of a compression."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in _PACKINGS else suffix


def _in_folder(folder: Path) -> list[Path]:
    """Return the folder itself if it is a store or holds event files; else the tables or logs in it."""
    if (folder / "store.json").exists() or next(folder.glob("*/config.json"), None) or event_files(folder):
        return [folder]
    inside = sorted(path for path in folder.rglob("*") if path.is_file() and not _aside(path))
    states = [path for path in inside if path.name == "trainer_state.json"]
    for candidates in (
        [path for path in inside if _ending(path) in _TABLES],
        _last_checkpoints(states),
        [path for path in inside if _ending(path) == ".json"],
        [path for path in inside if _ending(path) in _PROSE],
    ):
        if candidates:
            return candidates
    raise AllometryError(
        f"{folder} is not a run store, and holds no tables or logs",
        hint=f"name a folder with {', '.join(_TABLES[:6])}, .json or .log files",
    )


def _last_checkpoints(states: list[Path]) -> list[Path]:
    """Return of each trainer's folder the history in its last checkpoint, which contains the earlier ones."""
    last: dict[Path, tuple[int, Path]] = {}
    for path in states:
        match = re.fullmatch(r"checkpoint-(\d{1,15})", path.parent.name)
        home, number = (path.parent.parent, int(match[1])) if match else (path.parent, 10**18)
        if home not in last or number > last[home][0]:
            last[home] = (number, path)
    return [path for _, path in last.values()]


def _one(
    source: Path, chosen: Mapping[str, str], decimal: Decimal | None, encoding: str | None, notices: list[str]
) -> tuple[pd.DataFrame, set[str]]:
    """Return one file's table with numbers as numbers, and the columns whose cells had units of their own."""
    frame = _read(source, encoding, notices)
    if not len(frame):
        raise AllometryError(
            f"{source} has columns but no rows", hint="export the runs as well as the header"
        )
    if frame.shape[1] < 2:
        only = f" {str(frame.columns[0])[:80]!r}" if frame.shape[1] else " without a name"
        raise AllometryError(
            f"{source} has a single column,{only}",
            hint="if its columns are separated by something else than , ; tab or |, save it with commas",
        )
    frame = spread(frame.reset_index(drop=True), notices)
    frame = from_chart(frame, notices)
    if is_tensorboard(frame):
        frame = tensorboard_run(frame, source, notices)
    return _typed(source, frame, chosen, decimal, notices)


def _read(source: Path, encoding: str | None, notices: list[str]) -> pd.DataFrame:
    if source.is_dir():
        if event_files(source):
            return from_events(source, notices)

        return Store(source).frame()
    if event_files(source):
        return from_events(source, notices)
    kind, ending = files.kind(source), _ending(source)
    if kind == "xlsx":
        rows = files.workbook(source, notices)
        filled = [(i, [cell.strip() for cell in cells]) for i, cells in enumerate(rows, 1)]
        return text.from_rows(source, [line for line in filled if any(line[1])], notices)
    if kind == "parquet":
        return _parquet(source)
    if ending in (".xlsx", ".xls", ".parquet", ".pq"):
        name = "Parquet file" if ending.startswith(".p") else "Excel workbook"
        raise AllometryError(
            f"{source} is called {ending}, but is no {name}", hint="export it again, or save it as CSV"
        )
    whole = files.text(source, encoding, notices)
    start = whole.lstrip()[:1] if not re.match(r"\s*\{\s*'", whole) else "a dictionary of Python"
    if ending in (".jsonl", ".ndjson"):
        return read_json_lines(source, whole, notices)
    if ending == ".json" or start == "{" or (start == "[" and whole.lstrip()[1:].lstrip()[:1] in ("{", "]")):
        return read_json_table(source, whole, notices)
    files.check_lines(source, whole)
    if ending not in (".csv", ".tsv"):
        log = read_log(whole, notices)
        if log is not None:
            return log
    return text.read_text(source, whole, notices)


def _parquet(source: Path) -> pd.DataFrame:
    require("pyarrow", purpose=f"{source}, a Parquet file,")
    import pyarrow.parquet

    try:
        size = pyarrow.parquet.ParquetFile(source).metadata
        if size.num_rows * size.num_columns > _MOST_CELLS:
            raise AllometryError(
                f"{source} has {size.num_rows:,} rows of {size.num_columns:,} columns, too many for a "
                f"table of runs",
                hint="keep the rows and columns that are needed",
            )
        frame = pd.read_parquet(source)
    except (
        ValueError,
        OSError,
        KeyError,
        NotImplementedError,
        MemoryError,
    ) as error:  # pyarrow's derive from these
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise AllometryError(f"cannot read {source}: {first[:200]}", hint="write the file again") from None
    if not isinstance(frame.index, pd.RangeIndex):
        frame = frame.reset_index()
    frame.columns = [str(name) for name in frame.columns]
    return frame


def _typed(
    source: Path, frame: pd.DataFrame, chosen: Mapping[str, str], decimal: Decimal | None, notices: list[str]
) -> tuple[pd.DataFrame, set[str]]:
    """Return the table with columns of text that are numbers as numbers; other text stays, blanks as None.

    Raises AllometryError for a column that stands for a symbol and can be read in two ways.
    """
    matches = guess(frame.columns, chosen)
    wanted = {name for names in matches.values() for name in names} | {*NAMES, *_LOSSES}
    wanted |= {name for name in map(str, frame.columns) if any(name in said for said in chosen.values())}
    looked: dict[str, TextColumn] = {}
    for name in frame.columns:
        column = frame[name]
        if (
            is_text(column)
            and not column.map(lambda v: isinstance(v, list | dict | tuple | np.ndarray)).any()
        ):
            looked[name] = examine(column)
    whole = file_mark([cells for name, cells in looked.items() if not _is_id(name)])
    data: dict[str, Any] = {name: frame[name] for name in frame.columns}
    changed: dict[str, list[str]] = {"units": [], "commas": [], "open": []}
    written: set[str] = set()
    counted = {*COUNTS, *(name for symbol in COUNTS for name in matches.get(symbol, ()))}
    counted |= {chosen[symbol] for symbol in COUNTS if symbol in chosen}
    for name, cells in looked.items():
        if name in counted:
            _refuse_partial_units(source, name, cells)
        values = _as_numbers(
            source, name, frame[name], cells, whole, decimal, name in wanted, notices, changed
        )
        if values is None:
            data[name] = _as_text(frame[name])
            continue
        data[name] = values
        if any(re.search(r"[A-Za-z]", re.sub(r"[eE][+-]?\d|inf\w*", "", cell)) for cell in cells.cells):
            written.add(str(name))
    _say(looked, changed, notices)
    return pd.DataFrame(data), written


def _refuse_partial_units(source: Path, name: str, cells: TextColumn) -> None:
    """Raise AllometryError for a column of counts of which some cells have units and others lack theirs."""
    found = partly_in_units(cells)
    if found is not None:
        raise AllometryError(
            f"{source}: the column {name!r} has numbers with a unit and without: {found[0]!r}, {found[1]!r}",
            hint="write the unit in every cell (10M, 1.2B), or every number in full (10000000)",
        )


def _is_id(name: object) -> bool:
    key = plain(name)
    return key in _IDS or key.endswith(("_id", "_name"))


def _as_numbers(
    source: Path, name: str, column: pd.Series, cells: TextColumn, whole: Decimal | None,
    decimal: Decimal | None,
    wanted: bool, notices: list[str], changed: dict[str, list[str]],
) -> Any:  # fmt: skip
    """Return a text column's values as numbers, or None if it stays text."""
    if not cells.cells:
        return np.full(len(column), np.nan) if not _is_id(name) else None
    if not cells.numbers or _is_id(name):
        return None
    if cells.mixed and decimal is None:
        if not wanted:
            return None
        shown = [next(t for t, f in cells.cells.items() if set(f) == {mark}) for mark in (".", ",")]
        raise AllometryError(
            f"{source}: the column {name!r} has numbers with decimal points and with decimal commas: "
            f"{shown[0].strip()!r}, {shown[1].strip()!r}",
            hint="write them all in one way",
        )
    mark = decide(cells, whole, decimal)
    if isinstance(mark, Ambiguous):
        if not wanted:
            changed["open"].append(name)
            return None
        raise AllometryError(
            f"{source}: numbers in the column {name!r} can be read in two ways: {mark}",
            hint="read_table(path, decimal='.') for the first, decimal=',' for the second",
            cli_hint=f"--decimal . reads it as {mark.point:.10g}, --decimal , as {mark.comma:.10g}",
        )
    values, bad = convert(column, cells, mark)
    if bad:
        if not wanted:
            return None
        shown, more = column.iloc[bad[0]], f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        notices.append(
            f"column {name!r}: row {bad[0]}{more} holds no number ({str(shown)[:40]!r}): read as missing"
        )
    if mark == "," and ("," in cells.firm or "," in cells.weak or "." in cells.weak):
        changed["commas"].append(name)
    elif not all(_is_plain(cell) for cell, found in cells.cells.items() if mark in found):
        changed["units"].append(name)
    if all(re.fullmatch(r"\s*[+-]?\d{1,15}\s*", cell) for cell in cells.cells) and not np.isnan(values).any():
        return values.astype(np.int64)
    return values


def _is_plain(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _as_text(column: pd.Series) -> pd.Series:
    """Return a column of text without quotes and blanks around it; truth values as such, nothing as None."""
    cells = [cell.strip().strip("\"'").strip() if isinstance(cell, str) else cell for cell in column]
    truths = {"true": True, "false": False}
    if cells and all(isinstance(cell, str) and cell.lower() in truths for cell in cells):
        return pd.Series([truths[cell.lower()] for cell in cells], index=column.index)
    return pd.Series([None if is_blank(cell) else cell for cell in cells], index=column.index, dtype=object)


def _say(looked: Mapping[str, TextColumn], changed: Mapping[str, list[str]], notices: list[str]) -> None:
    for what, said in (
        ("units", "text such as {} was read as numbers in {}"),
        ("commas", "decimal commas ({}) were read as points in {}"),
        ("open", "numbers such as {} can be read in two ways and stayed text in {}"),
    ):
        names = changed[what]
        if names:
            cells = [cell for name in names for cell in looked[name].cells]
            marked = [c for c in cells if ("," in c if what != "units" else not _is_plain(c) and readings(c))]
            notices.append(said.format(repr((marked or cells)[0].strip()), _listing(names)))


def _listing(names: Sequence[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    shown = ", ".join(repr(str(name)[:60]) for name in names[:4])
    return f"the column{'s' if len(names) > 1 else ''} {shown}{more}"


def _named(frame: pd.DataFrame, chosen: Mapping[str, str], written: set[str], notices: list[str]) -> Imported:
    """Add the columns that laws look for, each from the column it was found in, in ones."""
    out, taken = frame.copy(), dict(chosen)
    for symbol, found in guess(frame.columns, chosen).items():
        names = [name for name in found if _has_numbers(frame[name])]
        if not names:
            continue
        taken[symbol] = names[0]
        others = [name for name in names[1:] if not _same(frame[name], frame[names[0]])]
        if names[0] == symbol and not others:
            continue
        said = f"{symbol} is read from the column {names[0]!r}"
        if symbol == "loss" and is_training_loss(names[0]):
            said += ", a training loss: the table has no loss on other text"
        elif others:
            said += f" (not {', '.join(map(repr, others[:4]))})"
        notices.append(said)
    if "run" not in taken:
        run, doubt = run_column(frame)
        if run is not None and run != "run":
            taken["run"] = run
            notices.append(f"run is read from the column {run!r}")
        elif doubt is not None:
            notices.append(doubt)
    for symbol, name in taken.items():
        if name in frame.columns:
            values = frame[name]
            if symbol != "run" and pd.api.types.is_numeric_dtype(values):
                values, said_of_scale = scaled(name, values, name in written)
                if said_of_scale:
                    notices.append(said_of_scale)
            out[symbol] = values
    for symbol in ("N", "D", "C"):
        if symbol in out and pd.api.types.is_numeric_dtype(out[symbol]):
            doubt = scale_notice(symbol, out[symbol].to_numpy(dtype=float, na_value=np.nan))
            if doubt:
                notices.append(doubt)
    out.attrs["symbols"] = tuple(symbol for symbol, name in taken.items() if name in frame.columns)
    if "N" not in out or "loss" not in out:
        wide = wide_notice(frame)
        if wide:
            notices.append(wide)
    return Imported(frame=out, notices=tuple(notices), columns=taken)


def _has_numbers(column: pd.Series) -> bool:
    """Return whether any cell of a column is a number: `c` may be a corpus, and `size` a word."""
    if not is_text(column):
        return True
    return any(isinstance(c, int | float) or bool(readings(str(c))) for c in column if not is_blank(c))


def _same(one: pd.Series, other: pd.Series) -> bool:
    return bool(one.equals(other))


def _is_curve(frame: pd.DataFrame) -> bool:
    """Return whether a table is the curve of one run: rows of one size, along a counter that always grows."""
    run, _ = run_column(frame)
    if len(frame) < 2 or (run is not None and frame[run].nunique() > 1):
        return False
    counter = _counter(frame)
    if counter is None:
        return False
    guessed = guess(frame.columns).get("N")
    size = "N" if "N" in frame else guessed[0] if guessed else None
    if size is not None and frame[size].dropna().map(str).nunique() > 1:
        return False
    values = pd.to_numeric(frame[counter], errors="coerce").dropna()
    growing = bool((values.drop_duplicates().diff().dropna() > 0).all())
    return values.nunique() > 1 and growing


def _counter(frame: pd.DataFrame) -> str | None:
    by_name = {alias: str(c) for c in reversed(list(frame.columns)) for alias in read_heading(c).names}
    return next((by_name[alias] for alias in (*STEPS, *NAMES["D"]) if alias in by_name), None)


def _joined(sources: list[Path], parts: list[pd.DataFrame], notices: list[str]) -> pd.DataFrame:
    """Return several files as one table, with a column `run`: their own, or the files' names."""
    labels = _labels(sources)
    if all(
        "run" in part and "step" in part and part.shape[1] == 3 for part in parts
    ):  # scalars of TensorBoard
        tall = pd.concat(parts, ignore_index=True)
        return tall.groupby(["run", "step"], as_index=False, sort=False).first()
    named = []
    for label, part in zip(labels, parts, strict=True):
        own, _ = run_column(part)
        runs = part[own].map(str) if own is not None else None
        if runs is None or (runs.nunique() == 1 and _is_curve(part)):
            runs = pd.Series(label, index=part.index)
        named.append(part.assign(run=runs))
    runs_of = [{str(run) for run in part["run"]} for part in named]
    if sum(map(len, runs_of)) > len(set.union(*runs_of)):
        named = [
            part.assign(run=label + "/" + part["run"]) for label, part in zip(labels, named, strict=True)
        ]
    notices.insert(
        0,
        f"{len(sources)} files were read as one table: {', '.join(labels[:6])}{', …' if labels[6:] else ''}",
    )
    columns: list[set[str]] = [{str(name) for name in part.columns} for part in named]
    partial = sorted(set[str]().union(*columns) - columns[0].intersection(*columns))
    if partial:
        notices.append(f"not every file has {_listing(partial)}: missing there")
    return pd.concat([part.dropna(axis=1, how="all") for part in named], ignore_index=True)


def _labels(sources: list[Path]) -> list[str]:
    """Return a short, distinct name for each file: its own, or its folder's where all files are called
    alike."""
    stems = [path.name.split(".")[0] or path.name for path in sources]
    if len(set(stems)) == len(stems):
        return stems
    folders = [path.parent.name for path in sources]
    if len(set(stems)) == 1 and len(set(folders)) == len(folders):
        return folders
    return [path.with_suffix("").as_posix() for path in sources]


def _shortened(notices: list[str]) -> list[str]:
    """Return the notices of many files, with those that are the same for each file only once."""
    seen: dict[str, tuple[str, int]] = {}
    for notice in notices:
        _, _, what = notice.partition(": ")
        first, count = seen.get(what, (notice, 0))
        seen[what] = (first, count + 1)
    said = [
        first if count == 1 else f"{first} (and in {count - 1} more files)" for first, count in seen.values()
    ]
    return said if len(said) <= 12 else [*said[:12], f"and {len(said) - 12} more notes on single files"]


def _one_row_a_run(read: Imported, keep: Rows, *, asked: bool) -> Imported:
    """Return a table with the last or the best row of each run; missing values come from the run's rows
    before."""
    frame = read.frame
    if "loss" not in frame:
        if asked:
            raise AllometryError(
                "the row of a run is chosen by its loss, and no column was read as the loss",
                hint="columns={'loss': 'COLUMN'}",
                cli_hint="--let loss=COLUMN",
            )
        return read
    loss = pd.to_numeric(frame["loss"], errors="coerce")
    runs = frame["run"].map(str) if "run" in frame else pd.Series("run", index=frame.index)
    counter = _counter(frame.drop(columns=["loss"]))
    order = pd.to_numeric(frame[counter], errors="coerce") if counter else pd.Series(0.0, index=frame.index)
    rows, without = [], []
    for run, labels in frame.groupby(runs.to_numpy(), sort=False).groups.items():
        ordered = order[labels].sort_values(kind="stable").index
        usable = [label for label in ordered if np.isfinite(loss[label])]
        if not usable:
            without.append(str(run))
            continue
        chosen = usable[-1] if keep == "last" else min(usable, key=lambda label: loss[label])
        part = frame.loc[ordered]
        known = part.ffill().loc[chosen]
        fixed = [
            name for name in frame.columns if pd.isna(known[name]) and part[name].map(str).nunique() <= 2
        ]
        for name in fixed:
            values = part[name].dropna()
            known[name] = values.iloc[0] if len(values) else known[name]
        rows.append(known)
    if not rows:
        raise AllometryError("no run has a loss", hint="check the column read as the loss")
    out = pd.DataFrame(rows).infer_objects().reset_index(drop=True)
    out.attrs = dict(frame.attrs)
    notices = [*read.notices, f"the {keep} row of each of {counted(len(out), 'run')} was kept"]
    if without:
        notices.append(
            f"left out runs without a loss: {', '.join(without[:5])}{', …' if without[5:] else ''}"
        )
    return Imported(frame=out, notices=tuple(notices), columns=read.columns)
