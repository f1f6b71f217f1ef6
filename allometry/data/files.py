"""Text from local files through the builders of Hugging Face `datasets`: text, JSON lines, Parquet."""

from __future__ import annotations

import glob
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from allometry.data.split import Document, Split
from allometry.errors import AllometryError

FORMATS = {
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".rst": "text",
    ".tex": "text",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".parquet": "parquet",
}
"""File name suffix -> builder. A file that is named itself is read as text whatever its suffix."""


def find_files(path: str) -> list[Path]:
    """The file, or all files of known formats under the folder, by path; hidden ones are left out.

    Raises AllometryError if there is nothing to read.
    """
    root = Path(path).expanduser()
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise _missing(root)
    everything = [p for p in sorted(root.rglob("*")) if p.is_file() and not _hidden(p, root)]
    known = [p for p in everything if p.suffix.lower() in FORMATS]
    if not known:
        suffixes = Counter(p.suffix or "no suffix" for p in everything)
        held = ", ".join(f"{count} x {suffix}" for suffix, count in suffixes.most_common(6)) or "nothing"
        raise AllometryError(
            f"folder {path} has no file that can be read as text: it holds {held}",
            hint=f"known formats: {' '.join(FORMATS)}; a single file is read as text whatever its suffix",
        )
    return known


def _missing(path: Path) -> AllometryError:
    parent = path.resolve().parent
    names = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
    near = get_close_matches(path.name, names, n=3, cutoff=0.5)
    guess = (
        f"did you mean {' or '.join(near)}?" if near else f"look into {parent}" if names else "check the path"
    )
    return AllometryError(f"no such file or folder: {path}", hint=guess)


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def fingerprint(paths: list[Path]) -> list[list[Any]]:
    """Path, size, and the times at which the content and anything at all of each file was changed.

    The second, which no program can set, tells a file that was replaced by another of the same size and time.
    """
    stats = [(path, path.stat()) for path in paths]
    return [[str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns] for path, stat in stats]


def read_files(paths: list[Path], *, column: str = "text") -> Iterator[Document]:
    """The documents of files: a text file is one, a row of a table is one (its column `column`).

    Raises AllometryError, naming the file and the place, for text that is not UTF-8, a missing column, a
    broken table.
    """
    for path in paths:
        builder = FORMATS.get(path.suffix.lower(), "text")
        for text in _read_texts(path) if builder == "text" else _read_table(path, builder, column):
            yield Document(text)


def read_webtext(folder: str, *, column: str = "text") -> Iterator[Document]:
    """The shards that the web text pipeline writes: train-*.parquet and test-*.parquet, the splits kept."""
    for split, paths in webtext_shards(folder).items():
        for path in paths:
            for text in _read_table(path, "parquet", column):
                yield Document(text, split)


def webtext_shards(folder: str) -> dict[Split, list[Path]]:
    """The shards of a folder by split, test first. Raises AllometryError unless both splits have some."""
    root = Path(folder).expanduser()
    shards: dict[Split, list[Path]] = {
        "test": sorted(root.glob("test-*.parquet")),
        "train": sorted(root.glob("train-*.parquet")),
    }
    for split, paths in shards.items():
        if not paths:
            hint = (
                "build it with allometry webtext"
                if not root.is_dir()
                else f"read it without splits: files:{folder}"
            )
            raise AllometryError(f"web text folder {folder} has no {split}-*.parquet", hint=hint)
    return shards


def _read_texts(path: Path) -> Iterator[str]:
    try:
        for row in _rows("text", path, sample_by="document"):
            yield row["text"]
    except UnicodeDecodeError:
        raise _not_utf8(path) from None
    except OSError as error:
        hint = "mend or remove that file"
        raise AllometryError(f"{path} cannot be read: {first_line(error)}", hint=hint) from error


def _read_table(path: Path, builder: str, column: str) -> Iterator[str]:
    if path.stat().st_size == 0:
        raise AllometryError(f"{path} is empty", hint="remove it, or give a file with text")
    try:
        for number, row in enumerate(_rows(builder, path), start=1):
            yield _cell(path, number, row, column)
    except UnicodeDecodeError:
        raise _not_utf8(path) from None
    except (ValueError, OSError) as error:
        # pyarrow's errors, such as ArrowInvalid, are ValueErrors; those of `datasets` are OSErrors or
        # ValueErrors.
        if builder != "parquet" and _first_bad_byte(path) is not None:
            raise _not_utf8(path) from None
        raise AllometryError(
            f"{path} cannot be read as {builder}: {first_line(error)}", hint="mend or remove that file"
        ) from error


def first_line(error: Exception) -> str:
    """What an error of a library says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _cell(path: Path, number: int, row: dict[str, Any], column: str) -> str:
    if column not in row:
        held = ", ".join(row) or "no columns"
        raise AllometryError(
            f"{path} has no column {column!r} (row {number}); it has: {held}",
            hint="name the column that holds the text, as in files:PATH,column=NAME",
        )
    value = row[column]
    if value is not None and not isinstance(value, str):
        raise AllometryError(
            f"{path}, row {number}: column {column!r} holds {type(value).__name__}, not text",
            hint="name the column that holds the text, as in files:PATH,column=NAME",
        )
    return value or ""


def _rows(builder: str, path: Path, *, sample_by: str | None = None) -> Iterator[dict[str, Any]]:
    # not load_dataset, which reports every call to its server: files of this machine are nobody's business,
    # and without a network each report waits for an answer
    from datasets import IterableDataset

    settings = {} if sample_by is None else {"sample_by": sample_by}
    read = getattr(IterableDataset, f"from_{builder}")
    with _quiet():
        yield from read(glob.escape(str(path)), **settings)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps `datasets` from printing an error that is raised as well."""
    logger = logging.getLogger("datasets")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _first_bad_byte(path: Path) -> int | None:
    try:
        path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start
    return None


def _not_utf8(path: Path) -> AllometryError:
    offset = _first_bad_byte(path)
    return AllometryError(
        f"{path} is not UTF-8: byte {offset} cannot be decoded",
        hint=f"convert it: iconv -f ISO-8859-1 -t UTF-8 '{path}' > '{path.stem}-utf8{path.suffix}'",
    )
