"""How the crawl behaves towards hosts: delays, refusals, robots.txt in every shape, opt-outs, certificates.

One crawl of many loopback hosts, each of which behaves in its own way; what needs a clock gets one of its
own.
"""

import asyncio
import gzip
import json

import pytest

pytest.importorskip("scrapy")
pytest.importorskip("warcio")

from scrapy.http import Request, Response
from scrapy.settings import Settings
from webtext_server import Server

from allometry.data.webtext import consent, fetch, guards, links
from allometry.data.webtext.crawl import CrawlJob, settings
from allometry.data.webtext.jsonl import read_rows
from allometry.data.webtext.spider import Frontier, Job, looks_like_text
from allometry.data.webtext.warc import Page, html_pages
from allometry.data.webtext.workspace import Workspace

OPTIONS = {
    "delay": 0.0,
    "autothrottle": False,
    "backoff": 0.1,
    "attempts": 2,
    "timeout": 20.0,
    "allow_addresses": ("127.0.0.0/8",),
}
DELAY = 0.3
LONG = b"User-agent: *\nDisallow: /page/1\n" + b"# a comment that fills the file\n" * 200_000


def prepared(folder, urls, **options):
    listing = folder / "list.jsonl"
    listing.write_text("".join(json.dumps({"url": url, "score": 9}) + "\n" for url in urls))
    workspace = Workspace(folder / "out", parts=1)
    links.run(workspace, [listing], links.LinkOptions(local=True, **options))
    return workspace


def outcomes(workspace):
    """URL of the link -> reason, or the page."""
    found = {row["url"]: row["reason"] for row in read_rows(workspace.removed("fetch"))}
    for path in workspace.path("fetch").glob("*.warc.gz"):
        found |= {page.link["url"]: page for page in html_pages(path)}
    return found


@pytest.fixture(scope="module")
def crawl(tmp_path_factory):
    """(server, outcomes by URL, workspace) of one crawl."""
    with Server() as server:

        def url(host, path):
            return server.url(path, f"127.0.0.{host}")

        no = b"User-agent: *\nDisallow: /\n"
        server.robots_of = {
            "127.0.0.9": (200, f"User-agent: *\nCrawl-delay: {DELAY}\n".encode(), ""),
            "127.0.0.21": (503, b"busy", ""),
            "127.0.0.22": (200, b"\xef\xbb\xbf" + no, ""),
            "127.0.0.23": (200, no.decode().encode("utf-16"), ""),
            "127.0.0.24": (200, LONG, ""),
            "127.0.0.27": (429, b"", "Retry-After: 1\r\n"),
            "127.0.0.31": (200, gzip.compress(LONG), "Content-Encoding: gzip\r\n"),
            "127.0.0.32": (429, b"", "Retry-After: 3600\r\n"),
        }
        rules = [
            {"location": "/page/1", "tdm-reservation": 1},
            {"location": "/page/1x", "tdm-reservation": 0},
        ]
        server.tdmrep_of = {"127.0.0.25": json.dumps(rules).encode()}
        urls = [url(10 + n, f"/to?u={url(9, f'/page/{n}')}") for n in range(6)]
        urls += [url(20, f"/later/{n}") for n in range(6)] + [url(21, f"/page/{n}") for n in range(8)]
        urls += [url(host, f"/page/{n}") for host in (22, 23, 24, 25, 27, 31, 32) for n in (1, 2)]
        urls += [url(26, "/noai"), url(28, "/null"), url(28, "/brokenchunk")]
        urls += [url(30, "/to?u=http://www.excluded.example/page")]
        urls += [f"https://127.0.0.29:{server.tls_port}/page/1"]
        workspace = prepared(
            tmp_path_factory.mktemp("manners"), urls, exclude_domains=frozenset({"excluded.example"})
        )
        fetch.run(workspace, fetch.FetchOptions(**OPTIONS))
        yield server, outcomes(workspace), workspace, url


def test_every_link_has_one_outcome(crawl):
    _, found, workspace, _ = crawl
    assert set(found) == {row["url"] for row in read_rows(workspace.path("links", 0))}


def test_targets_of_redirects_wait_for_their_host(crawl):
    server, found, _, url = crawl
    pages = [found[url(10 + n, f"/to?u={url(9, f'/page/{n}')}")] for n in range(6)]
    assert {page.url for page in pages} == {url(9, f"/page/{n}") for n in range(6)}
    asked = server.schedule["127.0.0.9"]
    assert len(asked) == 6
    assert asked[-1] - asked[0] >= 5 * DELAY * 0.9, "one request each Crawl-delay"


def test_a_host_that_asks_for_an_hour_is_given_up(crawl):
    server, found, _, url = crawl
    assert {found[url(20, f"/later/{n}")] for n in range(6)} == {"retry_after"}
    assert len(server.schedule["127.0.0.20"]) == 1, "asked once, not once a link"


def test_an_unreachable_robots_txt_is_asked_for_a_few_times_a_host(crawl):
    server, found, _, url = crawl
    assert {found[url(21, f"/page/{n}")] for n in range(8)} == {"robots_unreachable"}
    assert server.count("/robots.txt", "127.0.0.21") == OPTIONS["attempts"]
    assert {found[url(32, f"/page/{n}")] for n in (1, 2)} == {"robots_unreachable"}
    assert server.count("/robots.txt", "127.0.0.32") == 1
    assert isinstance(found[url(27, "/page/1")], Page), "after the pause that it asked for"
    first, second = server.times["/robots.txt"][0], server.times["/robots.txt"][-1]
    assert second - first >= 0.9


@pytest.mark.parametrize("host", [22, 23, 24, 31])
def test_robots_txt_in_other_shapes_is_obeyed(crawl, host):
    server, found, _, url = crawl
    assert found[url(host, "/page/1")] == "robots"
    assert server.count("/page/1", f"127.0.0.{host}") == 0
    assert (found[url(host, "/page/2")] == "robots") == (host in (22, 23))


def test_opt_outs_of_a_site_and_of_a_page_are_obeyed(crawl):
    server, found, _, url = crawl
    assert found[url(25, "/page/1")] == "opt_out"
    assert server.count("/page/1", "127.0.0.25") == 0
    assert isinstance(found[url(25, "/page/2")], Page)
    assert found[url(26, "/noai")] == "opt_out"


def test_empty_pages_and_excluded_targets_are_no_pages(crawl):
    _, found, _, url = crawl
    assert found[url(28, "/null")] == "empty"
    assert found[url(28, "/brokenchunk")] == "connection"
    assert found[url(30, "/to?u=http://www.excluded.example/page")] == "redirected_out"


def test_a_bad_certificate_is_noted_or_refused(crawl, tmp_path):
    server, found, _, _ = crawl
    address = f"https://127.0.0.29:{server.tls_port}/page/1"
    assert dict(found[address].headers)["X-Crawler-Certificate"] == "self-signed"
    other = prepared(tmp_path, [address, server.url("/page/1", "127.0.0.40")])
    fetch.run(other, fetch.FetchOptions(verify_certificates=True, **OPTIONS))
    assert outcomes(other)[address] == "certificate"


def test_how_a_page_was_packed_stays_in_the_archive(tmp_path):
    with Server() as server:
        workspace = prepared(tmp_path, [server.url("/zipped"), server.url("/noai")])
        fetch.run(workspace, fetch.FetchOptions(obey_opt_outs=False, **OPTIONS))
        found = outcomes(workspace)
        assert dict(found[server.url("/zipped")].headers)["X-Crawler-Content-Encoding"] == "gzip"
        assert dict(found[server.url("/noai")].headers)["X-Robots-Tag"] == "noindex, noai"
        assert server.count("/.well-known/tdmrep.json") == 0


def test_delays_are_minimal_ones():
    fields = {
        name: getattr(fetch.FetchOptions(), name)
        for name in CrawlJob.__dataclass_fields__
        if hasattr(fetch.FetchOptions(), name)
    }
    job = CrawlJob(
        **{
            **fields,
            "links": {},
            "folder": "",
            "user_agent": "x",
            "allow_addresses": [],
            "exclude_domains": [],
        }
    )
    assert settings(job)["DOWNLOAD_DELAY_JITTER"] == 0
    assert settings(job)["DOWNLOAD_DELAY"] == 1.0


class Crawler:
    """As much of Scrapy's crawler as the robots rules use; answers come from `answers`, in order."""

    def __init__(self, answers, **values):
        self.settings = Settings({"USER_AGENT": "allometry-webtext/1", "DOWNLOAD_DELAY": 1.0, **values})
        self.asked, self._answers = [], list(answers)
        self.engine = self
        self.downloader = self
        self.per_slot_settings, self.slots = {}, {}

    async def download_async(self, request):
        self.asked.append(request.url)
        answer = self._answers.pop(0)
        return answer if not isinstance(answer, Exception) else (_ for _ in ()).throw(answer)


def robots(status, body=b"", **headers):
    return Response("http://a.com/robots.txt", status=status, body=body, headers=headers)


def decide(rules, path="/x"):
    async def ask():
        try:
            await rules.process_request(Request(f"http://a.com{path}"))
        except guards.RobotsUnreachable as error:
            return error.pause
        except guards.RobotsForbidden:
            return "forbidden"
        return "allowed"

    return asyncio.run(ask())


def test_robots_txt_is_remembered_for_a_day_and_failures_for_an_hour():
    clock = [0.0]
    answers = [robots(503), robots(503, **{"Retry-After": "77"}), robots(500), robots(200, b"")]
    answers += [robots(200, b"User-agent: *\nDisallow: /")]
    crawler = Crawler(answers, OBEY_OPT_OUTS=False, ROBOTS_ATTEMPTS=3, ROBOTS_BACKOFF=5.0)
    rules = guards.PoliteRobots(crawler, now=lambda: clock[0])
    assert [decide(rules), decide(rules), decide(rules)] == [5.0, 77.0, None]
    assert [decide(rules) for _ in range(100)] == [None] * 100
    assert len(crawler.asked) == 3
    clock[0] += guards.UNREACHABLE_SECONDS + 1
    assert decide(rules) == "allowed"
    clock[0] += guards.ROBOTS_SECONDS - 1
    assert decide(rules) == "allowed"
    clock[0] += 2
    assert decide(rules) == "forbidden"
    assert len(crawler.asked) == 5


def test_moved_links_are_held_to_the_limits_of_the_new_host(tmp_path):
    path = tmp_path / "links.jsonl"
    rows = [{"id": f"{n:016x}", "url": f"http://old{n}.com/x", "score": 3} for n in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    queue = Frontier({0: path}, is_done=lambda part, page: False, window=10, per_host=1)
    first, second, third = (queue.next(0.0) for _ in range(3))
    for number, job in enumerate((first, second, third)):
        queue.move(job, f"http://new.com./{number}")
    job = queue.next(0.0)
    assert (job.host, job.url, job.link["url"]) == ("new.com", "http://new.com./0", "http://old0.com/x")
    assert queue.next(0.0) is None, "one at a time"
    queue.retry(job, 50.0, pause_host=True)
    assert queue.next(49.0) is None
    seen = []
    for now in range(51, 60):
        while (job := queue.next(float(now))) is not None:
            seen.append(job.url)
            queue.finish(job)
    assert sorted(seen) == [f"http://new.com./{number}" for number in range(3)]
    assert queue.exhausted
    queue.close()


def test_redirect_rules_give_each_request_the_delay_of_its_own_host():
    rules = guards.RedirectRules(Crawler([], EXCLUDED_DOMAINS=["bad.com"]))
    job = Job({"id": "1", "url": "http://a.com/x"}, 0, "a.com")

    def meta_of(url, **meta):
        request = Request(url, meta={"job": job, "download_slot": "other.com", **meta})
        asyncio.run(rules.process_request(request))
        return request.meta["download_slot"]

    assert meta_of("http://a.com./x") == "a.com"
    assert meta_of("http://a.com/y", redirect_times=1) == "a.com"
    with pytest.raises(guards.Moved) as moved:
        meta_of("http://b.com/y", redirect_times=2)
    assert (moved.value.url, moved.value.meta) == ("http://b.com/y", {"redirect_times": 2})
    with pytest.raises(guards.RedirectedOut):
        meta_of("http://www.bad.com/y", redirect_times=1)


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([("X-Robots-Tag", "noindex, noai")], True),
        ([("X-Robots-Tag", "max-snippet: 5, noai")], True),
        ([("X-Robots-Tag", "allometry-webtext: noai")], True),
        ([("X-Robots-Tag", "otherbot: noindex, noai")], False),
        ([("X-Robots-Tag", "noimageai, noindex")], False),
        ([("TDM-Reservation", " 1")], True),
        ([("tdm-reservation", "0")], False),
        ([], False),
    ],
)
def test_headers_that_reserve_a_page(headers, found):
    assert (consent.header_opt_out(headers) is not None) == found


def test_a_sites_reservations_are_patterns_and_nonsense_is_none():
    entries = [{"location": "/", "tdm-reservation": 1}, {"location": "/free/*", "tdm-reservation": 0}, 7]
    rules = consent.site_rules(json.dumps(entries).encode())
    assert not rules.can_fetch("http://a.com/x", "any")
    assert rules.can_fetch("http://a.com/free/x", "any")
    for body in (b"", b"{}", b"<html>", b"[" * 100_000, b"\xff\xfe"):
        assert consent.site_rules(body) is None


def test_text_is_told_from_other_files():
    assert looks_like_text("<p>über den Fluss</p>".encode("utf-16-le") * 9)
    assert looks_like_text(b"<p>one stray \0 zero</p>" + b"and much text " * 50)
    assert not looks_like_text(b"\x89PNG\r\n\x1a\n" + bytes(500))
    assert not looks_like_text(bytes(range(256)) * 4 + bytes(200))
