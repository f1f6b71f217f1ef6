"""Where a store keeps its files: a folder, or a URL that fsspec understands (s3://, gs://, memory://, …).

Both offer the same few operations on files named relative to the store. The one that safety rests on is
`create`: it succeeds for exactly one of many writers, because the folder's file system (link) or the object
store (a conditional write, `If-None-Match`) decides it.
"""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from allometry.errors import AllometryError, missing_extra
from allometry.runs.files import writing

_URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(.*)", re.DOTALL)
_EXTRAS = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}


class Place(Protocol):
    """A store's files by their names, such as "run-id/result.json". Contents are whole or absent."""

    @property
    def location(self) -> str:
        """What to type to name this place again: an absolute path or a URL."""

    def create(self, name: str, data: bytes) -> bool:
        """Write a file that does not exist yet; False, and nothing written, if it does."""

    def write(self, name: str, data: bytes) -> None:
        """Write a file, in place of what was there."""

    def read(self, name: str) -> bytes | None:
        """The contents of a file; None if there is none."""

    def names(self, folder: str = "") -> dict[str, str]:
        """All files below a folder, by name, each with a stamp that changes when its contents do."""

    def remove(self, name: str) -> None:
        """Remove a file; nothing happens if there is none."""

    def upload(self, source: Path, name: str) -> None:
        """Copy a file of this machine to `name`."""

    def download(self, name: str, target: Path) -> None:
        """Copy the file `name` to this machine, whole or not at all."""


def url_of(location: Path | str) -> str | None:
    """The URL that `location` is, or None for a path. A URL that was made a Path has lost a slash: it is put
    back."""
    match = _URL.fullmatch(str(location))
    if match is None or match[1] == "file" or os.path.exists(str(location)):
        return None
    return f"{match[1]}://{match[2].strip('/')}"


def place(location: Path | str) -> Place:
    """The place that a path or URL names; AllometryError if its kind is unknown or needs a package."""
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
        """See `Place.create`: written aside, then linked, which is atomic on NFS too."""
        path = self.root / name
        with _written_aside(path, data) as aside:
            try:
                os.link(aside, path)
            except FileExistsError:
                return False
        return True

    def write(self, name: str, data: bytes) -> None:
        """See `Place.write`."""
        path = self.root / name
        with _written_aside(path, data) as aside:
            aside.replace(path)

    def read(self, name: str) -> bytes | None:
        """See `Place.read`."""
        try:
            return (self.root / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def names(self, folder: str = "") -> dict[str, str]:
        """See `Place.names`. What is being written does not count."""
        found: dict[str, str] = {}
        for parent, folders, files in os.walk(self.root / folder):
            folders[:] = [name for name in folders if not name.endswith(".tmp")]
            for file in files:
                if not file.endswith(".tmp"):
                    with contextlib.suppress(FileNotFoundError):
                        path = os.path.join(parent, file)
                        status = os.stat(path)
                        stamp = f"{status.st_mtime_ns}-{status.st_size}"
                        found[os.path.relpath(path, self.root).replace(os.sep, "/")] = stamp
        return found

    def remove(self, name: str) -> None:
        """See `Place.remove`."""
        (self.root / name).unlink(missing_ok=True)

    def upload(self, source: Path, name: str) -> None:
        """See `Place.upload`."""
        self.write(name, source.read_bytes())

    def download(self, name: str, target: Path) -> None:
        """See `Place.download`."""
        with _written_aside(target, (self.root / name).read_bytes()) as aside:
            aside.replace(target)


@contextlib.contextmanager
def _written_aside(path: Path, data: bytes) -> Iterator[Path]:
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            aside.write_bytes(data)
            yield aside
        finally:
            aside.unlink(missing_ok=True)


class Remote:
    """Files at a URL. Credentials and end points come from the environment, as fsspec and its drivers read
    them."""

    def __init__(self, url: str) -> None:
        self.location = url.rstrip("/")
        self._fs, self._root = _open(self.location)

    def create(self, name: str, data: bytes) -> bool:
        """See `Place.create`: one conditional write."""
        try:
            with self._reaching(name):
                self._fs.pipe_file(self._path(name), data, mode="create")
        except FileExistsError:
            return False
        return True

    def write(self, name: str, data: bytes) -> None:
        """See `Place.write`."""
        with self._reaching(name):
            self._fs.pipe_file(self._path(name), data)

    def read(self, name: str) -> bytes | None:
        """See `Place.read`."""
        try:
            with self._reaching(name):
                return bytes(self._fs.cat_file(self._path(name)))
        except FileNotFoundError:
            return None

    def names(self, folder: str = "") -> dict[str, str]:
        """See `Place.names`: one listing, a thousand names a request."""
        with self._reaching(folder):
            found = self._fs.find(self._path(folder), detail=True)
        return {path[len(self._root) :].lstrip("/"): _stamp(about) for path, about in found.items()}

    def remove(self, name: str) -> None:
        """See `Place.remove`."""
        with contextlib.suppress(FileNotFoundError), self._reaching(name):
            self._fs.rm_file(self._path(name))

    def upload(self, source: Path, name: str) -> None:
        """See `Place.upload`."""
        with self._reaching(name):
            self._fs.put_file(str(source), self._path(name))

    def download(self, name: str, target: Path) -> None:
        """See `Place.download`."""
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            with self._reaching(name):
                self._fs.get_file(self._path(name), str(aside))
            aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    @contextlib.contextmanager
    def _reaching(self, name: str) -> Iterator[None]:
        """Turn what a driver raises (no bucket, no permission, no network) into a sentence."""
        try:
            yield
        except (FileExistsError, FileNotFoundError):
            raise
        except Exception as error:  # each driver has exceptions of its own
            raise AllometryError(
                f"cannot reach {self.location}/{name}: {type(error).__name__}: {str(error)[:200]}",
                hint="check the URL, the credentials and the end point (for s3: AWS_* variables)",
            ) from error


def _open(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, without a cache of listings, and the path within it."""
    import fsspec

    scheme = url.partition("://")[0]
    try:
        fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        package = _EXTRAS.get(scheme, scheme)
        raise missing_extra(package, "cloud", f"a store at {scheme}://") from error
    except ValueError as error:
        raise AllometryError(
            f"cannot open {url}: {error}", hint="use a path, s3://BUCKET/PATH or gs://BUCKET/PATH"
        ) from error
    return fs, root.rstrip("/")


def _stamp(about: dict[str, Any]) -> str:
    """Something that changes with the contents: the object's hash where there is one, else time and size."""
    hashed = about.get("ETag") or about.get("etag") or about.get("md5Hash")
    if hashed:
        return str(hashed)
    when = about.get("mtime") or about.get("LastModified") or about.get("created") or about.get("updated")
    return f"{when}-{about.get('size')}"
