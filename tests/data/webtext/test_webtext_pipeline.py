"""The whole way, from a list of links to a data set that `datasets` loads."""

import json
import shutil
import subprocess
import sys

import pytest

pytest.importorskip("scrapy")
pytest.importorskip("rensa")

from webtext_server import Server

from allometry.core.errors import AllometryError
from allometry.data.webtext import build, contamination, dedup
from allometry.data.webtext.build import BuildOptions, plain, split_of
from allometry.data.webtext.jsonl import read_json, read_rows
from allometry.data.webtext.workspace import Workspace

LOCAL = ["--parts", "2", "--local-hosts", "--allow-private", "127.0.0.1", "--delay", "0s", "--per-host", "16"]
LOCAL += ["--workers", "1", "--no-autothrottle", "--backoff", "0.1s", "--test-share", "0.3"]
# The test server's articles are made of few words, which the rules on repetition rightly object to.
LOCAL += ["--without", "repetition", "--without", "language"]


def allometry(*arguments):
    return subprocess.run([sys.executable, "-m", "allometry", *arguments], capture_output=True, text=True)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """(folder of the corpus, the command's output, requests before and after the command was repeated)."""
    folder = tmp_path_factory.mktemp("pipeline")
    listing = folder / "links.jsonl"
    with Server() as server:
        paths = [f"/page/{n}" for n in range(30)] + [
            "/page/3?copy=1",
            "/page/4?copy=1",
            "/script",
            "/tiny/1",
            "/missing",
        ]
        lines = [
            json.dumps({"url": server.url(path), "score": 3 + n, "title": f"t{n}"})
            for n, path in enumerate(paths)
        ]
        listing.write_text("\n".join([*lines, "{broken"]))
        command = ["webtext", "run", str(listing), "--out", str(folder / "corpus"), *LOCAL]
        first = allometry(*command)
        assert first.returncode == 0, first.stderr
        before = sum(server.hits.values())
        second = allometry(*command, "--json")
        assert second.returncode == 0, second.stderr
        yield folder / "corpus", json.loads(second.stdout), (before, sum(server.hits.values()))


def test_counts_of_every_stage(corpus):
    _, rows, (before, after) = corpus
    counts = {(row["stage"], row["kind"], row["name"]): row["value"] for row in rows}
    assert before == after, "the second time nothing is fetched"
    assert counts["links", "count", "kept"] == 35
    assert counts["links", "removed", "malformed"] == 1
    assert counts["fetch", "removed", "status"] == 1
    assert counts["fetch", "count", "fetched"] == 34
    assert counts["filter", "count", "documents"] + counts.get(("extract", "removed", "no_text"), 0) == 34
    assert counts["dedup", "removed", "exact_duplicate"] == 2
    assert counts["build", "count", "documents"] == counts["dedup", "count", "kept"]


def test_it_loads_with_datasets_and_as_a_corpus(corpus):
    from datasets import load_dataset

    from allometry.data import corpora

    folder, _, _ = corpus
    loaded = load_dataset(str(folder), cache_dir=str(folder / ".cache"))
    assert set(loaded) == {"train", "test"}
    row = loaded["train"][0]
    assert " river " in row["text"]
    assert row["score"] >= 3
    assert row["language"] == "en"
    assert row["tokens"] >= 128
    urls = {split: set(loaded[split]["url"]) for split in loaded}
    assert not urls["train"] & urls["test"]
    documents = list(corpora.resolve(f"webtext:{folder}").documents())
    assert len(documents) == len(loaded["train"]) + len(loaded["test"])
    shutil.rmtree(folder / ".cache")


def test_what_was_dropped_is_listed_with_the_reason(corpus):
    folder, _, _ = corpus
    for stage, fields in (("links", {"where"}), ("fetch", {"url"}), ("filter", {"id"}), ("dedup", {"of"})):
        for row in read_rows(folder / "removed" / f"{stage}.jsonl"):
            assert {"reason", "value"} | fields <= set(row)


def test_the_card_tells_and_escapes(corpus):
    folder, _, _ = corpus
    card = (folder / "README.md").read_text()
    for wanted in (
        "belong to their authors",
        "From links to documents",
        "| fetch | pages fetched | 35 | 34 |",
        "en",
    ):
        assert wanted in card
    assert "<script>" not in card
    assert plain("<script>|a`b\nc") == "·script··a·b c"


def test_stages_name_the_stage_that_is_missing(tmp_path):
    done = allometry("webtext", "dedup", str(tmp_path))
    assert done.returncode == 1
    assert "holds no webtext corpus" in done.stderr
    workspace = Workspace(tmp_path / "out")
    with pytest.raises(AllometryError, match="links, has not run"):
        dedup.run(workspace, dedup.DedupOptions())
    with pytest.raises(AllometryError, match="links, has not run"):
        build.run(workspace, BuildOptions())


def test_bad_dump_ends_with_an_error(tmp_path):
    dump = tmp_path / "RS.zst"
    dump.write_bytes(b"<html>gone</html>")
    done = allometry("webtext", "links", str(dump), "--out", str(tmp_path / "out"))
    assert done.returncode == 1
    assert "is not zstd" in done.stderr
    assert "hint:" in done.stderr


def test_contamination_is_found_and_can_be_removed(corpus, tmp_path):
    folder, _, _ = corpus
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    workspace = Workspace(copy)
    victim = next(build.kept_documents(workspace))
    evaluation = tmp_path / "eval.jsonl"
    passage = " ".join(victim["text"].split()[20:60])
    evaluation.write_text(
        json.dumps({"text": f"Unlike all else, {passage}"}) + '\n{"text": "nothing shared"}\n'
    )
    options = contamination.ContaminationOptions(remove=True)
    summary = contamination.run(workspace, [evaluation], options, workers=1)
    assert summary.removed["contaminated"] == 1
    report = read_json(workspace.path("contamination") / "report.json")
    assert report["documents_with_overlap"] == 1
    assert 0.5 < report["documents"][0]["share"] <= 1
    before = workspace.summary("build").counts["documents"]
    assert build.run(workspace, BuildOptions(test_share=0.3)).counts["documents"] == before - 1
    assert victim["id"] not in {row["id"] for row in build.kept_documents(workspace)}
    with pytest.raises(AllometryError, match="no column 'question'"):
        contamination.run(workspace, [evaluation], contamination.ContaminationOptions(column="question"))


def test_the_split_is_a_function_of_the_document():
    ids = [f"{n:016x}" for n in range(4000)]
    share = sum(split_of(each, BuildOptions(test_share=0.1)) == "test" for each in ids) / len(ids)
    assert abs(share - 0.1) < 0.02
    assert [split_of(i, BuildOptions()) for i in ids] == [split_of(i, BuildOptions()) for i in ids]
    with pytest.raises(AllometryError, match="between 0 and 1"):
        BuildOptions(test_share=1.5)


@pytest.mark.slow
def test_a_study_trains_on_it(corpus, tmp_path):
    folder, _, _ = corpus
    done = allometry(
        "run",
        "quickstart",
        "--data",
        f"webtext:{folder}",
        "--budget",
        "1m",
        "--store",
        str(tmp_path / "runs"),
    )
    assert done.returncode == 0, done.stderr
