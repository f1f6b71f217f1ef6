"""What a public table of runs is: its files, what its columns count, and the constants that were published from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote

from allometry.core.errors import AllometryError, unknown
from allometry.core.registry import Registry

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = (
    "part", "run", "family", "N", "D", "C", "loss", "loss_unit", "schedule", "batch", "rate", "seed", "split",
)  # fmt: skip
"""Columns of every table, in this order; a source adds its own after them.

`part`: which of the source's tables. `run`: one name for all rows of one training run. `N` parameters, `D` tokens
trained on, `C` training FLOPs, as the source counts them (`Source.counts`). `batch` in tokens, `rate` the peak
learning rate, `split` what the source itself fitted or held out. What a source does not say is nan."""

PREFIX = "atlas:"
"""How an address of a public table begins where the path of a file is expected."""


@dataclass(frozen=True, kw_only=True)
class File:
    """A file of a source at its pinned commit: its path in the repository, SHA-256 and size in bytes."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Constant:
    """A number that a paper or its repository printed.

    `part` and `name` say of what; `value` is written with the digits printed. `low` and `high` are the printed 95 %
    interval, None without one. `where` is the place that prints it. `reason` says why a fit to the public table
    comes out elsewhere, where that was found.
    """

    part: str
    name: str
    value: str
    where: str
    low: float | None = None
    high: float | None = None
    reason: str = ""

    @property
    def number(self) -> float:
        """The value as a number."""
        return float(self.value)

    @property
    def digit(self) -> float:
        """One unit of the last digit printed: 0.001 of "0.076", 1e11 of "1.8e13" it is 1e12."""
        mantissa, _, power = self.value.lower().partition("e")
        decimals = len(mantissa.partition(".")[2])
        return float(10.0 ** (int(power or 0) - decimals))


Reader = Callable[[Mapping[str, bytes]], "pd.DataFrame"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A public table of runs.

    `parts` names the tables in it, the default first, and says what each is. `counts` says what N, D and C count;
    `loss` what was measured. `read` makes the table of the files' bytes by path.
    """

    id: str
    title: str
    authors: str
    year: int
    paper: str
    repository: str
    commit: str
    licence: str
    counts: Mapping[str, str]
    loss: str
    loss_unit: str
    parts: Mapping[str, str]
    read: Reader
    files: tuple[File, ...]
    fit: str
    caveats: tuple[str, ...] = ()
    constants: tuple[Constant, ...] = field(default=(), repr=False)

    @property
    def base(self) -> str:
        """Address of the repository's files at the pinned commit; a file's path follows."""
        return f"https://raw.githubusercontent.com/{self.repository}/{self.commit}/"

    def address(self, file: File, base: str | None = None) -> str:
        """Return the address of a file, below another base if one is given."""
        return (base or self.base).rstrip("/") + "/" + quote(file.path)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def part(self, name: str | None = None) -> str:
        """Return the part of that name, the default without one; AllometryError, with the nearest, for no part."""
        if name is None:
            return next(iter(self.parts))
        if name not in self.parts:
            raise unknown(f"part of {self.id}", name, list(self.parts))
        return name


SOURCES: Registry[Source] = Registry("source", ordered=True, packages=("allometry.sources",))
"""Every source by its id, in the order of years."""


def find(address: str) -> tuple[Source, str]:
    """Return the source and the part that "atlas:ID" or "atlas:ID/PART" names; the prefix may be left out.

    Raises AllometryError, with the nearest names, for unknown ones.
    """
    name, slash, part = address.removeprefix(PREFIX).partition("/")
    if not name or (slash and not part):
        raise AllometryError(
            f"{address!r} names no source",
            hint="write atlas:ID or atlas:ID/PART; `allometry atlas list` lists them",
        )
    source = SOURCES[name]
    return source, source.part(part or None)
