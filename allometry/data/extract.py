"""The text inside fetched packages: one function a format, from an archive to documents in a fixed order."""

from __future__ import annotations

import ast
import html
import json
import re
import tarfile
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import groupby
from pathlib import Path
from typing import Any

from allometry.data.split import Document


def members(archive: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of the files of a wheel or source archive whose name matches the pattern, by name."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for name in sorted(wheel.namelist()):
                if fnmatchcase(name, pattern):
                    yield name, wheel.read(name)
    else:
        # Read in the archive's order, and sorted afterwards: seeking back in a compressed stream starts again.
        found = {}
        with tarfile.open(archive) as tar:
            for member in tar:
                file = tar.extractfile(member) if fnmatchcase(member.name, pattern) else None
                if file is not None:
                    found[member.name] = file.read()
        yield from sorted(found.items())


def plain_texts(archive: Path, pattern: str) -> Iterator[Document]:
    """Yield each matching file as a document."""
    for _, content in members(archive, pattern):
        yield Document(content.decode("utf-8"))


def bible_chapters(archive: Path, pattern: str) -> Iterator[Document]:
    """Yield the chapters of a translation in the layout of `pythonbible`: one long text, and the start and end
    of each verse.

    Verses are numbered book x 10^6 + chapter x 10^3 + verse. The module is parsed, not run.
    """
    for _, content in members(archive, pattern):
        tree = ast.parse(content)
        strings = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
        text = max((value for value in strings if isinstance(value, str)), key=len)
        tables = [node for node in ast.walk(tree) if isinstance(node, ast.Dict)]
        starts, ends = (ast.literal_eval(table) for table in sorted(tables, key=_length, reverse=True)[:2])
        if min(starts.values()) > min(ends.values()):
            starts, ends = ends, starts
        for _, verses in groupby(sorted(starts), key=lambda verse: verse // 1000):
            chapter = list(verses)
            yield Document(text[starts[chapter[0]] : ends[chapter[-1]]])


def _length(table: ast.Dict) -> int:
    return len(table.keys)


def factbook_countries(archive: Path, pattern: str) -> Iterator[Document]:
    """Yield the CIA World Factbook, one country a document: every text after its heading, without mark-up."""
    for _, content in members(archive, pattern):
        yield Document("\n".join(_facts(json.loads(content))))


def _facts(node: Any, heading: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "text" and isinstance(value, str):
                yield f"{heading}: {strip_tags(value)}"
            else:
                yield from _facts(value, key)


def dictionary_entries(archive: Path, pattern: str) -> Iterator[Document]:
    """Yield a dictionary, one word a document: the word, then its definitions and examples."""
    for _, content in members(archive, pattern):
        for word, entry in json.loads(content).items():
            lines = [
                " ".join((definition["text"], *definition.get("examples", ())))
                for use in entry["pos"]
                for definition in use["definitions"]
            ]
            yield Document("\n".join((word, *lines)))


def licence_texts(archive: Path, pattern: str) -> Iterator[Document]:
    """Yield licences of the ScanCode database, without the YAML head of each file."""
    for _, content in members(archive, pattern):
        yield Document(re.sub(r"\A---\n.*?\n---\n", "", content.decode("utf-8"), flags=re.DOTALL))


def strip_tags(text: str) -> str:
    """Return the text of a piece of HTML: paragraphs and breaks end lines, other tags go, entities are resolved."""
    lines = re.sub(r"(?i)<br\s*/?>|</p>", "\n", text)
    return html.unescape(re.sub(r"<[^>]+>", "", lines)).strip()
