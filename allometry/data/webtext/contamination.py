"""Contamination: does the corpus hold text of an evaluation set? By shared runs of 13 words (Brown et al.
2020, appendix C).

A report says for each evaluation document what share of its 13-grams the corpus holds, and for each document
of the corpus how many it shares. With `remove`, documents that share at least `min_ngrams` are left out of
the data set.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from allometry.core.errors import AllometryError
from allometry.data.webtext.jsonl import (
    Chunk,
    chunk_rows,
    chunks,
    encode,
    file_digest,
    read_rows,
    whole_file,
    write_json,
)
from allometry.data.webtext.shingles import Hashes, ngrams, word_hashes
from allometry.data.webtext.workers import Pool, open_pool
from allometry.data.webtext.workspace import Progress, Stopwatch, Summary, Workspace, digest, exclusive

STAGE = "contamination"


@dataclass(frozen=True, kw_only=True)
class ContaminationOptions:
    """`words` an n-gram, `column` of the text in tables, `remove` what shares at least `min_ngrams`."""

    words: int = 13
    column: str = "text"
    remove: bool = False
    min_ngrams: int = 1


def evaluation_texts(path: Path, column: str) -> Iterator[str]:
    """Yield the documents of an evaluation set: .txt (one document a file), .jsonl, .csv or .parquet with a text
    column.

    Raises AllometryError for other kinds and for a missing column.
    """
    kind = path.suffix.lower()
    if kind == ".txt":
        yield path.read_text(encoding="utf-8", errors="replace")
    elif kind in (".jsonl", ".ndjson"):
        with path.open("rb") as file:
            yield from (_column(json.loads(line), column, path) for line in file if line.strip())
    elif kind == ".csv":
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            yield from (_column(row, column, path) for row in csv.DictReader(file))
    elif kind == ".parquet":
        import pyarrow.parquet as pq

        for batch in pq.ParquetFile(path).iter_batches(batch_size=1000):
            yield from (_column(row, column, path) for row in batch.to_pylist())
    else:
        raise AllometryError(
            f"cannot read {path.name} as an evaluation set", hint="use .jsonl, .csv, .parquet or .txt"
        )


def _column(row: Any, column: str, path: Path) -> str:
    if not isinstance(row, dict):
        raise AllometryError(
            f"{path.name}: a line is no JSON object", hint="check that it is what its name says"
        )
    if column not in row:
        raise AllometryError(
            f"{path.name} has no column {column!r}; it has {', '.join(map(str, row))}",
            hint="name one with --column",
        )
    return str(row[column])


class EvaluationSet:
    """The n-grams of an evaluation set: `grams` sorted without repetition, `owners` the documents each came
    from."""

    def __init__(self, paths: Sequence[Path], words: int, column: str) -> None:
        self.sizes: list[int] = []
        self.names: list[str] = []
        pieces: list[Hashes] = []
        for path in paths:
            for number, text in enumerate(_readable(path, column)):
                grams = np.unique(ngrams(word_hashes(text), words))
                pieces.append(grams)
                self.sizes.append(len(grams))
                self.names.append(f"{path.name}:{number}")
        if not any(self.sizes):
            raise AllometryError(
                f"no document of the evaluation set has {words} words",
                hint="check --column, or lower --ngram",
            )
        self.all: Hashes = np.concatenate(pieces)
        self.grams: Hashes = np.unique(self.all)

    def contained(self, found: npt.NDArray[np.bool_]) -> list[float]:
        """Return for each document the share of its n-grams that `found` (over `grams`) marks; 0 for a document
        without n-grams.
        """
        hits = found[np.searchsorted(self.grams, self.all)]
        edges = np.concatenate([[0], np.cumsum(self.sizes)])
        sums = np.concatenate([[0], np.cumsum(hits)])
        counts = sums[edges[1:]] - sums[edges[:-1]]
        return [float(count / size) if size else 0.0 for count, size in zip(counts, self.sizes, strict=True)]


def _readable(path: Path, column: str) -> Iterator[str]:
    try:
        yield from evaluation_texts(path, column)
    except (json.JSONDecodeError, OSError, ValueError) as error:
        raise AllometryError(
            f"cannot read {path}: {error}", hint="check that it is what its name says"
        ) from error


@dataclass(frozen=True)
class Finder:
    """A function from a piece of a part to the n-grams its documents share with the evaluation set; sent to the
    workers.
    """

    grams_path: str
    words: int

    def __call__(self, chunk: Chunk) -> list[tuple[str, str, Hashes]]:
        """Return (id, url, indices into the set's grams), one for each document."""
        grams = _grams(self.grams_path)
        found = []
        for _, _, row in chunk_rows(chunk):
            mine = np.unique(ngrams(word_hashes(row["text"]), self.words))
            at = np.minimum(np.searchsorted(grams, mine), len(grams) - 1)
            found.append((row["id"], row["url"], at[grams[at] == mine].astype(np.uint64)))
        return found


@lru_cache(maxsize=2)
def _grams(path: str) -> Hashes:
    loaded: Hashes = np.load(path, mmap_mode="r")
    return loaded


@exclusive(STAGE)
def run(
    workspace: Workspace,
    against: Sequence[Path],
    options: ContaminationOptions,
    *,
    on: str = "local",
    workers: int | None = None,
    stream: IO[str] | None = None,
) -> Summary:
    """Compare the de-duplicated documents with an evaluation set; write `stages/contamination/report.json`.

    Raises AllometryError if dedup has not run or the evaluation set cannot be read.
    """
    workspace.require("dedup", STAGE)
    if not against:
        raise AllometryError("no evaluation set given", hint="name one with --against FILE")
    against = [path.resolve() for path in against]
    identity = digest(asdict(options), [_content(path) for path in against])
    before = workspace.summary(STAGE)
    same = before is not None and before.options.get("identity") == identity
    if before is not None and same and not workspace.stale_parts(STAGE):
        return before
    watch = Stopwatch()
    evaluation = EvaluationSet(against, options.words, options.column)
    short = sum(size == 0 for size in evaluation.sizes)
    made_from = workspace.made_from(STAGE, 0)
    folder = workspace.path(STAGE)
    folder.mkdir(parents=True, exist_ok=True)
    finder = Finder(str(folder / "grams.npy"), options.words)
    np.save(finder.grams_path, evaluation.grams)
    seen = np.zeros(len(evaluation.grams), dtype=bool)
    kept = [
        (workspace.part_record("filter", part) or {"counts": {}})["counts"] for part in range(workspace.parts)
    ]
    progress = Progress(STAGE, sum(counts.get("kept", 0) for counts in kept), unit="documents", stream=stream)
    with open_pool(on, workers) as pool:
        for part in range(workspace.parts):
            found = _found(workspace, part, finder, pool)
            _write_part(workspace, part, found, options, seen, identity, made_from, progress)
    progress.finish()
    write_json(folder / "report.json", _report(evaluation, evaluation.contained(seen), against))
    names = [str(path) for path in against]
    summary = Summary(
        STAGE, seconds=watch.seconds, options={**asdict(options), "against": names, "identity": identity}
    )
    if short:
        summary.notes.append(
            f"{short:,} of {len(evaluation.sizes):,} evaluation documents have fewer than {options.words} "
            "words: they were not looked for"
        )
    return workspace.finish_stage(summary)


def _content(path: Path) -> list[str]:
    """Return the name of an evaluation set and a hash of its content."""
    if not path.is_file():
        raise AllometryError(
            f"no such evaluation set: {path}",
            hint="give it with --against, as .jsonl, .csv, .parquet or .txt",
        )
    return [path.name, file_digest(path)]


def _found(workspace: Workspace, part: int, finder: Finder, pool: Pool) -> Iterator[tuple[str, str, Hashes]]:
    """Yield the n-grams that the documents of a part share with the evaluation set, in order."""
    for outcome in pool.map(finder, chunks(workspace.path("filter", part))):
        if outcome.error is not None:
            raise AllometryError(f"comparing part {part} failed: {outcome.error}", hint="run it with --debug")
        yield from outcome.value


def _write_part(
    workspace: Workspace,
    part: int,
    found: Iterator[tuple[str, str, Hashes]],
    options: ContaminationOptions,
    seen: npt.NDArray[np.bool_],
    identity: str,
    made_from: str,
    progress: Progress,
) -> None:
    """Write a part's documents that share n-grams, and mark in `seen` which n-grams they are. Duplicates do not
    count.
    """
    duplicates = {row["id"] for row in read_rows(workspace.path("dedup", part, ".removed.jsonl"))}
    counts, removed = Counter[str](), Counter[str]()
    with whole_file(workspace.path(STAGE, part, ".removed.jsonl")) as dropped:
        for page_id, url, hits in found:
            progress.add()
            if page_id in duplicates:
                continue
            counts["documents"] += 1
            counts["shared_ngrams"] += len(hits)
            seen[hits] = True
            if len(hits) >= options.min_ngrams:
                counts["contaminated"] += 1
                removed["contaminated"] += options.remove
                value = {"id": page_id, "reason": "contaminated", "value": len(hits), "url": url}
                dropped.write(encode({**value, "kept": not options.remove}))
    inputs = digest(identity, workspace.part_fingerprint("dedup", part))
    workspace.finish_part(
        STAGE,
        part,
        inputs=inputs,
        fingerprint=inputs,
        counts=counts,
        removed=removed,
        made_from=made_from,
    )


def _report(evaluation: EvaluationSet, shares: list[float], against: Sequence[Path]) -> dict[str, Any]:
    ranked = sorted(
        zip(shares, evaluation.names, evaluation.sizes, strict=True), key=lambda each: (-each[0], each[1])
    )
    touched = [share for share in shares if share > 0]
    return {
        "against": [path.name for path in against],
        "evaluation_documents": len(shares),
        "documents_with_overlap": len(touched),
        "mean_share_of_ngrams": sum(shares) / len(shares),
        "documents": [{"document": n, "share": round(s, 4), "ngrams": k} for s, n, k in ranked if s > 0][
            :1000
        ],
    }
