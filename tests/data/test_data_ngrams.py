"""n-grams of one text that occur in another, against looking them all up."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allometry.core.errors import AllometryError
from allometry.data.batches import duplicated, longest_matches

KINDS = st.sampled_from([(2, np.uint8), (3, np.uint16), (900, np.uint16), (70_000, np.uint32)])


def occurring(reference: list[int], text: list[int], n: int) -> int:
    """n-grams of a text that the reference holds, counted one by one."""
    known = {tuple(reference[i : i + n]) for i in range(len(reference) - n + 1)}
    return sum(tuple(text[i : i + n]) in known for i in range(len(text) - n + 1))


@given(KINDS, st.integers(1, 60), st.integers(1, 12), st.integers(0, 2**32 - 1))
@settings(max_examples=80, derandomize=True, deadline=None)
def test_duplicated_n_grams_are_those_that_are_found_one_by_one(
    kind: tuple[int, type], length: int, width: int, seed: int
) -> None:
    vocabulary, dtype = kind
    random = np.random.default_rng(seed)
    reference = random.integers(vocabulary, size=length).astype(dtype)
    texts = random.integers(vocabulary, size=(3, width))
    copied = reference[: min(width, length) // 2]
    texts[0, : len(copied)] = copied
    found = duplicated(reference, texts, most=9)
    expected = [[occurring(reference.tolist(), text, n) for n in range(1, 10)] for text in texts.tolist()]
    assert found.tolist() == expected


def test_matches_end_with_the_text_and_with_the_reference() -> None:
    reference = np.frombuffer(b"abcabd", dtype=np.uint8)
    texts = np.frombuffer(b"abdaxcab", dtype=np.uint8)[None]
    assert longest_matches(reference, texts, 5).tolist() == [[3, 2, 1, 1, 0, 3, 2, 1]]
    assert longest_matches(reference, texts, 2).max() == 2
    whole = longest_matches(reference, np.frombuffer(b"abcabdz", dtype=np.uint8)[None], 64)
    assert whole[0].tolist() == [6, 5, 4, 3, 2, 1, 0]


def test_a_reference_shorter_than_n_holds_no_n_gram_and_an_empty_one_is_refused() -> None:
    assert duplicated(np.array([7, 7], np.uint16), np.array([[7, 7, 7]]), 4).tolist() == [[3, 2, 0, 0]]
    with pytest.raises(AllometryError, match="empty"):
        duplicated(np.array([], np.uint16), np.array([[7]]), 1)
