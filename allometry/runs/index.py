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
from allometry.runs.record import COLUMNS, FINISHED, FORMAT, read_run

_NAME = ".index.json"
_MADE = [FORMAT, 2, *COLUMNS]  # the 2: what a run says of itself is no note of the index
"""What an index must have been made for: one of a release with other columns is made again."""

_WATCHED = ("config.json", "result.json", "error.txt", "curve.jsonl")


@dataclass
class Index:
    """Rows of the run table by directory name, and notes on what could not be read.

    `entries` are what the rows were made from: given back to `read_index`, only what has changed is read.
    """

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, name: str, entry: dict[str, Any]) -> None:
        """Take in the entry of a directory."""
        self.entries[name] = entry
        self.rows[name] = entry["row"]
        self.notes += [f"{name}: {note}" for note in entry["notes"]]


def run_directories(store: Path) -> Iterator[Path]:
    """Directories of the store that hold a run, in order of their names."""
    for name in _names(store):
        if os.path.exists(f"{store}/{name}/config.json"):
            yield store / name


def _names(store: Path) -> list[str]:
    with os.scandir(store) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def read_index(store: Path, before: Index | None = None, *, trust: bool = False) -> Index:
    """Every run of the store as a row; only what changed since the last time is read again.

    The last time is what `before` holds, for a reader that asks again and again, or else what the store's own
    file holds, which is then kept up to date. With `trust`, runs that were finished before are not looked at
    again. A run whose configuration is damaged is left out and noted. Raises AllometryError if a newer
    release wrote one.
    """
    known, index = _load(store) if before is None else before.entries, Index()
    for name in _names(store):
        entry = known.get(name)
        if not (trust and entry is not None and entry["row"]["status"] in FINISHED):
            stamp = _stamp(f"{store}/{name}")
            if stamp is None:
                continue
            if entry is None or entry["stamp"] != stamp:
                entry = _entry(store / name, stamp, index)
        if entry is not None:
            index.add(name, entry)
    if before is None and index.entries != known:
        _save(store, index.entries)
    return index


def _entry(directory: Path, stamp: list[int], index: Index) -> dict[str, Any] | None:
    """What the index keeps of a run; None, and a note in the index, if it cannot be read."""
    try:
        record = read_run(directory)
    except AllometryError as error:
        if "format" in error.message:
            raise
        index.notes.append(error.message)
        return None
    return {"stamp": stamp, "row": record.row(), "notes": list(record.notes)}


def _stamp(directory: str) -> list[int] | None:
    """Times and sizes of the files that a row comes from; None if there is no run here."""
    stamp = []
    for name in _WATCHED:
        try:
            status = os.stat(f"{directory}/{name}")
            stamp += [status.st_mtime_ns, status.st_size]
        except OSError:
            if name == _WATCHED[0]:
                return None
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
