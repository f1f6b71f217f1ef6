"""The format and the encoding of a file, from its name and its first bytes: text, a table, or something that is no text
to train on.

A file of unknown name is not assumed to be text: tags, quotes and braces would be trained on.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import json
import lzma
import shutil
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from allometry.core.errors import AllometryError, unknown

FORMATS = {
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".rst": "text",
    ".tex": "text",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
"""File name suffix -> format, of the files that are read in a folder."""

NAMES = ("text", "json", "csv", "tsv", "parquet")
"""Values of the option `format`."""

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
"""Suffixes of compressed files, whose format is that of the suffix before."""

ABOUT_THE_DATA = (
    *(
        "readme",
        "license",
        "licence",
        "copying",
        "notice",
        "changelog",
        "citation",
        "contributing",
        "authors",
    ),
    *("dataset_info", "dataset_infos", "dataset_dict", "state", "metadata", "croissant", "manifest"),
)
"""Names, without suffix, of files in a folder that describe the data and are not part of it."""

MARK_UP = (".html", ".htm", ".xhtml", ".xml", ".svg", ".rss", ".ipynb", ".rtf", ".eml", ".yaml", ".yml")
ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar", ".warc", ".whl")

_HEAD = 65_536
"""Bytes of a file that are examined."""

_NUL_SHARE = 0.01
"""A file with a larger share of bytes 0 is binary; texts with a few have them taken out."""

_LFS = b"version https://git-lfs.github.com/spec/"


def is_about_the_data(path: Path) -> bool:
    """Return whether a file in a folder describes the others, as README.md and dataset_info.json do."""
    return path.name.partition(".")[0].lower() in ABOUT_THE_DATA


def suffix(path: Path) -> str:
    """Return the suffix that names a file's format: the one before the compression's, in lower case."""
    inner = path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
    return inner.suffix.lower()


def format_of(path: Path, wanted: str | None = None) -> str:
    """Return the format of a file: `wanted` if given, else by its suffix, else "text" if its content is plain text.

    Raises AllometryError, with what to type, for binary files, mark-up, archives, pointers of Git LFS, and
    tables under the name of a text.
    """
    if wanted is not None and wanted not in NAMES:
        raise unknown("format", wanted, NAMES)
    head = _head(path)
    if head.startswith(_LFS):
        raise AllometryError(
            f"{path} is a pointer of Git LFS, not the file itself", hint="fetch it: git lfs pull"
        )
    known = wanted or FORMATS.get(suffix(path))
    if known == "parquet":
        return known
    if suffix(path) in ARCHIVES and wanted is None:
        raise AllometryError(
            f"{path} is an archive", hint=f"unpack it into a folder, and name that: files:{path.stem}"
        )
    if is_binary(head):
        raise AllometryError(
            f"{path} is not text: it holds binary data", hint=f"known formats: {' '.join(FORMATS)}"
        )
    if known in (None, "text") and wanted is None and (looks := _looks_like(path, head)):
        as_what, remedy = looks
        raise AllometryError(
            f"{path} is {as_what}, whose signs would be trained on as text",
            hint=f"{remedy}to train on it as it stands: files:{path},format=text",
        )
    return known or "text"


def _looks_like(path: Path, head: bytes) -> tuple[str, str] | None:
    """Return what a file that would be read as text is instead, and the beginning of a remedy; None for text."""
    text = head.decode("utf-8", errors="ignore").lstrip("\ufeff \t\r\n")
    start = text[:200].lower()
    if suffix(path) in MARK_UP or start.startswith(("<!doctype html", "<html", "<?xml")):
        return "mark-up", "extract its text first (trafilatura does that for HTML); "
    lines = [line for line in text.splitlines()[:6] if line.strip()]
    if len(head) == _HEAD:
        lines = lines[:-1] or lines
    if lines and all(map(_is_record, lines)):
        return "JSON lines", f"read them as such: files:{path},format=json; "
    if text.startswith(("[{", "{")) and _is_json(path, head):
        return "JSON", f"read it as such: files:{path},format=json; "
    return None


def _is_record(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _is_json(path: Path, head: bytes) -> bool:
    if len(head) == _HEAD:  # too long to look at all of it
        return head.lstrip().startswith(b"[{")
    try:
        json.loads(head)
    except ValueError:
        return False
    return True


def is_binary(head: bytes) -> bool:
    """Return whether bytes are neither UTF-8 nor text of another encoding with its mark or without control
    characters.
    """
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return False
    if head[::2].count(0) > 0.4 * len(head) / 2 or head[1::2].count(0) > 0.4 * len(head) / 2:
        return not _is_utf16(head)
    control = sum(head.count(byte) for byte in range(32) if byte not in b"\t\n\f\r\x1b\x08")
    return control > _NUL_SHARE * len(head)


def _is_utf16(head: bytes) -> bool:
    """Return whether every other byte is 0, as in Latin text in UTF-16 without a mark, and the others are text."""
    zeros = head[::2].count(0), head[1::2].count(0)
    text = head[1::2] if zeros[0] > zeros[1] else head[::2]
    return min(zeros) == 0 and not is_binary(text)


def _head(path: Path) -> bytes:
    with opened(path) as file:
        return bytes(file.read(_HEAD))


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open the content of a file, decompressed; AllometryError if it cannot be read or is damaged."""
    try:
        with _OPEN.get(path.suffix.lower(), lambda path: path.open("rb"))(path) as file:
            yield file
    except (OSError, EOFError, lzma.LZMAError, ValueError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise AllometryError(
            f"{path} cannot be read: {reason[0]}", hint="repair or remove that file"
        ) from error


def _open_zst(path: Path) -> Any:
    import pyarrow

    return pyarrow.input_stream(str(path), compression="zstd")


_OPEN: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _open_zst,
}


@contextmanager
def decompressed(path: Path) -> Iterator[Path]:
    """Yield the path of a file's content without compression: itself, or a temporary file."""
    if path.suffix.lower() not in COMPRESSED:
        yield path
        return
    with TemporaryDirectory(prefix="allometry-") as folder:
        plain = Path(folder) / path.with_suffix("").name
        with opened(path) as file, plain.open("wb") as out:
            shutil.copyfileobj(file, out, 1 << 20)
        yield plain


def delimiter(path: Path, column: str, default: str) -> str:
    """Return the separator of a table's fields: the one with which its first line has the column, or `default`."""
    with path.open("rb") as file:
        line = file.readline(_HEAD).decode("utf-8", errors="replace").strip("\ufeff\r\n")
    for mark in (default, ",", ";", "\t", "|"):
        if column in [field.strip().strip('"') for field in line.split(mark)]:
            return mark
    return default


_SAMPLE = 200_000
"""Bytes from which an encoding is guessed."""

_SHOWN = 60
"""Characters of a sample."""

_CANDIDATES = 3


def check_encoding(name: str) -> str:
    """Return the name of an encoding as Python knows it; AllometryError for an unknown one."""
    try:
        return codecs.lookup(name).name
    except LookupError:
        raise AllometryError(
            f"unknown encoding {name!r}", hint="write it like cp1251, gb18030, shift_jis or utf-16"
        ) from None


def encoding_for(path: Path, wanted: str | None) -> str:
    """Return the encoding to read a file in: UTF-8 if its bytes are certainly that, else `wanted`, or UTF-8."""
    if wanted is None or wanted == "utf-8":
        return "utf-8"
    with opened(path) as file:
        content = file.read()
    return "utf-8" if _is_utf8(content) and not content.isascii() else wanted


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def first_bad_byte(path: Path, encoding: str = "utf-8") -> int | None:
    """Return the position of the first byte that is not text in an encoding; None if there is none."""
    with opened(path) as file:
        content = file.read()
    try:
        content.decode(encoding)
    except UnicodeDecodeError as error:
        return error.start
    return None


def not_in_encoding(path: Path, encoding: str = "utf-8") -> AllometryError:
    """Return the error for a file that is not in the encoding that it is read in, with samples in other encodings.

    The candidates are those of `charset_normalizer`, which are guesses: the user sees a sample of each and
    chooses.
    """
    shown = "UTF-8" if encoding == "utf-8" else encoding
    message = f"{path} is not {shown}: byte {first_bad_byte(path, encoding)} cannot be decoded"
    found = candidates(path)
    if not found:
        return AllometryError(
            message, hint="find out its encoding, and name it: files:PATH,encoding=NAME, as in cp1252"
        )
    samples = "; ".join(f"{name}: “{sample}”" for name, sample in found)
    first = found[0][0]
    return AllometryError(
        message,
        hint=f"choose the encoding in which it reads right ({samples}): files:{path},encoding={first}",
    )


def candidates(path: Path) -> list[tuple[str, str]]:
    """Return encodings that a file may be in, the most likely first, each with a sample of the text in it."""
    from charset_normalizer import from_bytes

    with opened(path) as file:
        content = file.read(_SAMPLE)
    found: dict[str, str] = {}
    for match in from_bytes(content):
        sample = _sample(str(match))
        if sample not in found.values() and match.encoding not in ("utf_8", "ascii"):
            found[match.encoding] = sample
    western = _western(content)
    if western is not None and all(_is_latin(sample) for sample in found.values()):
        found = {"cp1252": western} | {name: sample for name, sample in found.items() if sample != western}
    return list(found.items())[:_CANDIDATES]


def _western(content: bytes) -> str | None:
    """Return a sample of the text in the usual encoding of Western Europe; None if it has no words in it."""
    try:
        text = content.decode("cp1252")
    except UnicodeDecodeError:
        return None
    if "\0" in text:
        return None
    strange = [letter for letter in text if not letter.isascii()]
    words = sum(letter.isalpha() or letter in "€‘’“”–—…«»°§£©" for letter in strange)
    return _sample(text) if words > 0.9 * len(strange) else None


def _is_latin(text: str) -> bool:
    """Return whether all letters of a text are of the Latin alphabet."""
    return all("LATIN" in unicodedata.name(letter, "") for letter in text if letter.isalpha())


def _sample(text: str) -> str:
    """Return the first words that are not plain ASCII, with their surroundings, in one line."""
    plain = " ".join(text.lstrip("\ufeff").split())
    at = next((number for number, letter in enumerate(plain) if not letter.isascii()), 0)
    return plain[max(0, at - _SHOWN // 3) :][:_SHOWN]
