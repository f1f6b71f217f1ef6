"""Stage 2, fetch: download the pages, politely, into WARC files. Scrapy does the work, in a process of its own
(crawl.py).

A crawl that was killed continues: what the archives hold is not fetched again, and nothing is lost
(warc.py).
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import IO, Any

from allometry.core import __version__
from allometry.core.errors import AllometryError, missing_extra
from allometry.data.webtext.consent import removals
from allometry.data.webtext.crawl import CrawlJob
from allometry.data.webtext.jsonl import encode, file_digest, read_rows, whole_file
from allometry.data.webtext.warc import FETCHED, last_outcomes
from allometry.data.webtext.workspace import Progress, Stopwatch, Summary, Workspace

STAGE = "fetch"
PROJECT = "https://github.com/allometry-lab/allometry"
PARTS_AT_ONCE = 64
"""Parts in one crawl process: each holds two files open."""


@dataclass(frozen=True, kw_only=True)
class FetchOptions:
    """How to crawl. Seconds and bytes. `contact` (an address or a page) goes into the User-Agent;
    `obey_opt_outs` leaves out what reserves itself from training (opt_outs.py); `verify_certificates` refuses
    pages whose TLS certificate is not valid, which are otherwise kept with a note in the archive;
    `allow_addresses` are networks that may be visited although they are not public, for tests on one's own
    machine."""

    contact: str | None = None
    delay: float = 1.0
    per_host: int = 1
    window: int = 256
    autothrottle: bool = True
    timeout: float = 30.0
    max_bytes: int = 5_000_000
    max_redirects: int = 5
    attempts: int = 3
    backoff: float = 5.0
    longest_pause: float = 600.0
    obey_robots: bool = True
    obey_opt_outs: bool = True
    verify_certificates: bool = False
    allow_addresses: tuple[str, ...] = ()
    retry_failed: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        positive = ("window", "per_host", "timeout", "max_bytes", "attempts")
        for name in positive:
            if getattr(self, name) <= 0:
                raise AllometryError(f"fetch: {name} must be more than 0, not {getattr(self, name)}")
        if self.delay < 0 or self.backoff < 0:
            raise AllometryError("fetch: a delay cannot be negative")
        if self.contact and not self.contact.isprintable():
            raise AllometryError("fetch: the contact holds characters that cannot stand in a header")

    @property
    def user_agent(self) -> str:
        """The name of the crawler, and whom to contact about it."""
        contact = f"; {self.contact}" if self.contact else ""
        return f"allometry-webtext/{__version__} (+{PROJECT}{contact})"


def run(
    workspace: Workspace,
    options: FetchOptions,
    *,
    parts: Sequence[int] | None = None,
    stream: IO[str] | None = None,
    on_report: Callable[[dict[str, Any]], None] | None = None,
) -> Summary:
    """Fetch what is missing of the given parts (all by default). Raises AllometryError if the crawl fails or no
    page could be fetched.
    """
    workspace.require("links", STAGE)
    _require_scrapy()
    watch = Stopwatch()
    workspace.path(STAGE).mkdir(parents=True, exist_ok=True)
    wanted = list(range(workspace.parts)) if parts is None else list(parts)
    open_parts = [part for part in wanted if not _is_complete(workspace, part, options)]
    total = sum(_n_links(workspace, part) for part in open_parts)
    progress = Progress(STAGE, total, unit="links", stream=stream)
    for start in range(0, len(open_parts), PARTS_AT_ONCE):
        group = open_parts[start : start + PARTS_AT_ONCE]
        base = progress.done
        with _holding(workspace, group):
            for part in group:
                workspace.forget_part(STAGE, part)
            for report in _crawl(workspace, options, group):
                if on_report is not None:
                    on_report(report)
                done = sum(n for name, n in report["outcomes"].items() if name != "retries")
                progress.to(
                    base + done + report["skipped"], f"{report['outcomes'].get(FETCHED, 0):,} fetched"
                )
            for part in group:
                _finish_part(workspace, part)
    progress.finish()
    with workspace.alone(STAGE, seconds=600.0):  # another share may be adding itself up
        summary = _summary(workspace, options, watch.seconds)
    _check(summary)
    return summary


@contextmanager
def _holding(workspace: Workspace, parts: Sequence[int]) -> Iterator[None]:
    """Hold parts of the crawl. The folder is held while they are taken, so that no other stage is running."""
    with ExitStack() as stack:
        with workspace.alone(STAGE, seconds=60.0):
            workspace.require("links", STAGE)
            for part in parts:
                stack.enter_context(workspace.hold_part(part))
        yield


def _require_scrapy() -> None:
    try:
        import scrapy  # noqa: F401
    except ImportError as error:
        raise missing_extra("scrapy", "webtext", "fetching pages") from error


def _n_links(workspace: Workspace, part: int) -> int:
    record = workspace.part_record("links", part)
    return int(record["counts"]["links"]) if record else 0


def _is_complete(workspace: Workspace, part: int, options: FetchOptions) -> bool:
    """Return whether every link of a part has an outcome."""
    same = workspace.part_is_done(STAGE, part, workspace.part_fingerprint("links", part))
    return same and not options.retry_failed


def _crawl(workspace: Workspace, options: FetchOptions, parts: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Run one crawl process and pass on its reports. Raises AllometryError if it ends without having
    finished."""
    folder = workspace.path(STAGE)
    job = CrawlJob(
        links={str(part): str(workspace.path("links", part)) for part in parts},
        folder=str(folder),
        user_agent=options.user_agent,
        exclude_domains=_excluded_domains(workspace),
        **_shared_fields(options),
    )
    errors_path = folder / "crawl.log"
    with errors_path.open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "allometry.data.webtext.crawl"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        last: dict[str, Any] = {}
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            with suppress(BrokenPipeError):  # it died at once: its exit status says why
                process.stdin.write(encode(job.as_json()))
                process.stdin.flush()
            for line in process.stdout:
                last = json.loads(line)
                yield last
        finally:
            _stop(process)
    if process.returncode != 0 or not last.get("exhausted"):
        raise AllometryError(
            f"the crawl ended early (exit status {process.returncode}); what it fetched is kept",
            hint=f"run the same command again to continue; its messages are in {errors_path}",
        )


def _excluded_domains(workspace: Workspace) -> list[str]:
    """Return the domains that were excluded or removed: redirects may not lead to them either."""
    summary = workspace.summary("links")
    excluded = summary.options.get("exclude_domains", ()) if summary is not None else ()
    return sorted({*excluded, *removals(workspace).hosts})


def _shared_fields(options: FetchOptions) -> dict[str, Any]:
    fields = asdict(options)
    del fields["contact"]
    return {**fields, "allow_addresses": list(options.allow_addresses)}


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the crawl if it still runs: first ask, then kill. A crawl also ends when this process dies: its input
    closes.
    """
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _finish_part(workspace: Workspace, part: int) -> None:
    """Write the list of the part's pages and of what failed, and mark the part as done.

    Raises AllometryError, and leaves it unfinished, if a link has no outcome.
    """
    folder = workspace.path(STAGE)
    wanted = {int(link["id"], 16) for link in read_rows(workspace.path("links", part))}
    counts, removed = Counter[str](), Counter[str]()
    pages_path = workspace.path(STAGE, part, ".pages.jsonl")
    with (
        whole_file(pages_path) as pages,
        whole_file(workspace.path(STAGE, part, ".removed.jsonl")) as failures,
    ):
        for row in last_outcomes(folder, workspace.path(STAGE, part, ".log.jsonl")):
            if int(row["id"], 16) not in wanted:
                continue
            if row["outcome"] == FETCHED:
                counts["fetched"] += 1
                pages.write(encode({key: row[key] for key in ("id", "file", "offset", "length")}))
            else:
                removed[row["outcome"]] += 1
                failures.write(
                    encode(
                        {"id": row["id"], "reason": row["outcome"], "value": row["value"], "url": row["url"]}
                    )
                )
    counts["links"] = len(wanted)
    missing = len(wanted) - counts["fetched"] - removed.total()
    if missing:
        raise AllometryError(
            f"fetch: {missing:,} of {len(wanted):,} links of part {part} have no outcome yet",
            hint=f"run it again to go on: allometry webtext fetch {workspace.root}",
        )
    workspace.finish_part(
        STAGE,
        part,
        inputs=workspace.part_fingerprint("links", part),
        fingerprint=file_digest(pages_path),
        counts=counts,
        removed=removed,
    )


def _summary(workspace: Workspace, options: FetchOptions, seconds: float) -> Summary:
    before = workspace.summary(STAGE)
    shown = {key: value for key, value in asdict(options).items() if key != "contact"}
    summary = Summary(STAGE, seconds=seconds + (before.seconds if before else 0.0), options=shown)
    workspace.finish_stage(summary)
    return summary


def _check(summary: Summary) -> None:
    if summary.counts["links"] and not summary.counts["fetched"]:
        reasons = ", ".join(f"{name} {n:,}" for name, n in summary.removed.most_common(4))
        raise AllometryError(
            f"not one of {summary.counts['links']:,} pages could be fetched ({reasons})",
            hint="look at removed/fetch.jsonl; try again later with --retry-failed",
        )
