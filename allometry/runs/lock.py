"""One writer per store: a file lock that the operating system releases when its holder dies, however it
dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from allometry.core.errors import AllometryError
from allometry.runs.files import writing


@contextlib.contextmanager
def exclusive(store: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold the store for writing; AllometryError, naming the other process, if it is taken.

    `shared` keeps out only those who want it for themselves: whoever shares it claims each run
    (`allometry.runs.claims`), which also works where the file system has no locks. A lock file that is a link
    is refused: what it leads to would be written over.
    """
    path = store / ".lock"
    with writing(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _taken(store, handle) from error
        except OSError:
            if not shared:
                raise
        with writing(path):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def _taken(store: Path, handle: int) -> AllometryError:
    pid = os.pread(handle, 32, 0).decode(errors="replace").strip()
    who = f"process {pid}" if pid else "another process"
    return AllometryError(
        f"{who} is writing to the store {store}",
        hint=f"wait for it, stop it (kill {pid or 'PID'}), or use another store with --store",
    )
