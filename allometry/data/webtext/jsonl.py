"""Lines of JSON on disk: files that appear whole or not at all, logs that survive a kill, and pieces that workers read
themselves.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from allometry.core.errors import AllometryError

Row = dict[str, Any]
_TAIL = 1 << 16


def encode(row: Mapping[str, Any]) -> bytes:
    """Return one line of JSON, newline included. Lone surrogates (broken text from outside) become U+FFFD."""
    try:
        return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    except UnicodeEncodeError:
        text = json.dumps(row, ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "replace") + b"\n"


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a binary file that gets its name only when the block ends without an error, so that readers never see
    half of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with aside.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows as a whole file and return how many there were."""
    count = 0
    with whole_file(path) as file:
        for row in rows:
            file.write(encode(row))
            count += 1
    return count


def write_json(path: Path, value: Any) -> None:
    """Write one JSON value, indented, as a whole file."""
    with whole_file(path) as file:
        file.write(json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n")


def read_json(path: Path) -> Any:
    """Read the JSON value in a file; None if the file is missing or does not hold JSON."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file that this pipeline wrote; a missing file has none.

    Raises AllometryError, naming the line, where one is damaged.
    """
    if path.exists():
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    row = None
                if not isinstance(row, dict):
                    raise AllometryError(
                        f"{path} is damaged at line {number}",
                        hint="move that file away and run its stage again",
                    )
                yield row


def join_files(parts: Iterable[Path], target: Path) -> None:
    """Concatenate files (those that exist) into one whole file."""
    with whole_file(target) as out:
        for part in parts:
            if part.exists():
                with part.open("rb") as file:
                    while block := file.read(1 << 20):
                        out.write(block)


def file_digest(path: Path) -> str:
    """Return a hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


class AppendLog:
    """An append-only file of JSON lines. Opening it drops a last line that a kill left unfinished.

    Every line reaches the operating system before `append` returns, so a killed process loses nothing; `sync`
    also guards against a power cut.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        whole = _end_of_last_line(path)
        if whole < path.stat().st_size:
            self._file.truncate(whole)
        self._file.seek(0, os.SEEK_END)

    def append(self, *rows: Mapping[str, Any]) -> None:
        """Write rows at the end, in one write."""
        self._file.write(b"".join(encode(row) for row in rows))
        self._file.flush()

    def sync(self) -> None:
        """Wait until the disk has everything."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _end_of_last_line(path: Path) -> int:
    """Return the offset after the last newline."""
    size = position = path.stat().st_size
    with path.open("rb") as file:
        while position > 0:
            start = max(0, position - _TAIL)
            file.seek(start)
            newline = file.read(position - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            position = start
    return 0 if size else size


CHUNK_BYTES = 1 << 20


class Chunk(NamedTuple):
    """Whole lines of a file: from byte `start` up to `end`."""

    path: str
    start: int
    end: int


def chunks(path: Path, size: int = CHUNK_BYTES) -> Iterator[Chunk]:
    """Yield the file in pieces of about `size` bytes, cut at line ends; none for a missing or empty file."""
    if not path.exists():
        return
    with path.open("rb") as file:
        start = 0
        total = file.seek(0, 2)
        while start < total:
            file.seek(min(start + size, total))
            file.readline()
            end = file.tell()
            yield Chunk(str(path), start, end)
            start = end


def chunk_rows(chunk: Chunk) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Yield the rows of a piece: (offset, length, row)."""
    with open(chunk.path, "rb") as file:
        file.seek(chunk.start)
        position = chunk.start
        while position < chunk.end:
            line = file.readline()
            yield position, len(line), json.loads(line)
            position += len(line)
