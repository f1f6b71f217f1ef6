"""Files that survive a kill: written completely or not at all, and read even when the last line was cut off.

What is read may have been made by somebody else: links are not followed, only regular files are opened, and
sizes and depths are bounded.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import stat
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from allometry.core.errors import AllometryError

MOST_BYTES = 64 * 2**20
"""Bytes of a file that are read at most: a plan of ten thousand runs takes a third of them."""

MOST_BYTES_OF_LINES = 256 * 2**20
"""Bytes of a file of lines (a curve, losses of probes) that are read at most."""

MOST_DEEP = 64
"""Levels of nesting in JSON."""

_CAREFUL = 0
for _flag in ("O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):
    _CAREFUL |= getattr(os, _flag, 0)
"""Open the file itself, not what a link or a pipe of its name leads to. Windows knows these flags only in part."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an operating system's refusal to write `path` into an AllometryError that says what to do.

    A full disk, a missing permission and a read-only file system each have their own remedy.
    """
    try:
        yield
    except OSError as error:
        raise _refusal(path, error) from error


def _refusal(path: Path, error: OSError) -> AllometryError:
    if is_full(error):
        return AllometryError(
            f"the disk is full: could not write {path}",
            hint="free some space and run the same command again; what is on disk is intact and continues",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return AllometryError(
            f"may not write {path}: {error.strerror}",
            hint="choose a folder that you can write to with --store, or change its permissions",
        )
    return AllometryError(
        f"could not write {path}: {error.strerror or error}", hint="check the path and the disk"
    )


def is_full(error: BaseException | None) -> bool:
    """Return whether an error, or its cause, is a full disk or an exhausted quota."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__
    return False


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the name of a new, empty file beside `path`; what is written into it takes the place of `path`.

    Readers see the old contents or the new, also after a crash or a power failure, and nothing is left behind
    by an error. Raises AllometryError where the disk refuses.
    """
    aside = path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex[:12]}.tmp")
    with writing(path):
        os.close(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _CAREFUL, 0o666))
    try:
        try:
            yield aside
        except FileNotFoundError:  # the source of a copy is missing: not an error of this disk
            raise
        except OSError as error:
            raise _refusal(path, error) from error
        with writing(path):
            _sync(aside)
            aside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise
    with contextlib.suppress(OSError):  # not every file system can do this for a folder
        _sync(path.parent)


def _sync(path: Path) -> None:
    """Wait until a file's contents, or a folder's names, are on the disk."""
    handle = os.open(path, (os.O_RDWR if os.name == "nt" else os.O_RDONLY) | getattr(os, "O_CLOEXEC", 0))
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def create(path: Path, text: bytes | str) -> bool:
    """Create a file at once, durably, unless there is one already; return whether this call has created it.

    It is written aside and then linked, which is atomic on NFS too. AllometryError where the disk refuses.
    """
    data = text.encode() if isinstance(text, str) else text
    with contextlib.suppress(_ExistsError), replacing(path) as aside:
        aside.write_bytes(data)
        try:
            os.link(aside, path)
        except FileExistsError:
            raise _ExistsError from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            _create_in_place(path, data)
        return True
    return False


_NO_LINKS = {errno.EPERM, errno.EMLINK, errno.ENOSYS, getattr(errno, "ENOTSUP", errno.ENOSYS)}
"""Refusals of file systems that know no hard links."""


def _create_in_place(path: Path, data: bytes) -> None:
    try:
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError:
        raise _ExistsError from None


class _ExistsError(Exception):
    """Another process has created the file."""


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file at once, durably (see `replacing`)."""
    with replacing(path) as aside:
        aside.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Replace a text file at once, durably (see `replacing`)."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file at once (see `write_text`)."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def append_text(path: Path, text: str) -> None:
    """Write `text` at the end of a file, which is made if there is none; a link is never followed."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | _CAREFUL
    with writing(path), open(os.open(path, flags, 0o666), "a", encoding="utf-8") as file:
        _require_file(path, os.fstat(file.fileno()))
        file.write(text)


def read_bytes(path: Path, limit: int = MOST_BYTES) -> bytes | None:
    """Return the contents of a file that others may have made; None if there is none.

    Links are not followed, pipes and devices not waited for. Raises AllometryError for them, for what cannot
    be read, and for more than `limit` bytes.
    """
    try:
        handle = os.open(path, os.O_RDONLY | _CAREFUL)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise AllometryError(
                f"{path} is a link, and links are not followed here", hint="put the file itself in its place"
            ) from error
        raise AllometryError(f"cannot read {path}: {error.strerror}", hint="check its permissions") from error
    try:
        status = os.fstat(handle)
        _require_file(path, status)
        with open(handle, "rb", closefd=False) as file:
            data = file.read(limit + 1) if status.st_size <= limit else None
    except OSError as error:
        raise AllometryError(f"cannot read {path}: {error.strerror}", hint="check the disk") from error
    finally:
        os.close(handle)
    if data is None or len(data) > limit:
        raise AllometryError(f"{path} is damaged: it has more than {limit:,} bytes", hint=_move(path))
    return data


def read_tail(path: Path, count: int) -> bytes:
    """Return the last `count` bytes of a log that others may have made, as `read_bytes` opens it; b"" if it
    cannot be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | _CAREFUL)
    except OSError:
        return b""
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            return b""
        os.lseek(handle, max(0, status.st_size - count), os.SEEK_SET)
        return os.read(handle, count)
    except OSError:
        return b""
    finally:
        os.close(handle)


def _require_file(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise AllometryError(f"{path} is damaged: it is no regular file", hint=_move(path))


def _move(path: Path) -> str:
    """Return the advice about a damaged file: move it, so that nothing is lost. The name is quoted for the shell."""
    return f"move it away: mv {shlex.quote(str(path))} {shlex.quote(f'{path}.damaged')}"


def parse_json(data: str) -> Any:
    """Parse a JSON text; ValueError for everything that is wrong with it.

    That includes nesting beyond MOST_DEEP levels, on which functions that walk through it would fail.
    """
    try:
        value = json.loads(data)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if data.count("[") + data.count("{") <= MOST_DEEP:
        return value
    level, depth = [value], 0
    while level := [item for each in level if isinstance(each, list | dict) for item in _items(each)]:
        depth += 1
        if depth > MOST_DEEP:
            raise ValueError("it is nested too deeply")
    return value


def _items(value: list[Any] | dict[str, Any]) -> Iterator[Any]:
    """Yield those items of a list or an object that hold others."""
    items = value.values() if isinstance(value, dict) else value
    return (item for item in items if isinstance(item, list | dict))


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file; None if there is no file.

    Opened with care (see `read_bytes`). Raises AllometryError, saying where, for a truncated file or one that
    holds something else.
    """
    data = read_bytes(path)
    if data is None:
        return None
    try:
        value = parse_json(data.decode("utf-8"))
    except ValueError as error:
        raise AllometryError(f"{path} is damaged: {error}", hint=_move(path)) from error
    if not isinstance(value, dict):
        raise AllometryError(f"{path} is damaged: it does not hold an object", hint=_move(path))
    return value


def read_lines(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the objects in a JSONL file, and notes about lines that had to be left out.

    A last line without an end is what a kill in the middle of a write leaves behind: it is dropped and
    reported. Opened with care (see `read_bytes`).
    """
    data = read_bytes(path, MOST_BYTES_OF_LINES)
    if data is None:
        return [], []
    rows: list[dict[str, Any]] = []
    bad: list[int] = []
    lines = data.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = _object(line)
        if row is not None:
            rows.append(row)
        else:
            bad.append(number)
    return rows, left_out(path, bad, len(lines))


def left_out(path: Path, bad: Sequence[int], count: int) -> list[str]:
    """Return the notes about lines of a file (their numbers) that are damaged, of `count` in all."""
    notes = [f"{path.name}: line {number} is damaged and is left out" for number in bad[:3] if number < count]
    if len(bad) > 3:
        return [*notes, f"{path.name}: {len(bad) - 3} more damaged lines are left out"]
    if bad and bad[-1] == count:
        notes.append(f"{path.name}: the last line was cut off and is left out")
    return notes


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        value = parse_json(line.decode("utf-8"))
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def refuse_links(path: Path, store: Path) -> None:
    """Raise AllometryError if `path`, which lies in `store`, or a folder between them is a link: what is moved or
    deleted there would lie elsewhere.
    """
    for folder in (path, *path.parents):
        if folder == store:
            return
        if folder.is_symlink():
            raise AllometryError(
                f"{folder} is a link, and links are not followed here", hint="put a folder in its place"
            )


def slug(text: str, fill: str = "_") -> str:
    """Return a text as part of a file's name: letters and digits stay, `fill` stands for everything else.

    >>> slug("hub:roneneldan/TinyStories")
    'hub_roneneldan_TinyStories'
    """
    return "".join(c if c.isalnum() else fill for c in text)


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; links are not followed."""
    if not path.is_dir():
        return path.lstat().st_size
    total = 0
    for folder, _, names in os.walk(path):
        total += sum(Path(folder, name).lstat().st_size for name in names)
    return total
