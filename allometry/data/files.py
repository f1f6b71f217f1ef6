"""Text from local files through the builders of Hugging Face `datasets`: text, JSON, CSV, Parquet, compressed
or not, and folders that its `save_to_disk` wrote.
"""

from __future__ import annotations

import glob
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from allometry.core.errors import AllometryError
from allometry.data.formats import (
    FORMATS,
    check_encoding,
    decompressed,
    delimiter,
    encoding_for,
    first_bad_byte,
    format_of,
    is_about_the_data,
    not_in_encoding,
    suffix,
)
from allometry.data.split import Document, Split


def find_files(path: str, *, format: str | None = None) -> list[Path]:
    """Return the file; or the files of known formats under the folder, or those that a pattern such as
    "notes/*.md" names, by path. `format` takes every file there is.

    Raises AllometryError if there is nothing to read.
    """
    return sort_files(path, format=format)[0]


def sort_files(path: str, *, format: str | None = None) -> tuple[list[Path], list[Path]]:
    """Return the files to read (see `find_files`), and those that are left out: hidden ones are in neither."""
    root = Path(path).expanduser()
    if root.is_file():
        return [root], []
    if not root.is_dir():
        found = [Path(name) for name in sorted(glob.glob(str(root), recursive=True)) if Path(name).is_file()]
        if not found:
            raise _missing(root)
        return found, []
    everything = [p for p in sorted(root.rglob("*")) if p.is_file() and not _hidden(p, root)]
    known = [p for p in everything if format or (suffix(p) in FORMATS and not is_about_the_data(p))]
    if not known:
        suffixes = Counter(p.suffix or "no suffix" for p in everything)
        held = ", ".join(f"{count} x {suffix}" for suffix, count in suffixes.most_common(6)) or "nothing"
        raise AllometryError(
            f"folder {path} has no file that can be read as text: it holds {held}",
            hint=f"known formats: {' '.join(FORMATS)} (also .gz, .bz2, .xz, .zst); or name the files: "
            f"files:{path}/*.EXT,format=text",
        )
    return known, [p for p in everything if p not in set(known)]


def left_out(paths: list[Path]) -> str:
    """Return a phrase naming the files of a folder that are not read; "" if there are none."""
    if not paths:
        return ""
    named = ", ".join(path.name for path in paths[:3])
    return f" (left out: {named}{f' and {len(paths) - 3} more' if len(paths) > 3 else ''})"


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
    """Return path, size, and the times at which the content and the status of each file were last changed.

    The second, which no program can set, reveals a file that was replaced by another of the same size and time.
    """
    stats = [(path, path.stat()) for path in paths]
    return [[str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns] for path, stat in stats]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How files are read: the `column` of tables that holds the text ("text"; "a.b" is b inside a), the
    `format` of all of them (else by name and content), the `encoding` of those that are not UTF-8.
    """

    column: str | None = None
    format: str | None = None
    encoding: str | None = None


def read_files(paths: list[Path], how: Reading = Reading()) -> Iterator[Document]:
    """Yield the documents of files: a text file is one, a row of a table is one (its column).

    Raises AllometryError, naming the file and the place, for text in another encoding, a missing column, a
    broken table, what is no text, and a column or an encoding that applies to none of the files.
    """
    formats = [format_of(path, how.format) for path in paths]
    if how.column is not None and set(formats) == {"text"}:
        raise AllometryError(
            f"column={how.column} is for tables, and {paths[0]} is text",
            hint="leave it out, or say what the file is: format=json, csv, tsv or parquet",
        )
    if how.encoding is not None and set(formats) == {"parquet"}:
        raise AllometryError(
            f"encoding={how.encoding} is for text, and {paths[0]} is Parquet, whose text is UTF-8",
            hint="leave it out",
        )
    encoding = None if how.encoding is None else check_encoding(how.encoding)
    for path, kind in zip(paths, formats, strict=True):
        with decompressed(path) as plain:
            if kind == "text":
                texts = _read_texts(path, plain, encoding)
            else:
                texts = _read_table(path, plain, kind, how.column or "text", encoding)
            for text in texts:
                yield Document(text)


def is_saved(folder: str) -> bool:
    """Return whether a folder is what `save_to_disk` of the library `datasets` writes."""
    root = Path(folder).expanduser()
    return (root / "dataset_dict.json").is_file() or (
        (root / "state.json").is_file() and (root / "dataset_info.json").is_file()
    )


def read_saved(folder: str, *, column: str = "text") -> Iterator[Document]:
    """Yield the rows of a data set that `save_to_disk` wrote; where it has splits, "test" (else "validation") is
    held out and "train" is trained on.
    """
    from datasets import Dataset, load_from_disk

    root = Path(folder).expanduser()
    with _quiet():
        try:
            found = load_from_disk(str(root))
        except (ValueError, OSError) as error:
            raise _broken(root, "a saved data set", error) from error
    if isinstance(found, Dataset):
        parts: dict[Split | None, Dataset] = {None: found}
    elif len(found) == 1:
        parts = {None: next(iter(found.values()))}
    else:
        held = next((name for name in ("test", "validation") if name in found), None)
        if held is None or "train" not in found:
            raise AllometryError(
                f"{folder} has the splits {', '.join(found)}, and not train with test or validation",
                hint=f"name one of them: files:{folder}/{next(iter(found))}",
            )
        parts = {"test": found[held], "train": found["train"]}
    for split, rows in parts.items():
        for number, row in enumerate(rows, start=1):
            yield Document(_cell(root, number, row, column), split)


def read_webtext(folder: str, *, column: str = "text") -> Iterator[Document]:
    """Yield the documents of the shards that the web text pipeline writes, train-*.parquet and test-*.parquet,
    with their splits.
    """
    for split, paths in webtext_shards(folder).items():
        for path in paths:
            for text in _read_table(path, path, "parquet", column):
                yield Document(text, split)


def webtext_shards(folder: str) -> dict[Split, list[Path]]:
    """Return the shards of a folder by split, test first. Raises AllometryError unless both splits have some."""
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


def _read_texts(path: Path, plain: Path, encoding: str | None) -> Iterator[str]:
    """Yield the whole text of a file; `plain` is it without compression."""
    used = encoding_for(plain, encoding)
    try:
        for row in _rows("text", plain, sample_by="document", encoding=used):
            yield row["text"].removeprefix("\ufeff")
    except UnicodeError:
        raise not_in_encoding(path, used) from None
    except OSError as error:
        hint = "repair or remove that file"
        raise AllometryError(f"{path} cannot be read: {first_line(error)}", hint=hint) from error


def _read_table(
    path: Path, plain: Path, kind: str, column: str, encoding: str | None = None
) -> Iterator[str]:
    """Yield the texts in a table's column, row by row."""
    if plain.stat().st_size == 0:
        raise AllometryError(f"{path} is empty", hint="remove it, or give a file with text")
    used = "utf-8" if kind == "parquet" else encoding_for(plain, encoding)
    settings: dict[str, Any] = {} if kind == "parquet" else {"encoding": used}
    if kind in ("csv", "tsv"):  # a cell is text as it stands: "NA" is a word, and "1.0" no number
        mark = delimiter(plain, column, "\t" if kind == "tsv" else ",")
        settings |= {"sep": mark, "converters": {column: str}, "keep_default_na": False}
    try:
        for number, row in enumerate(_rows("csv" if kind == "tsv" else kind, plain, **settings), start=1):
            yield _cell(path, number, row, column)
    except UnicodeError:
        raise not_in_encoding(path, used) from None
    except (ValueError, OSError) as error:
        # pyarrow's errors, such as ArrowInvalid, are ValueErrors; those of `datasets` are OSErrors or
        # ValueErrors.
        if kind != "parquet" and first_bad_byte(path, used) is not None:
            raise not_in_encoding(path, used) from None
        raise _broken(path, kind, error) from error


def _broken(path: Path, kind: str, error: Exception) -> AllometryError:
    return AllometryError(
        f"{path} cannot be read as {kind}: {first_line(error)}", hint="repair or remove that file"
    )


def first_line(error: Exception) -> str:
    """Return the first line of a library's error message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _cell(path: Path, number: int, row: dict[str, Any], column: str) -> str:
    value: Any = row
    for part in [column] if column in row else column.split("."):
        if not isinstance(value, dict) or part not in value:
            held = ", ".join(map(str, row)) or "no columns"
            raise AllometryError(
                f"{path} has no column {column!r} (row {number}); it has: {held}", hint=_NAME_IT
            )
        value = value[part]
    if value is not None and not isinstance(value, str):
        raise AllometryError(
            f"{path}, row {number}: column {column!r} holds {type(value).__name__}, not text", hint=_NAME_IT
        )
    return value or ""


_NAME_IT = (
    "name the column that holds the text, as in files:PATH,column=NAME (NAME.INNER for one inside another), "
    "or only the files that have it, as in files:FOLDER/*.jsonl"
)


def _rows(builder: str, path: Path, **settings: Any) -> Iterator[dict[str, Any]]:
    # not load_dataset, which reports every call to its server: local files are private,
    # and without a network each report waits for an answer
    from datasets import IterableDataset

    read = getattr(IterableDataset, f"from_{builder}")
    with _quiet():
        yield from read(glob.escape(str(path)), **settings)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep `datasets` from printing an error that is raised as well."""
    logger = logging.getLogger("datasets")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
