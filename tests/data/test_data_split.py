"""Cleaning, exact de-duplication, and the split by document."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allometry.core.errors import AllometryError
from allometry.data.split import Document, clean, cut, plan_split, split_documents


def texts(count: int, words: int = 40, seed: int = 0) -> list[str]:
    generator = random.Random(seed)
    return [" ".join(f"w{generator.randrange(10**6)}" for _ in range(words)) for _ in range(count)]


def divided(documents: list[Document]) -> dict[str, list[str]]:
    plan = plan_split(lambda: documents, name="made")
    sides: dict[str, list[str]] = {"train": [], "test": []}
    for split, text in split_documents(documents, plan):
        sides[split].append(text)
    return sides


def test_about_one_document_in_twenty_is_held_out() -> None:
    documents = [Document(text) for text in texts(2000)]
    sides = divided(documents)
    assert 60 <= len(sides["test"]) <= 140
    assert sorted(sides["train"] + sides["test"]) == sorted(document.text for document in documents)


def test_copies_are_dropped_and_cannot_be_on_both_sides() -> None:
    documents = [Document(text) for text in texts(500)]
    noisy = documents + [Document(f"  {document.text}\r\n") for document in documents]
    plan = plan_split(lambda: noisy, name="made")
    assert plan.duplicates == 500
    sides = divided(noisy)
    assert len(sides["train"]) + len(sides["test"]) == 500
    assert not set(sides["train"]) & set(sides["test"])


def test_a_document_keeps_its_side_when_the_corpus_grows() -> None:
    documents = [Document(text) for text in texts(3000)]
    small, large = divided(documents[:1500]), divided(documents)
    assert set(small["test"]) <= set(large["test"])
    assert set(small["train"]) <= set(large["train"])


@pytest.mark.parametrize("count", [1, 3])
def test_few_big_documents_are_cut_into_passages_and_the_rule_says_so(count: int) -> None:
    documents = [Document("\n\n".join(texts(300, seed=seed))) for seed in range(count)]
    sides = divided(documents)
    held, kept = (sum(len(text) for text in sides[side]) for side in ("test", "train"))
    assert 0.04 < held / (held + kept) < 0.1
    assert not set(sides["train"]) & set(sides["test"])
    rule = plan_split(lambda: documents, name="made").rule
    assert "passages" in rule
    assert "neighbours" in rule


def test_a_split_that_the_corpus_gives_is_honoured_and_cleaned_of_leaks() -> None:
    a, b, leaked = texts(3, words=400)
    documents = [
        Document(a, "train"),
        Document(leaked, "train"),
        Document(b, "test"),
        Document(leaked, "test"),
    ]
    sides = divided(documents)
    assert sides["train"] == [a]
    assert sorted(sides["test"]) == sorted([b, leaked])


def test_a_given_split_with_an_empty_side_is_refused() -> None:
    with pytest.raises(AllometryError, match="test split has no document"):
        divided([Document(text, "train") for text in texts(50)])


@pytest.mark.parametrize("documents", [[], [""], ["  \n"], ["too short"]])
def test_an_empty_or_tiny_corpus_is_refused_with_its_size(documents: list[str]) -> None:
    with pytest.raises(AllometryError, match=r"corpus 'made' holds \d+ B of text") as caught:
        divided([Document(text) for text in documents])
    assert "kB" in (caught.value.hint or "")


def test_the_byte_zero_is_taken_out_and_counted() -> None:
    documents = [Document(f"{text}\0") for text in texts(300)]
    assert plan_split(lambda: documents, name="made").nul_bytes == 300
    assert all("\0" not in text for text in divided(documents)["train"])


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.text(alphabet="ab .\n", max_size=400), st.integers(1, 60))
def test_cutting_loses_nothing_but_white_space(text: str, size: int) -> None:
    pieces = list(cut(clean(text), size))
    assert "".join("".join(piece.split()) for piece in pieces) == "".join(text.split())
    assert all(len(piece) <= 2 * size for piece in pieces)
