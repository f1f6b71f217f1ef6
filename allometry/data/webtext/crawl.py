"""One crawl, as a process of its own: `python -m allometry.data.webtext.crawl`.

A Twisted reactor can run once in a process, so each crawl gets one. It reads its job, a line of JSON, from
standard input, reports its progress as lines of JSON on standard output, and ends when it is done, when it
is interrupted, or when its standard input closes (its parent is gone).
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from allometry.data.webtext.spider import Frontier
from allometry.data.webtext.warc import PartArchive

REPORT_SECONDS = 1.0
SYNC_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class CrawlJob:
    """The settings of a crawl, as JSON. Times in seconds, sizes in bytes."""

    links: dict[str, str]
    folder: str
    user_agent: str
    window: int
    per_host: int
    delay: float
    autothrottle: bool
    timeout: float
    max_bytes: int
    max_redirects: int
    attempts: int
    backoff: float
    longest_pause: float
    obey_robots: bool
    allow_addresses: list[str]
    retry_failed: bool
    seed: int
    obey_opt_outs: bool
    verify_certificates: bool
    exclude_domains: list[str]

    def as_json(self) -> dict[str, Any]:
        """Return the job as JSON."""
        return asdict(self)


def settings(job: CrawlJob) -> dict[str, Any]:
    """Return Scrapy's settings for a job: everything bounded, nothing but HTTP, no cookies, no proxies from the
    environment.
    """
    here = "allometry.data.webtext.guards"
    return {
        "TWISTED_REACTOR": "twisted.internet.asyncioreactor.AsyncioSelectorReactor",
        "TWISTED_DNS_RESOLVER": f"{here}.SafeResolver",
        "ALLOW_ADDRESSES": job.allow_addresses,
        "DOWNLOAD_HANDLERS": {
            "http": f"{here}.BoundedHandler",
            "https": f"{here}.BoundedHandler",
            **dict.fromkeys(("file", "ftp", "s3", "data"), None),
        },
        "DOWNLOADER_MIDDLEWARES": {
            f"{here}.RedirectRules": 50,
            f"{here}.PoliteRobots": 100 if job.obey_robots else None,
            f"{here}.BoundedCompression": 590,
            "scrapy.downloadermiddlewares.httpcompression.HttpCompressionMiddleware": None,
        },
        "EXCLUDED_DOMAINS": job.exclude_domains,
        "OBEY_OPT_OUTS": job.obey_opt_outs,
        "ROBOTS_ATTEMPTS": job.attempts,
        "ROBOTS_BACKOFF": job.backoff,
        "LONGEST_PAUSE": job.longest_pause,
        "DOWNLOAD_VERIFY_CERTIFICATES": job.verify_certificates,
        "EXTENSIONS": {f"{here}.PoliteThrottle": 0 if job.autothrottle else None},
        "AUTOTHROTTLE_ENABLED": job.autothrottle,
        "AUTOTHROTTLE_START_DELAY": job.delay,
        "AUTOTHROTTLE_MAX_DELAY": 60.0,
        "USER_AGENT": job.user_agent,
        # The spider returns no items, and Scrapy makes this many tasks for each response.
        "CONCURRENT_ITEMS": 1,
        "DOWNLOADER_STATS": False,
        "STATS_CLASS": "scrapy.statscollectors.DummyStatsCollector",
        "CONCURRENT_REQUESTS": 2 * job.window,
        "CONCURRENT_REQUESTS_PER_DOMAIN": job.per_host,
        "DOWNLOAD_DELAY": job.delay,
        # A delay is a minimum: it is not shortened at random.
        "DOWNLOAD_DELAY_JITTER": 0.0,
        "DOWNLOAD_TIMEOUT": job.timeout,
        "DOWNLOAD_MAXSIZE": job.max_bytes,
        "DOWNLOAD_WARNSIZE": 0,
        "DOWNLOAD_FAIL_ON_DATALOSS": False,
        "REDIRECT_MAX_TIMES": job.max_redirects,
        "METAREFRESH_ENABLED": False,
        "RETRY_ENABLED": False,
        "ROBOTSTXT_OBEY": False,
        "HTTPPROXY_ENABLED": False,
        "HTTPERROR_ALLOW_ALL": True,
        "COOKIES_ENABLED": False,
        "REFERER_ENABLED": False,
        "TELNETCONSOLE_ENABLED": False,
        "LOGSTATS_INTERVAL": 0,
        "LOG_LEVEL": "ERROR",
        "DUPEFILTER_CLASS": "scrapy.dupefilters.BaseDupeFilter",
        "REACTOR_THREADPOOL_MAXSIZE": 32,
        "DEFAULT_REQUEST_HEADERS": {"Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.1"},
    }


def main() -> None:
    """Run the job that is given on standard input."""
    from scrapy.crawler import AsyncCrawlerProcess

    from allometry.data.webtext.spider import LinkSpider, Patience

    job = CrawlJob(**json.loads(sys.stdin.buffer.readline()))
    about = {
        "software": job.user_agent,
        "format": "WARC File Format 1.0",
        "robots": "obey" if job.obey_robots else "off",
    }
    archives = {
        int(part): PartArchive(Path(job.folder), int(part), about=about, retry_failed=job.retry_failed)
        for part in job.links
    }
    frontier = Frontier(
        {int(part): Path(file) for part, file in job.links.items()},
        is_done=lambda part, page_id: archives[part].is_done(page_id),
        window=job.window,
        per_host=job.per_host,
    )
    patience = Patience(attempts=job.attempts, backoff=job.backoff, longest_pause=job.longest_pause)
    _end_with_parent()
    process = AsyncCrawlerProcess(settings(job))
    crawler = process.create_crawler(LinkSpider)
    process.crawl(
        crawler,
        frontier=frontier,
        archives=archives,
        patience=patience,
        seed=job.seed,
        obey_opt_outs=job.obey_opt_outs,
    )
    _report_from_reactor(crawler, archives)
    try:
        process.start()
        _report(crawler, final=True)
    finally:
        frontier.close()
        for archive in archives.values():
            archive.close()


def _end_with_parent() -> None:
    """Stop at once when the parent is gone; the files on disk are complete at every moment."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os._exit(3)

    threading.Thread(target=wait, daemon=True).start()


def _report_from_reactor(crawler: Any, archives: dict[int, PartArchive]) -> None:
    from twisted.internet import reactor
    from twisted.internet.task import LoopingCall

    def sync() -> None:
        for archive in archives.values():
            archive.sync()

    def begin() -> None:
        LoopingCall(_report, crawler).start(REPORT_SECONDS, now=False)
        LoopingCall(sync).start(SYNC_SECONDS, now=False)

    reactor.callWhenRunning(begin)


def _report(crawler: Any, *, final: bool = False) -> None:
    import psutil

    spider = crawler.spider
    if spider is None:
        return
    line = {
        "outcomes": dict(spider.outcomes),
        "skipped": spider.frontier.skipped,
        "bytes": spider.bytes,
        "rss": psutil.Process().memory_info().rss,
        "exhausted": spider.frontier.exhausted,
        "final": final,
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
