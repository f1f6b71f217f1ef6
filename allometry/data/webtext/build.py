"""Stage 6, build: the data set. Parquet shards of train and test, split by document, and a card that says
what it is.

The split comes after de-duplication (before it, near-copies would leak from train into test and flatten
L(N)), and by a hash of the document's id, so that a document stays on its side when the corpus grows.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from allometry.data.webtext.card import write_card
from allometry.data.webtext.jsonl import Row, read_rows
from allometry.data.webtext.progress import Progress
from allometry.data.webtext.urls import registered_domain
from allometry.data.webtext.workspace import Stopwatch, Summary, Workspace, digest
from allometry.errors import AllometryError

STAGE = "build"
BATCH = 1_000

COLUMNS = {
    "text": "string",
    "id": "string",
    "url": "string",
    "final_url": "string",
    "title": "string",
    "date": "string",
    "author": "string",
    "site": "string",
    "language": "string",
    "language_score": "float32",
    "tokens": "int64",
    "score": "float64",
    "origin": "string",
    "created": "float64",
    "fetched": "string",
}
"""Column -> Arrow type. `created` is the Unix time of the submission; `tokens` counts GPT-2 tokens."""


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """`test_share` of the documents is held out, chosen by hash with `seed`; `shard_bytes` of text go into a
    file."""

    test_share: float = 0.05
    seed: int = 0
    shard_bytes: int = 256 << 20

    def __post_init__(self) -> None:
        if not 0 < self.test_share < 1:
            raise AllometryError(f"the share held out must lie between 0 and 1, not {self.test_share}")


def split_of(page_id: str, options: BuildOptions) -> str:
    """ "test" or "train", by the hash of a document's id: the same in every run and on every machine."""
    hashed = hashlib.blake2b(f"{options.seed}:{page_id}".encode(), digest_size=8).digest()
    return "test" if int.from_bytes(hashed, "big") < options.test_share * 2**64 else "train"


class _Shards:
    """Parquet files of one split; a new one begins when the last is full."""

    def __init__(self, folder: Path, split: str, shard_bytes: int) -> None:
        self._folder, self._split, self._most = folder, split, shard_bytes
        self._rows: list[Row] = []
        self._size = self._number = 0
        self._writer: Any = None

    def add(self, row: Row) -> None:
        self._rows.append(row)
        self._size += len(row["text"])
        if len(self._rows) >= BATCH:
            self._flush()
        if self._size >= self._most:
            self.close()

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self._rows:
            return
        schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()])
        if self._writer is None:
            path = self._folder / f"{self._split}-{self._number:05d}.parquet"
            self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        rows = [{name: row.get(name) for name in COLUMNS} for row in self._rows]
        self._writer.write_table(pa.Table.from_pylist(rows, schema=schema))
        self._rows = []

    def close(self) -> None:
        self._flush()
        if self._writer is not None:
            self._writer.close()
            self._writer, self._size = None, 0
            self._number += 1


def run(
    workspace: Workspace, options: BuildOptions, *, command: str = "", stream: IO[str] | None = None
) -> Summary:
    """Write `train-*.parquet`, `test-*.parquet` and the card. Raises AllometryError if dedup has not run or
    no document is left for one of the splits."""
    workspace.require("dedup", STAGE)
    identity = _identity(workspace, options)
    before = workspace.summary(STAGE)
    if (
        before is not None
        and before.options.get("identity") == identity
        and list(workspace.root.glob("train-*.parquet"))
    ):
        return before
    watch = Stopwatch()
    aside = workspace.path(STAGE) / "new"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    counts, domains = _write_shards(workspace, options, aside, stream)
    for split in ("train", "test"):
        if not counts[f"{split}_documents"]:
            raise AllometryError(
                f"of {counts['documents']} documents none falls into {split}",
                hint="start from more links, or change --test-share",
            )
    for old in [*workspace.root.glob("train-*.parquet"), *workspace.root.glob("test-*.parquet")]:
        old.unlink()
    for new in aside.iterdir():
        new.rename(workspace.root / new.name)
    aside.rmdir()
    summary = Summary(STAGE, counts, Counter(), watch.seconds, {**asdict(options), "identity": identity})
    workspace.write_summary(summary)
    write_card(workspace, summary, domains, command)
    return summary


def _identity(workspace: Workspace, options: BuildOptions) -> str:
    parts = range(workspace.parts)
    made_from = [
        [workspace.part_fingerprint(stage, part) for part in parts] for stage in ("dedup", "contamination")
    ]
    return digest(made_from, asdict(options))


def _write_shards(
    workspace: Workspace, options: BuildOptions, folder: Path, stream: IO[str] | None
) -> tuple[Counter[str], Counter[str]]:
    counts, domains = Counter[str](), Counter[str]()
    shards = {split: _Shards(folder, split, options.shard_bytes) for split in ("train", "test")}
    total = sum(
        (workspace.part_record("dedup", part) or {"counts": {}})["counts"].get("kept", 0)
        for part in range(workspace.parts)
    )
    progress = Progress(STAGE, total, unit="documents", stream=stream)
    for row in kept_documents(workspace):
        split = split_of(row["id"], options)
        shards[split].add(row)
        counts["documents"] += 1
        counts["characters"] += len(row["text"])
        counts["tokens"] += row["tokens"]
        counts[f"{split}_documents"] += 1
        counts[f"{split}_tokens"] += row["tokens"]
        domains[registered_domain(urlsplit(row["url"]).hostname or "")] += 1
        progress.add()
    for each in shards.values():
        each.close()
    progress.finish()
    return counts, domains


def kept_documents(workspace: Workspace) -> Iterator[Row]:
    """The documents that passed every stage, in order."""
    for part in range(workspace.parts):
        dropped = {row["row"] for row in read_rows(workspace.path("dedup", part, ".removed.jsonl"))}
        for row in read_rows(workspace.path("contamination", part, ".removed.jsonl")):
            if not row["kept"]:
                dropped.add(row["row"])
        for number, document in enumerate(read_rows(workspace.path("filter", part))):
            if number not in dropped:
                yield document
