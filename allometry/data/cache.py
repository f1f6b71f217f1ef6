"""The cache of prepared data: how entries are built, whether downloads are allowed, and what it contains."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allometry.core.env import cache_root
from allometry.core.errors import AllometryError, unknown
from allometry.core.files import size_of

_STALE_SECONDS = 86400.0

NAMES = "names.json"
"""File in a cache: paths of token sets that were made elsewhere, by their key."""


def slug(*parts: str, identity: Any) -> str:
    """Return a readable and unique directory name, such as "sotu-bytes-1f3a9c2e5b7d"."""
    readable = "-".join(re.sub(r"[^A-Za-z0-9.]+", "_", part)[:40].strip("_") for part in parts)
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return f"{readable}-{hashlib.sha256(canonical.encode()).hexdigest()[:12]}"


def build_once(target: Path, build: Callable[[Path], None], *, complete: Callable[[Path], bool]) -> Path:
    """Build the directory `target` with `build(temporary directory)` unless it is there and complete.

    Two processes may do so at once: each builds aside and the first to rename wins; both results are the
    same. Raises AllometryError if the disk is full or the cache cannot be written.
    """
    if complete(target):
        return target
    with _disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target.parent)
        aside = Path(tempfile.mkdtemp(prefix=".building-", dir=target.parent))
        try:
            build(aside)
            _put(aside, target, complete)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return target


def _put(aside: Path, target: Path, complete: Callable[[Path], bool]) -> None:
    aside.chmod(0o755)
    for _ in range(3):
        try:
            aside.rename(target)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        if complete(target):
            return
        # What is there is damaged (a half-deleted cache, say): move it out of the way, and let nobody read it
        # again.
        broken = Path(tempfile.mkdtemp(prefix=".broken-", dir=target.parent))
        target.rename(broken / target.name)
        shutil.rmtree(broken, ignore_errors=True)
    raise AllometryError(
        f"cannot put {target} into place", hint="remove that directory and run the command again"
    )


def _sweep(parent: Path) -> None:
    """Remove what killed processes left behind, once it is a day old."""
    for left in (*parent.glob(".building-*"), *parent.glob(".broken-*")):
        try:
            stale = time.time() - left.stat().st_mtime > _STALE_SECONDS
        except FileNotFoundError:
            continue
        if stale:
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise AllometryError(
                f"the disk is full: cannot write {target}",
                hint="free some space, or set ALLOMETRY_CACHE to a directory on another disk",
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR):
            raise AllometryError(
                f"cannot write to the cache: {error.strerror}: {error.filename or target}",
                hint="set ALLOMETRY_CACHE to a directory that you can write to",
            ) from error
        raise


def sha256(*paths: Path) -> str:
    """Return the SHA-256 of the content of files, one after the other, in hexadecimal."""
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                total.update(block)
    return total.hexdigest()


_ALLOWED: ContextVar[bool] = ContextVar("downloads_allowed", default=True)


@contextmanager
def no_downloads() -> Iterator[None]:
    """Refuse every download within the context, with an AllometryError."""
    before = _ALLOWED.set(False)
    try:
        yield
    finally:
        _ALLOWED.reset(before)


def downloads_allowed() -> bool:
    """Return whether corpora may be downloaded now."""
    return _ALLOWED.get()


def require_downloads(what: str) -> None:
    """Raise AllometryError, naming what would be downloaded, within `no_downloads`."""
    if not downloads_allowed():
        raise AllometryError(
            f"{what} is not on this machine, and nothing is downloaded for a plan alone",
            hint="leave --dry-run out, or fetch it first: allometry data prepare CORPUS",
        )


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
    "laws": _file(r"[0-9a-f]+\.json"),
    "atlas": lambda path: path.is_dir() and re.search(r"-[0-9a-f]{12}$", path.name) is not None,
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
