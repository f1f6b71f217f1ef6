"""Locks between processes, on one machine or on common storage: the operating system frees them when their
holder dies, however it dies.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from allometry.core.errors import AllometryError
from allometry.core.files import read_tail, write_text, writing

if sys.platform != "win32":
    import fcntl


@contextlib.contextmanager
def hold(path: Path, what: str, *, seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock `path` while the block runs.

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


@contextlib.contextmanager
def exclusive(store: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold the store for writing; AllometryError, naming the other process, if it is taken.

    `shared` keeps out only those who want it for themselves: whoever shares it claims each run
    (`allometry.runs.claims`), which also works where the file system has no locks, and on Windows, which has
    none that are shared. A lock file that is a link is refused: what it leads to would be written over.
    """
    path, owner = store / ".lock", store / ".lock.owner"
    with contextlib.ExitStack() as held:
        try:
            with writing(path):
                _share(path, held) if shared else held.enter_context(FileLock(path, timeout=0))
        except AllometryError as error:
            if isinstance(error.__cause__, Timeout | BlockingIOError):
                raise _taken(store, owner) from error
            raise
        write_text(owner, f"{os.getpid()}\n")
        yield


def _share(path: Path, held: contextlib.ExitStack) -> None:
    """Take a lock that others may share; without one where the system or the file system has none."""
    if sys.platform == "win32":
        return
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    held.callback(os.close, handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        pass  # claims keep the runs apart


def _taken(store: Path, owner: Path) -> AllometryError:
    pid = read_tail(owner, 32).decode(errors="replace").strip()
    who = f"process {pid}" if pid else "another process"
    return AllometryError(
        f"{who} is writing to the store {store}",
        hint=f"wait for it, stop it (kill {pid or 'PID'}), or use another store with --store",
    )
