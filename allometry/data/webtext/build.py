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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from allometry.core import __version__
from allometry.core.errors import AllometryError
from allometry.data.webtext.consent import removals
from allometry.data.webtext.jsonl import Row, file_digest, read_json, read_rows, whole_file, write_json
from allometry.data.webtext.urls import registered_domain
from allometry.data.webtext.workspace import (
    STAGES,
    Progress,
    Stopwatch,
    Summary,
    Workspace,
    digest,
    duration,
    exclusive,
)

_FLOW = (
    ("links", "read", "kept", "links worth fetching"),
    ("fetch", "links", "fetched", "pages fetched"),
    ("extract", "pages", "documents", "pages with text"),
    ("filter", "documents", "kept", "documents that pass the filters"),
    ("dedup", "documents", "kept", "documents that are not copies"),
    ("build", "documents", "documents", "documents in the data set"),
)

_HEAD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: train-*.parquet
  - split: test
    path: test-*.parquet
license: other
task_categories:
- text-generation
---

# A WebText-like corpus

Text of web pages that people linked to, made with [Allometry](https://github.com/allometry-lab/allometry)
{version} after the recipe of WebText (Radford et al. 2019) and its open reproductions.

    datasets.load_dataset("{name}")            # splits "train" and "test", column "text"
    allometry run quickstart --data webtext:{name}

Made by: `{command}`

## Licence and care

**The texts belong to their authors.** That a page can be fetched and that its robots.txt allows it says
nothing about a right to copy, publish or train on it; which law applies depends on where you are and on what
you do. Do not publish this data set without having settled that. The pages may hold personal data, insults
and errors. Each document carries its URL, so that pages can be removed on request, permanently, from the data
set and from everything that it was made of: `allometry webtext remove {name} URL-OR-HOST`.
"""


def write_card(workspace: Workspace, build: Summary, domains: Counter[str], command: str, path: Path) -> None:
    """Write the card of the data set to `path`."""
    name = plain(workspace.root.resolve().name)
    sections = [
        _HEAD.format(version=__version__, name=name, command=plain(command) or "allometry webtext"),
        _contents(build),
        _yields(workspace, build),
        _removed(workspace),
        _languages(workspace),
        _table("## Domains with the most documents", ("domain", "documents"), domains.most_common(20)),
        _contamination(workspace),
        _options(workspace, build),
    ]
    with whole_file(path) as file:
        file.write("\n".join(section for section in sections if section).encode("utf-8", "replace"))


def plain(text: str) -> str:
    """Return text from outside, made harmless in Markdown and HTML: one line, no markup, no table cells."""
    return re.sub(r"[<>|`\[\]*_&\\]", "·", " ".join(text.split()))[:300]


def _contents(build: Summary) -> str:
    rows = [
        (split, f"{build.counts[f'{split}_documents']:,}", f"{build.counts[f'{split}_tokens']:,}")
        for split in ("train", "test")
    ]
    return _table("## Contents", ("split", "documents", "GPT-2 tokens"), rows)


def _yields(workspace: Workspace, build: Summary) -> str:
    rows = []
    for stage, before, after, meaning in _FLOW:
        summary = build if stage == "build" else workspace.summary(stage)
        if summary is not None:
            came, left = summary.counts[before], summary.counts[after]
            share = f"{100 * left / came:.1f}%" if came else "-"
            rows.append((stage, meaning, f"{came:,}", f"{left:,}", share, duration(summary.seconds)))
    return _table("## From links to documents", ("stage", "", "came", "left", "yield", "time"), rows)


def _removed(workspace: Workspace) -> str:
    rows = []
    for stage in STAGES:
        summary = workspace.summary(stage)
        if summary is not None:
            rows += [(stage, reason, f"{n:,}") for reason, n in summary.removed.most_common() if n]
    return _table("## What was dropped (each case is in removed/)", ("stage", "reason", "cases"), rows)


def _languages(workspace: Workspace) -> str:
    summary = workspace.summary("filter")
    counts = summary.counts if summary is not None else Counter[str]()
    found = Counter({k.removeprefix("language_"): n for k, n in counts.items() if k.startswith("language_")})
    return _table("## Languages (before de-duplication)", ("language", "documents"), found.most_common(20))


def _contamination(workspace: Workspace) -> str:
    summary = workspace.summary("contamination")
    if summary is None:
        return "## Contamination\n\nNot checked against any evaluation set.\n"
    names = ", ".join(plain(name.rpartition("/")[2]) for name in summary.options.get("against", ()))
    done = "were left out" if summary.options.get("remove") else "are still in"
    return (
        f"## Contamination\n\nAgainst {names}: {summary.counts['contaminated']:,} "
        f"of {summary.counts['documents']:,} documents share a run of "
        f"{summary.options.get('words')} words; they {done}.\n"
    )


def _options(workspace: Workspace, build: Summary) -> str:
    """Return a table of every option of every stage, whether it was given or is the default."""
    rows = []
    for stage in STAGES:
        summary = build if stage == "build" else workspace.summary(stage)
        if summary is not None:
            rows += [(stage, plain(name), plain(value)) for name, value in _flat(summary.options)]
    return _table("## Options", ("stage", "option", "value"), rows)


def _flat(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in options.items():
        if name == "identity":
            continue
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", shown) for inner, shown in _flat(value))
        elif name == "against":
            yield name, ", ".join(str(path).rpartition("/")[2] for path in value)
        elif isinstance(value, list | tuple | set | frozenset):
            yield name, ", ".join(map(str, value)) or "none"
        else:
            yield name, str(value)


def _table(title: str, head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    lines = [" | ".join(("", *map(str, row), "")).strip() for row in rows]
    if not lines:
        return ""
    return "\n".join([title, "", " | ".join(("", *head, "")).strip(), "|" + "---|" * len(head), *lines, ""])


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
