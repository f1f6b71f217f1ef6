"""Select, compare and export runs.

The filter language: `family=transformer N>1e5 status=done lr<=0.01 study=quickstart`.
Conditions are separated by spaces and must all hold. A column is compared with `=`, `!=`, `<`, `<=`, `>` or
`>=`. Text may list alternatives (`corpus=sotu,stdlib`) and use `*` (`run=*-s0-*`); numbers may carry units
(`N>10M`, `seconds<2m`); times are UTC, as far as they are given (`finished>=2026-01-31`). Names with spaces
or brackets stand between backticks (`` `Val Loss`<4 ``). A missing value satisfies only `!=`.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from allometry.core.errors import AllometryError, require, unknown
from allometry.core.files import replacing
from allometry.core.units import parse_duration, parse_number
from allometry.runs.record import RunRecord

_CONDITION = re.compile(r"""(`[^`]+`|[A-Za-z_][\w:./-]*)\s*(!=|<=|>=|==|=|<|>)\s*("[^"]*"|'[^']*'|\S+)""")
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_TEXT = ("run", "status", "family", "shape", "schedule", "corpus", "tokenizer", "engine", "study")
_LISTS = ("study",)
_TIMES = ("finished",)
_EXAMPLE = "write conditions like: family=transformer N>1e5 status=done lr<=0.01 study=quickstart"


@dataclass(frozen=True)
class Condition:
    """One comparison of a column with a value."""

    column: str
    relation: str
    value: str

    def __str__(self) -> str:
        return f"{self.column}{self.relation}{self.value}"


def parse(text: str) -> tuple[Condition, ...]:
    """Parse the conditions in a filter; AllometryError, naming the part, for anything that is not one."""
    rest = _CONDITION.sub("", text).split()
    if rest:
        raise AllometryError(f"cannot read {rest[0]!r} in the filter {text!r}", hint=_EXAMPLE)
    return tuple(
        Condition(name.strip("`"), "=" if relation == "==" else relation, value.strip("\"'"))
        for name, relation, value in _CONDITION.findall(text)
    )


def mask(frame: pd.DataFrame, text: str) -> NDArray[np.bool_]:
    """Return for each row of a table, by position, whether it satisfies a filter; all do for an empty one.

    The labels of the index play no part, so they may repeat and need not be in order. Raises AllometryError
    for a filter that cannot be read, and for columns that the table does not have.
    """
    keep = np.ones(len(frame), dtype=bool)
    for condition in parse(text):
        keep &= _mask(frame, condition).to_numpy(dtype=bool)
    return keep


def select(frame: pd.DataFrame, text: str) -> pd.DataFrame:
    """Return the rows of a table that satisfy a filter, in their order and with their labels."""
    return frame[mask(frame, text)]


def _mask(frame: pd.DataFrame, condition: Condition) -> pd.Series:
    name = column(frame, condition.column)
    if name in _TIMES:
        return _time_mask(frame[name], condition)
    if name in _TEXT or not (pd.api.types.is_numeric_dtype(frame[name]) or frame[name].isna().all()):
        return _text_mask(frame[name], condition, listed=name in _LISTS)
    values = pd.to_numeric(frame[name]).to_numpy(dtype=float, na_value=np.nan)
    hits = [_COMPARE[condition.relation](values, value) for value in _wanted(condition, name == "seconds")]
    combine = np.logical_and if condition.relation == "!=" else np.logical_or
    return pd.Series(combine.reduce(hits), index=frame.index)


def _wanted(condition: Condition, duration: bool) -> list[float]:
    """Return the numbers that a condition names: one, or alternatives (`seed=1,2`) for = and !=."""
    read = parse_duration if duration else parse_number
    parts = condition.value.split(",")
    if len(parts) == 1 or condition.relation not in ("=", "!="):
        return [read(condition.value, f"filter {condition}")]
    if all(re.fullmatch(r"\d{3}", part) for part in parts[1:]):
        raise AllometryError(
            f"filter {condition}: {condition.value!r} may be one number, or several",
            hint=f"write one number without commas ({''.join(parts)})",
        )
    return [read(part, f"filter {condition}") for part in parts]


def _time_mask(values: pd.Series, condition: Condition) -> pd.Series:
    """Compare times in ISO 8601 as text, which sorts them; only the parts that the condition gives are compared."""
    compare, length = _COMPARE[condition.relation], len(condition.value)
    known = values.notna()
    hit = values.where(known, "").map(lambda time: bool(compare(str(time)[:length], condition.value)))
    return (hit.astype(bool) & known) | (~known & (condition.relation == "!="))


def column(frame: pd.DataFrame, name: str) -> str:
    """Return the column of that name; another case is accepted where only one column fits."""
    if name in frame.columns:
        if isinstance(frame[name], pd.DataFrame):
            raise AllometryError(f"the table has several columns called {name!r}", hint="rename one of them")
        return name
    folded = [each for each in frame.columns if str(each).lower() == name.lower()]
    if len(folded) == 1:
        return str(folded[0])
    raise unknown("column", name, map(str, frame.columns))


def _text_mask(values: pd.Series, condition: Condition, *, listed: bool) -> pd.Series:
    if condition.relation not in ("=", "!="):
        raise AllometryError(
            f"the column {condition.column!r} holds text: {condition} makes no sense",
            hint=f"compare it with = or !=, such as {condition.column}={condition.value}",
        )
    wanted = condition.value.split(",")

    def matches(value: object) -> bool:
        present = str(value).split(", ") if listed else [str(value)]
        return any(fnmatchcase(item, pattern) for item in present for pattern in wanted)

    hit = values.map(matches).astype(bool) & values.notna()
    return hit if condition.relation == "=" else ~hit


_IGNORED = ("format", "run", "notes")


def diff(first: RunRecord, second: RunRecord) -> pd.DataFrame:
    """Return the keys that differ, with the columns part ("config", "counts", "result", "environment"), key, and
    one per run.

    The runs' columns are called `a` and `b`; a key that only one of them has is missing in the other.
    """
    parts = {
        "config": (first.config, second.config),
        "counts": (first.counts, second.counts),
        "result": (_outcome(first), _outcome(second)),
        "environment": (first.environment, second.environment),
    }
    rows = [
        {"part": part, "key": key, "a": a, "b": b}
        for part, (mine, other) in parts.items()
        for key, a, b in _differences(mine, other)
    ]
    return pd.DataFrame(rows, columns=["part", "key", "a", "b"], dtype=object)


def _outcome(record: RunRecord) -> dict[str, Any]:
    results = {
        key: value for key, value in record.result.items() if key not in (*_IGNORED, "counts", "status")
    }
    return {"status": record.status, **results}


def _differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    a, b = flatten(first), flatten(second)
    for key in dict.fromkeys([*a, *b]):
        if a.get(key) != b.get(key):
            yield key, a.get(key), b.get(key)


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested objects as one level with dotted keys, such as "train.lr"; lists become JSON.

    >>> flatten({"train": {"lr": 0.004}, "eval_on": ["stdlib"]})
    {'train.lr': 0.004, 'eval_on': '["stdlib"]'}
    """
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            flat |= flatten(item, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(item) if isinstance(item, list | tuple) else item
    return flat


def _csv(frame: pd.DataFrame, path: Path) -> None:
    frame.to_csv(path, index=False)


def _json(frame: pd.DataFrame, path: Path) -> None:
    frame.to_json(path, orient="records", indent=1, double_precision=15)


def _parquet(frame: pd.DataFrame, path: Path) -> None:
    require("pyarrow", purpose="to write Parquet")
    frame.to_parquet(path, index=False)


FORMATS: dict[str, Callable[[pd.DataFrame, Path], None]] = {
    ".csv": _csv,
    ".json": _json,
    ".parquet": _parquet,
}
"""File endings, and the function that writes each."""


def export(frame: pd.DataFrame, path: Path) -> None:
    """Write a table in the format of the file's ending: .csv, .json or .parquet; the file appears whole or
    not at all.

    Raises AllometryError for another ending, or if the file cannot be written.
    """
    if path.suffix not in FORMATS:
        raise unknown("file ending", path.suffix or path.name, FORMATS)
    with replacing(path) as aside:
        FORMATS[path.suffix](frame, aside)
