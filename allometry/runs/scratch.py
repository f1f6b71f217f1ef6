"""A run's directory on this machine whose files are sent to a store at a URL as they are written.

Training writes files as it always does; `send` copies what has changed. A checkpoint is there whole or not at
all, because object stores write objects so; result.json is sent after everything else. A run that moves to
another machine fetches what the store has and continues.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

from allometry.core.env import cache_dir
from allometry.core.errors import AllometryError
from allometry.runs.place import Folder, Place

_LAST = "result.json"


class Scratch:
    """The directory `path` of a run, as a context manager: its files are sent every few seconds and at the end."""

    def __init__(self, place: Place, run: str, *, every: float, held: Callable[[], bool]) -> None:
        """Create the directory; `every` is in seconds. Nothing is sent once `held` is false: the run went to
        another process.
        """
        self.place, self.run, self.every, self.held = place, run, every, held
        self._root = Path(tempfile.mkdtemp(prefix="run-", dir=cache_dir("scratch")))
        self.path = self._root / run
        self._sent: dict[str, str] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_sending, daemon=True)

    def __enter__(self) -> Self:
        self.path.mkdir()
        self.fetch(self.run)
        self._sent = Folder(self._root).names(self.run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        try:
            self.send()
        finally:
            shutil.rmtree(self._root, ignore_errors=True)

    def fetch(self, run: str) -> None:
        """Copy a run's directory to this machine, without branch points: the run's own, or one that it starts from."""
        for name in self.place.names(run):
            if not _is_branch(name):
                with contextlib.suppress(FileNotFoundError):
                    self.place.download(name, self._root / name)

    def fetch_branch(self, source: str, step: int) -> Path:
        """Return the directory of another run on this machine, with the branch point at `step` if it left one."""
        name = f"{source}/checkpoints/branch-{step}.safetensors"
        with contextlib.suppress(FileNotFoundError):
            self.place.download(name, self._root / name)
        return self._root / source

    def send(self) -> None:
        """Copy what has changed since the last time, and remove from the store what was removed here."""
        with self._lock:
            if not self.held():
                return
            here = Folder(self._root).names(self.run)
            for name in sorted(here, key=lambda name: (name.endswith(_LAST), "/checkpoints/" not in name)):
                if self._sent.get(name) != here[name]:
                    with contextlib.suppress(FileNotFoundError):  # an old checkpoint, removed meanwhile
                        self.place.upload(self._root / name, name)
                        self._sent[name] = here[name]
            for name in [name for name in self._sent if name not in here]:
                self.place.remove(name)
                del self._sent[name]

    def _keep_sending(self) -> None:
        while not self._ended.wait(self.every):
            with contextlib.suppress(AllometryError, OSError):  # tried again; the last time it must succeed
                self.send()


def _is_branch(name: str) -> bool:
    return name.rpartition("/")[2].startswith("branch-")
