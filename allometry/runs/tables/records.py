"""Tables in JSON and JSON lines, histories of trainers, and dumps of trackers' APIs."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from allometry.core.errors import AllometryError
from allometry.core.units import counted

_SHAPE_HINT = 'write a list of runs: [{"N": 1e6, "loss": 3.1}]'


def read_json_table(source: Path, text: str, notices: list[str]) -> pd.DataFrame:
    """Return a table in JSON: a list of runs, runs by name, columns by name, or one of these under a key.

    Raises AllometryError for text that is no JSON, and for JSON that is no table.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        python = re.match(r"\s*\{\s*'", text) is not None
        if isinstance(error, json.JSONDecodeError) and (python or "Extra data" in error.msg):
            return read_json_lines(source, text, notices)
        what = (
            f"line {error.lineno}: {error.msg}"
            if isinstance(error, json.JSONDecodeError)
            else "too deeply nested"
        )
        raise AllometryError(
            f"cannot read {source} as JSON: {what}", hint="a file that is cut has to be exported again"
        ) from None
    if isinstance(data, dict):
        data = _rows_of(source, data, notices)
    if not isinstance(data, list) or not data or not all(isinstance(row, dict) for row in data):
        raise AllometryError(f"{source} does not hold a table", hint=_SHAPE_HINT)
    return _normalized(source, data)


def _rows_of(source: Path, data: dict[str, Any], notices: list[str]) -> Any:
    """Return the list of rows in a JSON object."""
    lists = {
        k: v for k, v in data.items() if isinstance(v, list) and v and all(isinstance(r, dict) for r in v)
    }
    if "log_history" in lists:
        notices.append("read as the log of a Hugging Face trainer (log_history)")
        return lists["log_history"]
    if len(lists) == 1:
        name, rows = next(iter(lists.items()))
        notices.append(f"the table was found under {name!r}")
        return rows
    if len(lists) > 1:
        raise AllometryError(
            f"{source} holds several tables: {', '.join(map(repr, list(lists)[:6]))}",
            hint="write one of them to a file of its own",
        )
    if data and set(data) >= {"columns", "data"} and all(isinstance(row, list) for row in data["data"]):
        return [
            dict(zip(map(str, data["columns"]), row, strict=False)) for row in data["data"]
        ]  # pandas' split
    if data and all(isinstance(value, dict) for value in data.values()):
        inner = list(data.values())
        if all(any(isinstance(v, int | float | str) for v in value.values()) for value in inner):
            columns = {key for value in inner for key in value}
            if columns <= {str(i) for i in range(len(columns))}:  # pandas' to_json: column -> row -> value
                return [{c: data[c].get(i) for c in data} for i in sorted(columns, key=int)]
            notices.append("each key was read as the name of a run")
            return [{"run": name, **value} for name, value in data.items()]
    if data and all(isinstance(value, list) for value in data.values()):
        lengths = {len(value) for value in data.values()}
        if len(lengths) == 1:
            return [dict(zip(data, values, strict=True)) for values in zip(*data.values(), strict=True)]
        raise AllometryError(
            f"the columns in {source} have different lengths: {', '.join(map(str, sorted(lengths)[:6]))}",
            hint="export the table again",
        )
    if data and any(
        isinstance(value, int | float) and not isinstance(value, bool) for value in data.values()
    ):
        return [data]  # one run, as a summary file holds it
    raise AllometryError(f"{source} does not hold a table", hint=_SHAPE_HINT)


def read_json_lines(source: Path, text: str, notices: list[str]) -> pd.DataFrame:
    """Return one row for each JSON object a line. A cut last line and lines of plain text are left out, with a note.

    Raises AllometryError, naming the line, for a damaged line elsewhere.
    """
    lines = [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    rows, prose = [], []
    for position, (number, line) in enumerate(lines):
        entry = line.strip()
        if not entry.startswith(("{", "[")):
            prose.append((number, entry))
            continue
        row, problem = _object(entry)
        if row is not None:
            rows.append(row)
        elif position == len(lines) - 1 and rows:
            notices.append(f"the last line ({number}) is cut and was left out: {entry[:40]!r}…")
        else:
            raise AllometryError(
                f"{source}, line {number} is not JSON: {problem}", hint="write one JSON object a line"
            )
    if not rows:
        raise AllometryError(f"{source} holds no JSON objects", hint="write one JSON object a line")
    if prose:
        count = f"{len(prose)} lines that are" if len(prose) > 1 else "one line that is"
        notices.append(f"left out {count} not JSON, such as line {prose[0][0]}: {prose[0][1][:50]!r}")
    return _normalized(source, rows)


def _object(entry: str) -> tuple[dict[str, Any] | None, str]:
    try:
        row = json.loads(entry)
    except (ValueError, RecursionError) as error:
        if re.match(r"\{\s*'", entry) and len(entry) < 20_000:
            try:
                row = ast.literal_eval(entry)  # literals only: trainers print Python dictionaries
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
                return None, "neither JSON nor a Python dictionary"
        else:
            return None, error.msg if isinstance(error, json.JSONDecodeError) else "too deeply nested"
    return (row, "") if isinstance(row, dict) else (None, "it is no object with names")


def _normalized(source: Path, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return rows as a frame, with the entries of dictionaries in them as columns config.lr, summary.loss,
    …."""
    try:
        frame = pd.json_normalize([{str(key): value for key, value in row.items()} for row in rows])
    except (
        RecursionError,
        OverflowError,
        ValueError,
        TypeError,
        NotImplementedError,
        AttributeError,
    ) as error:
        raise AllometryError(f"cannot read {source}: {error}", hint=_SHAPE_HINT) from None
    frame.columns = [re.sub(r"\.value$", "", str(name)) for name in frame.columns]
    return frame.loc[:, ~frame.columns.duplicated()]


def spread(frame: pd.DataFrame, notices: list[str]) -> pd.DataFrame:
    """Return a table with dictionaries in columns `config` and `summary` (Weights & Biases) as columns.

    `config` comes first; nothing is overwritten. Cells {"value": …} become their values.
    """
    out = _unwrapped(frame, notices)
    for name in ("config", "summary", "summary_metrics"):
        cells = out[name] if name in out and isinstance(out[name], pd.Series) else None
        if cells is None or not len(cells) or not cells.map(_is_mapping).all():
            continue
        flat = pd.json_normalize([_mapping(value) for value in cells]).set_index(out.index)
        flat.columns = [re.sub(r"\.value$", "", str(c)) for c in flat.columns]
        flat = flat.loc[:, ~flat.columns.duplicated()]
        fresh = [c for c in flat if c not in out and not str(c).startswith("_wandb")]
        notices.append(f"the column {name!r} was spread into {counted(len(fresh), 'column')}")
        out = out.drop(columns=name).join(flat[fresh])
    return out


def _unwrapped(frame: pd.DataFrame, notices: list[str]) -> pd.DataFrame:
    """Return a table with the values in place of cells such as {"value": 3, "desc": null} (Weights & Biases)."""
    out, found = {}, []
    for i, name in enumerate(frame.columns):
        cells = frame.iloc[:, i]
        filled = cells[[not (value is None or value == "" or value != value) for value in cells.map(_plain)]]
        if not len(filled) or not filled.map(_is_mapping).all():
            continue
        try:
            entries = {label: _mapping(value) for label, value in filled.items()}
        except AllometryError:
            continue  # other text between braces
        if all("value" in entry and set(entry) <= {"value", "desc"} for entry in entries.values()):
            out[i] = pd.Series({label: entry["value"] for label, entry in entries.items()}, dtype=object)
            found.append(str(name))
    if not found:
        return frame
    notices.append(f"cells such as {{'value': …}} were read as their values in {', '.join(map(repr, found))}")
    parts = [
        out[i].reindex(frame.index).infer_objects() if i in out else frame.iloc[:, i]
        for i in range(frame.shape[1])
    ]
    return pd.concat([part.rename(name) for part, name in zip(parts, frame.columns, strict=True)], axis=1)


def _plain(value: Any) -> Any:
    """Return a cell, 0 for one that holds several values: those are not empty, whatever they hold."""
    return value if isinstance(value, str | int | float) or value is None else 0


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, str) and value.strip().startswith("{"))


def _mapping(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return {str(key): entry for key, entry in value.items()}
    found, _ = _object(value.strip())
    if found is None:
        raise AllometryError(
            f"cannot read the dictionary {value[:60]!r}", hint="export the runs as JSON, or as plain columns"
        )
    return {str(key): entry for key, entry in found.items()}
