"""Work with a store at a URL: a mirror of its small files on this machine, and folders of runs that are sent to it.

Everything that reads a store reads the mirror; `pull` fetches what has changed at the URL, `push` sends what
has changed here. Checkpoints, claims and training data are never mirrored.

Training writes files as it always does, into a scratch folder whose `send` copies what has changed. A checkpoint
is there whole or not at all, because object stores write objects so; result.json is sent after everything else.
A run that moves to another machine fetches what the store has and continues.

The place may be somebody else's: `places` refuses names that lead out of it, and nothing here writes outside
of the mirror's folder or through a link.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from allometry.core.env import cache_dir
from allometry.core.errors import AllometryError, printable
from allometry.core.files import read_json, write_json
from allometry.runs.place import MOST_BYTES, Folder, Place, TooLarge

_RECORD = ".mirror.json"
_LARGE = "/checkpoints/"
MOST_MIRRORED = 20_000_000_000
"""Bytes of files that a mirror holds at most: a stranger's store does not fill this disk."""

_AT_ONCE = 16
"""Files that travel at the same time."""

CONTENTS = ("data",)
"""Folders of a store that are not mirrored, besides hidden ones."""


class Mirror:
    """The folder that mirrors a place. `known` has, by file name, the stamps it had at the place and here
    when both were the same; `notes` says what could not be mirrored."""

    def __init__(self, place: Place) -> None:
        self.place = place
        digest = hashlib.sha256(place.location.encode()).hexdigest()[:16]
        self.path = cache_dir("stores", digest)
        self.known: dict[str, list[str]] = {}
        self.notes: tuple[str, ...] = ()
        self._left, self._lock = MOST_MIRRORED, threading.Lock()
        with contextlib.suppress(AllometryError, ValueError, TypeError):  # damaged: all is fetched again
            self.known = dict((read_json(self.path / _RECORD) or {}).get("files", {}))

    def pull(self, folder: str = "") -> None:
        """Fetch what has changed at the place, and remove what was removed there."""
        there = {name: stamp for name, stamp in self.place.names(folder).items() if _mirrored(name)}
        both = [name for name in there if any(parent in there for parent in _folders(name))]
        for name in both:  # below a file
            del there[name]
        changed = [
            name
            for name, stamp in there.items()
            if self.known.get(name, [""])[0] != stamp or not (self.path / name).exists()
        ]
        self._left = MOST_MIRRORED - sum(
            _size(self.path / name) for name in self.known if name not in changed
        )
        changed.sort(key=lambda name: not name.endswith(".json"))  # what runs are, before their curves
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            problems = [problem for problem in threads.map(self._fetch, changed) if problem]
        if self._left <= 0:
            problems = [
                f"{self.place.location} holds more than {MOST_MIRRORED:,} bytes: the rest is left out"
            ]
        self.notes = (*_refused(self.place, both), *problems)
        self._remember(there, changed)
        gone = [name for name in self.known if _below(name, folder) and name not in there]
        for name in gone:
            (self.path / name).unlink(missing_ok=True)
            del self.known[name]
        if changed or gone:
            self._save()

    def push(self, folder: str = "") -> None:
        """Send what has changed here since it was last fetched or sent."""
        changed = [
            name
            for name, stamp in _local(self.path, folder).items()
            if self.known.get(name, ["", ""])[1] != stamp
        ]
        if not changed:
            return
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            list(threads.map(lambda name: self.place.upload(self.path / name, name), changed))
        self._remember(self.place.names(folder), changed)
        self._save()

    def create(self, name: str, data: bytes) -> bool:
        """Create a file at the place; False if it exists there already. The mirror then has the file of the place."""
        created = self.place.create(name, data)
        self.pull(name.rpartition("/")[0])
        return created

    def _fetch(self, name: str) -> str | None:
        """Fetch a file; return a note if it is too large to be one of a store, or the mirror is full."""
        left = self._left
        if left <= 0:
            return None
        try:
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                self.place.download(name, self.path / name, limit=min(MOST_BYTES, left))
        except TooLarge as error:
            if left < MOST_BYTES:
                self._left = 0
            return f"{error.message}: it is left out"
        with self._lock:
            self._left -= _size(self.path / name)
        return None

    def _remember(self, there: Mapping[str, str], names: list[str]) -> None:
        for name in names:
            with contextlib.suppress(OSError):
                self.known[name] = [there.get(name, ""), _stamp(self.path / name)]

    def _save(self) -> None:
        write_json(self.path / _RECORD, {"location": self.place.location, "files": self.known})


def _folders(name: str) -> list[str]:
    """Return the folders that a file is in, relative to the place: "a" and "a/b" for "a/b/c"."""
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _refused(place: Place, further: list[str]) -> list[str]:
    """Return a note on names in a place's listing that cannot be files of a store."""
    refused = [*getattr(place, "refused", []), *further]
    if not refused:
        return []
    return [
        f"{place.location}: names in its listing are no files of a store and are left out ({len(refused)}, "
        f"such as {printable(refused[0])})"
    ]


def _mirrored(name: str) -> bool:
    return not (name.startswith((".", *(f"{folder}/" for folder in CONTENTS))) or _LARGE in name)


def _below(name: str, folder: str) -> bool:
    return not folder or name == folder or name.startswith(f"{folder}/")


def _local(path: Path, folder: str) -> dict[str, str]:
    """Return the files of the mirror that belong to the store, with their stamps."""
    found = {}
    start = path / folder
    for file in [start] if start.is_file() else start.rglob("*"):
        name = file.relative_to(path).as_posix()
        if file.is_file() and not file.name.startswith(".") and _mirrored(name):
            found[name] = _stamp(file)
    return found


def _size(path: Path) -> int:
    """Return the bytes of a file, 0 if there is none."""
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _stamp(path: Path) -> str:
    status = path.stat()
    return f"{status.st_mtime_ns}-{status.st_size}"


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
