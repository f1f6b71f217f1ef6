import bz2
import csv
import gzip
import json
import lzma
import random
import subprocess
import sys
import zipfile

import pytest

pytest.importorskip("zstandard")
pytest.importorskip("courlan")

import zstandard

from allometry.core.errors import AllometryError
from allometry.data.webtext import links
from allometry.data.webtext.jsonl import read_rows
from allometry.data.webtext.sources import Found, Problem, read_links
from allometry.data.webtext.warc import encode_info, encode_page
from allometry.data.webtext.workspace import Workspace


def submissions():
    rows = [
        {"url": "http://one.com/a", "score": 5, "title": "A", "created_utc": 1, "subreddit": "science"},
        {"url": "http://one.com/a?utm_source=feed", "score": 4},
        {"url": "http://two.com/b", "score": 2},
        {"url": "http://two.com/b", "score": 2},
        {"url": "http://three.com/self", "score": 50, "is_self": True},
        {"url": "http://four.com/x", "score": 50, "over_18": True},
        {"url": "https://en.wikipedia.org/wiki/A", "score": 50},
        {"url": "http://five.com/y.png", "score": 50},
        {"title": "no url", "score": 50},
        {"url": 17, "score": 50},
        {"url": "http://six.com/&amp;z", "score": "7"},
    ]
    return "".join(json.dumps(row) + "\n" for row in rows) + '{"url": "http://cut.com/\n[1]\n'


def kept(workspace):
    found = [row for part in range(workspace.parts) for row in read_rows(workspace.path("links", part))]
    return {row["url"]: row for row in found}


def test_reddit_dump(tmp_path):
    dump = tmp_path / "RS_2015-01.zst"
    frames = zstandard.ZstdCompressor().compress(submissions().encode()[:300])
    dump.write_bytes(frames + zstandard.ZstdCompressor().compress(submissions().encode()[300:]))
    workspace = Workspace(tmp_path / "out", parts=3)
    summary = links.run(workspace, [dump], links.LinkOptions())
    found = kept(workspace)
    assert set(found) == {"http://one.com/a", "http://six.com/&z"}
    assert found["http://one.com/a"]["score"] == 9
    assert found["http://one.com/a"]["submissions"] == 2
    assert found["http://one.com/a"]["origin"] == "reddit:science"
    assert summary.removed["low_score"] == 2
    assert summary.removed["self_post"] == summary.removed["over_18"] == 1
    assert summary.removed["domain"] == summary.removed["extension"] == summary.removed["duplicate_url"] == 1
    assert summary.removed["malformed"] == 4
    listed = list(read_rows(workspace.removed("links")))
    assert len(listed) == 6
    assert {"RS_2015-01.zst:9", "RS_2015-01.zst:12"} <= {row["where"] for row in listed}


def test_karma_can_be_summed(tmp_path):
    listing = tmp_path / "l.jsonl"
    listing.write_text(submissions())
    workspace = Workspace(tmp_path / "out", parts=1)
    links.run(workspace, [listing], links.LinkOptions(karma="sum", allow_self=True, allow_over_18=True))
    assert kept(workspace)["http://two.com/b"]["score"] == 4
    assert {"http://three.com/self", "http://four.com/x"} <= set(kept(workspace))


def test_nothing_is_done_twice_and_changes_are_seen(tmp_path):
    listing = tmp_path / "l.jsonl"
    listing.write_text(submissions())
    workspace = Workspace(tmp_path / "out", parts=2)
    first = links.run(workspace, [listing], links.LinkOptions())
    stamp = workspace.path("links", 0).stat().st_mtime_ns
    again = links.run(workspace, [listing], links.LinkOptions())
    assert again.as_json() == first.as_json()
    assert workspace.path("links", 0).stat().st_mtime_ns == stamp
    assert links.run(workspace, [listing], links.LinkOptions(min_score=1)).counts["kept"] == 3


def test_csv_with_and_without_scores(tmp_path):
    scored = tmp_path / "a.csv"
    with scored.open("w", newline="") as file:
        csv.writer(file).writerows(
            [["URL", "Karma"], ["http://a.com/1", "3"], ["http://a.com/2", "x"], ["http://b.com/q"]]
        )
    found = list(read_links(scored))
    assert found[0] == Found("http://a.com/1", 3.0, origin="a.csv")
    assert [each.where for each in found if isinstance(each, Problem)] == ["a.csv:3", "a.csv:4"]
    bare = tmp_path / "b.txt"
    bare.write_text("http://a.com/1\n\nhttp://a.com/2\n")
    workspace = Workspace(tmp_path / "out", parts=1)
    with pytest.raises(AllometryError, match="2 links without a score") as error:
        links.run(workspace, [bare], links.LinkOptions())
    assert "--no-score" in error.value.hint
    assert links.run(workspace, [bare], links.LinkOptions(no_score=True)).counts["kept"] == 2
    nameless = tmp_path / "c.csv"
    nameless.write_text("http://a.com/1,5\n")
    with pytest.raises(AllometryError, match="no column of URLs"):
        list(read_links(nameless))


def test_links_out_of_archived_pages(tmp_path):
    html = b"<a href='http://y.com/1'>1</a><a href='http://y.com/1#top'>2</a><a href='/own'>3</a><a href='http://[bad'>"
    page = {"status": "200 OK", "headers": [("Content-Type", "text/html")], "link": {}}
    archive = tmp_path / "pages.warc.gz"
    pages = [encode_page(url=f"http://site{n}.com/", body=html, **page) for n in range(3)]
    archive.write_bytes(encode_info({"software": "test"}) + b"".join(pages))
    assert [each.url for each in read_links(archive)] == ["http://y.com/1"] * 3
    workspace = Workspace(tmp_path / "out", parts=1)
    summary = links.run(workspace, [archive], links.LinkOptions(karma="sum"))
    assert summary.counts["kept"] == 1
    archive.write_bytes(archive.read_bytes()[:-40])
    assert [type(each) for each in read_links(archive)] == [Found, Found, Problem]


@pytest.mark.parametrize("ending", ["zst", "gz"])
def test_truncated_dumps_are_refused_unless_wanted(tmp_path, ending):
    lines = "".join(
        json.dumps({"url": f"http://h{n}.com/{random.Random(n).random()}", "score": 9}) + "\n"
        for n in range(6_000)
    )
    whole = (
        zstandard.ZstdCompressor().compress(lines.encode())
        if ending == "zst"
        else gzip.compress(lines.encode())
    )
    dump = tmp_path / f"RS.{ending}"
    dump.write_bytes(whole[: len(whole) * 3 // 4])
    workspace = Workspace(tmp_path / "out", parts=1)
    with pytest.raises(AllometryError, match="truncated"):
        links.run(workspace, [dump], links.LinkOptions())
    assert workspace.summary("links") is None
    summary = links.run(workspace, [dump], links.LinkOptions(allow_truncated=True))
    assert 1_000 < summary.counts["kept"] < 6_000
    assert summary.notes


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("RS.zst", b"<html>404 not found</html>", "is not zstd"),
        ("RS.gz", b"{}", "is not gzip"),
        ("links.bin", b"x", "cannot tell"),
        ("links.jsonl", b"", "no link"),
        ("links.jsonl", b'{"url": "http://a.com/x", "score": 1}\n', "no link"),
        ("pages.warc", b"this is no archive\n\n", "not a WARC"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(AllometryError, match=message):
        links.run(Workspace(tmp_path / "out", parts=1), [path], links.LinkOptions())


def test_missing_file_and_other_number_of_parts(tmp_path):
    workspace = Workspace(tmp_path / "out", parts=2)
    with pytest.raises(AllometryError, match="no such file"):
        links.run(workspace, [tmp_path / "none.jsonl"], links.LinkOptions())
    assert not (tmp_path / "out").exists(), "a mistyped name leaves nothing behind"
    workspace.create()
    assert Workspace(tmp_path / "out").parts == 2
    with pytest.raises(AllometryError, match="2 parts"):
        Workspace(tmp_path / "out", parts=3)


def test_long_lines_are_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr("allometry.data.webtext.warc.MAX_LINE", 1000)
    path = tmp_path / "l.jsonl"
    path.write_text(
        '{"url": "http://a.com/1", "score": 3}\n{"url": "'
        + "x" * 5000
        + '"}\n{"url": "http://a.com/2", "score": 3}'
    )
    assert [getattr(each, "url", None) for each in read_links(path)] == [
        "http://a.com/1",
        None,
        "http://a.com/2",
    ]


def test_sorting_on_disk(tmp_path):
    lines = [f"{random.Random(n).random()}\n".encode() for n in range(5_000)]
    assert list(links.sort_lines(lines, tmp_path, run_bytes=2_000)) == sorted(lines)
    assert not list(tmp_path.iterdir())


def scores(tmp_path, values, **options):
    """Run links over submissions with these scores; (kept scores, summary)."""
    listing = tmp_path / "scores.jsonl"
    listing.write_text(
        "".join(f'{{"url": "http://h{n}.com/x", "score": {value}}}\n' for n, value in enumerate(values))
    )
    workspace = Workspace(tmp_path / "out", parts=1)
    summary = links.run(workspace, [listing], links.LinkOptions(**options))
    return sorted(row["score"] for row in kept(workspace).values()), summary


def test_links_without_a_score_are_dropped_and_listed_among_those_with_one(tmp_path):
    values = ["5", "null", "NaN", "Infinity", '"1e999"', '"many"', "true", '"7"', "-Infinity"]
    found, summary = scores(tmp_path, values)
    assert found == [5, 7]
    assert summary.removed["no_score"] == 7
    assert any("without a score, so dropped: 7 links" in note for note in summary.notes)
    listed = [row for row in read_rows(tmp_path / "out/removed/links.jsonl") if row["reason"] == "no_score"]
    assert len(listed) == 7


def test_a_source_without_scores_is_refused_before_all_of_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(links, "UNSCORED", 5)
    with pytest.raises(AllometryError, match="at least the first 5 links") as error:
        scores(tmp_path, ["null"] * 50)
    assert "--no-score" in error.value.hint
    assert len(scores(tmp_path, ["null"] * 4 + ["9"] + ["null"] * 50)[0]) == 1


def test_an_odd_date_drops_no_link(tmp_path):
    listing = tmp_path / "l.jsonl"
    listing.write_text('{"url": "http://a.com/x", "score": 4, "created_utc": "yesterday"}\n')
    assert [(each.url, each.created) for each in read_links(listing)] == [("http://a.com/x", None)]


def test_a_domain_can_be_capped(tmp_path):
    listing = tmp_path / "l.jsonl"
    hosts = ["big.com"] * 20 + ["www.big.com"] * 10 + ["small.com"] * 2
    rows = [{"url": f"http://{host}/{n}", "score": 9} for n, host in enumerate(hosts)]
    listing.write_text("".join(json.dumps(row) + "\n" for row in rows))
    workspace = Workspace(tmp_path / "out", parts=3)
    summary = links.run(workspace, [listing], links.LinkOptions(max_per_domain=3))
    names = [url.split("/")[2].removeprefix("www.") for url in kept(workspace)]
    assert sorted(names) == ["big.com"] * 3 + ["small.com"] * 2
    assert summary.removed["domain_cap"] == 27
    assert sum(row["reason"] == "domain_cap" for row in read_rows(workspace.removed("links"))) == 27
    with pytest.raises(AllometryError, match="at least 1"):
        links.LinkOptions(max_per_domain=0)


@pytest.mark.parametrize(
    "name", ["RS_2012-01.bz2", "RS_2017-12.xz", "RS_2011-01", "links.jsonl.gz", "links.csv.bz2"]
)
def test_old_dumps_are_read(tmp_path, name):
    lines = "".join(json.dumps({"url": f"http://h{n}.com/x", "score": n}) + "\n" for n in range(50))
    if ".csv" in name:
        lines = "url,score\n" + "".join(f"http://h{n}.com/x,{n}\n" for n in range(50))
    packers = {".bz2": bz2.compress, ".xz": lzma.compress, ".gz": gzip.compress}
    pack = packers.get("." + name.rpartition(".")[2], bytes)
    half = lines.index("\n", len(lines) // 2) + 1
    path = tmp_path / name
    # two streams one after the other, as parallel packers write them
    path.write_bytes(b"".join(pack(piece.encode()) for piece in (lines[:half], lines[half:])))
    assert [each.score for each in read_links(path)] == list(range(50))
    if pack is not bytes:
        path.write_bytes(path.read_bytes()[:-12])
        with pytest.raises(AllometryError, match="truncated"):
            list(read_links(path))
        path.write_bytes(b"<html>not found</html>")
        with pytest.raises(AllometryError, match=r"is not (bzip2|xz|gzip)"):
            list(read_links(path))


@pytest.mark.parametrize("name", ["RS_2016-01.zip", "links.jsonl", "links.csv"])
def test_archives_of_files_are_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr("RS", '{"url": "http://a.com/x", "score": 4}')
    with pytest.raises(AllometryError, match="archive of files") as error:
        list(read_links(tmp_path / name))
    assert "unpack" in error.value.hint


def test_damaged_archives_are_skipped_and_counted(tmp_path):
    """A mutation anywhere in a WARC file leads to links, problems or an error that names the file."""
    page = {"status": "200 OK", "headers": [("Content-Type", "text/html")], "link": {}}
    body = b"<a href='http://y.com/1'>1</a>"
    whole = gzip.decompress(
        b"".join(encode_page(url=f"http://s{n}.com/", body=body, **page) for n in range(3))
    )
    path = tmp_path / "pages.warc"
    chooser = random.Random(0)
    for _ in range(300):
        mutated = bytearray(whole)
        for _ in range(chooser.randrange(1, 5)):
            at = chooser.randrange(len(mutated))
            mutated[at : at + chooser.randrange(3)] = chooser.randbytes(chooser.randrange(3))
        path.write_bytes(mutated)
        message = "pages.warc"
        try:
            assert all(isinstance(each, Found | Problem) for each in read_links(path))
        except AllometryError as error:
            message = error.message
        assert "pages.warc" in message
    path.write_bytes(whole + b"WARC/1.0\r\nWARC-Type: " + b"x" * (5 << 20))
    found = list(read_links(path))
    assert [each.url for each in found[:3]] == ["http://y.com/1"] * 3
    assert isinstance(found[3], Problem)
    assert "a line of more than" in found[3].value


MEASURE = """
import resource, sys
from pathlib import Path
from allometry.data.webtext import links
from allometry.data.webtext.workspace import Workspace
links.run(Workspace(Path(sys.argv[2]), parts=2), [Path(sys.argv[1])], links.LinkOptions())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_dump(tmp_path):
    """Four times the lines take the same memory, once the dump is larger than its own window."""
    peaks = []
    for size in (400_000, 1_600_000):
        dump = tmp_path / f"RS_{size}.zst"
        parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=24)
        with (
            dump.open("wb") as file,
            zstandard.ZstdCompressor(compression_params=parameters).stream_writer(file) as out,
        ):
            for number in range(size):
                out.write(
                    b'{"url": "http://h%d.com/%d", "score": 4, "title": "%064d"}\n'
                    % (number % 999, number, number)
                )
        command = [sys.executable, "-c", MEASURE, str(dump), str(tmp_path / f"out{size}")]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    assert peaks[1] < 1.3 * peaks[0] + 50_000, peaks
