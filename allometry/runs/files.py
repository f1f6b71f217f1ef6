"""Files that survive a kill: written whole or not at all, and read even when the last line was cut off."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from allometry.errors import AllometryError


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
    """Whether an error, or what caused it, is a full disk or an exhausted quota."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__
    return False


def write_text(path: Path, text: str) -> None:
    """Replace a file at once: readers see the old or the new contents, also after a crash. Durable on
    return.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file at once (see `write_text`)."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None if there is no file.

    Raises AllometryError, saying where, for a truncated file or one that holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise AllometryError(f"{path} is damaged: {error}", hint=f"remove it: rm {path}") from error
    except OSError as error:
        raise AllometryError(f"cannot read {path}: {error.strerror}", hint="check its permissions") from error
    if not isinstance(value, dict):
        raise AllometryError(f"{path} is damaged: it does not hold an object", hint=f"remove it: rm {path}")
    return value


def read_lines(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The objects in a JSONL file, and notes about lines that had to be left out.

    A last line without an end is what a kill in the middle of a write leaves behind: it is dropped and
    reported.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise AllometryError(f"cannot read {path}: {error.strerror}", hint="check its permissions") from error
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    lines = data.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = _object(line)
        if row is not None:
            rows.append(row)
        elif number == len(lines):
            notes.append(f"{path.name}: the last line was cut off and is left out")
        else:
            notes.append(f"{path.name}: line {number} is damaged and is left out")
    return rows, notes


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; links are not followed."""
    if not path.is_dir():
        return path.lstat().st_size
    total = 0
    for folder, _, names in os.walk(path):
        total += sum(Path(folder, name).lstat().st_size for name in names)
    return total
