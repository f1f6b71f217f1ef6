"""The place of a store's files: a folder, or a URL that fsspec understands (s3://, gs://, memory://, …).

What a URL says may come from somebody else: names that would lead out of the store are passed over, listings
and files are bounded.

Both offer the same few operations on files named relative to the store. The one that safety rests on is
`create`: it succeeds for exactly one of many writers, because the folder's file system (link) or the object
store (a conditional write, `If-None-Match`) decides it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from allometry.core.errors import AllometryError, missing_extra, printable
from allometry.core.files import MOST_BYTES_OF_LINES, create, read_bytes, replacing, writing

_URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(.*)", re.DOTALL)
MOST_NAMES = 1_000_000
"""Files of a place that are listed at most."""

MOST_FOLDERS = 100_000
"""Folders of a web server that are asked for at most: each is a request."""

MOST_LEVELS = 8
"""Levels of folders in a place."""

MOST_BYTES = MOST_BYTES_OF_LINES
"""Bytes of a file that are fetched at most, where nothing else is said."""

_SECONDS = 60.0
"""Timeout of a web server that sends nothing."""

_EXTRAS = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}


class Place(Protocol):
    """A store's files by their names, such as "run-id/result.json". A file is complete or absent."""

    @property
    def location(self) -> str:
        """The text that names this place: an absolute path or a URL."""

    def create(self, name: str, data: bytes) -> bool:
        """Write a file that does not exist yet; False, and nothing written, if it does."""

    def write(self, name: str, data: bytes) -> None:
        """Write a file, in place of what was there."""

    def read(self, name: str) -> bytes | None:
        """Return the contents of a file; None if there is none."""

    def names(self, folder: str = "") -> dict[str, str]:
        """Return all files below a folder, by name, each with a stamp that changes when its contents do."""

    def remove(self, name: str) -> None:
        """Remove a file; nothing happens if there is none."""

    def upload(self, source: Path, name: str) -> None:
        """Copy a file of this machine to `name`."""

    def download(self, name: str, target: Path, limit: int | None = None) -> None:
        """Copy the file `name` to this machine, whole or not at all; AllometryError beyond `limit` bytes."""


def is_file_name(name: str) -> bool:
    """Return whether a name stays below the place that it is relative to, on every system."""
    parts = name.split("/")
    return (
        len(parts) <= MOST_LEVELS
        and not {"", ".", ".."} & set(parts)
        and all(len(part.encode("utf-8", "replace")) < 256 for part in parts)
        and not {"\\", ":"} & set(name)
        and printable(name) == name
    )


def _path_below(root: Path, name: str) -> Path:
    """Return where the file `name` of a place is; AllometryError for a name that leads out of it."""
    if not is_file_name(name):
        raise AllometryError(f"{name[:200]!r} cannot be the name of a file of a store")
    return root / name


def url_of(location: Path | str) -> str | None:
    """Return the URL that `location` is, or None for a path. A URL that was made a Path has lost a slash, which
    is restored.
    """
    match = _URL.fullmatch(str(location))
    if match is None or match[1] == "file" or os.path.exists(str(location)):
        return None
    return f"{match[1]}://{match[2].strip('/')}"


def place(location: Path | str) -> Place:
    """Return the place that a path or URL names; AllometryError if its kind is unknown or needs a package."""
    url = url_of(location)
    return Folder(Path(str(location).removeprefix("file://"))) if url is None else Remote(url)


class Folder:
    """Files in a directory that every writer sees: a local disk, NFS, Lustre."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def location(self) -> str:
        """The absolute path."""
        return str(self.root.absolute())

    def create(self, name: str, data: bytes) -> bool:
        """Create a file: written aside, then linked, which is atomic on NFS too. See `Place.create`."""
        path = _path_below(self.root, name)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        return create(path, data)

    def write(self, name: str, data: bytes) -> None:
        """Write a file: see `Place.write`."""
        with self._replacing(_path_below(self.root, name)) as aside:
            aside.write_bytes(data)

    def read(self, name: str) -> bytes | None:
        """Read a file: see `Place.read`. Links are not followed."""
        return read_bytes(_path_below(self.root, name), MOST_BYTES)

    def names(self, folder: str = "") -> dict[str, str]:
        """Return the files below a folder: see `Place.names`. Files that are being written do not count, nor do
        links.
        """
        found: dict[str, str] = {}
        start = self.root / folder
        if folder and start.is_symlink():
            return found
        for parent, folders, files in os.walk(start):
            folders[:] = [name for name in folders if not name.endswith(".tmp")]
            for file in files:
                if not file.endswith(".tmp"):
                    with contextlib.suppress(FileNotFoundError):
                        path = os.path.join(parent, file)
                        status = os.lstat(path)
                        if stat.S_ISREG(status.st_mode):
                            stamp = f"{status.st_mtime_ns}-{status.st_size}"
                            found[os.path.relpath(path, self.root).replace(os.sep, "/")] = stamp
        return found

    def remove(self, name: str) -> None:
        """Remove a file: see `Place.remove`."""
        _path_below(self.root, name).unlink(missing_ok=True)

    def upload(self, source: Path, name: str) -> None:
        """Copy a file to the place: see `Place.upload`."""
        with self._replacing(_path_below(self.root, name)) as aside:
            shutil.copyfile(source, aside)

    def download(self, name: str, target: Path, limit: int | None = None) -> None:
        """Copy a file from the place: see `Place.download`."""
        source = _path_below(self.root, name)
        if limit is not None and source.stat().st_size > limit:
            raise TooLarge(str(source), limit)
        with self._replacing(target) as aside:
            shutil.copyfile(source, aside, follow_symlinks=False)

    @contextlib.contextmanager
    def _replacing(self, path: Path) -> Iterator[Path]:
        """Yield a file that takes the place of `path`, whose folder is made (see `files.replacing`)."""
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as aside:
            yield aside


class TooLarge(AllometryError):
    """A file is larger than any of its kind."""

    def __init__(self, name: str, limit: int) -> None:
        super().__init__(f"{name} has more than {limit:,} bytes", hint="this is no file of a run store")


class Remote:
    """Files at a URL. Credentials and end points come from the environment, as fsspec and its drivers read
    them."""

    def __init__(self, url: str) -> None:
        self.location = url.rstrip("/")
        self.refused: list[str] = []
        self._is_web = self.location.startswith(("http://", "https://"))
        self._fs, self._root = _open(self.location)

    def create(self, name: str, data: bytes) -> bool:
        """Create a file with one conditional write: see `Place.create`."""
        try:
            with self._reaching(name):
                self._fs.pipe_file(self._path(name), data, mode="create")
        except FileExistsError:
            return False
        return True

    def write(self, name: str, data: bytes) -> None:
        """Write a file: see `Place.write`."""
        with self._reaching(name):
            self._fs.pipe_file(self._path(name), data)

    def read(self, name: str) -> bytes | None:
        """Read a file: see `Place.read`. AllometryError beyond MOST_BYTES, before they are in memory."""
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "file"
            try:
                self.download(name, target, limit=MOST_BYTES)
            except FileNotFoundError:
                return None
            return target.read_bytes() if target.is_file() else None

    def names(self, folder: str = "") -> dict[str, str]:
        """Return the files below a folder: see `Place.names`. One listing, a thousand names a request; of a web
        server a page a folder.

        Names that would lead out of the place are passed over (`refused` has them).
        """
        self.refused = []
        found: dict[str, str] = {}
        with self._reaching(folder):
            for path, about in self._listing(self._path(folder)):
                name = path.removeprefix(f"{self._root}/")
                if name == path or not is_file_name(name):
                    self.refused.append(path[-200:])
                else:
                    found[name] = _stamp(about)
                if len(found) + len(self.refused) > MOST_NAMES:
                    raise AllometryError(
                        f"{self.location} lists more than {MOST_NAMES:,} files",
                        hint="name the folder of a run store",
                    )
        return found

    def _listing(self, path: str) -> Iterable[tuple[str, dict[str, Any]]]:
        """Yield the files below a path, as the file system calls them, with what it says of them."""
        if not self._is_web:
            yield from self._fs.find(path, detail=True).items()
            return
        waiting, asked = [path], 0
        while waiting:
            folder = waiting.pop()
            asked += 1
            if asked > MOST_FOLDERS:
                raise AllometryError(
                    f"{self.location} lists more than {MOST_FOLDERS:,} folders",
                    hint="name the folder of a run store",
                )
            for about in self._fs.ls(folder, detail=True):
                name = about["name"]
                if about["type"] != "directory":
                    yield name, about
                elif is_file_name(below := name.rstrip("/").removeprefix(f"{self._root}/")) and below:
                    waiting.append(name)

    def remove(self, name: str) -> None:
        """Remove a file: see `Place.remove`."""
        with contextlib.suppress(FileNotFoundError), self._reaching(name):
            self._fs.rm_file(self._path(name))

    def upload(self, source: Path, name: str) -> None:
        """Copy a file to the place: see `Place.upload`."""
        with self._reaching(name):
            self._fs.put_file(str(source), self._path(name))

    def download(self, name: str, target: Path, limit: int | None = None) -> None:
        """Copy a file from the place: see `Place.download`."""
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as aside, self._reaching(name):
            self._fs.get_file(
                self._path(name), str(aside), callback=_bounded(f"{self.location}/{name}", limit)
            )

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    @contextlib.contextmanager
    def _reaching(self, name: str) -> Iterator[None]:
        """Turn the errors of a driver (no bucket, no permission, no network) into AllometryError."""
        try:
            yield
        except (FileExistsError, FileNotFoundError, AllometryError):
            raise
        except Exception as error:  # each driver has exceptions of its own
            raise AllometryError(
                f"cannot reach {self.location}/{name}: {type(error).__name__}: {str(error)[:200]}",
                hint="check the URL, the credentials and the end point (for s3: AWS_* variables)",
            ) from error


def _open(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, without a cache of listings, and the path within it."""
    import fsspec

    scheme = url.partition("://")[0]
    try:
        options = {"client_kwargs": _web_client()} if scheme in ("http", "https") else {}
        fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False, **options)
    except ImportError as error:
        package = _EXTRAS.get(scheme, scheme)
        raise missing_extra(package, "cloud", f"a store at {scheme}://") from error
    except ValueError as error:
        raise AllometryError(
            f"cannot open {url}: {error}", hint="use a path, s3://BUCKET/PATH or gs://BUCKET/PATH"
        ) from error
    return fs, root.rstrip("/")


def _web_client() -> dict[str, Any]:
    """Return the settings of the client for web servers: the size of answers and the wait for them are bounded."""
    import aiohttp

    class Bounded(aiohttp.ClientResponse):
        """An answer whose body is read into memory only up to a limit."""

        async def read(self) -> bytes:
            """Return the body, as the library does; AllometryError if it is too large."""
            if self._body is None:
                body = bytearray()
                async for part in self.content.iter_chunked(2**16):
                    body += part
                    if len(body) > MOST_BYTES:
                        self.close()
                        raise TooLarge(str(self.url), MOST_BYTES)
                self._body = bytes(body)
            return self._body

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_SECONDS, sock_read=_SECONDS)
    return {"response_class": Bounded, "timeout": timeout}


def _bounded(name: str, limit: int | None) -> Any:
    """Return fsspec's callback for a transfer, which ends one that brings more than `limit` bytes."""
    from fsspec.callbacks import Callback

    class Bounded(Callback):
        """A count of the bytes that have arrived."""

        def call(self, *_: Any, **__: Any) -> None:
            """Raise AllometryError once the limit is exceeded."""
            if limit is not None and self.value > limit:
                raise TooLarge(name, limit)

    return Bounded()


def _stamp(about: dict[str, Any]) -> str:
    """Return a text that changes with the contents: the object's hash where there is one, else time and size."""
    hashed = about.get("ETag") or about.get("etag") or about.get("md5Hash")
    if hashed:
        return str(hashed)
    when = about.get("mtime") or about.get("LastModified") or about.get("created") or about.get("updated")
    return f"{when}-{about.get('size')}"
