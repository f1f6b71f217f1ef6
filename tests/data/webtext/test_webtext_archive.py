import json

import pytest

pytest.importorskip("warcio")

from allometry.data.webtext.jsonl import AppendLog, read_rows
from allometry.data.webtext.spider import READ_AHEAD, Frontier
from allometry.data.webtext.warc import Page, PartArchive, html_pages, last_outcomes, read_page


def link(number, host="a.com"):
    return {"id": f"{number:016x}", "url": f"http://{host}/{number}", "score": 3}


def store(archive, number):
    headers = [("Content-Type", "text/html; charset=utf-8")]
    archive.store(
        link(number),
        url=f"http://a.com/{number}",
        status="200 OK",
        headers=headers,
        body=b"<p>%d" % number,
        truncated=None,
    )


def opened(folder, **options):
    return PartArchive(folder, 0, about={"software": "test"}, **options)


def test_pages_come_back_with_their_links(tmp_path):
    archive = opened(tmp_path)
    for number in range(3):
        store(archive, number)
    archive.give_up(link(7), "robots", "no")
    archive.close()
    rows = list(last_outcomes(tmp_path, tmp_path / "part-00000.log.jsonl"))
    page = read_page(tmp_path / rows[1]["file"], rows[1]["offset"], rows[1]["length"])
    assert page.body == b"<p>1"
    assert page.link == link(1)
    assert len([p for p in html_pages(tmp_path / rows[0]["file"]) if isinstance(p, Page)]) == 3
    again = opened(tmp_path)
    assert [again.is_done(link(n)["id"]) for n in (0, 1, 2, 7, 3)] == [True, True, True, True, False]
    again.close()


@pytest.mark.parametrize("cut", [1, 30, 200])
def test_a_kill_between_archive_and_log_loses_nothing(tmp_path, cut):
    """The log misses its last page and the archive ends in half a record."""
    archive = opened(tmp_path)
    for number in range(3):
        store(archive, number)
    archive.close()
    log = tmp_path / "part-00000.log.jsonl"
    warc = tmp_path / "part-00000.00000.warc.gz"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:2]) + lines[2][:9])
    size = warc.stat().st_size
    with warc.open("ab") as file:
        file.write(warc.read_bytes()[:cut])
    again = opened(tmp_path)
    assert again.recovered == 1
    assert warc.stat().st_size == size
    assert again.is_done(link(2)["id"])
    store(again, 3)
    again.close()
    assert [row["id"] for row in read_rows(log)] == [link(n)["id"] for n in range(4)]
    assert len(list(html_pages(warc))) == 4


def test_a_half_written_page_is_fetched_again(tmp_path):
    archive = opened(tmp_path)
    store(archive, 0)
    store(archive, 1)
    archive.close()
    warc = tmp_path / "part-00000.00000.warc.gz"
    warc.write_bytes(
        warc.read_bytes()[:-10]
    )  # as a power cut may leave it: the log knows more than the archive
    again = opened(tmp_path)
    assert again.is_done(link(0)["id"])
    assert not again.is_done(link(1)["id"])
    store(again, 1)
    again.close()
    assert [row["id"] for row in last_outcomes(tmp_path, tmp_path / "part-00000.log.jsonl")] == [
        link(0)["id"],
        link(1)["id"],
    ]
    assert all(isinstance(page, Page) for page in html_pages(warc))


def test_failures_of_the_day_can_be_tried_again(tmp_path):
    archive = opened(tmp_path)
    archive.give_up(link(0), "timeout", 30)
    archive.give_up(link(1), "robots", "no")
    archive.close()
    again = opened(tmp_path, retry_failed=True)
    assert [again.is_done(link(n)["id"]) for n in (0, 1)] == [False, True]
    again.close()


def test_log_drops_half_a_line(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b'{"a":1}\n{"a":')
    log = AppendLog(path)
    log.append({"a": 2}, {"a": "\ud800"})
    log.close()
    assert [row["a"] for row in read_rows(path)][:2] == [1, 2]


def frontier(tmp_path, hosts, *, window=100, per_host=1):
    path = tmp_path / "links.jsonl"
    path.write_text("".join(json.dumps(link(n, host)) + "\n" for n, host in enumerate(hosts)))
    return Frontier({0: path}, is_done=lambda part, page: False, window=window, per_host=per_host)


def drain(queue, now):
    jobs = []
    while (job := queue.next(now)) is not None:
        jobs.append(job)
    return jobs


def test_a_slow_host_holds_up_no_other(tmp_path):
    queue = frontier(tmp_path, ["slow.com"] * 50 + ["a.com", "b.com", "slow.com"])
    assert [job.host for job in drain(queue, 0.0)] == ["slow.com", "a.com", "b.com"]
    queue.close()


def test_every_link_comes_once_and_in_the_order_of_its_host(tmp_path):
    hosts = [f"h{n % 7}.com" for n in range(100)]
    queue = frontier(tmp_path, hosts, window=5, per_host=2)
    seen = []
    while not queue.exhausted:
        for job in drain(queue, 0.0):
            seen.append(job)
            queue.finish(job)
    assert sorted(int(job.link["id"], 16) for job in seen) == list(range(100))
    for host in set(hosts):
        mine = [int(job.link["id"], 16) for job in seen if job.host == host]
        assert mine == sorted(mine)
    queue.close()


def test_a_paused_host_waits(tmp_path):
    queue = frontier(tmp_path, ["a.com", "a.com", "b.com"])
    first, other = drain(queue, 0.0)
    assert (first.host, other.host) == ("a.com", "b.com")
    queue.retry(first, 10.0, pause_host=True)
    queue.finish(other)
    assert queue.next(9.0) is None
    assert not queue.exhausted
    assert queue.next(10.5).host == "a.com"
    queue.close()


def test_a_long_list_of_done_links_is_passed_over_quickly(tmp_path):
    path = tmp_path / "links.jsonl"
    path.write_text("".join(json.dumps(link(n)) + "\n" for n in range(20_000)))
    queue = Frontier({0: path}, is_done=lambda part, page: True, window=10, per_host=1)
    turns = 0
    while not queue.exhausted:
        assert queue.next(0.0) is None
        turns += 1
    assert queue.skipped == 20_000
    assert turns <= 20_000 / READ_AHEAD + 1
    queue.close()
