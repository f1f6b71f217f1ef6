"""A table of contents of the store, so that ten thousand runs list in well under two seconds.

It is a cache: an entry is used only while the files it came from are unchanged, and losing it costs only
time.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from allometry.errors import AllometryError
from allometry.runs.files import write_text
from allometry.runs.record import COLUMNS, FORMAT, read_run

_NAME = ".index.json"
_MADE = [FORMAT, *COLUMNS]
"""What an index must have been made for: one of a release with other columns is made again."""

_WATCHED = ("config.json", "result.json", "error.txt", "curve.jsonl")


@dataclass
class Index:
    """Rows of the run table by directory name, and notes on what could not be read."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def run_directories(store: Path) -> Iterator[Path]:
    """Directories of the store that hold a run, in order of their names."""
    with os.scandir(store) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    for name in names:
        if os.path.exists(f"{store}/{name}/config.json"):
            yield store / name


def read_index(store: Path) -> Index:
    """Every run of the store as a row; only what changed since the last time is read again.

    A run whose configuration is damaged is left out and noted. Raises AllometryError if a newer release
    wrote one.
    """
    known, index, entries = _load(store), Index(), {}
    for directory in run_directories(store):
        stamp = _stamp(directory)
        entry = known.get(directory.name)
        if entry is None or entry["stamp"] != stamp:
            try:
                record = read_run(directory)
            except AllometryError as error:
                if "format" in error.message:
                    raise
                index.notes.append(error.message)
                continue
            entry = {"stamp": stamp, "row": record.row(), "notes": list(record.notes)}
        entries[directory.name] = entry
        index.rows[directory.name] = entry["row"]
        index.notes += [f"{directory.name}: {note}" for note in entry["notes"]]
    if entries != known:
        _save(store, entries)
    return index


def _stamp(directory: Path) -> list[int]:
    """Times and sizes of the files that a row comes from."""
    stamp = []
    for name in _WATCHED:
        try:
            status = os.stat(f"{directory}/{name}")
            stamp += [status.st_mtime_ns, status.st_size]
        except OSError:
            stamp += [0, 0]
    return stamp


def _load(store: Path) -> dict[str, dict[str, Any]]:
    try:
        stored = json.loads((store / _NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    known = isinstance(stored, dict) and stored.get("made") == _MADE
    return stored["runs"] if known else {}


def _save(store: Path, entries: dict[str, dict[str, Any]]) -> None:
    with contextlib.suppress(AllometryError):  # a store that cannot be written can still be read
        write_text(store / _NAME, json.dumps({"made": _MADE, "runs": entries}))
