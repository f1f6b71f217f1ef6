"""The hub: unreachable at once, and what comes from it kept within limits. No network is used."""

import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from datasets import IterableDataset

from allometry.core.errors import AllometryError
from allometry.data import hub
from allometry.data.corpora import resolve
from allometry.data.files import read_files
from allometry.data.hub import store, take
from allometry.data.tokens import prepare


def rows() -> Iterator[dict[str, str]]:
    for number in range(25_000):
        yield {"text": f"document {number}", "url": "https://example.org"}


@pytest.mark.parametrize(
    ("variable", "value"),
    [("HF_HUB_OFFLINE", "1"), ("HF_ENDPOINT", "http://127.0.0.1:9"), ("HF_ENDPOINT", "x")],
)
def test_a_hub_that_cannot_be_reached_answers_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv(variable, value)
    tries: list[str] = []
    opened = urllib.request.urlopen

    def urlopen(request: urllib.request.Request, **options: float) -> object:
        tries.append(request.full_url)
        return opened(request, **options)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: pytest.fail("it tries again for 23 s"))
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("nothing is worth waiting for"))
    with pytest.raises(AllometryError, match="hub cannot be reached") as caught:
        prepare("hf:roneneldan/TinyStories", "bytes", cache=tmp_path)
    assert tries == [value] * (value == "http://127.0.0.1:9")
    assert "files:PATH" in (caught.value.hint or "")


def test_rows_are_taken_up_to_the_limits() -> None:
    stream = IterableDataset.from_generator(rows)
    assert len(list(take(stream, column="text", limits={"docs": 3}, name="hf:a/b"))) == 3
    assert len(list(take(stream, column="text", limits={"bytes": 20}, name="hf:a/b"))) == 2
    assert len(list(take(stream, column="text", limits={}, name="hf:a/b"))) == 25_000


def test_a_missing_column_is_answered_with_those_there_are() -> None:
    with pytest.raises(AllometryError, match="no text in a column 'body'; its columns: text, url"):
        list(take(rows(), column="body", limits={}, name="hf:a/b"))


def test_what_was_taken_is_kept_in_order(tmp_path: Path) -> None:
    texts = [row["text"] for row in rows()]
    assert store(iter(texts), tmp_path) == len(texts)
    assert [document.text for document in read_files(sorted(tmp_path.glob("*.parquet")))] == texts


def test_a_name_is_taken_apart_and_a_limit_is_set() -> None:
    spec = resolve("hf:HuggingFaceFW/fineweb/sample-10BT")
    assert spec.source.endswith("/datasets/HuggingFaceFW/fineweb")
    fingerprint = spec.fingerprint()
    assert (fingerprint["config"], fingerprint["limits"]) == ("sample-10BT", {"bytes": 100_000_000})
    limited = resolve("hf:roneneldan/TinyStories,docs=1k,split=validation").fingerprint()
    assert (limited["config"], limited["split"], limited["limits"]) == (None, "validation", {"docs": 1000})


def test_the_commit_that_was_served_is_recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A branch moves: the rows are asked for by the commit that it stood for, and the manifest says which."""
    asked = []

    def load_dataset(name: str, config: str | None, **options: object) -> Iterator[dict[str, str]]:
        asked.append((name, config, options["revision"]))
        return iter([{"text": f"document {number} " + "of some words " * 20} for number in range(200)])

    monkeypatch.setattr(hub, "require_hub", lambda: None)
    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    commits = {None: "a" * 40, "v2": "b" * 40, "refs/convert/parquet": None}
    monkeypatch.setattr(
        "huggingface_hub.HfApi.dataset_info",
        lambda self, name, revision=None, **_: SimpleNamespace(sha=commits[revision]),
    )
    first = prepare("hf:some/stories", "bytes", cache=tmp_path).manifest
    tagged = prepare("hf:some/stories,revision=v2", "bytes", cache=tmp_path).manifest
    assert asked == [("some/stories", None, "a" * 40), ("some/stories", None, "b" * 40)]
    assert first.source == f"https://huggingface.co/datasets/some/stories/tree/{'a' * 40}"
    assert tagged.source == f"https://huggingface.co/datasets/some/stories/tree/{'b' * 40}"
    monkeypatch.setitem(commits, None, None)
    silent = prepare("hf:other/stories", "bytes", cache=tmp_path).manifest
    assert (asked[-1][2], silent.source) == (None, "https://huggingface.co/datasets/other/stories")
