"""Stage 1, links: from dumps and lists to the pages worth fetching, each once, in an order that mixes hosts.

A submission counts if it has the karma, is no self post and is not marked over 18. WebText asked for at least
3 karma of one submission (Radford et al. 2019, section 2.1; jcpeterson/openwebtext); OpenWebText2 for 3
summed over all submissions of a URL. The sources are read as a stream and sorted on disk, so memory does not
grow with them.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from allometry.data.webtext.external import sort_lines
from allometry.data.webtext.jsonl import Row, encode, whole_file
from allometry.data.webtext.progress import Progress
from allometry.data.webtext.sources import Found, Problem, read_links
from allometry.data.webtext.urls import canonical, part_of, url_id, url_problem
from allometry.data.webtext.workspace import Stopwatch, Summary, Workspace, digest
from allometry.errors import AllometryError

STAGE = "links"


@dataclass(frozen=True, kw_only=True)
class LinkOptions:
    """Which links count. `karma` is "submission" (each by itself, WebText) or "sum" (over a URL's,
    OpenWebText2)."""

    min_score: float = 3.0
    karma: str = "submission"
    no_score: bool = False
    allow_self: bool = False
    allow_over_18: bool = False
    allow_truncated: bool = False
    local: bool = False
    exclude_domains: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.karma not in ("submission", "sum"):
            raise AllometryError(f"karma is counted by 'submission' or as a 'sum', not by {self.karma!r}")

    def as_json(self) -> dict[str, Any]:
        """The options as JSON."""
        return {**asdict(self), "exclude_domains": sorted(self.exclude_domains)}


@dataclass
class _Tally:
    counts: Counter[str] = field(default_factory=Counter)
    removed: Counter[str] = field(default_factory=Counter)
    unscored: int = 0
    notes: list[str] = field(default_factory=list)


def run(
    workspace: Workspace, sources: Sequence[Path], options: LinkOptions, *, stream: IO[str] | None = None
) -> Summary:
    """Write the links of each part to `stages/links/part-*.jsonl`, and what was dropped to
    `removed/links.jsonl`.

    Does nothing when the same sources were read with the same options before. Raises AllometryError when a
    source cannot be read, when links have no score (unless `no_score`), and when no link is left.
    """
    identity = digest(options.as_json(), [_file_identity(path) for path in sources])
    with workspace.alone(STAGE):
        workspace.create()
        before = workspace.summary(STAGE)
        same = before is not None and before.options.get("identity") == identity
        if before is not None and same and not workspace.stale_parts(STAGE):
            return before
        workspace.require_no_fetch()
        return _read_all(workspace, sources, options, identity, stream)


def _read_all(
    workspace: Workspace,
    sources: Sequence[Path],
    options: LinkOptions,
    identity: str,
    stream: IO[str] | None,
) -> Summary:
    watch = Stopwatch()
    tally = _Tally()
    progress = Progress(STAGE, 0, unit="lines", stream=stream)
    with whole_file(workspace.removed(STAGE)) as removed:
        candidates = _candidates(sources, options, tally, removed, progress, workspace.parts)
        written = _write_parts(workspace, sort_lines(candidates, workspace.path(STAGE)), options, tally)
    _check(sources, options, tally, written)
    progress.finish(f"{written:,} links kept")
    summary = Summary(
        STAGE,
        tally.counts,
        tally.removed,
        watch.seconds,
        {**options.as_json(), "identity": identity},
        tally.notes,
    )
    workspace.write_summary(summary)
    return summary


def _file_identity(path: Path) -> list[Any]:
    if not path.exists():
        raise AllometryError(f"no such file: {path}", hint="check the path of the list of links")
    stat = path.stat()
    return [str(path.resolve()), stat.st_size, stat.st_mtime_ns]


def _check(sources: Sequence[Path], options: LinkOptions, tally: _Tally, written: int) -> None:
    names = ", ".join(path.name for path in sources)
    if tally.unscored and not options.no_score:
        raise AllometryError(
            f"{tally.unscored:,} links of {names} have no score, so the karma threshold cannot be applied",
            hint="add --no-score to take links without a score, or give a column or field named 'score'",
        )
    if written == 0:
        reasons = (
            ", ".join(f"{name} {n:,}" for name, n in tally.removed.most_common(5)) or "the files are empty"
        )
        raise AllometryError(
            f"no link of {names} is left ({reasons})",
            hint="lower --min-score, or look at removed/links.jsonl for what was dropped",
        )


def _candidates(
    sources: Sequence[Path],
    options: LinkOptions,
    tally: _Tally,
    removed: IO[bytes],
    progress: Progress,
    parts: int,
) -> Iterator[bytes]:
    """Lines "part id json" of the links that may count, in the order of the sources."""
    for found in _all_links(sources, options, tally):
        tally.counts["read"] += 1
        progress.add()
        if isinstance(found, Problem):
            tally.removed["malformed"] += 1
            removed.write(encode({"reason": found.reason, "where": found.where, "value": found.value}))
            continue
        if reason := _rejected(found, options):
            tally.removed[reason] += 1
            tally.unscored += reason == "no_score"
            continue
        try:
            reason, name = (
                url_problem(found.url, extra_domains=options.exclude_domains, local=options.local),
                "",
            )
            if reason is None:
                name = canonical(found.url)
        except ValueError:
            reason = "malformed"
        if reason is not None:
            tally.removed[reason] += 1
            removed.write(encode({"reason": reason, "value": found.url, "where": found.origin}))
            continue
        yield _sort_line(found, name, parts, tally.counts["read"])


def _all_links(sources: Sequence[Path], options: LinkOptions, tally: _Tally) -> Iterator[Found | Problem]:
    for path in sources:
        try:
            yield from read_links(path)
        except AllometryError as error:
            if not options.allow_truncated or "damaged or truncated" not in error.message:
                raise
            tally.notes.append(error.message)
            yield Problem(path.name, "truncated_file", error.message)


def _rejected(found: Found, options: LinkOptions) -> str | None:
    """Why a submission does not count; these are too many to list one by one in a dump, so they are only
    counted."""
    if found.is_self and not options.allow_self:
        return "self_post"
    if found.over_18 and not options.allow_over_18:
        return "over_18"
    if found.score is None:
        return None if options.no_score else "no_score"
    if options.karma == "submission" and found.score < options.min_score:
        return "low_score"
    return None


def _sort_line(found: Found, name: str, parts: int, order: int) -> bytes:
    page_id = url_id(name)
    part = part_of(urlsplit(found.url).hostname or "", parts)
    link = {
        "id": page_id,
        "url": found.url,
        "score": found.score,
        "title": found.title[:500],
        "created": found.created,
        "origin": found.origin,
    }
    return f"{part:05d}{page_id}{order:012d} ".encode() + encode(link)


def _write_parts(workspace: Workspace, lines: Iterator[bytes], options: LinkOptions, tally: _Tally) -> int:
    """One file a part, in the order of the ids; every part gets one, even if it is empty."""
    hashes = [hashlib.blake2b(digest_size=8) for _ in range(workspace.parts)]
    sizes = [0] * workspace.parts
    with ExitStack() as stack:
        part, file = -1, None
        for key, group in groupby(lines, key=lambda line: line[:21]):
            link = _merge([json.loads(line[34:]) for line in group], tally)
            if link["score"] is not None and link["score"] < options.min_score:
                tally.removed["low_score"] += 1
                continue
            while part < int(key[:5]):
                stack.close()
                part += 1
                file = stack.enter_context(whole_file(workspace.path(STAGE, part)))
            assert file is not None
            line = encode(link)
            file.write(line)
            hashes[part].update(line)
            sizes[part] += 1
        while part < workspace.parts - 1:
            stack.close()
            part += 1
            stack.enter_context(whole_file(workspace.path(STAGE, part)))
    for number, (hashed, size) in enumerate(zip(hashes, sizes, strict=True)):
        workspace.finish_part(
            STAGE, number, inputs="", fingerprint=hashed.hexdigest(), counts={"links": size}, removed={}
        )
    tally.counts["kept"] = sum(sizes)
    return sum(sizes)


def _merge(group: list[Row], tally: _Tally) -> Row:
    """One link of all that lead to a page: the first one, with the scores summed and the number of
    submissions."""
    first = group[0]
    tally.removed["duplicate_url"] += len(group) - 1
    scores = [link["score"] for link in group if link["score"] is not None]
    return {**first, "score": sum(scores) if scores else None, "submissions": len(group)}
