"""WARC files, compressed files as streams, and the archive of a crawl: what is written survives a kill.

Each page is one `response` record in a gzip member of its own, with the link it was fetched for in
`WARC-JSON-Metadata`. The body is stored decoded (its former `Content-Encoding` stays in
`X-Crawler-Content-Encoding`, as Common Crawl does), so nothing that reads the archive has to decompress what
a stranger compressed. `X-Crawler-Certificate` says what was wrong with the TLS certificate, if anything was. Pages are
read back one by one or as a stream.

A crawl keeps, for each part of the links, an archive and a log that agree. A page is written to the WARC first and then
named in the log, each in one write. So after a kill the archive holds at most what the log does not know yet: complete
records are then added to the log, an incomplete one is cut off."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

from allometry.core.errors import AllometryError, missing_extra
from allometry.core.locks import hold
from allometry.data.webtext.jsonl import AppendLog, Row, read_rows

MAX_LINE = 16 << 20
"""Longer lines are skipped and listed: a line is held in memory."""

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
XZ_MEMORY = 1 << 30
"""Bytes that unpacking an .xz file may take: the strongest preset needs 65 MB."""

_STREAM_BLOCK = 1 << 20
_ZSTD_BLOCK = (
    1 << 10
)  # bytes in: a hostile frame makes at most 32,768 of each, so this bounds what one step can make


class Problem(NamedTuple):
    """A line or record of a source that could not be used."""

    where: str
    reason: str
    value: str


def decompressed(file: IO[bytes], path: Path) -> Iterator[bytes]:
    """Yield blocks of the uncompressed content. AllometryError if the first bytes contradict the name."""
    magic = file.read(6)
    file.seek(0)
    suffix = path.suffix.lower()
    if suffix == ".zst" or magic[:4] == _ZSTD_MAGIC:
        if magic[:4] != _ZSTD_MAGIC and not _is_skippable_frame(magic[:4]):
            raise AllometryError(
                f"{path} is not zstd: it begins with {magic!r}",
                hint="fetch it again (it may be an error page), or name it after what it holds",
            )
        return _unzstd(file, path)
    for ending, (name, first, unpack) in _UNPACK.items():
        if suffix == ending or magic.startswith(first):
            if not magic.startswith(first):
                raise AllometryError(
                    f"{path} is not {name}: it begins with {magic!r}",
                    hint="fetch it again (it may be an error page), or name it after what it holds",
                )
            return unpack(file, path)
    if magic.startswith(_ARCHIVES):
        raise AllometryError(
            f"{path} is an archive of files (zip, 7z or rar)",
            hint="unpack it, and give the files that it holds",
        )
    return iter(lambda: file.read(_STREAM_BLOCK), b"")


def _is_skippable_frame(magic: bytes) -> bool:
    return len(magic) == 4 and magic[1:] == b"\x2a\x4d\x18" and 0x50 <= magic[0] <= 0x5F


def _unzstd(file: IO[bytes], path: Path) -> Iterator[bytes]:
    """Yield the content of the frames, one after another, with windows of up to 2 GiB, as in Reddit's dumps."""
    try:
        import zstandard
    except ImportError as error:
        raise missing_extra("zstandard", "webtext", "reading .zst files") from error
    maker = zstandard.ZstdDecompressor(max_window_size=1 << 31)
    frame, inside = maker.decompressobj(), False
    try:
        while block := file.read(_ZSTD_BLOCK):
            while block:
                yield frame.decompress(block)
                inside = not frame.eof
                block = frame.unused_data if frame.eof else b""
                if frame.eof:
                    frame = maker.decompressobj()
    except zstandard.ZstdError as error:
        raise _damaged(path, str(error)) from error
    if inside:
        raise _damaged(path, "it ends in the middle of a zstd frame")


def _ungzip(file: IO[bytes], path: Path) -> Iterator[bytes]:
    """Yield the content of the members, one after another; of a damaged file all that precedes the damage, then
    raise.
    """
    member, inside = zlib.decompressobj(wbits=31), False
    try:
        while block := file.read(_STREAM_BLOCK):
            while block:
                yield member.decompress(block, _STREAM_BLOCK)
                inside = not member.eof
                block = member.unused_data if member.eof else member.unconsumed_tail
                if member.eof:
                    member, block = zlib.decompressobj(wbits=31), block.lstrip(b"\0")
        yield member.flush()
    except zlib.error as error:
        raise _damaged(path, str(error)) from error
    if inside:
        raise _damaged(path, "it ends in the middle of a gzip member")


def _unpack_python(make: Callable[[], Any]) -> Callable[[IO[bytes], Path], Iterator[bytes]]:
    """Make a reader from a decompressor of the standard library: streams one after another, block by
    block."""

    def unpack(file: IO[bytes], path: Path) -> Iterator[bytes]:
        stream, inside = make(), False
        try:
            while block := file.read(_STREAM_BLOCK):
                while block or not (stream.eof or stream.needs_input):
                    yield stream.decompress(block, _STREAM_BLOCK)
                    inside, block = not stream.eof, b""
                    if stream.eof:
                        block, stream = stream.unused_data.lstrip(b"\0"), make()
        except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
            raise _damaged(path, str(error)) from error
        if inside:
            raise _damaged(path, "it ends in the middle of a compressed stream")

    return unpack


_UNPACK: dict[str, tuple[str, bytes, Callable[[IO[bytes], Path], Iterator[bytes]]]] = {
    ".gz": ("gzip", b"\x1f\x8b", _ungzip),
    ".bz2": ("bzip2", b"BZh", _unpack_python(bz2.BZ2Decompressor)),
    ".xz": ("xz", b"\xfd7zXZ\0", _unpack_python(partial(lzma.LZMADecompressor, memlimit=XZ_MEMORY))),
}
_ARCHIVES = (b"PK\x03\x04", b"PK\x05\x06", b"7z\xbc\xaf\x27\x1c", b"Rar!")
PACKED = (*_UNPACK, ".zst", ".zip", ".7z", ".rar")
"""Endings that say how a file is packed, not what it holds; archives of files are refused when opened."""


def _damaged(path: Path, what: str) -> AllometryError:
    return AllometryError(
        f"{path} is damaged or truncated: {what}",
        hint="fetch it again, or take the links before the damage with --allow-truncated",
    )


def numbered_lines(blocks: Iterable[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """Yield numbered lines without their newline; None for one that is longer than MAX_LINE."""
    number, held, skipping = 0, bytearray(), False
    for block in blocks:
        held += block
        if b"\n" in block:
            *whole, rest = bytes(held).split(b"\n")
            held = bytearray(rest)
            for line in whole:
                number += 1
                yield number, None if skipping or len(line) > MAX_LINE else line
                skipping = False
        if len(held) > MAX_LINE:
            held, skipping = bytearray(), True
    if held or skipping:
        yield number + 1, None if skipping else bytes(held)


MAX_HEADER_LINE = 1 << 20
"""Bytes of a line of a record's headers."""

MAX_BODY = 32 << 20
"""Maximum bytes of a body that are read from an archive that others made."""

HEAD_BYTES = 1 << 18
"""Bytes of an unpacked record that are looked at to learn which link it was written for."""

_BLOCK = 1 << 16
_HTML = ("text/html", "application/xhtml+xml")


class Page(NamedTuple):
    """An archived page. `link` is the row of the list of links it was fetched for ({} in archives made by
    others)."""

    url: str
    body: bytes
    content_type: str
    date: str
    link: dict[str, Any]
    headers: tuple[tuple[str, str], ...] = ()


def encode_page(
    *,
    url: str,
    status: str,
    headers: Sequence[tuple[str, str]],
    body: bytes,
    link: Mapping[str, Any],
    truncated: str | None = None,
) -> bytes:
    """Return one `response` record as a gzip member. `status` is like "200 OK"; `truncated` is WARC-Truncated's
    reason.
    """
    from warcio.statusandheaders import StatusAndHeaders

    extra = {"WARC-JSON-Metadata": json.dumps(link)}
    if truncated:
        extra["WARC-Truncated"] = truncated
    http = StatusAndHeaders(status, list(headers), protocol="HTTP/1.1")
    return _member(url, "response", body, extra, http)


def encode_info(fields: Mapping[str, str]) -> bytes:
    """Return the `warcinfo` record that an archive begins with, as a gzip member."""
    text = "".join(f"{key}: {value}\r\n" for key, value in fields.items())
    return _member(
        "urn:allometry:webtext", "warcinfo", text.encode(), {"Content-Type": "application/warc-fields"}, None
    )


def _member(url: str, kind: str, body: bytes, extra: dict[str, str], http: Any) -> bytes:
    from warcio.warcwriter import WARCWriter

    plain = io.BytesIO()
    writer = WARCWriter(plain, gzip=False)
    record = writer.create_warc_record(
        url, kind, payload=io.BytesIO(body), length=len(body), warc_headers_dict=extra, http_headers=http
    )
    writer.write_record(record)
    # Level 3 takes a third of the time of warcio's 9, which would alone hold a crawl below 200 pages a
    # second.
    return gzip.compress(plain.getvalue(), 3, mtime=0)


def erased_member(length: int) -> bytes:
    """Return a gzip member of exactly `length` bytes that says that a page was removed, to overwrite its
    member.

    The rest is filled with the comment of the gzip header, which readers skip.
    """
    member = encode_info({"removed": "on request"})
    if len(member) + 1 > length:
        member = gzip.compress(b"", 9, mtime=0)
    fill = length - len(member) - 1
    if fill < 0:
        raise ValueError(f"a page cannot take {length} bytes")
    return member[:3] + b"\x10" + member[4:10] + b"0" * fill + b"\0" + member[10:]


def read_page(path: Path, offset: int, length: int) -> Page:
    """Read the page whose gzip member lies at `offset`. Raises AllometryError where there is none."""
    with path.open("rb") as file:
        file.seek(offset)
        member = file.read(length)
    try:
        for page in _pages(io.BytesIO(member), path.name):
            if isinstance(page, Page):
                return page
    except (OSError, EOFError, zlib.error):
        pass
    raise AllometryError(
        f"{path}: no page at byte {offset}: the archive is damaged",
        hint="remove the part's files in stages/fetch to fetch it again",
    )


def html_pages(path: Path) -> Iterator[Page | Problem]:
    """Yield the successful HTML responses of a WARC file, and the records that could not be read. Raises
    AllometryError if the file is no WARC.
    """
    with path.open("rb") as file:
        yield from _pages(file, path.name)


def _pages(file: Any, name: str) -> Iterator[Page | Problem]:
    try:
        from warcio.archiveiterator import ArchiveIterator
    except ImportError as error:
        raise missing_extra("warcio", "webtext", "reading WARC files") from error
    count = 0
    try:
        records = ArchiveIterator(file)
        _bound_lines(records.reader)
        for record in records:
            count += 1
            if record.rec_type != "response" or not _is_html(record):
                continue
            body = record.content_stream().read(MAX_BODY)
            where = f"{name}:{records.offset}"
            if record.raw_stream.limit > 0 and len(body) < MAX_BODY:
                yield Problem(
                    where, "truncated_record", record.rec_headers.get_header("WARC-Target-URI") or ""
                )
                continue
            yield _page(record, body)
    # The reader assumes well-formed records, and fails in many ways on malformed ones.
    except Exception as error:
        what = f"{type(error).__name__}: {error}"[:200]
        if count == 0:
            raise AllometryError(
                f"{name} is not a WARC file: {what}", hint="give a .warc or .warc.gz file"
            ) from error
        yield Problem(f"{name} after record {count}", "damaged_archive", what)


def _bound_lines(reader: Any) -> None:
    """Make a reader of warcio's refuse lines of more than MAX_HEADER_LINE bytes, which it would otherwise collect."""
    read = reader.readline

    def bounded(length: int | None = None) -> bytes:
        if length is not None:
            return bytes(read(length))
        line = bytearray()
        while piece := read(_BLOCK):
            line += piece
            if piece.endswith(b"\n"):
                break
            if len(line) > MAX_HEADER_LINE:
                raise ValueError(f"a line of more than {MAX_HEADER_LINE:,} bytes in a header")
        return bytes(line)

    reader.readline = bounded


def _is_html(record: Any) -> bool:
    http = record.http_headers
    if http is None or http.get_statuscode() != "200":
        return False
    kind = (http.get_header("Content-Type") or "").partition(";")[0].strip().lower()
    return kind in _HTML or not kind


def _page(record: Any, body: bytes) -> Page:
    try:
        link = json.loads(record.rec_headers.get_header("WARC-JSON-Metadata") or "{}")
    except ValueError:
        link = {}
    return Page(
        url=record.rec_headers.get_header("WARC-Target-URI") or "",
        body=body,
        content_type=record.http_headers.get_header("Content-Type") or "",
        date=record.rec_headers.get_header("WARC-Date") or "",
        link=link if isinstance(link, dict) else {},
        headers=tuple(record.http_headers.headers),
    )


def whole_members(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield the complete gzip members from here on: (length, the first HEAD_BYTES of the content) each.

    Ends before the first that is cut short or is none. Memory is bounded, whatever a member unpacks to.
    """
    held = file.read(_BLOCK)
    while held:
        unzip, length, head = zlib.decompressobj(wbits=31), 0, b""
        try:
            while held and not unzip.eof:
                content = unzip.decompress(held, HEAD_BYTES)
                head += content[: HEAD_BYTES - len(head)]
                left = unzip.unused_data if unzip.eof else unzip.unconsumed_tail
                length += len(held) - len(left)
                held = left or file.read(_BLOCK)
        except zlib.error:
            return
        if not unzip.eof:
            return
        yield length, head


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
