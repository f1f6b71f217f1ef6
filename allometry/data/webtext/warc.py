"""WARC files: pages are written so that a kill leaves a readable archive, and read back one by one or as a
stream.

Each page is one `response` record in a gzip member of its own, with the link it was fetched for in
`WARC-JSON-Metadata`. The body is stored decoded (its former `Content-Encoding` stays in
`X-Crawler-Content-Encoding`, as Common Crawl does), so nothing that reads the archive has to decompress what
a stranger compressed. `X-Crawler-Certificate` says what was wrong with the TLS certificate, if anything was.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from allometry.core.errors import AllometryError, missing_extra
from allometry.data.webtext.streams import Problem

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
