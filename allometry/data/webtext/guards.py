"""What keeps a crawl safe and polite, as parts of Scrapy: addresses, header size, robots.txt, rates.

Scrapy itself bounds the body while it streams (DOWNLOAD_MAXSIZE), the body after decompression (the same
bound, checked every 64 KiB by HttpCompressionMiddleware) and the whole time of a download (DOWNLOAD_TIMEOUT).
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import Any

from protego import Protego
from scrapy import Request
from scrapy.core.downloader.handlers.http11 import HTTP11DownloadHandler
from scrapy.exceptions import IgnoreRequest
from scrapy.extensions.throttle import AutoThrottle
from scrapy.http.request import NO_CALLBACK
from scrapy.resolver import CachingHostnameResolver
from scrapy.utils.httpobj import urlparse_cached
from twisted.internet.interfaces import IHostnameResolver, IResolutionReceiver
from zope.interface import implementer

from allometry.data.webtext.addresses import AddressRule
from allometry.data.webtext.urls import url_problem

MAX_HEADER_BYTES = 256 * 1024
"""Bytes of a response before its body begins. Twisted bounds a header line, not their number."""

MAX_CRAWL_DELAY = 60.0
"""Seconds. A host whose robots.txt asks for a longer pause than this is left alone."""

MAX_ROBOTS = 20_000
"""Hosts whose robots.txt is remembered at a time."""

MAX_ROBOTS_TEXT = 512 * 1024
"""Characters of a robots.txt that are read (RFC 9309, section 2.5, asks for at least 500 KiB)."""

MAX_REFUSED = 10_000

log = logging.getLogger(__name__)


class RedirectedOut(IgnoreRequest):
    """A redirect leads to a page that the filters of links exclude."""


class RobotsForbidden(IgnoreRequest):
    """A host's robots.txt does not allow this page."""


class RobotsUnreachable(IgnoreRequest):
    """A host's robots.txt could not be had: nothing is known to be allowed (RFC 9309, section 2.3.1.4)."""


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
        """Called by Scrapy when the crawl starts."""
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
        """See IHostnameResolver."""
        receiver: Any = _OnlyAllowed(resolutionReceiver, hostName, self._rule, self.refused)
        return super().resolveHostName(receiver, hostName, portNumber, addressTypes, transportSemantics)


def refused_address(host: str) -> str | None:
    """The forbidden address that a host's last look-up gave, None if it gave none."""
    from twisted.internet import reactor

    resolver = getattr(reactor, "nameResolver", None)
    return resolver.refused.get(host) if isinstance(resolver, SafeResolver) else None


class BoundedHandler(HTTP11DownloadHandler):
    """Scrapy's HTTP/1.1 downloader, which hangs up on headers that do not end."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._pool._factory = _bounded(self._pool._factory)


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
    """Downloader middleware that lets a redirect lead only where a link of the list could have led."""

    def __init__(self, crawler: Any) -> None:
        self._local = bool(crawler.settings.getlist("ALLOW_ADDRESSES"))

    @classmethod
    def from_crawler(cls, crawler: Any) -> RedirectRules:
        """Called by Scrapy."""
        return cls(crawler)

    async def process_request(self, request: Any) -> None:
        """Raise RedirectedOut before anything is asked of a page that would not be kept."""
        if request.meta.get("redirect_times") and "job" in request.meta:
            problem = url_problem(request.url, local=self._local)
            if problem:
                raise RedirectedOut(f"{problem}: {request.url}")


class PoliteRobots:
    """Downloader middleware that obeys robots.txt: RFC 9309, with Crawl-delay.

    Differs from Scrapy's own in that an unreachable robots.txt (5xx, 429, no answer) forbids, while 4xx
    allows; that Crawl-delay is kept; and that hosts not met for long are forgotten, so memory stays flat.
    """

    def __init__(self, crawler: Any) -> None:
        self._crawler = crawler
        self._agent: str = crawler.settings["USER_AGENT"]
        self._rules: OrderedDict[str, asyncio.Future[Protego | str]] = OrderedDict()

    @classmethod
    def from_crawler(cls, crawler: Any) -> PoliteRobots:
        """Called by Scrapy."""
        return cls(crawler)

    async def process_request(self, request: Any) -> None:
        """Raise RobotsForbidden or RobotsUnreachable unless robots.txt allows the request."""
        if request.meta.get("is_robots"):
            return
        parts = urlparse_cached(request)
        rules = await self._rules_of(f"{parts.scheme}://{parts.netloc}", parts.hostname or "")
        if isinstance(rules, str):
            raise RobotsUnreachable(rules)
        if not rules.can_fetch(request.url, self._agent):
            raise RobotsForbidden(request.url)

    async def _rules_of(self, site: str, host: str) -> Protego | str:
        """The rules of a site; a text says why there are none, and is forgotten so that a later try asks
        again."""
        asked = self._rules.get(site)
        if asked is None:
            asked = self._rules[site] = asyncio.ensure_future(self._ask(site, host))
            while len(self._rules) > MAX_ROBOTS:
                self._rules.popitem(last=False)
        else:
            self._rules.move_to_end(site)
        rules = await asked
        if isinstance(rules, str) and self._rules.get(site) is asked:
            del self._rules[site]
        return rules

    async def _ask(self, site: str, host: str) -> Protego | str:
        request = Request(f"{site}/robots.txt", priority=1000, callback=NO_CALLBACK, meta={"is_robots": True})
        try:
            response = await self._crawler.engine.download_async(request)
        except Exception as error:
            return f"{type(error).__name__}: {error}"[:200]
        if response.status >= 500 or response.status == 429:
            return f"status {response.status}"
        text = response.body.decode("utf-8", "replace") if response.status < 400 else ""
        rules = Protego.parse(text[:MAX_ROBOTS_TEXT])
        delay = rules.crawl_delay(self._agent)
        if delay is not None and delay > MAX_CRAWL_DELAY:
            return Protego.parse("User-agent: *\nDisallow: /")
        self._slow_down(host, delay or 0.0)
        return rules

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


class PoliteThrottle(AutoThrottle):
    """AutoThrottle that never goes below the Crawl-delay of a host's robots.txt."""

    def _response_downloaded(self, response: Any, request: Any, spider: Any) -> None:
        super()._response_downloaded(response, request, spider)
        downloader = self.crawler.engine.downloader
        key = request.meta.get("download_slot")
        if key in downloader.per_slot_settings and key in downloader.slots:
            slot = downloader.slots[key]
            slot.delay = max(slot.delay, downloader.per_slot_settings[key]["delay"])
