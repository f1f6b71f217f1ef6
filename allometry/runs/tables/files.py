"""The kind of a file, by its content: compressed, text in which encoding, a workbook, or no table at all."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from allometry.core.errors import AllometryError, missing_extra

MOST_TEXT = 200_000_000
"""Bytes of text (unpacked) that are read at most: in memory a table of text takes about ten times as much."""

LONGEST_LINE = 2_000_000
"""Characters of the longest line of a table in text; JSON may be one line."""

_PACKED: dict[bytes, str] = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}

_OTHERS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer, not the file itself", "git lfs pull"),
    (b"version https://hawser.github.com/spec/", "a Git LFS pointer, not the file itself", "git lfs pull"),
    (b"# xet version", "a Xet pointer, not the file itself", "git xet checkout, or download the file again"),
    (b"%PDF", "a PDF", "copy its table into a spreadsheet, and save that as CSV"),
    (
        b"SQLite format 3",
        "an SQLite data base",
        "export its table as CSV: sqlite3 -header -csv FILE 'select * from runs'",
    ),
    (b"\x89HDF", "an HDF5 file", "write the table as Parquet or CSV"),
    (b"\x93NUMPY", "a NumPy array", "write it as CSV, with a line of column names"),
    (b"ARROW1", "an Arrow file", "write it as Parquet: pandas.read_feather(FILE).to_parquet('runs.parquet')"),
    (b"\x89PNG", "an image", "name a table"),
    (b"\xff\xd8\xff", "an image", "name a table"),
    (b"\x80\x04", "a Python pickle, which may run code when it is read", "write the table as Parquet or CSV"),
    (b"\x80\x05", "a Python pickle, which may run code when it is read", "write the table as Parquet or CSV"),
    (b"\xd0\xcf\x11\xe0", "a workbook of an old kind (.xls)", "save it as .xlsx or CSV"),
    (b"{\\rtf", "a rich text document", "save it as plain text"),
)
"""Beginnings of files that are no tables: how they begin, what they are, what to do."""


def kind(source: Path) -> str:
    """Return the kind of a file: "text", "parquet" or "xlsx". Reads only its beginning.

    Raises AllometryError, saying what the file is, for anything else, and for an empty file.
    """
    head = beginning(source)
    if not head.strip(b"\x00 \t\r\n"):
        what = "is empty" if not head else "holds nothing but blanks"
        raise AllometryError(f"{source} {what}", hint="export the table again")
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"PK\x03\x04"):
        return _zipped(source)
    for mark, what, remedy in _OTHERS:
        if head.startswith(mark):
            raise AllometryError(f"{source} is {what}", hint=remedy)
    if head[257:262] == b"ustar":
        raise AllometryError(
            f"{source} is an archive of files (tar)", hint=f"unpack it: tar -xf {source.name}"
        )
    text = head[:2000].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")) or (
        text[:1] == b"<" and b"<html" in text
    ):
        raise AllometryError(
            f"{source} is a web page, not a table",
            hint="download the file itself (on GitHub: the 'Raw' button)",
        )
    if text.startswith((b"<?xml", b"<")) and b">" in text:
        raise AllometryError(f"{source} is XML, not a table", hint="save it as CSV")
    return "text"


def _zipped(source: Path) -> str:
    try:
        with zipfile.ZipFile(source) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise AllometryError(
            f"{source} is a damaged zip file: {error}", hint="download or export it again"
        ) from None
    if any(name.startswith("xl/") for name in names):
        return "xlsx"
    if names and all(name.endswith(".npy") for name in names):
        raise AllometryError(f"{source} holds NumPy arrays", hint="write them as CSV, with a line of names")
    if any("content.xml" in name for name in names):
        raise AllometryError(f"{source} is an OpenDocument file", hint="save it as .xlsx or CSV")
    raise AllometryError(f"{source} is a zip file", hint=f"unpack it: unzip {source.name}")


def beginning(source: Path, size: int = 65_536) -> bytes:
    """Return the first bytes of a file, unpacked.

    Raises AllometryError if it cannot be read or unpacked.
    """
    return _unpacked(source, size)


def packed(source: Path) -> str | None:
    """Return how a file is compressed, by its first bytes."""
    try:
        with open(source, "rb") as file:
            head = file.read(6)
    except OSError as error:
        raise AllometryError(
            f"cannot read {source}: {error.strerror}", hint="check the file's permissions"
        ) from None
    return next((name for mark, name in _PACKED.items() if head.startswith(mark)), None)


def _unpacked(source: Path, most: int) -> bytes:
    """Return the first `most` bytes of a file's content. Raises AllometryError where it is damaged or cut."""
    how = packed(source)
    damaged: tuple[type[Exception], ...] = (EOFError, zlib.error, lzma.LZMAError, OSError, ValueError)
    openers: dict[str | None, Callable[..., Any]] = {
        "gzip": gzip.open,
        "bzip2": bz2.open,
        "xz": lzma.open,
        None: open,
    }
    try:
        if how == "zstd":
            return _zstd(source, most)
        with openers[how](source, "rb") as stream:
            data: bytes = stream.read(most)
            return data
    except damaged as error:
        what = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise AllometryError(
            f"{source} is damaged or cut: {what[:200]}", hint="copy or download it again"
        ) from None


def _zstd(source: Path, most: int) -> bytes:
    """Return the first bytes of a file compressed with zstd; ValueError where it is damaged or ends early."""
    try:
        import zstandard
    except ImportError:
        raise AllometryError(
            f"{source} is compressed with zstd, which needs the package 'zstandard'",
            hint="pip install zstandard",
        ) from None
    parts, size = [], 0
    frame = zstandard.ZstdDecompressor().decompressobj()
    try:
        with open(source, "rb") as file:
            while size < most and (chunk := file.read(65_536)):
                while chunk:
                    parts.append(frame.decompress(chunk))
                    size += len(parts[-1])
                    chunk = frame.unused_data if frame.eof else b""
                    if frame.eof and chunk:
                        frame = zstandard.ZstdDecompressor().decompressobj()
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None
    if size < most and not frame.eof:
        raise ValueError("it ends in the middle")
    return b"".join(parts)[:most]


def content(source: Path) -> bytes:
    """Return the bytes of a file, unpacked, up to MOST_TEXT.

    Raises AllometryError for a larger file, and for one that is damaged.
    """
    data = _unpacked(source, MOST_TEXT + 1)
    if len(data) > MOST_TEXT:
        raise AllometryError(
            f"{source} holds more than {MOST_TEXT // 1_000_000} MB of text, too much for a table of runs",
            hint="keep the columns and rows that are needed, or save it as Parquet",
        )
    return data


def text(source: Path, encoding: str | None, notices: list[str]) -> str:
    """Return a file's text: UTF-8, or UTF-16 or UTF-32 with a byte order mark, or in the `encoding` named.

    Raises AllometryError for bytes that are not text in that encoding; none is guessed.
    """
    data = content(source)
    if encoding is not None:
        try:
            return data.decode(encoding)
        except LookupError:
            raise AllometryError(
                f"there is no encoding called {encoding!r}",
                hint="cp1252, latin-1, cp1251, shift_jis, utf-16, …",
            ) from None
        except (UnicodeError, ValueError) as error:
            raise AllometryError(
                f"{source} is not text in {encoding}: {error}", hint="save it as CSV in UTF-8"
            ) from None
    for mark, name in (
        (b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe\x00\x00", "utf-32"), (b"\x00\x00\xfe\xff", "utf-32"),
        (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"),
    ):  # fmt: skip
        if data.startswith(mark):
            try:
                found = data.decode(name)
            except UnicodeDecodeError as error:
                raise AllometryError(
                    f"{source} is damaged {name}: {error.reason}", hint="export it again"
                ) from None
            if name != "utf-8-sig":
                notices.append(f"read as {name.upper()}, as its byte order mark says")
            return found.lstrip("\ufeff")
    if b"\x00" in data[:4096]:
        raise AllometryError(
            f"{source} holds zero bytes: it is binary, or text in UTF-16 without a byte order mark",
            hint="read_table(path, encoding='utf-16-le'), if it is text",
            cli_hint="--encoding utf-16-le, if it is text",
        )
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(source, data, error) from None


def _not_utf8(source: Path, data: bytes, error: UnicodeDecodeError) -> AllometryError:
    """Return the error for other encodings: it shows how the place reads in the commonest one, to be
    checked."""
    line = data.count(b"\n", 0, error.start) + 1
    begin = data.rfind(b"\n", 0, error.start) + 1
    shown = data[max(begin, error.start - 20) : error.start + 20].split(b"\n")[0]
    try:
        look = f"; in cp1252 (Windows, western Europe) it reads {shown.decode('cp1252').strip()!r}"
        name = "cp1252"
    except UnicodeDecodeError:
        look, name = "", "NAME"
    return AllometryError(
        f"{source} is not UTF-8 text: line {line} holds the byte 0x{data[error.start]:02X}{look}",
        hint=f"read_table(path, encoding={name!r}) if that is right, or save it in UTF-8",
        cli_hint=f"--encoding {name} if that is right, or save it in UTF-8",
    )


def check_lines(source: Path, whole: str) -> None:
    """Refuse text with a line that is too long to be a row of a table."""
    start = 0
    while len(whole) - start > LONGEST_LINE:
        end = max(
            whole.rfind("\n", start, start + LONGEST_LINE), whole.rfind("\r", start, start + LONGEST_LINE)
        )
        if end < 0:
            raise AllometryError(
                f"{source} has a line of more than {LONGEST_LINE:,} characters, which is no row of a table",
                hint="check the file: its line ends may be lost",
            )
        start = end + 1


def workbook(source: Path, notices: list[str]) -> list[list[str]]:
    """Return the rows of the first sheet of an Excel workbook that holds any, as text.

    Raises AllometryError where the package `openpyxl` is not installed, and for damaged workbooks.
    """
    try:
        import openpyxl
    except ImportError:
        raise missing_extra("openpyxl", "excel", f"reading an Excel workbook ({source})") from None
    try:
        book = openpyxl.load_workbook(io.BytesIO(content(source)), read_only=True, data_only=True)
        sheets = {}
        for sheet in book.worksheets:
            rows = [
                ["" if cell is None else str(cell) for cell in row]
                for row in sheet.iter_rows(values_only=True)
            ]
            if any(any(row) for row in rows):
                sheets[sheet.title] = rows
    except AllometryError:
        raise
    except Exception as error:  # openpyxl does not catch the errors of parsing XML, zip and numbers
        raise AllometryError(
            f"{source} is a damaged Excel workbook: {str(error)[:100] or type(error).__name__}",
            hint="save it again",
        ) from None
    if not sheets:
        raise AllometryError(f"{source} has no cells", hint="export the table again")
    name = next(iter(sheets))
    if len(sheets) > 1:
        others = ", ".join(map(repr, list(sheets)[1:5]))
        notices.append(f"the sheet {name!r} was read, not {others}: save another as CSV to read it")
    return sheets[name]
