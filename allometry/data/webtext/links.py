"""Stage 1, links: from dumps and lists to the pages worth fetching, each once, in an order that mixes hosts.

A submission counts if it has the karma, is no self post and is not marked over 18. WebText asked for at least
3 karma of one submission (Radford et al. 2019, section 2.1; jcpeterson/openwebtext); OpenWebText2 for 3
summed over all submissions of a URL. The sources are read as a stream and sorted on disk, so memory does not
grow with them.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import IO, Any

from allometry.core.errors import AllometryError
from allometry.core.units import counted
from allometry.data.webtext.consent import OUTCOME, Removals, removals
from allometry.data.webtext.jsonl import Row, encode, whole_file
from allometry.data.webtext.sources import Found, Problem, read_links
from allometry.data.webtext.urls import (
    canonical,
    host_of,
    part_of,
    registered_domain,
    url_id,
    url_problem,
    without_final_dot,
)
from allometry.data.webtext.workspace import Progress, Stopwatch, Summary, Workspace, digest

RUN_BYTES = 64 << 20
"""Bytes of lines that are sorted in memory at a time. Memory stays near three times this, whatever the
input's size."""

FAN_IN = 128
"""Runs merged at a time: below the usual limit on open files."""


def sort_lines(lines: Iterable[bytes], folder: Path, *, run_bytes: int = RUN_BYTES) -> Iterator[bytes]:
    """Yield the lines (each ends with a newline) in byte order. `folder` holds the runs, which are removed
    afterwards.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="sort-") as name:
        runs = list(_write_runs(lines, Path(name), run_bytes))
        while len(runs) > FAN_IN:
            runs = [_merge_into_one(runs[i : i + FAN_IN]) for i in range(0, len(runs), FAN_IN)]
        yield from _merge_runs(runs)


def _write_runs(lines: Iterable[bytes], folder: Path, run_bytes: int) -> Iterator[Path]:
    held: list[bytes] = []
    size = 0
    count = 0
    for line in lines:
        held.append(line)
        size += len(line) + 50
        if size >= run_bytes:
            yield _write_run(held, folder / f"{count:06d}")
            held, size, count = [], 0, count + 1
    if held:
        yield _write_run(held, folder / f"{count:06d}")


def _write_run(held: list[bytes], path: Path) -> Path:
    held.sort()
    with path.open("wb") as file:
        file.writelines(held)
    return path


def _merge_runs(runs: list[Path]) -> Iterator[bytes]:
    files = [run.open("rb", buffering=1 << 18) for run in runs]
    try:
        yield from heapq.merge(*files)
    finally:
        for file in files:
            file.close()


def _merge_into_one(runs: list[Path]) -> Path:
    target = runs[0].with_name(f"{runs[0].name}m")
    with target.open("wb") as file:
        file.writelines(_merge_runs(runs))
    for run in runs:
        run.unlink()
    return target


STAGE = "links"
UNSCORED = 10_000
"""Links without a score at the start of a source after which it counts as one without scores."""


@dataclass(frozen=True, kw_only=True)
class LinkOptions:
    """Which links count. `max_per_domain` caps the pages of a registered domain, chosen at random (by the
    hash of their URLs); `karma` is "submission" (each by itself, WebText) or "sum" (over a URL's,
    OpenWebText2)."""

    min_score: float = 3.0
    karma: str = "submission"
    no_score: bool = False
    allow_self: bool = False
    allow_over_18: bool = False
    allow_truncated: bool = False
    local: bool = False
    exclude_domains: frozenset[str] = frozenset()
    max_per_domain: int | None = None

    def __post_init__(self) -> None:
        if self.karma not in ("submission", "sum"):
            raise AllometryError(f"karma is counted by 'submission' or as a 'sum', not by {self.karma!r}")
        if self.max_per_domain is not None and self.max_per_domain < 1:
            raise AllometryError(f"a domain keeps at least 1 page, not {self.max_per_domain}")

    def as_json(self) -> dict[str, Any]:
        """Return the options as JSON."""
        return {**asdict(self), "exclude_domains": sorted(self.exclude_domains)}


@dataclass
class _Tally:
    counts: Counter[str] = field(default_factory=Counter)
    removed: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


def run(
    workspace: Workspace, sources: Sequence[Path], options: LinkOptions, *, stream: IO[str] | None = None
) -> Summary:
    """Write the links of each part to `stages/links/part-*.jsonl`, and what was dropped to
    `removed/links.jsonl`.

    Does nothing when the same sources were read with the same options before. Raises AllometryError when a
    source cannot be read, when links have no score (unless `no_score`), and when no link is left.
    """
    identity = digest(options.as_json(), [_file_identity(path) for path in sources], _requests(workspace))
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
        asked = removals(workspace)
        candidates = _candidates(sources, options, tally, removed, progress, workspace.parts, asked)
        lines = sort_lines(candidates, workspace.path(STAGE))
        written = _write_parts(workspace, lines, options, tally, removed)
    _check(sources, tally, written)
    if tally.removed["no_score"]:
        tally.notes.append(
            f"without a score, so dropped: {counted(tally.removed['no_score'], 'link')} (--no-score takes them)"
        )
    progress.finish(f"{counted(written, 'link')} kept")
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


def _requests(workspace: Workspace) -> list[list[str]]:
    """Return what was asked to be taken out, sorted."""
    asked = removals(workspace)
    return [sorted(asked.ids), sorted(asked.hosts)]


def _file_identity(path: Path) -> list[Any]:
    if not path.exists():
        raise AllometryError(f"no such file: {path}", hint="check the path of the list of links")
    stat = path.stat()
    return [str(path.resolve()), stat.st_size, stat.st_mtime_ns]


def _check(sources: Sequence[Path], tally: _Tally, written: int) -> None:
    names = ", ".join(path.name for path in sources)
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
    asked: Removals,
) -> Iterator[bytes]:
    """Yield lines "part id json" of the links that may count, in the order of the sources."""
    for found in _all_links(sources, options, tally):
        tally.counts["read"] += 1
        progress.add()
        if isinstance(found, Problem):
            tally.removed["malformed"] += 1
            removed.write(encode({"reason": found.reason, "where": found.where, "value": found.value}))
            continue
        if reason := _rejected(found, options):
            tally.removed[reason] += 1
            if reason == "no_score":
                removed.write(encode({"reason": reason, "value": found.url, "where": found.origin}))
            continue
        found = found._replace(url=without_final_dot(found.url))
        if asked.covers(found.url):
            tally.removed[OUTCOME] += 1
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
            yield from _with_scores(path, options)
        except AllometryError as error:
            if not options.allow_truncated or "damaged or truncated" not in error.message:
                raise
            tally.notes.append(error.message)
            yield Problem(path.name, "truncated_file", error.message)


def _with_scores(path: Path, options: LinkOptions) -> Iterator[Found | Problem]:
    """Yield the links of a source. Raises AllometryError, early, if none has a score that karma asks for."""
    scored = unscored = 0
    for found in read_links(path):
        if isinstance(found, Found):
            scored += found.score is not None
            unscored += found.score is None
            if unscored == UNSCORED and not scored and not options.no_score:
                break
        yield found
    if unscored and not scored and not options.no_score:
        more = "at least the first " if unscored == UNSCORED else ""
        raise AllometryError(
            f"{path.name}: {more}{counted(unscored, 'link')} without a score, so the threshold of karma cannot apply",
            hint="add --no-score to take links without a score, or give a column or field named 'score'",
        )


def _rejected(found: Found, options: LinkOptions) -> str | None:
    """Return why a submission does not count, or None. A dump has too many of these to list: they are only counted."""
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
    part = part_of(host_of(found.url), parts)
    link = {
        "id": page_id,
        "url": found.url,
        "score": found.score,
        "title": found.title[:500],
        "created": found.created,
        "origin": found.origin,
    }
    return f"{part:05d}{page_id}{order:012d} ".encode() + encode(link)


def _write_parts(
    workspace: Workspace, lines: Iterator[bytes], options: LinkOptions, tally: _Tally, removed: IO[bytes]
) -> int:
    """Write one file for each part, in the order of the ids, also for empty parts."""
    hashes = [hashlib.blake2b(digest_size=8) for _ in range(workspace.parts)]
    sizes = [0] * workspace.parts
    with ExitStack() as stack:
        part, file = -1, None
        pages: Counter[str] = Counter()  # of each domain; a domain is in one part only
        for key, group in groupby(lines, key=lambda line: line[:21]):
            link = _merge([json.loads(line[34:]) for line in group], tally)
            if link["score"] is not None and link["score"] < options.min_score:
                tally.removed["low_score"] += 1
                continue
            while part < int(key[:5]):
                stack.close()
                pages.clear()
                part += 1
                file = stack.enter_context(whole_file(workspace.path(STAGE, part)))
            assert file is not None
            if options.max_per_domain is not None:
                domain = registered_domain(host_of(link["url"]))
                pages[domain] += 1
                if pages[domain] > options.max_per_domain:
                    tally.removed["domain_cap"] += 1
                    dropped = {"reason": "domain_cap", "value": options.max_per_domain}
                    removed.write(encode({"id": link["id"], **dropped, "url": link["url"]}))
                    continue
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
    """Return one link for all that lead to a page: the first one, with the scores summed and the number of
    submissions.
    """
    first = group[0]
    tally.removed["duplicate_url"] += len(group) - 1
    scores = [link["score"] for link in group if link["score"] is not None]
    return {**first, "score": sum(scores) if scores else None, "submissions": len(group)}
