"""The state of a crawl in one part of the links: an archive and a log that agree, even after a kill.

A page is written to the WARC first and then named in the log, each in one write. So after a kill the archive
holds at most what the log does not know yet: complete records are then added to the log, an incomplete one is
cut off.
"""

from __future__ import annotations

import json
import os
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from allometry.core.locks import hold
from allometry.data.webtext.jsonl import AppendLog, Row, read_rows
from allometry.data.webtext.warc import encode_info, encode_page, whole_members

SEGMENT_BYTES = 1 << 30
"""A new WARC file begins after this many bytes, the customary size."""

LOCK_SECONDS = 60.0
"""Time to wait for the archive of a part that another process still writes."""

FETCHED = "fetched"
RETRY_LATER = frozenset({"timeout", "connection", "dns", "robots_unreachable", "server_error", "retry_after"})
"""Outcomes that may change later: `--retry-failed` tries these links again."""


class PartArchive:
    """The WARC files and the log of one part. Opening it repairs what a kill left incomplete."""

    def __init__(
        self, folder: Path, part: int, *, about: Mapping[str, str], retry_failed: bool = False
    ) -> None:
        self._folder, self._part, self._about = folder, part, dict(about)
        folder.mkdir(parents=True, exist_ok=True)
        self._held = ExitStack()
        # A crawl that was just killed may still be ending: wait for it.
        lock = folder / f"part-{part:05d}.archive.lock"
        self._held.enter_context(hold(lock, f"the archive of part {part}", seconds=LOCK_SECONDS))
        self._log_path = folder / f"part-{part:05d}.log.jsonl"
        self._log = AppendLog(self._log_path)
        self._segment = max((int(path.name.split(".")[1]) for path in self._segments()), default=0)
        self.recovered = self._mend()
        self._done = _done_ids(folder, self._log_path, retry_failed)
        self._warc = self._open()

    def _segments(self) -> list[Path]:
        return sorted(self._folder.glob(f"part-{self._part:05d}.*.warc.gz"))

    def _segment_path(self) -> Path:
        return self._folder / f"part-{self._part:05d}.{self._segment:05d}.warc.gz"

    def _open(self) -> Any:
        path = self._segment_path()
        file = path.open("ab")
        file.seek(0, os.SEEK_END)
        if file.tell() == 0:
            file.write(encode_info(self._about))
            file.flush()
        return file

    def _mend(self) -> int:
        """Log the complete records that the log lacks, cut off an incomplete one, and return how many were logged."""
        sizes = {path.name: path.stat().st_size for path in self._segments()}
        known: dict[str, int] = {}
        for row in read_rows(self._log_path):
            if row["outcome"] == FETCHED and row["offset"] + row["length"] <= sizes.get(row["file"], 0):
                known[row["file"]] = max(known.get(row["file"], 0), row["offset"] + row["length"])
        found = 0
        for path in self._segments():
            position = known.get(path.name, 0)
            with path.open("r+b") as file:
                file.seek(position)
                for length, content in whole_members(file):
                    if link := _link_of(content):
                        self._log.append(_fetched_row(link, path.name, position, length))
                        found += 1
                    position += length
                file.truncate(position)  # what follows the last whole record is half a record
        return found

    def is_done(self, page_id: str) -> bool:
        """Return whether an earlier crawl finished with this link (by fetching it or by giving up)."""
        number = int(page_id, 16)
        at = bisect_left(self._done, number)
        return at < len(self._done) and self._done[at] == number

    def store(
        self,
        link: Row,
        *,
        url: str,
        status: str,
        headers: list[tuple[str, str]],
        body: bytes,
        truncated: str | None,
    ) -> None:
        """Write a fetched page and log it."""
        member = encode_page(
            url=url, status=status, headers=headers, body=body, link=link, truncated=truncated
        )
        offset = self._warc.tell()
        self._warc.write(member)
        self._warc.flush()
        self._log.append(_fetched_row(link, self._segment_path().name, offset, len(member)))
        if offset + len(member) >= SEGMENT_BYTES:
            self._warc.close()
            self._segment += 1
            self._warc = self._open()

    def give_up(self, link: Row, outcome: str, value: Any) -> None:
        """Log that a link will not be fetched, and why."""
        self._log.append({"id": link["id"], "outcome": outcome, "value": value, "url": link["url"]})

    def sync(self) -> None:
        """Wait until everything is on the disk."""
        os.fsync(self._warc.fileno())
        self._log.sync()

    def close(self) -> None:
        """Write everything to the disk and close the files."""
        self.sync()
        self._warc.close()
        self._log.close()
        self._held.close()


def _fetched_row(link: Row, file: str, offset: int, length: int) -> Row:
    return {"id": link["id"], "outcome": FETCHED, "file": file, "offset": offset, "length": length}


def _link_of(record: bytes) -> Row | None:
    """Return the link that a WARC record was written for, None if it is another kind of record."""
    for line in record.partition(b"\r\n\r\n")[0].split(b"\r\n"):
        if line.startswith(b"WARC-JSON-Metadata:"):
            link: Row = json.loads(line.partition(b":")[2])
            return link
    return None


def _done_ids(folder: Path, log: Path, retry_failed: bool) -> array[int]:
    """Return the sorted ids of the links that are done."""
    ids = array("Q")
    for row in last_outcomes(folder, log):
        if not (retry_failed and row["outcome"] in RETRY_LATER):
            ids.append(int(row["id"], 16))
    return array("Q", sorted(ids))


def last_outcomes(folder: Path, log: Path) -> Iterator[Row]:
    """Yield the valid rows of a log: pages that the archive holds (a power cut can lose what the log names), and
    for links that were tried again only the last row.
    """
    sizes = {path.name: path.stat().st_size for path in folder.glob("*.warc.gz")}
    last: dict[int, int] = {}
    for number, row in enumerate(read_rows(log)):
        if row["outcome"] != FETCHED or row["offset"] + row["length"] <= sizes.get(row["file"], 0):
            last[int(row["id"], 16)] = number
    for number, row in enumerate(read_rows(log)):
        if last.get(int(row["id"], 16)) == number:
            yield row
