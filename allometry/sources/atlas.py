"""The atlas: every public table of runs that is known here, as one object each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from allometry.core.units import counted, format_bytes
from allometry.sources import catalogue
from allometry.sources.fetch import State, content, fetch, state
from allometry.sources.readers import table as read
from allometry.sources.source import SOURCES, Source, find

if TYPE_CHECKING:
    from allometry.sources.fetch import Say


@dataclass(frozen=True)
class Atlas:
    """One public table of runs: `source` says what it is; it can be fetched and read."""

    source: Source
    cache: Path | None = None

    @property
    def id(self) -> str:
        """Its name in the atlas."""
        return self.source.id

    @property
    def state(self) -> State:
        """What of it is on this machine."""
        return state(self.source, self.cache)

    def fetch(
        self, *, place: str | Path | None = None, accept: bool = False, say: Say = lambda text: None
    ) -> Path:
        """Fetch what is missing, and return the folder; see `sources.fetch.fetch`."""
        return fetch(self.source, place=place, accept=accept, cache=self.cache, say=say)

    def table(self, part: str | None = None) -> pd.DataFrame:
        """Return the rows of a part (default: the first), in the schema's columns.

        Raises AllometryError where it was not fetched, and for an unknown part.
        """
        return catalogue.table(f"{self.id}/{self.source.part(part)}", self.cache)[0]

    def report(self) -> str:
        """Return what the source is as text."""
        source, now = self.source, self.state
        lines = [
            f"{source.id}: {source.title}",
            f"{source.authors} {source.year}, {source.paper}",
            f"files: {counted(len(source.files), 'file')}, {format_bytes(source.size)}, of"
            f" github.com/{source.repository} at {source.commit[:12]}",
            f"licence: {source.licence}",
            f"loss: {source.loss}, {source.loss_unit}",
            *(f"{symbol}: {text}" for symbol, text in source.counts.items()),
            "parts:",
            *(f"  {name}: {text}" for name, text in source.parts.items()),
            *(f"caveat: {text}" for text in source.caveats),
            f"published constants kept: {len(source.constants)}",
        ]
        if now.complete:
            rows = read(source, content(source, self.cache))
            counts = rows.groupby("part").size()
            lines.append("rows: " + ", ".join(f"{name} {counts[name]}" for name in source.parts))
            lines.append("columns: " + ", ".join(self.table().columns))
            if now.accepted:
                lines.append(f"accepted though they differ: {', '.join(now.accepted)}")
        else:
            lines.append(f"not on this machine yet: allometry atlas fetch {source.id}")
        return "\n".join([*lines, f"to fit it: {source.fit}"])

    def to_dict(self) -> dict[str, Any]:
        """Return what the source is as plain JSON."""
        source = self.source
        return {
            "id": source.id, "title": source.title, "authors": source.authors, "year": source.year,
            "paper": source.paper, "repository": source.repository, "commit": source.commit,
            "licence": source.licence, "counts": dict(source.counts), "loss": source.loss,
            "loss_unit": source.loss_unit, "parts": dict(source.parts), "caveats": list(source.caveats),
            "files": [
                {"address": source.address(file), "sha256": file.sha256, "size": file.size} for file in source.files
            ],
            "constants": [
                {"part": c.part, "name": c.name, "value": c.number, "low": c.low, "high": c.high, "where": c.where}
                for c in source.constants
            ],
            "fit": source.fit, "here": self.state.complete,
        }  # fmt: skip

    def _repr_html_(self) -> str:
        return f"<pre>{self.report()}</pre>"


def atlas(source: str) -> Atlas:
    """Return a public table of scaling runs, to be fetched once and read.

    Parameters
    ----------
    source
        Its id, such as "hoffmann2022"; `allometry.sources.atlas.listing()` and `allometry atlas list` name all.

    Returns
    -------
    Atlas
        The source: `fetch()` brings its files to this machine, `table()` returns its rows, `report()` says what they
        are. `read_table("atlas:hoffmann2022")` reads it too.

    Raises
    ------
    AllometryError
        For an unknown id, with the nearest.

    Examples
    --------
    >>> import allometry
    >>> allometry.atlas("hoffmann2022").source.parts
    {'figure-4': '245 runs of 44M to 16B parameters'}
    >>> allometry.atlas("hoffmann2022").fetch()  # doctest: +SKIP
    >>> runs = allometry.atlas("hoffmann2022").table()  # doctest: +SKIP
    """
    return Atlas(find(source)[0])


def listing() -> pd.DataFrame:
    """Return a table of all sources, a row each."""
    rows = []
    for source in SOURCES.all().values():
        now = state(source)
        rows.append(
            {
                "id": source.id, "title": source.title, "authors": source.authors, "year": source.year,
                "paper": source.paper, "files": len(source.files), "size": format_bytes(source.size),
                "licence": source.licence, "loss_unit": source.loss_unit,
                "constants": len(source.constants),
                "here": "yes" if now.complete else f"{now.here} of {now.files}" if now.here else "no",
            }
        )  # fmt: skip
    return pd.DataFrame(rows)
