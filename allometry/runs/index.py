"""An index of the store, so that ten thousand runs list in well under two seconds.

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

from allometry.core.errors import AllometryError, printable
from allometry.core.files import MOST_BYTES_OF_LINES, parse_json, read_bytes, write_text
from allometry.runs.record import (
    COLUMNS,
    FINISHED,
    FORMAT,
    TEXT_COLUMNS,
    holds_run,
    is_number,
    is_run_name,
    read_run,
)

_NAME = ".index.json"
_MADE = [FORMAT, 3, *COLUMNS]  # 3: a run's id is the name of its folder
"""Version and columns of an index: one of a release with other columns is rebuilt."""

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
        """Add the entry of a directory."""
        self.entries[name] = entry
        self.rows[name] = entry["row"]
        self.notes += [f"{name}: {note}" for note in entry["notes"]]


def run_directories(store: Path) -> Iterator[Path]:
    """Yield the directories of the store that hold a run, in order of their names. Links are passed over."""
    for name in _names(store)[0]:
        if holds_run(f"{store}/{name}"):
            yield store / name


def _names(store: Path) -> tuple[list[str], list[str]]:
    """Return the names of the folders that may hold runs, and notes on those that may not."""
    names, notes = [], []
    with os.scandir(store) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith(".") or not entry.is_dir():
                continue
            if entry.is_symlink():
                notes.append(f"{printable(entry.name)} is a link, and links are not followed: it is left out")
            elif is_run_name(entry.name):
                names.append(entry.name)
            elif holds_run(entry.path):
                notes.append(f"{printable(entry.name)!r} cannot be the name of a run: it is left out")
    return names, notes


def read_index(store: Path, before: Index | None = None, *, trust: bool = False) -> Index:
    """Return every run of the store as a row; only what changed since the last time is read again.

    The last time is what `before` holds, for a reader that asks again and again, or else what the store's own
    file holds, which is then kept up to date. With `trust`, runs that were finished before are not looked at
    again. A run whose configuration is damaged, or of a newer release, is left out and noted.
    """
    known, index = _load(store) if before is None else before.entries, Index()
    names, index.notes = _names(store)
    for name in names:
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
    """Return the index's entry for a run; None, and a note in the index, if it cannot be read."""
    try:
        record = read_run(directory)
    except AllometryError as error:
        index.notes.append(f"{error.message}: the run is left out")
        return None
    return {"stamp": stamp, "row": record.row(), "notes": list(record.notes)}


def _stamp(directory: str) -> list[int] | None:
    """Return times and sizes of the files that a row comes from; None if there is no run here."""
    stamp = []
    for name in _WATCHED:
        try:
            status = os.lstat(f"{directory}/{name}")
            stamp += [status.st_mtime_ns, status.st_size]
        except OSError:
            stamp += [0, 0]
    return stamp if stamp[0] or stamp[4] else None  # a configuration, or why there is none


def _load(store: Path) -> dict[str, dict[str, Any]]:
    """Return the entries of the store's own file; those that no index would hold are left out."""
    try:
        stored = parse_json((read_bytes(store / _NAME, MOST_BYTES_OF_LINES) or b"{}").decode("utf-8"))
    except (AllometryError, ValueError):
        return {}
    if (
        not isinstance(stored, dict)
        or stored.get("made") != _MADE
        or not isinstance(stored.get("runs"), dict)
    ):
        return {}
    return {name: entry for name, entry in stored["runs"].items() if _is_entry(name, entry)}


def _is_entry(name: str, entry: Any) -> bool:
    """Return whether an entry has the form that `_entry` gives it: the file may come from somebody else."""
    if not isinstance(entry, dict) or entry.keys() != {"stamp", "row", "notes"}:
        return False
    stamp, row, notes = entry["stamp"], entry["row"], entry["notes"]
    return (
        isinstance(stamp, list)
        and all(type(number) is int for number in stamp)
        and isinstance(notes, list)
        and all(isinstance(note, str) and printable(note, lines=True) == note for note in notes)
        and isinstance(row, dict)
        and row.get("run") == name
        and all(column in row for column in COLUMNS)
        and all(_is_cell(column, value) for column, value in row.items())
    )


def _is_cell(column: str, value: Any) -> bool:
    if value is None:
        return True
    if column in TEXT_COLUMNS:
        return isinstance(value, str) and printable(value) == value
    return is_number(value) and printable(column) == column


def _save(store: Path, entries: dict[str, dict[str, Any]]) -> None:
    with contextlib.suppress(AllometryError):  # a store that cannot be written can still be read
        write_text(store / _NAME, json.dumps({"made": _MADE, "runs": entries}))
