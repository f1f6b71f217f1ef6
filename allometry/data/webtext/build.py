"""Stage 6, build: the data set. Parquet shards of train and test, split by document, and a card that says
what it is.

The split comes after de-duplication (before it, near-copies would leak from train into test and flatten
L(N)), and by a hash of the document's id, so that a document stays on its side when the corpus grows.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from allometry.core.errors import AllometryError
from allometry.data.webtext.card import write_card
from allometry.data.webtext.jsonl import Row, file_digest, read_json, read_rows, write_json
from allometry.data.webtext.progress import Progress
from allometry.data.webtext.removal import removals
from allometry.data.webtext.urls import registered_domain
from allometry.data.webtext.workspace import Stopwatch, Summary, Workspace, digest, exclusive

STAGE = "build"
BATCH = 1_000

CARD = "README.md"
NEW_CARD = "README.new.md"
_OWN_NAME = re.compile(r"(train|test)-\d{5}\.parquet|README(\.new)?\.md")
_SHARD = re.compile(r"^(train|test)-.*\.parquet$")

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
    """Return "test" or "train", by the hash of a document's id: the same in every run and on every machine."""
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


@exclusive(STAGE)
def run(
    workspace: Workspace, options: BuildOptions, *, command: str = "", stream: IO[str] | None = None
) -> Summary:
    """Write `train-*.parquet`, `test-*.parquet` and the card. Raises AllometryError if dedup has not run or
    no document is left for one of the splits."""
    workspace.require("dedup" if workspace.summary("contamination") is None else "contamination", STAGE)
    identity = _identity(workspace, options)
    before = workspace.summary(STAGE)
    owned = _owned(workspace)
    same = before is not None and before.options.get("identity") == identity
    if before is not None and same and any(name.startswith("train-") for name in owned):
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
    summary = Summary(STAGE, counts, Counter(), watch.seconds, {**asdict(options), "identity": identity})
    write_card(workspace, summary, domains, command, aside / CARD)
    summary.notes += _publish(workspace, aside, owned)
    workspace.write_summary(summary)
    return summary


def _record(workspace: Workspace) -> Path:
    """Return the file that lists what `build` wrote into the folder: name -> hashes of the content (two while a
    new data set replaces an old one).
    """
    return workspace.path(STAGE) / "files.json"


def _owned(workspace: Workspace) -> set[str]:
    """Return the names of the files of the data set that this stage wrote and that nobody has changed since."""
    written = read_json(_record(workspace))
    if not isinstance(written, dict):
        return set()
    return {
        name
        for name, hashes in written.items()
        if _OWN_NAME.fullmatch(name)
        and (workspace.root / name).is_file()
        and file_digest(workspace.root / name) in hashes
    }


def _publish(workspace: Workspace, aside: Path, owned: set[str]) -> list[str]:
    """Move the new files into place and remove the old ones, of those that this stage wrote itself.

    A card that somebody edited stays; the new one lies beside it, and a note says so. Raises AllometryError,
    having changed nothing, where shards of others are in the way.
    """
    names = {path.name for path in workspace.root.iterdir()}
    if foreign := sorted(name for name in names - owned if _SHARD.search(name) or name == NEW_CARD):
        raise AllometryError(
            f"{workspace.root} holds files that build did not write, or that were changed since: "
            f"{', '.join(foreign[:3])}{', …' if len(foreign) > 3 else ''}",
            hint="they would be read as part of the data set: move them elsewhere, then run build again",
        )
    notes = []
    targets = {new.name: new.name for new in aside.iterdir()}
    if (workspace.root / CARD).exists() and CARD not in owned:
        targets[CARD] = NEW_CARD
        notes.append(f"{CARD} was written or changed by somebody else and is kept; see {NEW_CARD}")
    new = {target: [file_digest(aside / name)] for name, target in targets.items()}
    old = {name: [file_digest(workspace.root / name)] for name in owned}
    # Written before the files are moved: after a kill in between, old and new files are recognised as ours.
    both = {name: old.get(name, []) + new.get(name, []) for name in {*old, *new}}
    write_json(_record(workspace), both)
    for name in owned - set(new):
        (workspace.root / name).unlink()
    for name, target in targets.items():
        (aside / name).rename(workspace.root / target)
    aside.rmdir()
    write_json(_record(workspace), new)
    return notes


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
    """Yield the documents that passed every stage, in order. Dropped ones are known by their ids."""
    asked = removals(workspace)
    for part in range(workspace.parts):
        dropped = {row["id"] for row in read_rows(workspace.path("dedup", part, ".removed.jsonl"))}
        for row in read_rows(workspace.path("contamination", part, ".removed.jsonl")):
            if not row["kept"]:
                dropped.add(row["id"])
        for document in read_rows(workspace.path("filter", part)):
            if document["id"] not in dropped and not asked.covers_row(document):
                yield document
