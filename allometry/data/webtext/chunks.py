"""Pieces of a file of JSON lines: workers read the lines themselves, so that little data travels between processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

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
