"""What may not be used: pages that reserve themselves from training, and removal on request.

Read are the `X-Robots-Tag` header and `<meta name="robots">` (directive `noai`, as DeviantArt introduced it
in 2022), and the three places of the TDM Reservation Protocol (W3C community group report, 2024): the header
`TDM-Reservation`, `<meta name="tdm-reservation">`, and a site's `/.well-known/tdmrep.json`.

`removals.jsonl` in the corpus's folder lists the requests. Later runs of links, fetch and build heed it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allometry.core.errors import AllometryError
from allometry.data.webtext.jsonl import (
    AppendLog,
    Row,
    encode,
    file_digest,
    read_json,
    read_rows,
    whole_file,
    write_json,
)
from allometry.data.webtext.urls import canonical, host_of, url_id, url_problem
from allometry.data.webtext.warc import FETCHED, erased_member, last_outcomes
from allometry.data.webtext.workspace import STAGES, Summary, Workspace

if TYPE_CHECKING:
    from protego import Protego


AGENT = "allometry-webtext"
"""Our name in rules that are for some robots only."""

WELL_KNOWN = "/.well-known/tdmrep.json"
MAX_WELL_KNOWN = 512 * 1024


def header_opt_out(headers: Iterable[tuple[str, str]]) -> str | None:
    """Return the header of a response that reserves its text ("x-robots-tag: noai"), None if none does."""
    for name, value in headers:
        lowered = name.lower()
        if lowered == "x-robots-tag" and _says_noai(value):
            return "x-robots-tag: noai"
        if lowered == "tdm-reservation" and value.strip() == "1":
            return "tdm-reservation: 1"
    return None


def html_opt_out(tree: Any) -> str | None:
    """Return the meta element of a page (an lxml tree) that reserves its text, None if none does."""
    for node in tree.iter("meta"):
        name, content = (node.get("name") or "").strip().lower(), node.get("content") or ""
        if name in ("robots", AGENT) and _says_noai(content):
            return f"meta {name}: noai"
        if name == "tdm-reservation" and content.strip() == "1":
            return "meta tdm-reservation: 1"
    return None


def _says_noai(value: str) -> bool:
    """Tell whether directives hold `noai` for all robots or for ours: "noindex, noai", "bot: noai"."""
    agent = ""
    for directive in value.lower().split(","):
        name, colon, rest = directive.partition(":")
        if colon and name.strip() not in _VALUED:
            agent, directive = name.strip(), rest
        if directive.strip() == "noai" and agent in ("", "*", AGENT):
            return True
    return False


_VALUED = frozenset({"max-snippet", "max-image-preview", "max-video-preview", "unavailable_after"})
"""Directives that have a value after a colon; what else stands before one is the name of a robot."""


def site_rules(body: bytes) -> Protego | None:
    """Read a `tdmrep.json`: rules that disallow the paths that are reserved. None if it is none.

    Paths are patterns as in robots.txt, of which the longest that matches counts.
    """
    from protego import Protego  # comes with Scrapy, and only the crawl reads these rules

    try:
        entries = json.loads(body[:MAX_WELL_KNOWN].decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(entries, list):
        return None
    lines = ["User-agent: *"]
    for entry in entries:
        location = entry.get("location") if isinstance(entry, dict) else None
        if isinstance(location, str) and location.startswith("/") and location.isprintable():
            reserved = str(entry.get("tdm-reservation")) == "1"
            lines.append(f"{'Disallow' if reserved else 'Allow'}: {location}")
    return Protego.parse("\n".join(lines))


STAGE = "remove"
FILE = "removals.jsonl"
OUTCOME = "removed_on_request"
_LISTS = (".jsonl", ".removed.jsonl", ".pages.jsonl")


@dataclass(frozen=True)
class Removals:
    """The requests for removal: ids of pages, and hosts with all their subdomains."""

    ids: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()

    def covers(self, url: str) -> bool:
        """Return whether the removal of a URL was requested."""
        if not self.ids and not self.hosts:
            return False
        try:
            labels = host_of(url).split(".")
            if any(".".join(labels[start:]) in self.hosts for start in range(len(labels))):
                return True
            return bool(self.ids) and url_id(canonical(url)) in self.ids
        except ValueError:
            return False

    def covers_row(self, row: Row) -> bool:
        """Return whether a row of any stage is of a page whose removal was requested."""
        places = (row.get("url"), row.get("final_url"), row.get("value"))
        return row.get("id") in self.ids or any(
            isinstance(each, str) and self.covers(each) for each in places
        )


def removals(workspace: Workspace) -> Removals:
    """Read the requests for removal from a corpus."""
    return _parsed(row["target"] for row in read_rows(workspace.root / FILE))


def _parsed(targets: Iterable[str]) -> Removals:
    ids, hosts = set(), set()
    for target in targets:
        if "://" in target:
            if url_problem(target, local=True) in ("length", "space", "malformed", "scheme"):
                raise AllometryError(f"not a URL: {target!r}", hint="write it like http://example.com/page")
            ids.add(url_id(canonical(target)))
        else:
            host = target.strip().lower().rstrip(".")
            if url_problem(f"http://{host}/", local=True) in ("space", "malformed") or "/" in host:
                raise AllometryError(
                    f"neither a URL nor a host: {target!r}",
                    hint="write it like http://example.com/page or example.com",
                )
            hosts.add(host)
    return Removals(frozenset(ids), frozenset(hosts))


def run(workspace: Workspace, targets: Sequence[str]) -> Summary:
    """Remove pages (by URL) or whole hosts. Return how many were found in links, archive and data set.

    Raises AllometryError for what is neither, and while another process works in the folder.
    """
    wanted = _parsed(targets)
    with workspace.alone(STAGE):
        workspace.require_no_fetch()
        # Written first: if the rest is interrupted, the same command does it, and nothing comes back
        # meanwhile.
        log = AppendLog(workspace.root / FILE)
        known = {row["target"] for row in read_rows(workspace.root / FILE)}
        log.append(*({"target": target} for target in targets if target not in known))
        log.sync()
        log.close()
        counts, notes = Counter[str](), list[str]()
        for part in range(workspace.parts):
            _clean_part(workspace, part, wanted, counts)
        for stage in STAGES:
            _rewrite(workspace.removed(stage), lambda row: not wanted.covers_row(row))
        _clean_shards(workspace, wanted, counts, notes)
    return Summary(STAGE, counts, Counter(), notes=notes)


def _clean_part(workspace: Workspace, part: int, wanted: Removals, counts: Counter[str]) -> None:
    ids = {
        row["id"]
        for stage in ("links", "extract", "filter")
        for row in read_rows(workspace.path(stage, part))
        if wanted.covers_row(row)
    }
    counts["links"] += len(ids)
    counts["archived"] += _erase(workspace, part, ids)
    for stage in STAGES:
        for suffix in _LISTS:
            _rewrite(
                workspace.path(stage, part, suffix),
                lambda row: row.get("id") not in ids and not wanted.covers_row(row),
            )
    if ids:  # signatures hold positions in a file that has been replaced
        workspace.path("dedup", part, ".signatures.npz").unlink(missing_ok=True)


def _erase(workspace: Workspace, part: int, ids: set[str]) -> int:
    """Overwrite the archived pages with nothing and log that they are gone. Return how many there were."""
    folder, log_path = workspace.path("fetch"), workspace.path("fetch", part, ".log.jsonl")
    found = [row for row in last_outcomes(folder, log_path) if row["id"] in ids and row["outcome"] == FETCHED]
    if found:
        log = AppendLog(log_path)
        for row in found:
            with (folder / row["file"]).open("r+b") as file:
                file.seek(row["offset"])
                file.write(erased_member(row["length"]))
            log.append({"id": row["id"], "outcome": OUTCOME, "value": "", "url": ""})
        log.sync()
        log.close()
    return len(found)


def _rewrite(path: Path, keep: Callable[[Row], bool]) -> None:
    """Remove rows of a file, if there are any to remove."""
    if path.exists() and not all(map(keep, read_rows(path))):
        with whole_file(path) as file:
            for row in read_rows(path):
                if keep(row):
                    file.write(encode(row))


def _clean_shards(workspace: Workspace, wanted: Removals, counts: Counter[str], notes: list[str]) -> None:
    """Remove the rows from the Parquet files, and from the counts of the build."""
    import pyarrow.parquet as pq

    record = workspace.path("build") / "files.json"
    written: dict[str, Any] = read_json(record) or {}
    lost = Counter[str]()
    for path in sorted([*workspace.root.glob("train-*.parquet"), *workspace.root.glob("test-*.parquet")]):
        if file_digest(path) not in written.get(path.name, ()):
            notes.append(
                f"{path.name} was not written by build, or was changed since: look through it yourself"
            )
            continue
        split = path.name.partition("-")[0]
        source = pq.ParquetFile(path)
        dropped = [
            row
            for batch in source.iter_batches(columns=["id", "url", "final_url", "tokens"])
            for row in batch.to_pylist()
            if wanted.covers_row(row)
        ]
        if not dropped:
            continue
        ids = {row["id"] for row in dropped}
        with whole_file(path) as file, pq.ParquetWriter(file, source.schema_arrow, compression="zstd") as out:
            for batch in source.iter_batches():
                out.write_batch(batch.filter([each not in ids for each in batch.column("id").to_pylist()]))
        # after a kill between these two lines the next build asks about the file; nothing is lost
        written[path.name] = [file_digest(path)]
        write_json(record, written)
        for row in dropped:
            lost.update({"documents": 1, "tokens": row["tokens"]})
            lost.update({f"{split}_documents": 1, f"{split}_tokens": row["tokens"]})
    counts["documents"] += lost["documents"]
    summary = workspace.summary("build")
    if summary is not None and lost:
        summary.counts.subtract(lost)
        summary.options = {**summary.options, "identity": ""}
        workspace.write_summary(summary)
        notes.append("README.md still counts the pages: allometry webtext build writes it anew")
