"""A real crawl of a real server that misbehaves, on loopback addresses only."""

import json
import os
import signal
import subprocess
import sys
from itertools import pairwise

import pytest

pytest.importorskip("scrapy")
pytest.importorskip("warcio")

from webtext_server import Server

from allometry.core.errors import AllometryError
from allometry.core.locks import hold
from allometry.data.webtext import fetch, links
from allometry.data.webtext.jsonl import read_rows
from allometry.data.webtext.warc import Page, html_pages
from allometry.data.webtext.workspace import Workspace

QUICK = {
    "delay": 0.0,
    "per_host": 32,
    "autothrottle": False,
    "timeout": 600.0,  # no page is slow enough for that, on any machine
    "backoff": 0.1,
    "attempts": 2,
    "max_bytes": 3_000_000,
    "max_redirects": 4,
    "allow_addresses": ("127.0.0.1", "127.0.0.3"),
}


def prepared(folder, urls, parts=2):
    listing = folder / "list.jsonl"
    listing.write_text("".join(json.dumps({"url": url, "score": 9}) + "\n" for url in urls))
    workspace = Workspace(folder / "out", parts=parts)
    links.run(workspace, [listing], links.LinkOptions(local=True))
    return workspace


def archived(workspace):
    pages = [page for path in sorted(workspace.path("fetch").glob("*.warc.gz")) for page in html_pages(path)]
    assert all(isinstance(page, Page) for page in pages)
    return pages


ENDLESS = ("/slowloris", "/slowheader")


def without_end(folder, server):
    """Return the outcomes, by path, of a crawl that meets nothing but answers that never end."""
    folder.mkdir()
    workspace = prepared(folder, [server.url(path) for path in ENDLESS], parts=1)
    with pytest.raises(AllometryError, match="no page could be fetched, of 2 links"):
        fetch.run(workspace, fetch.FetchOptions(contact="a@b.org", **{**QUICK, "timeout": 6.0}))
    return {
        row["url"].removeprefix(server.url("")): row["reason"]
        for row in read_rows(workspace.removed("fetch"))
    }


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """One crawl of everything that is bad: (server, outcomes by path, pages by path, peak memory)."""
    folder = tmp_path_factory.mktemp("crawl")
    with Server() as server:
        paths = [f"/page/{n}" for n in range(5)]
        paths += [
            "/forbidden/1",
            "/loop/0",
            "/headers",
            "/endless",
            "/bomb",
            "/zipped",
        ]
        paths += [
            "/brokenzip",
            "/latin",
            "/image",
            "/pdf",
            "/short",
            "/long",
            "/busy/1",
            "/flaky/1",
        ]
        paths += ["/broken", "/reset", "/garbage", "/huge", "/script", "/missing"]
        targets = {
            "/to?u=ok": server.url("/page/77"),
            "/to?u=other": server.url("/page/50", "127.0.0.2"),
            "/to?u=number": f"http://2130706434:{server.port}/page/50",
            "/to?u=file": "file:///etc/passwd",
            "/to?u=wiki": "http://en.wikipedia.org/wiki/X",
        }
        urls = {server.url(path): path for path in paths}
        urls |= {server.url(f"/to?u={target}"): path for path, target in targets.items()}
        urls[server.url("/page/60", "127.0.0.2")] = "other host"
        urls[server.url("/busy/9999", "127.0.0.3")] = "/busy/9999"
        urls[server.url("/page/61", "localhost")] = "by name"
        workspace = prepared(folder, urls)
        peak = []
        summary = fetch.run(
            workspace,
            fetch.FetchOptions(contact="a@b.org", **QUICK),
            on_report=lambda r: peak.append(r["rss"]),
        )
        failed = {urls[row["url"]]: row["reason"] for row in read_rows(workspace.removed("fetch"))}
        failed |= without_end(folder / "slow", server)
        pages = {urls[page.link["url"]]: page for page in archived(workspace)}
        assert set(failed) | set(pages) == {*urls.values(), *ENDLESS}, "every link has an outcome"
        assert not set(failed) & set(pages)
        assert summary.counts["fetched"] == len(pages)
        yield server, failed, pages, max(peak)


@pytest.mark.parametrize(
    ("path", "outcome"),
    {
        "/forbidden/1": "robots",
        "/loop/0": "too_many_redirects",
        "/slowloris": "timeout",
        "/slowheader": "timeout",
        "/headers": "connection",
        "/endless": "too_large",
        "/bomb": "too_large",
        "/brokenzip": "bad_encoding",
        "/image": "not_html",
        "/pdf": "content_type",
        "/busy/9999": "retry_after",
        "/broken": "server_error",
        "/reset": "connection",
        "/garbage": "connection",
        "/missing": "status",
        "/to?u=other": "private_address",
        "/to?u=number": "private_address",
        "/to?u=file": "status",
        "/to?u=wiki": "redirected_out",
        "other host": "private_address",
    }.items(),
)
def test_bad_pages_are_given_up_with_the_reason(hostile, path, outcome):
    _, failed, _, _ = hostile
    assert failed.get(path) == outcome


@pytest.mark.parametrize(
    "path",
    [
        "/page/1",
        "/zipped",
        "/latin",
        "/short",
        "/long",
        "/busy/1",
        "/flaky/1",
        "/huge",
        "/script",
        "/to?u=ok",
        "by name",
    ],
)
def test_pages_that_can_be_had_are_had(hostile, path):
    server, _, pages, _ = hostile
    assert pages[path].body
    if path == "/to?u=ok":
        assert pages[path].url == server.url("/page/77")
    if path == "/zipped":
        assert b"<article>" in pages[path].body
    if path == "/busy/1":
        first, second = server.times["/busy/1"]
        assert second - first >= 1.0, "Retry-After is kept"


def test_what_must_not_be_asked_for_is_not(hostile):
    server, _, _, _ = hostile
    assert server.count("/forbidden/1") == 0
    assert not [key for key in server.hits if key[0] == "127.0.0.2"], "a forbidden address was connected to"
    assert server.count("/loop/5") == 0
    assert server.count("/robots.txt") == 3, "once for each site and crawl"
    assert server.count("/.well-known/tdmrep.json") == 3
    assert server.agents == {fetch.FetchOptions(contact="a@b.org").user_agent}
    assert "a@b.org" in server.agents.pop()


def test_size_and_memory_are_bounded(hostile):
    server, _, _, peak = hostile
    assert server.hits["pdf", "blocks"] < 400, "the body of another kind is not read"
    assert peak < 400e6


def test_robots_txt_that_cannot_be_had_forbids_and_crawl_delay_is_kept(tmp_path):
    with Server() as server:
        server.robots = "User-agent: *\nCrawl-delay: 1\n"
        workspace = prepared(tmp_path, [server.url(f"/page/{n}") for n in range(4)], parts=1)
        fetch.run(workspace, fetch.FetchOptions(**QUICK))
        times = sorted(server.times[f"/page/{n}"][0] for n in range(4))
        assert all(later - earlier > 0.15 for earlier, later in pairwise(times[1:]))


def test_nothing_fetched_is_an_error(tmp_path):
    with Server() as server:
        workspace = prepared(tmp_path, [server.url("/missing")], parts=1)
        with pytest.raises(AllometryError, match="no page could be fetched, of 1 link "):
            fetch.run(workspace, fetch.FetchOptions(**QUICK))


def test_options_are_checked():
    with pytest.raises(AllometryError, match="attempts must be more than 0"):
        fetch.FetchOptions(attempts=0)
    with pytest.raises(AllometryError, match="header"):
        fetch.FetchOptions(contact="x\r\nEvil: 1")


def test_fetch_needs_links(tmp_path):
    with pytest.raises(AllometryError, match="links, has not run"):
        fetch.run(Workspace(tmp_path / "out"), fetch.FetchOptions())


def log_lines(workspace):
    return [row for path in workspace.path("fetch").glob("*.log.jsonl") for row in read_rows(path)]


def test_a_killed_crawl_continues(tmp_path):
    """SIGKILL in the middle, then the same command: nothing lost, nothing that was done fetched again."""
    n_pages = 150
    with Server() as server:
        server.hold_after = 60
        workspace = prepared(tmp_path, [server.url(f"/page/{n}") for n in range(n_pages)], parts=1)
        command = [
            sys.executable,
            "-m",
            "allometry",
            "webtext",
            "fetch",
            str(workspace.root),
            "--delay",
            "0.02s",
        ]
        command += ["--no-autothrottle", "--per-host", "4", "--allow-private", "127.0.0.1", "--json"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert server.reached.wait(300)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        for part in range(workspace.parts):  # the crawl notices that its parent is gone, and lets go
            with hold(workspace.path("fetch", part, ".archive.lock"), "archive", seconds=300):
                pass
        server.hold_after = None
        before = len(log_lines(workspace))
        assert 0 < before < n_pages
        done = {row["id"] for row in log_lines(workspace)}
        hits = dict(server.hits)
        finished = subprocess.run(command, capture_output=True, text=True)
        assert finished.returncode == 0, finished.stderr
        pages = archived(workspace)
        assert sorted(page.link["id"] for page in pages) == sorted({page.link["id"] for page in pages}), (
            "none twice"
        )
        assert len(pages) == n_pages, "none lost"
        again = {key for key, count in server.hits.items() if count > hits.get(key, 0)}
        refetched = {
            page.link["id"]
            for page in pages
            if ("127.0.0.1", page.link["url"].partition(str(server.port))[2]) in again
        }
        assert not refetched & done, "what was done was asked for again"
        counted = {row["name"]: row["value"] for row in json.loads(finished.stdout) if row["kind"] == "count"}
        assert counted["fetched"] == n_pages
        third = subprocess.run(command, capture_output=True, text=True)
        assert third.returncode == 0
        assert sum(server.hits.values()) <= sum(hits.values()) + n_pages - before + 12
