"""The spider: takes links from the frontier, hands pages to the archive, decides what is tried again and when.

The lists of links are read as a stream. Links whose host is busy are set aside as positions in the file (a
few bytes each), so one slow host with many pages holds up no other and memory stays flat.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import heapq
import json
import random
import time
import zlib
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import scrapy
from scrapy import signals
from scrapy.exceptions import (
    DownloadCancelledError,
    DownloadTimeoutError,
    IgnoreRequest,
    ResponseDataLossError,
    StopDownload,
)
from service_identity import CertificateError, VerificationError
from twisted.internet.error import DNSLookupError
from twisted.python.failure import Failure

from allometry.data.webtext.charsets import utf_16_order
from allometry.data.webtext.consent import header_opt_out
from allometry.data.webtext.guards import (
    Moved,
    OptedOut,
    RedirectedOut,
    RobotsForbidden,
    RobotsUnreachable,
    certificate_problem,
    refused_address,
    retry_after,
)
from allometry.data.webtext.jsonl import Row
from allometry.data.webtext.urls import host_of
from allometry.data.webtext.warc import FETCHED, PartArchive

READ_AHEAD = 2_000
"""Lines read at a time while looking for a host that is free; then the crawl gets its turn."""

MAX_PARKED = 2_000_000
"""Links set aside at a time, some 100 MB; beyond it, reading waits for the slow hosts."""


MAX_MOVED = 50_000
"""Links that wait, in memory, for the host that they were redirected to; beyond it, reading waits."""


@dataclass
class Job:
    """A link in progress: its part, how often it was tried, where a redirect has led it.

    `host` is the host to ask next, and `meta` what Scrapy knows of the redirects so far.
    """

    link: Row
    part: int
    host: str
    attempt: int = 1
    moved_to: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """The address to ask for next."""
        return self.moved_to or str(self.link["url"])


class Frontier:
    """The links of some parts, in the order of their files, as fast as their hosts allow.

    `is_done(part, id)` says which links to pass over; `window` bounds the links in flight and `per_host`
    those of a host.
    """

    def __init__(
        self, files: dict[int, Path], *, is_done: Callable[[int, str], bool], window: int, per_host: int
    ) -> None:
        self._files = {part: path.open("rb") for part, path in files.items()}
        self._unread = deque(files)
        self._is_done, self._window, self._per_host = is_done, window, per_host
        self._in_flight: Counter[str] = Counter()
        self._total = 0
        self._delayed: list[tuple[float, int, Job]] = []
        self._serial = 0
        self._paused: dict[str, float] = {}
        self._parked: dict[str, deque[int | Job]] = {}
        self._n_parked = self._n_moved = 0
        self._free: deque[str] = deque()
        self.skipped = 0

    def next(self, now: float) -> Job | None:
        """Return a link to fetch now, or None if none may be. Count it as finished with `finish` or `retry`."""
        if self._total >= self._window:
            return None
        self._end_pauses(now)
        job = self._due(now) or self._from_parked() or self._from_files()
        if job is not None:
            self._in_flight[job.host] += 1
            self._total += 1
        return job

    @property
    def exhausted(self) -> bool:
        """Whether there is nothing left, neither waiting nor in flight."""
        return not (self._total or self._delayed or self._n_parked or self._unread)

    def finish(self, job: Job) -> None:
        """Count the link as finished."""
        self._total -= 1
        self._in_flight[job.host] -= 1
        if not self._in_flight[job.host]:
            del self._in_flight[job.host]
        if job.host in self._parked:
            self._free.append(job.host)

    def move(self, job: Job, url: str) -> None:
        """Queue a link at the host that it was redirected to, which has delays and limits of its own."""
        self.finish(job)
        job.moved_to, job.host = url, host_of(url)
        self._parked.setdefault(job.host, deque()).append(job)
        self._n_parked += 1
        self._n_moved += 1
        if not self._busy(job.host):
            self._free.append(job.host)

    def retry(self, job: Job, at: float, *, pause_host: bool = False, counts: bool = True) -> None:
        """Try the link again at a time, and its host (if `pause_host`) not before. `counts`: as an
        attempt."""
        if pause_host:
            self._paused[job.host] = max(at, self._paused.get(job.host, 0.0))
        self.finish(job)
        job.attempt += counts
        self._serial += 1
        heapq.heappush(self._delayed, (at, self._serial, job))

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()

    def _end_pauses(self, now: float) -> None:
        for host in [host for host, until in self._paused.items() if until <= now]:
            del self._paused[host]
            if host in self._parked:
                self._free.append(host)

    def _busy(self, host: str) -> bool:
        return self._in_flight[host] >= self._per_host or host in self._paused

    def _due(self, now: float) -> Job | None:
        if not self._delayed or self._delayed[0][0] > now:
            return None
        _at, serial, job = heapq.heappop(self._delayed)
        if self._busy(job.host):
            heapq.heappush(self._delayed, (max(now + 0.5, self._paused.get(job.host, 0.0)), serial, job))
            return None
        return job

    def _from_parked(self) -> Job | None:
        while self._free:
            host = self._free.popleft()
            waiting = self._parked.get(host)
            if not waiting or self._busy(host):
                continue
            position = waiting.popleft()
            self._n_parked -= 1
            if not waiting:
                del self._parked[host]
            else:
                self._free.append(host)
            if isinstance(position, Job):
                self._n_moved -= 1
                return position
            return self._reread(position, host)
        return None

    def _reread(self, position: int, host: str) -> Job:
        part, offset = position >> 48, position & ((1 << 48) - 1)
        file = self._files[part]
        here = file.tell()
        file.seek(offset)
        link = json.loads(file.readline())
        file.seek(here)
        return Job(link, part, host)

    def _from_files(self) -> Job | None:
        for _ in range(READ_AHEAD):
            if not self._unread or self._n_parked >= MAX_PARKED or self._n_moved >= MAX_MOVED:
                return None
            part = self._unread[0]
            offset = self._files[part].tell()
            line = self._files[part].readline()
            if not line:
                self._unread.popleft()
                continue
            link = json.loads(line)
            if self._is_done(part, link["id"]):
                self.skipped += 1
                continue
            host = host_of(link["url"])
            if not self._busy(host) and host not in self._parked:
                return Job(link, part, host)
            self._parked.setdefault(host, deque()).append(part << 48 | offset)
            self._n_parked += 1
        return None


RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 522, 524})
_PACKERS = ("brotli", "zstandard.backend_c", "zstd", "compression.zstd", "_zstd")
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\f\r\x1b"))
_HTML = ("text/html", "application/xhtml+xml")
_KEPT_HEADERS = (
    "content-type",
    "date",
    "last-modified",
    "content-language",
    "server",
    "etag",
    "x-robots-tag",
    "tdm-reservation",
    "tdm-policy",
)
MAX_GIVEN_UP = 100_000
"""Maximum number of hosts that are remembered as given up."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """The limits of retries: `attempts` in all, `backoff` seconds doubling after each, Retry-After up to
    `longest_pause` seconds.
    """

    attempts: int = 3
    backoff: float = 5.0
    longest_pause: float = 600.0


class LinkSpider(scrapy.Spider):
    """Fetches the frontier's links into the archives of their parts."""

    name = "allometry"

    def __init__(
        self,
        *,
        frontier: Frontier,
        archives: dict[int, PartArchive],
        patience: Patience,
        seed: int,
        obey_opt_outs: bool = True,
    ) -> None:
        super().__init__()
        self._obey_opt_outs = obey_opt_outs
        self._given_up: OrderedDict[str, tuple[str, Any]] = OrderedDict()
        self.frontier, self.archives, self.patience = frontier, archives, patience
        self.outcomes: Counter[str] = Counter()
        self.bytes = 0
        self._random = random.Random(seed)
        self._wake = asyncio.Event()

    @classmethod
    def from_crawler(cls, crawler: Any, *args: Any, **kwargs: Any) -> LinkSpider:
        """Create the spider; called by Scrapy with the arguments of the constructor."""
        spider = super().from_crawler(crawler, *args, **kwargs)
        crawler.signals.connect(spider.check_headers, signal=signals.headers_received)
        return spider

    async def start(self) -> AsyncIterator[Any]:
        """Yield requests, as the frontier frees them; ends when every link has an outcome."""
        while not self.frontier.exhausted:
            skipped = self.frontier.skipped
            job = self.frontier.next(time.monotonic())
            if job is None and self.frontier.skipped > skipped:
                await asyncio.sleep(0)  # still skipping what an earlier crawl did
            elif job is None:
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), 0.05)
            elif job.host in self._given_up:
                self._give_up(job, *self._given_up[job.host])
                await asyncio.sleep(0)
            elif (request := self._request(job)) is not None:
                yield request

    def _request(self, job: Job) -> Any:
        try:
            return scrapy.Request(
                job.url,
                self.parse,
                errback=self.failed,
                dont_filter=True,
                meta={"job": job, "cookiejar": None, **job.meta},
            )
        except ValueError as error:
            self._give_up(job, "malformed", str(error)[:200])
            return None

    def check_headers(self, headers: Any, request: Any, body_length: int) -> None:
        """Stop before the body of a response that is not HTML or must not be used. (Signal headers_received.)"""
        if "job" in request.meta and (_is_other_kind(headers) or self._opt_out(headers)):
            raise StopDownload(fail=False)

    def _opt_out(self, headers: Any) -> str | None:
        """Return the header that reserves a page, None if none does or they are not obeyed."""
        return header_opt_out(_pairs(headers)) if self._obey_opt_outs else None

    def parse(self, response: Any) -> None:
        """Store a page, or handle its absence."""
        job: Job = response.meta["job"]
        if response.status in RETRY_STATUS:
            self._again(job, "server_error", response.status, pause=retry_after(response))
        elif response.status != 200:
            self._give_up(job, "status", response.status)
        elif _is_other_kind(response.headers):
            self._give_up(job, "content_type", _text(response.headers.get("Content-Type")))
        elif opt_out := self._opt_out(response.headers):
            self._give_up(job, "opt_out", opt_out)
        elif not response.body.strip():
            if _was_cut(response):
                self._again(job, "connection", "the body ended before it began")
            else:
                self._give_up(job, "empty", len(response.body))
        elif not looks_like_text(response.body):
            self._give_up(job, "not_html", response.body[:16].hex())
        elif _was_cut(response) and job.attempt < 2:
            self._again(job, "connection", "the body ended early")
        else:
            self._store(job, response)

    def failed(self, failure: Failure) -> None:
        """Retry a failed request where that may help, else give the link up and log why."""
        job: Job = failure.request.meta["job"]  # type: ignore[attr-defined]
        error = failure.value
        if isinstance(error, Moved):
            job.meta = error.meta
            self.frontier.move(job, error.url)
            self._wake.set()
            return
        if isinstance(error, RobotsUnreachable) and error.pause is not None:
            self.outcomes["retries"] += 1
            self.frontier.retry(job, time.monotonic() + error.pause, pause_host=True, counts=False)
            self._wake.set()
            return
        outcome, value = self._diagnose(failure, host_of(failure.request.url))  # type: ignore[attr-defined]
        if outcome in ("timeout", "connection", "dns"):
            self._again(job, outcome, value)
        else:
            self._give_up(job, outcome, value)

    def _diagnose(self, failure: Failure, host: str) -> tuple[str, str]:
        error = failure.value
        text = f"{type(error).__name__}: {error}"[:300]
        if address := refused_address(host):
            return "private_address", f"{host} is {address}"
        if "certificate verify failed" in text or isinstance(error, VerificationError | CertificateError):
            return "certificate", text
        if isinstance(error, RedirectedOut):
            return "redirected_out", str(error)
        if isinstance(error, RobotsForbidden):
            return "robots", str(error)
        if isinstance(error, RobotsUnreachable):
            return "robots_unreachable", str(error)
        if isinstance(error, OptedOut):
            return "opt_out", str(error)
        if isinstance(error, DownloadCancelledError) or "DOWNLOAD_MAXSIZE" in text:
            return "too_large", text
        if isinstance(error, IgnoreRequest):
            return ("too_many_redirects" if "redirections" in text else "ignored"), text
        if isinstance(error, gzip.BadGzipFile | zlib.error | EOFError) or type(error).__module__ in _PACKERS:
            return "bad_encoding", text
        if isinstance(error, ValueError):
            return "malformed", text  # a redirect to what is no address
        if isinstance(error, DownloadTimeoutError | TimeoutError):
            return "timeout", text
        if isinstance(error, DNSLookupError) or "CannotResolveHost" in text or "DNS" in text:
            return "dns", text
        if (
            isinstance(error, ResponseDataLossError | OSError)
            or "Connection" in text
            or "ResponseFailed" in text
        ):
            return "connection", text
        return "connection" if "Download" in text else "error", text

    def _again(self, job: Job, outcome: str, value: Any, *, pause: float | None = None) -> None:
        patience = self.patience
        if pause is not None and pause > patience.longest_pause:
            self._given_up[job.host] = ("retry_after", pause)
            while len(self._given_up) > MAX_GIVEN_UP:
                self._given_up.popitem(last=False)
            self._give_up(job, "retry_after", pause)
        elif job.attempt >= patience.attempts:
            self._give_up(job, outcome, value)
        else:
            wait = patience.backoff * 2 ** (job.attempt - 1) * self._random.uniform(0.75, 1.25)
            self.outcomes["retries"] += 1
            self.frontier.retry(job, time.monotonic() + max(wait, pause or 0.0), pause_host=pause is not None)
            self._wake.set()

    def _give_up(self, job: Job, outcome: str, value: Any) -> None:
        self.archives[job.part].give_up(job.link, outcome, value)
        self._finish(job, outcome)

    def _store(self, job: Job, response: Any) -> None:
        self.archives[job.part].store(
            job.link,
            url=response.url,
            status=f"{response.status} OK",
            headers=_headers(response) + self._own_headers(response),
            body=response.body,
            truncated="disconnect" if _was_cut(response) else None,
        )
        self.bytes += len(response.body)
        self._finish(job, FETCHED)

    def _own_headers(self, response: Any) -> list[tuple[str, str]]:
        """Return what the crawler noted about a page, as headers of the archived response."""
        noted = {
            "X-Crawler-Content-Encoding": response.meta.get("content_encoding"),
            "X-Crawler-Certificate": certificate_problem(response.url),
        }
        return [(name, " ".join(value.split())[:200]) for name, value in noted.items() if value]

    def _finish(self, job: Job, outcome: str) -> None:
        self.outcomes[outcome] += 1
        self.frontier.finish(job)
        self._wake.set()


def looks_like_text(body: bytes) -> bool:
    """Return whether a body that claims to be HTML may be, by its start: no mark of another format, and few
    control characters, or (UTF-16) zeros in every other place only.
    """
    start = body[:1024]
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return True
    if start.startswith((b"%PDF-", b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"PK\x03\x04")):
        return False
    controls = len(start) - len(start.translate(None, _CONTROLS))
    return controls <= len(start) // 50 or utf_16_order(start) is not None


def _pairs(headers: Any) -> Iterator[tuple[str, str]]:
    """Yield all headers of a response, one for each value."""
    for name, values in headers.items():
        for value in values:
            yield name.decode("latin-1"), value.decode("latin-1")


def _is_other_kind(headers: Any) -> bool:
    kind = _text(headers.get("Content-Type")).partition(";")[0].strip().lower()
    return bool(kind) and kind not in _HTML


def _text(value: bytes | None) -> str:
    return (value or b"").decode("latin-1")


def _was_cut(response: Any) -> bool:
    """Return whether the connection ended before the announced length did."""
    return "dataloss" in response.flags


def _headers(response: Any) -> list[tuple[str, str]]:
    """Return the headers that describe the text, without line breaks, which could forge entries of the archive."""
    kept = []
    for name in _KEPT_HEADERS:
        value = response.headers.get(name)
        if value:
            kept.append((name.title(), " ".join(_text(value).split())[:1000]))
    return kept
