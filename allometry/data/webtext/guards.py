"""The safety and politeness of a crawl, as parts of Scrapy: addresses, header size, robots.txt, rates.

Scrapy itself bounds the body while it streams (DOWNLOAD_MAXSIZE), the body after decompression (the same
bound, checked every 64 KiB by HttpCompressionMiddleware) and the whole time of a download (DOWNLOAD_TIMEOUT).
"""

from __future__ import annotations

import asyncio
import email.utils
import logging
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

from OpenSSL import SSL
from protego import Protego
from scrapy import Request, signals
from scrapy.core.downloader.contextfactory import _ScrapyClientContextFactory
from scrapy.core.downloader.handlers.http11 import HTTP11DownloadHandler
from scrapy.downloadermiddlewares.httpcompression import HttpCompressionMiddleware
from scrapy.exceptions import IgnoreRequest, StopDownload
from scrapy.extensions.throttle import AutoThrottle
from scrapy.http.request import NO_CALLBACK
from scrapy.resolver import CachingHostnameResolver
from scrapy.utils.httpobj import urlparse_cached
from service_identity import VerificationError
from service_identity.exceptions import CertificateError
from service_identity.hazmat import DNS_ID, IPAddress_ID, verify_service_identity
from service_identity.pyopenssl import extract_patterns
from twisted.internet._sslverify import ClientTLSOptions
from twisted.internet.interfaces import IHostnameResolver, IResolutionReceiver
from twisted.internet.ssl import platformTrust
from w3lib.encoding import read_bom
from zope.interface import implementer

from allometry.data.webtext.consent import WELL_KNOWN, site_rules
from allometry.data.webtext.urls import AddressRule, host_of, url_problem

MAX_HEADER_BYTES = 256 * 1024
"""Bytes of a response before its body begins. Twisted bounds a header line, not their number."""

MAX_CRAWL_DELAY = 60.0
"""Seconds. A host whose robots.txt asks for a longer pause than this is not visited."""

MAX_ROBOTS = 20_000
"""Hosts whose robots.txt is remembered at a time."""

MAX_ROBOTS_TEXT = 512 * 1024
"""Characters of a robots.txt that are read (RFC 9309, section 2.5, asks for at least 500 KiB)."""

MAX_REFUSED = 10_000

ROBOTS_SECONDS = 86_400.0
"""A robots.txt is asked for again after a day (RFC 9309, section 2.4)."""

UNREACHABLE_SECONDS = 3_600.0
"""A site whose robots.txt could not be fetched is asked again after this time."""

_REDIRECT_META = ("redirect_times", "redirect_ttl", "redirect_urls", "redirect_reasons")

log = logging.getLogger(__name__)


class RedirectedOut(IgnoreRequest):
    """A redirect leads to a page that the filters of links exclude."""


class RobotsForbidden(IgnoreRequest):
    """A host's robots.txt does not allow this page."""


class RobotsUnreachable(IgnoreRequest):
    """A host's robots.txt could not be fetched: nothing is known to be allowed (RFC 9309, section 2.3.1.4).

    `pause` are the seconds after which to ask again; None: the site is given up.
    """

    def __init__(self, reason: str, pause: float | None) -> None:
        super().__init__(reason)
        self.pause = pause


class OptedOut(IgnoreRequest):
    """A site reserves this page from text and data mining."""


class Moved(IgnoreRequest):
    """A redirect leads to another host, and has to wait among that host's links."""

    def __init__(self, url: str, meta: dict[str, Any]) -> None:
        super().__init__(url)
        self.url, self.meta = url, meta


@implementer(IResolutionReceiver)
class _OnlyAllowed:
    """Passes on the addresses that the rule allows."""

    def __init__(self, receiver: Any, name: str, rule: AddressRule, refused: OrderedDict[str, str]) -> None:
        self._receiver, self._name, self._rule, self._refused = receiver, name, rule, refused
        self._passed = False

    def resolutionBegan(self, resolution: Any) -> None:
        self._receiver.resolutionBegan(resolution)

    def addressResolved(self, address: Any) -> None:
        if self._rule.allows(address.host):
            self._passed = True
            self._receiver.addressResolved(address)
        else:
            self._refused[self._name] = address.host
            while len(self._refused) > MAX_REFUSED:
                self._refused.popitem(last=False)

    def resolutionComplete(self) -> None:
        if self._passed:
            self._refused.pop(self._name, None)
        self._receiver.resolutionComplete()


@implementer(IHostnameResolver)
class SafeResolver(CachingHostnameResolver):
    """The reactor's resolver, with addresses that the rule forbids taken out of every answer.

    The connection is made to one of the addresses passed on here and the name is not looked up again, so an
    answer that changes between check and connection (DNS rebinding) changes nothing. Literal addresses, in
    whatever notation the system accepts, and targets of redirects come the same way.
    """

    def __init__(self, reactor: Any, cache_size: int, rule: AddressRule) -> None:
        super().__init__(reactor, cache_size)
        self._rule = rule
        self.refused: OrderedDict[str, str] = OrderedDict()

    @classmethod
    def from_crawler(cls, crawler: Any, reactor: Any) -> SafeResolver:
        """Create the resolver; called by Scrapy when the crawl starts."""
        rule = AddressRule(crawler.settings.getlist("ALLOW_ADDRESSES"))
        return cls(reactor, crawler.settings.getint("DNSCACHE_SIZE"), rule)

    def resolveHostName(
        self,
        resolutionReceiver: Any,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Any = None,
        transportSemantics: str = "TCP",
    ) -> Any:
        """Resolve a host's name to allowed addresses only: see IHostnameResolver."""
        receiver: Any = _OnlyAllowed(resolutionReceiver, hostName, self._rule, self.refused)
        return super().resolveHostName(receiver, hostName, portNumber, addressTypes, transportSemantics)


def refused_address(host: str) -> str | None:
    """Return the forbidden address that a host's last look-up gave, None if it gave none."""
    from twisted.internet import reactor

    resolver = getattr(reactor, "nameResolver", None)
    return resolver.refused.get(host) if isinstance(resolver, SafeResolver) else None


class BoundedHandler(HTTP11DownloadHandler):
    """Scrapy's HTTP/1.1 downloader, which closes the connection if headers do not end."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._pool._factory = _bounded(self._pool._factory)
        context_factory: Any = RecordingContextFactory.from_crawler(self._crawler)
        self._contextFactory = context_factory


def _bounded(factory: type[Any]) -> type[Any]:
    class Bounded(factory):
        noisy = False

        def buildProtocol(self, address: Any) -> Any:
            protocol = super().buildProtocol(address)
            _count_header_bytes(protocol)
            return protocol

    return Bounded


def _count_header_bytes(protocol: Any) -> None:
    receive = protocol.dataReceived
    seen: dict[str, Any] = {"parser": None, "bytes": 0}

    def counted(data: bytes) -> None:
        parser = protocol._parser
        if parser is not None and getattr(parser, "state", None) in ("STATUS", "HEADER"):
            if seen["parser"] is not parser:
                seen["parser"], seen["bytes"] = parser, 0
            seen["bytes"] += len(data)
            if seen["bytes"] > MAX_HEADER_BYTES:
                log.info("a response's headers exceed %d bytes: hanging up", MAX_HEADER_BYTES)
                protocol.transport.abortConnection()
                return
        receive(data)

    protocol.dataReceived = counted


class RedirectRules:
    """Downloader middleware: each request keeps to the delay of the host that it goes to, and a redirect
    leads only where a link of the list could have led.

    Scrapy keeps the delay of the first host over a redirect. A redirect to another host is therefore handed
    back (`Moved`), to wait there among the links of that host.
    """

    def __init__(self, crawler: Any) -> None:
        self._local = bool(crawler.settings.getlist("ALLOW_ADDRESSES"))
        self._excluded = frozenset(crawler.settings.getlist("EXCLUDED_DOMAINS"))

    @classmethod
    def from_crawler(cls, crawler: Any) -> RedirectRules:
        """Create the middleware; called by Scrapy."""
        return cls(crawler)

    async def process_request(self, request: Any) -> None:
        """Raise RedirectedOut or Moved before a request is sent to the target of a redirect."""
        host = host_of(request.url)
        request.meta["download_slot"] = host
        job = request.meta.get("job")
        if job is None or not request.meta.get("redirect_times"):
            return
        problem = url_problem(request.url, extra_domains=self._excluded, local=self._local)
        if problem:
            raise RedirectedOut(f"{problem}: {request.url}")
        if host != job.host:
            raise Moved(
                request.url, {key: request.meta[key] for key in _REDIRECT_META if key in request.meta}
            )


class Unreachable(NamedTuple):
    """A robots.txt that could not be fetched: why, and the seconds to wait before asking again (None: give up)."""

    reason: str
    pause: float | None


class PoliteRobots:
    """Downloader middleware that obeys robots.txt: RFC 9309, with Crawl-delay, and reservations of a site.

    Differs from Scrapy's own in that an unreachable robots.txt (5xx, 429, no answer) forbids, while 4xx
    allows; that it is asked for a few times a site, not a link; that Crawl-delay and Retry-After are kept;
    and that sites not met for long are forgotten, so memory stays flat. What was learned holds for a day
    (RFC 9309, section 2.4), that a site cannot be reached for an hour.
    """

    def __init__(self, crawler: Any, now: Callable[[], float] = time.monotonic) -> None:
        self._crawler, self._now = crawler, now
        self._agent: str = crawler.settings["USER_AGENT"]
        self._attempts = crawler.settings.getint("ROBOTS_ATTEMPTS", 3)
        self._backoff = crawler.settings.getfloat("ROBOTS_BACKOFF", 5.0)
        self._longest_pause = crawler.settings.getfloat("LONGEST_PAUSE", 600.0)
        self._obey_opt_outs = crawler.settings.getbool("OBEY_OPT_OUTS", True)
        self._rules: OrderedDict[str, tuple[float, asyncio.Future[_Site | Unreachable]]] = OrderedDict()
        self._failures: OrderedDict[str, int] = OrderedDict()

    @classmethod
    def from_crawler(cls, crawler: Any) -> PoliteRobots:
        """Create the middleware; called by Scrapy."""
        made = cls(crawler)
        crawler.signals.connect(made.stop_long_answers, signal=signals.bytes_received)
        return made

    def stop_long_answers(self, data: bytes, request: Any) -> None:
        """Stop the download of a robots.txt at the length that is read. (Signal bytes_received.)"""
        if request.meta.get("is_robots"):
            request.meta["received"] = request.meta.get("received", 0) + len(data)
            if request.meta["received"] >= MAX_ROBOTS_TEXT:
                raise StopDownload(fail=False)

    async def process_request(self, request: Any) -> None:
        """Raise RobotsForbidden, RobotsUnreachable or OptedOut unless the site allows the request."""
        if request.meta.get("is_robots"):
            return
        parts = urlparse_cached(request)
        site = await self._site(f"{parts.scheme}://{parts.netloc}", host_of(request.url))
        if isinstance(site, Unreachable):
            raise RobotsUnreachable(site.reason, site.pause)
        if not site.robots.can_fetch(request.url, self._agent):
            raise RobotsForbidden(request.url)
        if site.reserved is not None and not site.reserved.can_fetch(request.url, self._agent):
            raise OptedOut(f"tdmrep.json: {request.url}")

    async def _site(self, site: str, host: str) -> _Site | Unreachable:
        """Return the rules of a site, or why there are none."""
        known = self._rules.get(site)
        if known is None or self._is_old(known):
            known = self._rules[site] = (self._now(), asyncio.ensure_future(self._ask(site, host)))
            while len(self._rules) > MAX_ROBOTS:
                self._rules.popitem(last=False)
        self._rules.move_to_end(site)
        rules = await known[1]
        again = isinstance(rules, Unreachable) and rules.pause is not None
        if again and self._rules.get(site) is known:
            del self._rules[site]
        return rules

    def _is_old(self, known: tuple[float, asyncio.Future[_Site | Unreachable]]) -> bool:
        asked, future = known
        if not future.done():
            return False
        holds = UNREACHABLE_SECONDS if isinstance(future.result(), Unreachable) else ROBOTS_SECONDS
        return self._now() - asked > holds

    async def _ask(self, site: str, host: str) -> _Site | Unreachable:
        response = await self._get(f"{site}/robots.txt")
        if isinstance(response, str):
            return self._unreachable(site, response, None)
        if response.status >= 500 or response.status == 429:
            return self._unreachable(site, f"status {response.status}", retry_after(response))
        try:
            text = robots_text(response) if response.status < 400 else ""
        except (zlib.error, ValueError) as error:
            return self._unreachable(site, f"unreadable robots.txt: {error}"[:200], None)
        self._failures.pop(site, None)
        rules = Protego.parse(text)
        delay = rules.crawl_delay(self._agent)
        if delay is not None and delay > MAX_CRAWL_DELAY:
            return _Site(Protego.parse("User-agent: *\nDisallow: /"), None)
        self._slow_down(host, delay or 0.0)
        return _Site(rules, await self._reservation(site, rules))

    async def _get(self, url: str) -> Any:
        """Return the answer of a site about itself, or what went wrong as text."""
        headers = {"Accept-Encoding": "gzip, deflate", "Accept": "text/plain, application/json, */*;q=0.1"}
        # Not bounded by Scrapy, which would drop what is too long: `stop_long_answers` cuts it.
        meta = {"is_robots": True, "download_maxsize": 0}
        request = Request(url, priority=1000, callback=NO_CALLBACK, headers=headers, meta=meta)
        try:
            return await self._crawler.engine.download_async(request)
        except Exception as error:
            return f"{type(error).__name__}: {error}"[:200]

    def _unreachable(self, site: str, reason: str, asked_for: float | None) -> Unreachable:
        """Count a failure of a site: wait twice as long each time, then give the site up for a while."""
        failures = self._failures.pop(site, 0) + 1
        wait = max(self._backoff * 2 ** (failures - 1), asked_for or 0.0)
        if failures >= self._attempts or (asked_for or 0.0) > self._longest_pause:
            return Unreachable(reason, None)
        self._failures[site] = failures
        while len(self._failures) > MAX_ROBOTS:
            self._failures.popitem(last=False)
        return Unreachable(reason, wait)

    async def _reservation(self, site: str, robots: Protego) -> Protego | None:
        """Return the rules of a site's `tdmrep.json`, None if it has none that we may read."""
        url = site + WELL_KNOWN
        if not self._obey_opt_outs or not robots.can_fetch(url, self._agent):
            return None
        response = await self._get(url)
        if isinstance(response, str) or response.status != 200:
            return None
        try:
            return site_rules(plain_body(response))
        except (zlib.error, ValueError):
            return None

    def _slow_down(self, host: str, delay: float) -> None:
        if delay <= self._crawler.settings.getfloat("DOWNLOAD_DELAY"):
            return
        downloader = self._crawler.engine.downloader
        downloader.per_slot_settings[host] = {"delay": delay, "concurrency": 1}
        if host in downloader.slots:
            downloader.slots[host].delay = delay
            downloader.slots[host].concurrency = 1
        while len(downloader.per_slot_settings) > MAX_ROBOTS:
            del downloader.per_slot_settings[next(iter(downloader.per_slot_settings))]


class _Site(NamedTuple):
    """What a site allows: its robots.txt, and what it reserves from text and data mining."""

    robots: Protego
    reserved: Protego | None


def plain_body(response: Any) -> bytes:
    """Return the first MAX_ROBOTS_TEXT bytes of an answer, unpacked. Raises ValueError, zlib.error."""
    body: bytes = response.body
    for encoding in _encodings(response):
        if encoding in ("gzip", "x-gzip"):
            body = zlib.decompressobj(wbits=31).decompress(body, MAX_ROBOTS_TEXT)
        elif encoding == "deflate":
            try:
                body = zlib.decompressobj().decompress(body, MAX_ROBOTS_TEXT)
            except zlib.error:  # many servers leave the header out
                body = zlib.decompressobj(wbits=-15).decompress(body, MAX_ROBOTS_TEXT)
        elif encoding != "identity":
            raise ValueError(f"content encoding {encoding!r}")
    return body[:MAX_ROBOTS_TEXT]


def _encodings(response: Any) -> list[str]:
    """List the content encodings of an answer, the last applied first."""
    values = b",".join(response.headers.getlist("Content-Encoding")).decode("latin-1").lower()
    return [name.strip() for name in reversed(values.split(",")) if name.strip()]


def robots_text(response: Any) -> str:
    """Return a robots.txt as text: UTF-8, or UTF-16 and UTF-32 where a byte order mark says so."""
    body = plain_body(response)
    encoding, mark = read_bom(body)
    return body[len(mark) if mark else 0 :].decode(encoding or "utf-8", "replace")


def retry_after(response: Any) -> float | None:
    """Return the seconds that a server asks to wait (a number or a date), None if it does not."""
    value = (response.headers.get("Retry-After") or b"").decode("latin-1").strip()
    if value.isdigit():
        return float(value[:9])
    try:
        moment = email.utils.parsedate_to_datetime(value)
        return max(0.0, moment.timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None


class BoundedCompression(HttpCompressionMiddleware):
    """Scrapy's decompression, which notes how a page was packed and leaves a site's own files alone.

    `plain_body` unpacks those: too long a robots.txt is cut there, not dropped.
    """

    def process_response(self, request: Any, response: Any) -> Any:  # type: ignore[override]
        """Unpack a page, bounded by DOWNLOAD_MAXSIZE."""
        if request.meta.get("is_robots"):
            return response
        if packed := response.headers.get("Content-Encoding"):
            request.meta["content_encoding"] = packed.decode("latin-1")
        return super().process_response(request, response)


class RecordingContextFactory(_ScrapyClientContextFactory):
    """TLS that accepts every certificate and notes what is wrong with it, by host.

    Old links lead to many expired certificates; their pages are kept, and the archive says so.
    """

    def _get_cert_options_kwargs(self) -> dict[str, Any]:
        trust = {} if self._verify_certificates else {"trustRoot": platformTrust()}  # else Twisted adds it
        return {**super()._get_cert_options_kwargs(), **trust}

    def creatorForNetloc(self, hostname: bytes, port: int) -> Any:
        """Return the TLS options for a host: see IPolicyForHTTPS."""
        if self._verify_certificates:
            return super().creatorForNetloc(hostname, port)
        options = self._get_cert_options()
        return _RecordingOptions(options._makeTLSConnection, hostname.decode("ascii"))


class _RecordingOptions(ClientTLSOptions):
    def clientConnectionForTLS(self, tlsProtocol: Any) -> Any:
        connection = super().clientConnectionForTLS(tlsProtocol)
        host = self._hostnameASCII
        service = DNS_ID(host) if self._hostnameIsDnsName else IPAddress_ID(host)
        _certificates.pop(host, None)

        def note(_connection: Any, certificate: Any, error: int, depth: int, _ok: int) -> bool:
            if error:
                _note_certificate(host, _CERTIFICATE_ERRORS.get(error, f"error {error}"))
            elif depth == 0:
                try:
                    verify_service_identity(extract_patterns(certificate), [service], [])
                except (CertificateError, VerificationError):
                    _note_certificate(host, "wrong name")
            return True

        connection.set_verify(SSL.VERIFY_PEER, note)
        return connection


_CERTIFICATE_ERRORS = {
    9: "not yet valid",
    10: "expired",
    18: "self-signed",
    19: "self-signed",
    20: "unknown issuer",
    21: "unknown issuer",
}
_certificates: OrderedDict[str, str] = OrderedDict()


def _note_certificate(host: str, problem: str) -> None:
    _certificates.setdefault(host, problem)
    while len(_certificates) > MAX_REFUSED:
        _certificates.popitem(last=False)


def certificate_problem(url: str) -> str | None:
    """Return what is wrong with the certificate of a host, as last seen; None if nothing is, or without
    TLS."""
    return _certificates.get(host_of(url)) if url.startswith("https:") else None


class PoliteThrottle(AutoThrottle):
    """AutoThrottle that never goes below the Crawl-delay of a host's robots.txt."""

    def _response_downloaded(self, response: Any, request: Any, spider: Any) -> None:
        super()._response_downloaded(response, request, spider)
        downloader = self.crawler.engine.downloader
        key = request.meta.get("download_slot")
        if key in downloader.per_slot_settings and key in downloader.slots:
            slot = downloader.slots[key]
            slot.delay = max(slot.delay, downloader.per_slot_settings[key]["delay"])
