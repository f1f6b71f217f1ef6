"""Token sets that were made on one machine and are read on another, which need not have the corpus.

They travel through the run store, as `data/NAME/`, and lie in each machine's cache as if they had been made
there. A cache that `settle` returns finds them by corpus and tokenizer; pass it as `cache`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from allometry.core.env import cache_root
from allometry.core.files import write_json
from allometry.data.cache import build_once
from allometry.data.tokens import NAMES, TokenSet, is_complete
from allometry.runs.place import Place

FOLDER = "data"
_FILES = ("train.bin", "test.bin", "manifest.json")


def missing(names: Iterable[str]) -> list[str]:
    """Return those of the named token sets that this machine's cache does not have."""
    return [name for name in names if not is_complete(_path(name))]


def publish(sets: Iterable[TokenSet], place: Place) -> None:
    """Send token sets to a store, unless they are there; the manifest is sent last."""
    there = place.names(FOLDER)
    for each in sets:
        for file in _FILES:
            name = f"{FOLDER}/{each.path.name}/{file}"
            if name not in there:
                place.upload(each.path / file, name)


def settle(names: Mapping[str, str], place: Place) -> Path:
    """Return a cache in which token sets are found by `key(corpus, tokenizer)`, as `names` has them.

    Those that this machine lacks are fetched from the store, once; what the store lacks too is left out, and
    will be made from the corpus.
    """
    for name in missing(names.values()):
        with contextlib.suppress(FileNotFoundError):
            build_once(_path(name), partial(_fetch, name, place), complete=is_complete)
    where = {each: str(_path(name)) for each, name in names.items() if is_complete(_path(name))}
    digest = hashlib.sha256(json.dumps(where, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache_root() / "placed" / digest
    if not (folder / NAMES).exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / NAMES, where)
    return folder


def _fetch(name: str, place: Place, aside: Path) -> None:
    for file in _FILES:
        place.download(f"{FOLDER}/{name}/{file}", aside / file)


def _path(name: str) -> Path:
    return cache_root() / "tokens" / name
