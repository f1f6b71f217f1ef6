"""The spider: asks the frontier for links, hands pages to the archive, decides what is tried again and
when."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import gzip
import random
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import scrapy
from scrapy import signals
from scrapy.exceptions import (
    DownloadCancelledError,
    DownloadTimeoutError,
    IgnoreRequest,
    ResponseDataLossError,
    StopDownload,
)
from twisted.internet.error import DNSLookupError
from twisted.python.failure import Failure

from allometry.data.webtext.archive import FETCHED, PartArchive
from allometry.data.webtext.frontier import Frontier, Job
from allometry.data.webtext.guards import RedirectedOut, RobotsForbidden, RobotsUnreachable, refused_address

RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 522, 524})
_HTML = ("text/html", "application/xhtml+xml")
_KEPT_HEADERS = (
    "content-type",
    "date",
    "last-modified",
    "content-language",
    "server",
    "etag",
    "x-robots-tag",
)


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How often and how long the crawl waits: `attempts` in all, `backoff` seconds doubling after each,
    Retry-After up to `longest_pause` seconds."""

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
    ) -> None:
        super().__init__()
        self.frontier, self.archives, self.patience = frontier, archives, patience
        self.outcomes: Counter[str] = Counter()
        self.bytes = 0
        self._random = random.Random(seed)
        self._wake = asyncio.Event()

    @classmethod
    def from_crawler(cls, crawler: Any, *args: Any, **kwargs: Any) -> LinkSpider:
        """Called by Scrapy with the arguments of the constructor."""
        spider = super().from_crawler(crawler, *args, **kwargs)
        crawler.signals.connect(spider.check_headers, signal=signals.headers_received)
        return spider

    async def start(self) -> AsyncIterator[Any]:
        """Requests, as the frontier frees them; ends when every link has an outcome."""
        while not self.frontier.exhausted:
            job = self.frontier.next(time.monotonic())
            if job is None:
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), 0.05)
            elif (request := self._request(job)) is not None:
                yield request

    def _request(self, job: Job) -> Any:
        try:
            return scrapy.Request(
                job.link["url"],
                self.parse,
                errback=self.failed,
                dont_filter=True,
                meta={"job": job, "cookiejar": None},
            )
        except ValueError as error:
            self._give_up(job, "malformed", str(error)[:200])
            return None

    def check_headers(self, headers: Any, request: Any, body_length: int) -> None:
        """Stop before the body of what says that it is not HTML. (Signal headers_received.)"""
        if "job" in request.meta and _is_other_kind(headers):
            raise StopDownload(fail=False)

    def parse(self, response: Any) -> None:
        """Store a page, or decide what its absence means."""
        job: Job = response.meta["job"]
        if response.status in RETRY_STATUS:
            self._again(job, "server_error", response.status, pause=_retry_after(response))
        elif response.status != 200:
            self._give_up(job, "status", response.status)
        elif _is_other_kind(response.headers):
            self._give_up(job, "content_type", _text(response.headers.get("Content-Type")))
        elif not looks_like_text(response.body):
            self._give_up(job, "not_html", response.body[:16].hex())
        elif _was_cut(response) and job.attempt < 2:
            self._again(job, "connection", "the body ended early")
        else:
            self._store(job, response)

    def failed(self, failure: Failure) -> None:
        """Name what went wrong, and try again what may go better."""
        job: Job = failure.request.meta["job"]  # type: ignore[attr-defined]
        outcome, value = self._diagnose(failure, urlsplit(failure.request.url).hostname or "")  # type: ignore[attr-defined]
        if outcome in ("timeout", "connection", "dns", "robots_unreachable"):
            self._again(job, outcome, value)
        else:
            self._give_up(job, outcome, value)

    def _diagnose(self, failure: Failure, host: str) -> tuple[str, str]:
        error = failure.value
        text = f"{type(error).__name__}: {error}"[:300]
        if address := refused_address(host):
            return "private_address", f"{host} is {address}"
        if isinstance(error, RedirectedOut):
            return "redirected_out", str(error)
        if isinstance(error, RobotsForbidden):
            return "robots", str(error)
        if isinstance(error, RobotsUnreachable):
            return "robots_unreachable", str(error)
        if isinstance(error, DownloadCancelledError) or "DOWNLOAD_MAXSIZE" in text:
            return "too_large", text
        if isinstance(error, IgnoreRequest):
            return ("too_many_redirects" if "redirections" in text else "ignored"), text
        if isinstance(error, gzip.BadGzipFile | zlib.error | EOFError | ValueError):
            return "bad_encoding", text
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
            headers=_headers(response),
            body=response.body,
            truncated="disconnect" if _was_cut(response) else None,
        )
        self.bytes += len(response.body)
        self._finish(job, FETCHED)

    def _finish(self, job: Job, outcome: str) -> None:
        self.outcomes[outcome] += 1
        self.frontier.finish(job)
        self._wake.set()


def looks_like_text(body: bytes) -> bool:
    """Whether a body that claims to be HTML may be: no zero bytes at its start (unless it is UTF-16 or
    UTF-32)."""
    start = body[:1024]
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return True
    return b"\0" not in start and not start.startswith(
        (b"%PDF-", b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"PK\x03\x04")
    )


def _is_other_kind(headers: Any) -> bool:
    kind = _text(headers.get("Content-Type")).partition(";")[0].strip().lower()
    return bool(kind) and kind not in _HTML


def _text(value: bytes | None) -> str:
    return (value or b"").decode("latin-1")


def _was_cut(response: Any) -> bool:
    """Whether the connection ended before the announced length did."""
    return "dataloss" in response.flags


def _headers(response: Any) -> list[tuple[str, str]]:
    """The headers that say something about the text; line breaks cannot be smuggled into the archive."""
    kept = []
    for name in _KEPT_HEADERS:
        value = response.headers.get(name)
        if value:
            kept.append((name.title(), " ".join(_text(value).split())[:1000]))
    return kept


def _retry_after(response: Any) -> float | None:
    """Seconds that the server asks to wait (a number or a date), None if it does not."""
    value = _text(response.headers.get("Retry-After")).strip()
    if value.isdigit():
        return float(value[:9])
    try:
        moment = email.utils.parsedate_to_datetime(value)
        return max(0.0, moment.timestamp() - time.time())
    except (TypeError, ValueError):
        return None
