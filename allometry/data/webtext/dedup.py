"""Stage 5, dedup: exact duplicates, then near-duplicates by MinHash with verification.

OpenWebText dropped documents that share more than half of their word 5-grams with another; OpenWebText2 used
10 permutations and no check, which both misses and drops wrongly. Here 128 permutations propose and the
Jaccard similarity of the shingles themselves decides. Memory: the keys of one band at a time (8 bytes a
document, on disk otherwise).
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import IO

import numpy as np

from allometry.core.errors import AllometryError
from allometry.data.webtext.duplicates import Duplicate, Ints, Shared, find_duplicates, shared_keys
from allometry.data.webtext.jsonl import Row, chunks, encode, file_digest, whole_file
from allometry.data.webtext.shingles import (
    Hashes,
    MinHash,
    Signed,
    Signer,
    jaccard,
    sequence_hash,
    shingles,
    word_hashes,
)
from allometry.data.webtext.workers import Pool, open_pool
from allometry.data.webtext.workspace import Progress, Stopwatch, Summary, Workspace, digest, exclusive

STAGE = "dedup"
REMEMBERED_BYTES = 256 << 20
"""Bytes of shingles that are remembered while pairs are verified: those of some 50,000 pages."""


@dataclass(frozen=True, kw_only=True)
class DedupOptions:
    """`threshold` is the Jaccard similarity from which a document counts as a copy; `exact_only` stops before
    MinHash."""

    threshold: float = 0.5
    exact_only: bool = False
    minhash: MinHash = field(default_factory=MinHash)

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise AllometryError(
                f"the similarity threshold must lie above 0 and not above 1, not {self.threshold}"
            )


class Documents:
    """The documents of the filtered parts in order, read by number."""

    def __init__(self, workspace: Workspace, words: int) -> None:
        self._files = [workspace.path("filter", part).open("rb") for part in range(workspace.parts)]
        loaded = [_load(workspace, part) for part in range(workspace.parts)]
        self.sizes = [len(signed.exact) for signed in loaded]
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)
        self._offsets: list[Ints] = [signed.offsets for signed in loaded]
        self._words = words
        self._remembered: OrderedDict[int, tuple[int, Hashes]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return int(self.starts[-1])

    def part_of(self, number: int) -> tuple[int, int]:
        """Return the part of a document and its place there."""
        part = int(np.searchsorted(self.starts, number, side="right")) - 1
        return part, number - int(self.starts[part])

    def row(self, number: int) -> Row:
        """Return a document."""
        part, row = self.part_of(number)
        self._files[part].seek(int(self._offsets[part][row]))
        found: Row = json.loads(self._files[part].readline())
        return found

    def described(self, number: int) -> tuple[int, Hashes]:
        """Return the hash of a document's words, and its shingles."""
        if number not in self._remembered:
            words = word_hashes(self.row(number)["text"])
            self._remembered[number] = (sequence_hash(words), shingles(words, self._words))
            self._bytes += self._remembered[number][1].nbytes
            while self._bytes > REMEMBERED_BYTES and len(self._remembered) > 2:
                self._bytes -= self._remembered.popitem(last=False)[1][1].nbytes
        self._remembered.move_to_end(number)
        return self._remembered[number]

    def similarity(self, a: int, b: int) -> float:
        """Return the Jaccard similarity of two documents' shingles; 1 for equal sequences of words."""
        (exact_a, set_a), (exact_b, set_b) = self.described(a), self.described(b)
        return 1.0 if exact_a == exact_b else jaccard(set_a, set_b)

    def shingles(self, number: int) -> Hashes:
        """Return the sorted shingles of a document."""
        return self.described(number)[1]

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()


@exclusive(STAGE)
def run(
    workspace: Workspace,
    options: DedupOptions,
    *,
    on: str = "local",
    workers: int | None = None,
    stream: IO[str] | None = None,
) -> Summary:
    """List the duplicates of each part in `stages/dedup/part-*.removed.jsonl`. Raises AllometryError if
    filter has not run."""
    workspace.require("filter", STAGE)
    identity = _inputs(workspace, options)
    before = workspace.summary(STAGE)
    same = before is not None and before.options.get("identity") == identity
    if before is not None and same and not workspace.stale_parts(STAGE):
        return before
    watch = Stopwatch()
    with open_pool(on, workers) as pool:
        _sign_all(workspace, options, pool, stream)
    documents = Documents(workspace, options.minhash.words)
    try:
        with tempfile.TemporaryDirectory(dir=workspace.path(STAGE), prefix="bands-") as folder:
            found = _duplicates(workspace, documents, options, Path(folder), stream)
            _write(workspace, documents, found, identity)
    finally:
        documents.close()
    summary = Summary(STAGE, seconds=watch.seconds, options={**asdict(options), "identity": identity})
    return workspace.finish_stage(summary)


def _inputs(workspace: Workspace, options: DedupOptions) -> str:
    return digest(
        [workspace.part_fingerprint("filter", part) for part in range(workspace.parts)], asdict(options)
    )


def _signature_path(workspace: Workspace, part: int) -> Path:
    return workspace.path(STAGE, part, ".signatures.npz")


def _sign_all(workspace: Workspace, options: DedupOptions, pool: Pool, stream: IO[str] | None) -> None:
    """Compute the signatures of the parts that have none, or signatures of other documents."""
    todo = []
    for part in range(workspace.parts):
        inputs = digest(workspace.part_fingerprint("filter", part), asdict(options.minhash))
        path = _signature_path(workspace, part)
        if not path.exists() or str(np.load(path)["inputs"]) != inputs:
            todo.append((part, inputs))
    counts = [
        (workspace.part_record("filter", part) or {"counts": {}})["counts"].get("kept", 0) for part, _ in todo
    ]
    progress = Progress("dedup (signatures)", sum(counts), unit="documents", stream=stream)
    for part, inputs in todo:
        pieces = []
        for outcome in pool.map(Signer(options.minhash), chunks(workspace.path("filter", part))):
            if outcome.error is not None:
                raise AllometryError(
                    f"signing part {part} failed: {outcome.error}", hint="run it again with --debug"
                )
            pieces.append(outcome.value)
            progress.add(len(outcome.value.exact))
        _save(_signature_path(workspace, part), pieces, inputs, options.minhash.bands)
    progress.finish()


def _save(path: Path, pieces: list[Signed], inputs: str, bands: int) -> None:
    empty = Signed(
        np.empty(0, np.uint64), np.empty((0, bands), np.uint64), np.empty(0, np.int64), np.empty(0, np.int64)
    )
    exact, keys, offsets, lengths = (np.concatenate(each) for each in zip(empty, *pieces, strict=True))
    # One array a band, so that a band of all parts can be read without the others.
    by_band = {f"band_{number}": np.ascontiguousarray(keys[:, number]) for number in range(bands)}
    with whole_file(path) as file:
        arrays = {
            "inputs": np.array(inputs),
            "exact": exact,
            "offsets": offsets,
            "lengths": lengths,
            **by_band,
        }
        np.savez(file, allow_pickle=False, **arrays)


def _load(workspace: Workspace, part: int) -> Signed:
    with np.load(_signature_path(workspace, part)) as saved:
        return Signed(saved["exact"], np.empty((0, 0), np.uint64), saved["offsets"], saved["lengths"])


def _duplicates(
    workspace: Workspace, documents: Documents, options: DedupOptions, folder: Path, stream: IO[str] | None
) -> Iterator[Duplicate]:
    """Yield the duplicates in order. `folder` holds the bands temporarily."""
    names = ["exact"] + (
        [] if options.exact_only else [f"band_{number}" for number in range(options.minhash.bands)]
    )
    bands: list[Shared] = []
    bucket = 0
    for name in names:
        keys = np.concatenate(
            [np.load(_signature_path(workspace, part))[name] for part in range(workspace.parts)]
        )
        shared = shared_keys(keys, bucket)
        bucket = int(shared.buckets.max(initial=bucket - 1)) + 1
        bands.append(_on_disk(shared, folder / name))
    progress = Progress("dedup (verifying)", len(documents), unit="documents", stream=stream)
    threshold = 1.0 if options.exact_only else options.threshold
    for duplicate in find_duplicates(bands, len(documents), documents, threshold):
        progress.to(duplicate.document)
        yield duplicate
    progress.to(len(documents))
    progress.finish()


def _on_disk(shared: Shared, path: Path) -> Shared:
    """Write the arrays to files, and return them memory-mapped."""
    np.save(path.with_suffix(".documents.npy"), shared.documents)
    np.save(path.with_suffix(".buckets.npy"), shared.buckets)
    return Shared(
        np.load(path.with_suffix(".documents.npy"), mmap_mode="r"),
        np.load(path.with_suffix(".buckets.npy"), mmap_mode="r"),
    )


def _write(
    workspace: Workspace, documents: Documents, duplicates: Iterator[Duplicate], identity: str
) -> None:
    """Write the lists of the parts: id, reason, the kept document it is like, and how like."""
    made_from = workspace.made_from(STAGE, 0)
    coming = groupby(duplicates, key=lambda duplicate: documents.part_of(duplicate.document)[0])
    nothing: tuple[int, Iterator[Duplicate]] = (workspace.parts, iter(()))
    found_part, found = next(coming, nothing)
    for part in range(workspace.parts):
        target = workspace.path(STAGE, part, ".removed.jsonl")
        removed: Counter[str] = Counter()
        with whole_file(target) as file:
            if part == found_part:
                for duplicate in found:
                    row = _removed_row(documents, duplicate)
                    removed[row["reason"]] += 1
                    file.write(encode(row))
                found_part, found = next(coming, nothing)
        total = documents.sizes[part]
        workspace.finish_part(
            STAGE,
            part,
            inputs=identity,
            fingerprint=digest(identity, file_digest(target)),
            counts={"documents": total, "kept": total - removed.total()},
            removed=removed,
            made_from=made_from,
        )


def _removed_row(documents: Documents, duplicate: Duplicate) -> Row:
    mine, other = documents.row(duplicate.document), documents.row(duplicate.of)
    same = documents.described(duplicate.document)[0] == documents.described(duplicate.of)[0]
    return {
        "id": mine["id"],
        "reason": "exact_duplicate" if same else "near_duplicate",
        "value": round(duplicate.similarity, 4),
        "of": other["id"],
        "url": mine["url"],
    }
