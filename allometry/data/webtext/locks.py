"""Locks that keep two processes from writing the same files, on one machine or on common storage."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from allometry.core.errors import AllometryError


@contextmanager
def hold(path: Path, what: str, *, seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock `path` while the block runs; the system frees it when the process dies.

    Waits up to `seconds` for it. Raises AllometryError, naming `what` and the process that has it, if it is
    not free then. The file stays: removing it would let two processes hold "the same" lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock, owner = FileLock(path, timeout=seconds), path.with_suffix(".owner")
    try:
        lock.acquire()
    except Timeout:
        try:
            who = owner.read_text(encoding="utf-8", errors="replace").strip()[:200]
        except OSError:
            who = ""
        raise AllometryError(
            f"{what} is in use by {who or 'another process'}",
            hint="wait until it ends or stop it, then run the same command again",
        ) from None
    try:
        owner.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
        yield
    finally:
        lock.release()
