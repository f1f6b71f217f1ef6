"""Foreign tables of runs: CSV, Parquet, JSON, JSON lines, exports of trackers, or a run store, read as one
table.

Columns keep their names; those that are recognised are added under the names the laws use, and every guess
is said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from allometry.errors import AllometryError
from allometry.runs.files import read_json, write_json
from allometry.runs.trackers import event_files, from_events, from_wandb, is_tensorboard, tensorboard_run
from allometry.units import parse_number

GUESSES: dict[str, tuple[str, ...]] = {
    "run": ("run_id", "run_name", "name", "id"),
    "N": (
        "n", "params", "parameters", "n_params", "num_params", "num_parameters", "model_size", "model_params",
        "size",
    ),
    "D": (
        "d", "tokens", "train_tokens", "training_tokens", "n_tokens", "num_tokens", "total_tokens",
        "data_size",
    ),
    "C": ("c", "flops", "flop", "training_flop", "training_flops", "train_flops", "total_flops", "compute"),
    "B": ("b", "batch_tokens", "batch_size_tokens", "tokens_per_batch"),
    "S": ("s", "steps", "train_steps", "total_steps", "max_steps", "num_steps"),
    "unique": ("unique_tokens", "unique_data"),
    "lr": ("learning_rate", "peak_lr", "max_lr"),
    "loss": (
        "l", "test_loss", "val_loss", "validation_loss", "eval_loss", "loss_test", "loss_val", "final_loss",
        "final_test_loss", "final_val_loss", "best_val_loss", "cross_entropy", "nll", "train_loss",
    ),
}  # fmt: skip
"""Column of a run table -> names it goes by elsewhere (lower case, punctuation as _), best first."""

_BLANK = {"", "nan", "na", "n/a", "none", "null", "-", "—"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Imported:
    """A table of runs, what was guessed or changed in reading it, and which column each symbol was taken
    from."""

    frame: pd.DataFrame
    notices: tuple[str, ...]
    columns: dict[str, str]


def read_table(path: Path | str, *, columns: Mapping[str, str] | None = None) -> Imported:
    """Read a table of runs by the ending of its name (.csv, .tsv, .txt, .parquet, .json, .jsonl), or a run
    store.

    `columns` maps symbols (N, D, C, loss, …) to column names; what it does not name is looked for in a
    saved mapping beside the file (see `save_mapping`), then guessed from common names. Cells such as "1.2B"
    become numbers.

    Raises AllometryError for a missing, empty or unreadable file, and for a table of one column.
    """
    source = Path(path)
    if not source.exists():
        raise AllometryError(f"there is no table at {source}", hint=_nearby(source))
    notices: list[str] = []
    frame = _read(source, notices)
    if not len(frame):
        raise AllometryError(
            f"{source} has columns but no rows", hint="export the runs as well as the header"
        )
    if frame.shape[1] < 2:
        raise AllometryError(
            f"{source} has a single column, {str(frame.columns[0])!r}",
            hint="if its columns are separated by something else than , ; tab or |, save it with commas",
        )
    frame = _numbers(from_wandb(frame, notices), notices)
    saved = read_json(_mapping_file(source)) or {}
    chosen = {**{k: v for k, v in saved.items() if v in frame}, **(columns or {})}
    return _named(frame, chosen, notices)


def save_mapping(path: Path | str, columns: Mapping[str, str]) -> Path:
    """Keep which column is which symbol, in TABLE.columns.json beside the table; `read_table` then uses
    it.
    """
    target = _mapping_file(Path(path))
    write_json(target, dict(columns))
    return target


def _mapping_file(source: Path) -> Path:
    return source.with_name(source.name + ".columns.json")


def _nearby(source: Path) -> str:
    folder = source.parent
    names = sorted(p.name for p in folder.iterdir() if p.suffix in _READERS) if folder.is_dir() else []
    return (
        f"tables in {folder}: {', '.join(names[:8])}"
        if names
        else "name a .csv, .parquet, .json or .jsonl file"
    )


def _read(source: Path, notices: list[str]) -> pd.DataFrame:
    if source.is_dir() or event_files(source):
        return _directory(source, notices)
    suffix = source.suffix.lower()
    if suffix in (".gz", ".bz2", ".xz", ".zst"):
        suffix = Path(source.stem).suffix.lower()
    reader = _READERS.get(suffix)
    if reader is None:
        raise AllometryError(
            f"cannot tell what kind of table {source.name} is",
            hint="save it as .csv, .parquet, .json or .jsonl"
            + (" (Excel: save as CSV)" if "xls" in suffix else ""),
        )
    if not source.stat().st_size:
        raise AllometryError(f"{source} is empty", hint="export the table again")
    try:
        return reader(source, notices)
    except AllometryError:
        raise
    except UnicodeDecodeError:
        raise AllometryError(f"{source} is not UTF-8 text", hint="save it as CSV in UTF-8") from None
    except (ValueError, OSError, pd.errors.ParserError) as error:
        first = str(error).strip().splitlines()[0]
        raise AllometryError(f"cannot read {source}: {first}", hint="check the file in an editor") from None


def _directory(source: Path, notices: list[str]) -> pd.DataFrame:
    if event_files(source):
        return from_events(source, notices)
    from allometry.runs.store import Store

    return Store(source).frame()


def _csv(source: Path, notices: list[str]) -> pd.DataFrame:
    peek = pd.read_csv(source, sep="\n|\r", engine="python", header=None, nrows=5, dtype=str, quoting=3)
    lines = [str(v) for v in peek[0]]
    counts = {mark: lines[0].count(mark) for mark in (",", ";", "\t", "|")}
    mark = max(counts, key=lambda m: counts[m]) if any(counts.values()) else ","
    if mark != "," and source.suffix.lower() == ".csv":
        notices.append(f"read with {mark!r} between the columns")
    comma = mark == ";" and bool(re.search(r"\d,\d", lines[-1])) and not re.search(r"\d\.\d", lines[-1])
    if comma:
        notices.append("read decimal commas (1,5) as points")
    headless = _is_data(lines[0].split(mark))
    frame = pd.read_csv(
        source, sep=mark, decimal="," if comma else ".", header=None if headless else 0,
        skipinitialspace=True, encoding="utf-8-sig",
    )  # fmt: skip
    if headless:
        frame.columns = [f"column{i + 1}" for i in range(frame.shape[1])]
        notices.append(f"the first line holds numbers, so the columns were called {', '.join(frame.columns)}")
    frame.columns = [str(c).strip() for c in frame.columns]
    return tensorboard_run(frame, source, notices) if is_tensorboard(frame) else frame


def _is_data(cells: list[str]) -> bool:
    """Whether a first line is data: every cell reads as a number."""
    return all(_number(cell.strip().strip("\"'")) is not None for cell in cells)


def _json(source: Path, notices: list[str]) -> pd.DataFrame:
    data = json.loads(source.read_text(encoding="utf-8-sig"))
    if isinstance(data, dict):
        lists = {k: v for k, v in data.items() if isinstance(v, list) and v and isinstance(v[0], dict)}
        if len(lists) == 1:
            name, data = next(iter(lists.items()))
            notices.append(f"the table was found under {name!r}")
        else:
            return pd.DataFrame(data)
    if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
        raise AllometryError(
            f"{source} does not hold a table", hint='write a list of runs: [{"N": 1e6, "loss": 3.1}]'
        )
    return pd.json_normalize(data)


def _lines(source: Path, notices: list[str]) -> pd.DataFrame:
    rows = []
    for number, line in enumerate(source.read_text(encoding="utf-8-sig").splitlines(), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise AllometryError(
                    f"{source}, line {number} is not JSON: {error.msg}", hint="write one JSON object a line"
                ) from None
    return pd.json_normalize(rows)


def _parquet(source: Path, notices: list[str]) -> pd.DataFrame:
    return pd.read_parquet(source)


_READERS: dict[str, Callable[[Path, list[str]], pd.DataFrame]] = {
    ".csv": _csv,
    ".tsv": _csv,
    ".txt": _csv,
    ".parquet": _parquet,
    ".pq": _parquet,
    ".json": _json,
    ".jsonl": _lines,
    ".ndjson": _lines,
}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        try:
            return parse_number(text)
        except AllometryError:
            return None


def _numbers(frame: pd.DataFrame, notices: list[str]) -> pd.DataFrame:
    """Columns of text that are numbers with units, or quoted, as numbers; a column with any other text
    stays."""
    out = frame.copy()
    for name in out.columns:
        column = out[name]
        if (
            not (pd.api.types.is_object_dtype(column) or pd.api.types.is_string_dtype(column))
            or name == "run"
        ):
            continue
        if not column.map(lambda v: isinstance(v, str) or v is None or v != v).all():
            continue
        text = column.map(lambda v: v.strip().strip("\"'").strip() if isinstance(v, str) else "")
        blank = text.str.lower().isin(_BLANK)
        values = text[~blank].map(_number)
        if len(values) and values.notna().all():
            out[name] = values.astype(float).reindex(out.index)
            notices.append(f"column {name!r}: text such as {text[~blank].iloc[0]!r} was read as numbers")
        elif (text[~blank] != column[~blank]).any():
            out[name] = text.where(~blank, None)
    return out


def _named(frame: pd.DataFrame, chosen: Mapping[str, str], notices: list[str]) -> Imported:
    """Add the columns that laws look for, each a copy of the column it was found in."""
    known: dict[str, list[str]] = {}
    for name in frame.columns:
        known.setdefault(re.sub(r"[^a-z0-9]+", "_", str(name).lower()).strip("_"), []).append(str(name))
    out, taken = frame.copy(), dict(chosen)
    for symbol, names in GUESSES.items():
        if symbol in frame.columns or symbol in chosen:
            continue
        found = [column for name in names for column in known.get(name, [])]
        if found:
            taken[symbol] = found[0]
            others = f" (not {', '.join(map(repr, found[1:]))})" if len(found) > 1 else ""
            notices.append(f"{symbol} is read from the column {found[0]!r}{others}")
    for symbol, name in taken.items():
        if name in frame.columns:
            out[symbol] = frame[name]
    return Imported(frame=out, notices=tuple(notices), columns=taken)
