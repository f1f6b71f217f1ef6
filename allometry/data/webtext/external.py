"""Sort more lines than memory holds: sorted runs on disk, merged as a stream."""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

RUN_BYTES = 64 << 20
"""Bytes of lines that are sorted in memory at a time. Memory stays near three times this, whatever the
input's size."""

FAN_IN = 128
"""Runs merged at a time: below the usual limit on open files."""


def sort_lines(lines: Iterable[bytes], folder: Path, *, run_bytes: int = RUN_BYTES) -> Iterator[bytes]:
    """Yield the lines (each ends with a newline) in byte order. `folder` holds the runs, which are removed
    afterwards.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="sort-") as name:
        runs = list(_write_runs(lines, Path(name), run_bytes))
        while len(runs) > FAN_IN:
            runs = [_merge_into_one(runs[i : i + FAN_IN]) for i in range(0, len(runs), FAN_IN)]
        yield from _merge(runs)


def _write_runs(lines: Iterable[bytes], folder: Path, run_bytes: int) -> Iterator[Path]:
    held: list[bytes] = []
    size = 0
    count = 0
    for line in lines:
        held.append(line)
        size += len(line) + 50
        if size >= run_bytes:
            yield _write_run(held, folder / f"{count:06d}")
            held, size, count = [], 0, count + 1
    if held:
        yield _write_run(held, folder / f"{count:06d}")


def _write_run(held: list[bytes], path: Path) -> Path:
    held.sort()
    with path.open("wb") as file:
        file.writelines(held)
    return path


def _merge(runs: list[Path]) -> Iterator[bytes]:
    files = [run.open("rb", buffering=1 << 18) for run in runs]
    try:
        yield from heapq.merge(*files)
    finally:
        for file in files:
            file.close()


def _merge_into_one(runs: list[Path]) -> Path:
    target = runs[0].with_name(f"{runs[0].name}m")
    with target.open("wb") as file:
        file.writelines(_merge(runs))
    for run in runs:
        run.unlink()
    return target
