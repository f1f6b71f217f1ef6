"""The sources of links: Reddit dumps, lists of URLs with scores, and the links of archived pages, read as streams.

Every reader yields `Found` (a link as it stands in the file) or `Problem` (a line that could not be read,
with its place). A file that ends in the middle or is not what its name says raises AllometryError; nothing is
guessed.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

from allometry.core.errors import AllometryError
from allometry.data.webtext.warc import PACKED, Problem, decompressed, html_pages, numbered_lines


class Found(NamedTuple):
    """A link and what its source says about it. `score` is None where the source has none; `created` is Unix
    time."""

    url: str
    score: float | None
    title: str = ""
    created: float | None = None
    origin: str = ""
    is_self: bool = False
    over_18: bool = False


def read_links(path: Path) -> Iterator[Found | Problem]:
    """Yield the links of one file; its kind follows from its name (.jsonl .ndjson .json .csv .tsv .txt .warc,
    each also with .gz, .bz2, .xz or .zst, but .warc with .gz only; Reddit dumps named RS_* without an ending
    are lines of JSON).

    Raises AllometryError for a file that is missing, of another kind than it says, or truncated.
    """
    if not path.is_file():
        raise AllometryError(f"no such file: {path}", hint="give files that exist")
    kind = _kind(path)
    if kind == "warc":
        yield from _read_warc(path)
        return
    with path.open("rb") as file:
        lines = numbered_lines(decompressed(file, path))
        if kind == "json":
            yield from _read_jsonl(lines, path)
        elif kind == "text":
            yield from _read_text(lines, path)
        else:
            yield from _read_csv(lines, path, "\t" if kind == "tsv" else ",")


def _kind(path: Path) -> str:
    suffixes = [s.lower() for s in path.suffixes]
    kinds = {
        ".jsonl": "json",
        ".ndjson": "json",
        ".json": "json",
        ".csv": "csv",
        ".tsv": "tsv",
        ".txt": "text",
    }
    kinds |= {".warc": "warc"}
    for suffix in reversed(suffixes):
        if suffix in kinds:
            return kinds[suffix]
        if suffix not in PACKED:
            break
    if path.name.startswith(("RS_", "RS-")) or (suffixes and suffixes[-1] in PACKED):
        return "json"
    raise AllometryError(
        f"cannot tell what kind of file {path.name} is",
        hint="name it .jsonl, .csv, .tsv, .txt or .warc, with .gz, .bz2, .xz or .zst after it if packed",
    )


def _problem(path: Path, number: int, reason: str, line: bytes) -> Problem:
    return Problem(f"{path.name}:{number}", reason, line[:200].decode("utf-8", "replace"))


def _read_jsonl(lines: Iterable[tuple[int, bytes | None]], path: Path) -> Iterator[Found | Problem]:
    for number, line in lines:
        if line is None:
            yield _problem(path, number, "line_too_long", b"")
        elif line.strip():
            try:
                yield _from_json(json.loads(line), f"{path.name}:{number}")
            except (ValueError, RecursionError):
                yield _problem(path, number, "malformed_json", line)
            except (TypeError, KeyError, OverflowError) as error:
                yield _problem(path, number, f"no_link: {error}", line)


def _from_json(row: Any, where: str) -> Found:
    """Parse a Reddit submission, or any object with `url` and perhaps `score`. Raises TypeError or KeyError if
    it is none.
    """
    if not isinstance(row, dict):
        raise TypeError("not an object")
    url = row["url"]
    if not isinstance(url, str):
        raise TypeError("url is not text")
    subreddit = row.get("subreddit")
    return Found(
        url=url.replace("&amp;", "&"),
        score=_number(row.get("score")),
        title=str(row.get("title") or ""),
        created=_number(row.get("created_utc", row.get("created"))),
        origin=f"reddit:{subreddit}" if subreddit else str(row.get("origin") or where.partition(":")[0]),
        is_self=bool(row.get("is_self", False)),
        over_18=bool(row.get("over_18", False)),
    )


def _number(value: Any) -> float | None:
    """Return a finite number; None for anything else ("", "yesterday", NaN, "1e999")."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _read_text(lines: Iterable[tuple[int, bytes | None]], path: Path) -> Iterator[Found | Problem]:
    for number, line in lines:
        if line is None:
            yield _problem(path, number, "line_too_long", b"")
        elif line.strip():
            yield Found(line.decode("utf-8", "replace").strip(), None, origin=path.name)


_URL_COLUMNS = ("url", "link", "href", "uri")
_SCORE_COLUMNS = ("score", "karma", "points", "ups")


def _read_csv(
    lines: Iterable[tuple[int, bytes | None]], path: Path, separator: str
) -> Iterator[Found | Problem]:
    rows = _csv_rows(lines, separator)
    number, header = next(rows, (0, []))
    names = [name.strip().lower().lstrip("\ufeff") for name in header]
    url_at = next((names.index(n) for n in _URL_COLUMNS if n in names), None)
    score_at = next((names.index(n) for n in _SCORE_COLUMNS if n in names), None)
    title_at = names.index("title") if "title" in names else None
    if url_at is None:
        raise AllometryError(
            f"{path} has no column of URLs; its first line has: {', '.join(names[:10]) or 'nothing'}",
            hint=f"give it a first line that names the columns, one of them {' or '.join(_URL_COLUMNS)}",
        )
    for number, row in rows:
        try:
            score = None if score_at is None else _number(row[score_at].strip())
            if score_at is not None and score is None and row[score_at].strip():
                raise ValueError("the score is no number")
            title = row[title_at] if title_at is not None else ""
            yield Found(row[url_at].strip(), score, title, origin=path.name)
        except (IndexError, ValueError):
            yield _problem(path, number, "malformed_row", separator.join(row).encode())


def _csv_rows(lines: Iterable[tuple[int, bytes | None]], separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield numbered rows; one that csv cannot read comes as a row without fields, which no column fits. Blank
    lines are left out.
    """
    # A line that was too long to hold is passed on as a field beyond csv's own limit, so that it is reported
    # like one.
    too_long = b"x" * (csv.field_size_limit() + 1)
    text = (
        (too_long if line is None else line).decode("utf-8", "replace").replace("\0", "") + "\n"
        for _, line in lines
    )
    reader = csv.reader(text, delimiter=separator)
    while True:
        try:
            row = next(reader)
            if row:
                yield reader.line_num, row
        except StopIteration:
            return
        except csv.Error:
            yield reader.line_num, []


def _read_warc(path: Path) -> Iterator[Found | Problem]:
    """Yield the links of every archived HTML page; each page that links counts 1 for the score."""
    for page in html_pages(path):
        if isinstance(page, Problem):
            yield page
            continue
        seen = set()
        for url in _outlinks(page.body, page.url):
            if url not in seen:
                seen.add(url)
                yield Found(url, 1.0, origin=page.url)


def _outlinks(body: bytes, base: str) -> Iterator[str]:
    """Yield absolute http(s) targets of <a href> that lead to another host."""
    from lxml import etree

    here = urlsplit(base).hostname
    try:
        for _, node in etree.iterparse(io.BytesIO(body), events=("end",), html=True, tag="a", recover=True):
            href = (node.get("href") or "").strip()
            try:
                url = urljoin(base, href)
                if url.startswith(("http://", "https://")) and urlsplit(url).hostname not in (here, None):
                    yield url.partition("#")[0]
            except ValueError:
                continue
    except etree.LxmlError:
        return
