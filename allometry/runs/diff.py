"""The differences between two runs: first the configuration, then the results."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from allometry.runs.record import RunRecord

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
