"""The cache of prepared data: each entry is built aside, then renamed into place; and whether downloads
are allowed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from allometry.core.errors import AllometryError

_STALE_SECONDS = 86400.0


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
