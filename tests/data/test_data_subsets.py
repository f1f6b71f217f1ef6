"""Subsets of the training tokens: nested, of the asked length, and spread where asked."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from allometry.data.batches import first

TOKENS = np.arange(10_007, dtype=np.uint16)


@pytest.mark.parametrize("block", [0, 1, 64, 1000])
def test_small_sets_are_contained_in_large_ones(block: int) -> None:
    sets = [first(TOKENS, limit, block) for limit in (100, 1500, 9999, 10_007)]
    assert [len(each) for each in sets] == [100, 1500, 9999, 10_007]
    for small, large in itertools.pairwise(sets):
        assert set(small.tolist()) <= set(large.tolist())
        assert np.array_equal(small, large[: len(small)])


def test_blocks_are_spread_over_all_of_the_text() -> None:
    near = first(TOKENS, 640, 0)
    far = first(TOKENS, 640, 64)
    assert near.max() < 640
    assert far.max() > 5000
    assert np.array_equal(np.diff(far.astype(int))[:63], np.ones(63))  # text stays text within a block


def test_no_limit_keeps_the_order_of_the_text() -> None:
    assert first(TOKENS, None, 64) is TOKENS


@pytest.mark.parametrize("block", [0, 64, 1000])
@pytest.mark.parametrize("skip", [100, 2000, 10_005])
def test_what_is_skipped_is_what_a_limit_keeps(block: int, skip: int) -> None:
    kept, rest = first(TOKENS, skip, block), first(TOKENS, None, block, skip)
    assert sorted([*kept.tolist(), *rest.tolist()]) == TOKENS.tolist()
    assert np.array_equal(first(TOKENS, 2, block, skip), rest[:2])
