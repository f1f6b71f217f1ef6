"""The contents of the cache: each entry that can be made or fetched again, with its size."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from allometry.core.env import cache_root
from allometry.core.errors import unknown
from allometry.core.files import size_of
from allometry.data.tokens import NAMES

_STILL_WRITTEN = 86_400.0
"""Seconds for which a temporary folder is not deleted: the process that builds in it may be alive."""


@dataclass(frozen=True, kw_only=True)
class Cached:
    """An entry of the cache: `kind` is its folder, `size` in bytes, `used` when it was last written (seconds
    since 1970).
    """

    kind: str
    name: str
    path: Path
    size: int
    used: float


def _holds(*names: str) -> Callable[[Path], bool]:
    """Return a test whether a folder has all files of those names."""
    return lambda path: path.is_dir() and all((path / name).is_file() for name in names)


def _file(pattern: str) -> Callable[[Path], bool]:
    """Return a test whether a path is a file whose whole name matches the pattern."""
    return lambda path: path.is_file() and re.fullmatch(pattern, path.name) is not None


_OURS: dict[str, Callable[[Path], bool]] = {
    "tokens": _holds("manifest.json", "train.bin", "test.bin"),
    "tokenizers": _holds("tokenizer.json"),
    "packages": lambda path: path.is_dir() and re.search(r"-[0-9a-f]{12}$", path.name) is not None,
    "hub": _holds("origin.json"),
    "placed": _holds(NAMES),
    "native": _file(r"step-[0-9a-f]+\.so"),
    "engines": _file(r"pace-[0-9a-f]+\.json"),
    "timings": _file(r"(analysis-)?[0-9a-f]+\.json"),
    "report": _file(r"vega-.*\.js"),
}
"""Kind (a folder of the cache) -> whether something in it is one of ours."""

KINDS = tuple(_OURS)


def contents(cache: Path | None = None) -> list[Cached]:
    """Return everything in the cache that `clean` may delete, the largest first."""
    found = [
        Cached(kind=kind, name=path.name, path=path, size=size_of(path), used=path.stat().st_mtime)
        for kind, is_ours in _OURS.items()
        for path in _entries(cache_root(cache) / kind)
        if not path.is_symlink() and (is_ours(path) or _is_left(path))
    ]
    return sorted(found, key=lambda each: (-each.size, each.kind, each.name))


def _entries(folder: Path) -> Iterator[Path]:
    if folder.is_dir() and not folder.is_symlink():
        yield from sorted(folder.iterdir())


def _is_left(path: Path) -> bool:
    """Return whether a path is a temporary folder that a killed process left behind."""
    named = path.is_dir() and path.name.startswith((".building-", ".broken-"))
    return named and time.time() - path.stat().st_mtime > _STILL_WRITTEN


def clean(chosen: Iterable[str] = (), cache: Path | None = None) -> list[Cached]:
    """Delete the contents of the cache: all of them, or the kinds and names that are `chosen`; return what was
    deleted.

    AllometryError, with the nearest names, if a choice is nothing in the cache; nothing is deleted then.
    """
    there, wanted = contents(cache), list(chosen)
    names = {each.name for each in there}
    for choice in wanted:
        if choice not in names and choice not in KINDS:
            raise unknown("entry of the cache", choice, [*KINDS, *sorted(names)])
    gone = [each for each in there if not wanted or each.kind in wanted or each.name in wanted]
    for each in gone:
        if each.path.is_dir():
            shutil.rmtree(each.path, ignore_errors=True)
        else:
            each.path.unlink(missing_ok=True)
    return gone
