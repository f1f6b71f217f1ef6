"""The text that a run was trained on: `text.json` beside its configuration, and runs of other text put aside.

A run's id is the hash of its configuration, which names a corpus and does not hold it. The text behind a name
such as "files:my.txt" can change, so each run records the SHA-256 of the token ids that it reads:

    text.json   {"format": 1, "sets": {"CORPUS | TOKENIZER": {"tokens": SHA-256, "identity": …}},
                 "parent": digest of the text of the run whose weights it starts from, or null}

A store shows the runs of one text. Those of another lie in `.texts/DIGEST/`, whole, and come back when that
text does.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allometry.core.errors import AllometryError
from allometry.core.files import read_json, refuse_links, write_json, writing
from allometry.runs.place import is_file_name

FILE = "text.json"
ASIDE = ".texts"
STUDIES = "studies"

_FORMAT = 1


@dataclass(frozen=True)
class Text:
    """What a run reads: the token sets by "CORPUS | TOKENIZER", each with "tokens" (SHA-256 of its ids) and
    "identity" (what it was made from), and the digest of the text of the run that it starts from.
    """

    sets: Mapping[str, Mapping[str, str]]
    parent: str | None = None

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that are equal for equal token ids."""
        tokens = {name: each["tokens"] for name, each in self.sets.items()}
        canonical = json.dumps([tokens, self.parent], sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def recorded(directory: Path) -> Text | None:
    """Return the text that a run's directory records; None if it records none, as runs of older releases, or
    none that can be read (`is_damaged`).
    """
    try:
        stored = read_json(directory / FILE)
    except AllometryError:
        return None
    sets = (stored or {}).get("sets")
    if stored is None or not isinstance(sets, dict) or not all(map(_whole, sets.values())):
        return None
    parent = stored.get("parent")
    return Text(sets, parent if isinstance(parent, str) else None)


def is_damaged(directory: Path) -> bool:
    """Return whether a directory has a `text.json` that cannot be read."""
    return os.path.lexists(directory / FILE) and recorded(directory) is None


def _whole(entry: Any) -> bool:
    return isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("tokens", "identity"))


def record(directory: Path, text: Text) -> None:
    """Write the text that a run reads into its directory."""
    write_json(directory / FILE, {"format": _FORMAT, "sets": dict(text.sets), "parent": text.parent})


def exchange(store: Path, name: str, before: str, now: str) -> bool:
    """Put `name`, a run or "studies/KEY", of the text `before` aside; restore that of the text `now`.

    Both are digests. Returns whether something came back. The caller must have the store for itself.
    What lies there without a record of that text stays. AllometryError, and nothing moved, where a name or a
    link would lead out of the store.
    """
    here, there = store / name, store / ASIDE / before / name
    back = store / ASIDE / now / name
    for path in (here, there, back):
        if not path.is_relative_to(store) or not is_file_name(path.relative_to(store).as_posix()):
            raise AllometryError(f"{name!r} cannot be a run or a study of a store")
        refuse_links(path, store)
    with writing(there):
        if here.exists():
            there.parent.mkdir(parents=True, exist_ok=True)
            here.rename(_unused(there))
        if not back.is_dir() or (found := recorded(back)) is None or found.digest != now:
            return False
        back.rename(here)
    return True


def _unused(path: Path) -> Path:
    """Return the path, or the first of PATH.2, PATH.3, … that does not exist."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}.{number}")
    return free
