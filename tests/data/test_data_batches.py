"""The order of batches: pure in (seed, step), complete, without repeats, resumable anywhere."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allometry.core.errors import AllometryError
from allometry.data.batches import BatchOrder, windows

sizes = st.tuples(st.integers(1, 40), st.integers(1, 6), st.integers(0, 5), st.integers(0, 3))


def order_over(n_ctx: int, rows: int, n_tokens: int, seed: int = 0) -> BatchOrder:
    """The tokens are their own positions, so that a batch shows where it came from."""
    tokens = np.arange(n_tokens, dtype=np.uint32)
    return BatchOrder(tokens, n_ctx=n_ctx, batch_tokens=rows * n_ctx, seed=seed)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(sizes, st.integers(0, 200))
def test_a_batch_holds_consecutive_tokens_of_the_right_shape(size: tuple[int, ...], extra: int) -> None:
    n_ctx, rows, seed, _ = size
    order = order_over(n_ctx, rows, n_ctx + 1 + extra, seed)
    for step in (1, 2, 17):
        batch = order.batch(step)
        assert batch.shape == (rows, n_ctx + 1)
        assert batch.dtype == np.int64
        assert (np.diff(batch, axis=1) == 1).all()


@settings(max_examples=60, derandomize=True, deadline=None)
@given(sizes, st.integers(0, 300))
def test_an_epoch_covers_the_data_and_repeats_no_target(size: tuple[int, ...], extra: int) -> None:
    n_ctx, _, seed, epoch = size
    n_tokens = n_ctx + 1 + extra
    order = order_over(n_ctx, 1, n_tokens, seed)
    first = epoch * order.n_windows + 1
    targets = np.concatenate([order.batch(first + i)[0, 1:] for i in range(order.n_windows)])
    assert len(np.unique(targets)) == len(targets)
    # Less than two windows are left out at the ends.
    assert len(targets) > n_tokens - 1 - 2 * n_ctx
    assert targets.max() < n_tokens


@settings(max_examples=40, derandomize=True, deadline=None)
@given(sizes, st.integers(0, 100), st.lists(st.integers(1, 50), max_size=6))
def test_a_batch_depends_on_seed_and_step_alone(size: tuple[int, ...], extra: int, before: list[int]) -> None:
    n_ctx, rows, seed, _ = size
    fresh = order_over(n_ctx, rows, n_ctx + 1 + extra, seed)
    used = order_over(n_ctx, rows, n_ctx + 1 + extra, seed)
    for step in before:
        used.batch(step)
    for step in (1, 3, 40):
        np.testing.assert_array_equal(fresh.batch(step), used.batch(step))


def test_rows_of_a_batch_do_not_overlap_within_an_epoch() -> None:
    order = order_over(16, 8, 16 * 200)
    targets = np.concatenate(
        [order.batch(step)[:, 1:].ravel() for step in range(1, order.n_windows // 8 + 1)]
    )
    assert len(np.unique(targets)) == len(targets)


def test_epochs_and_seeds_differ_and_borders_move() -> None:
    order, other = order_over(16, 1, 1600), order_over(16, 1, 1600, seed=1)
    first = [int(order.batch(step)[0, 0]) for step in range(1, order.n_windows + 1)]
    second = [int(order.batch(step)[0, 0]) for step in range(order.n_windows + 1, 2 * order.n_windows + 1)]
    assert first != second
    assert {start % 16 for start in first} != {start % 16 for start in second}
    assert first != [int(other.batch(step)[0, 0]) for step in range(1, order.n_windows + 1)]
    assert sorted(first) != first


def test_over_the_epochs_every_token_is_a_target() -> None:
    order = order_over(32, 1, 100)
    seen = {int(token) for step in range(1, 200) for token in order.batch(step)[0, 1:]}
    assert seen == set(range(1, 100))


def test_data_of_exactly_one_window_are_seen_at_every_step() -> None:
    order = order_over(8, 4, 9)
    np.testing.assert_array_equal(order.batch(5), np.tile(np.arange(9), (4, 1)))


def test_data_shorter_than_a_window_are_refused() -> None:
    with pytest.raises(AllometryError, match="8 tokens, fewer than one window of 8") as caught:
        order_over(8, 1, 8)
    assert caught.value.hint


def test_a_batch_that_is_no_whole_number_of_windows_is_refused() -> None:
    with pytest.raises(AllometryError, match="not a multiple"):
        BatchOrder(np.arange(100), n_ctx=16, batch_tokens=40, seed=0)


def test_an_epoch_is_shuffled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shuffling takes milliseconds, so that one for each batch would cost more than small models' steps."""
    shuffled: list[int] = []
    starts = BatchOrder._starts
    monkeypatch.setattr(
        BatchOrder, "_starts", lambda order, epoch: shuffled.append(epoch) or starts(order, epoch)
    )
    order = order_over(128, 8, 10_000)
    steps = 3 * order.n_windows // order.rows
    for step in range(1, steps + 1):
        order.batch(step)
    assert shuffled in ([0, 1, 2], [0, 1, 2, 3])


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.integers(1, 40), st.integers(0, 500), st.integers(1, 30))
def test_windows_are_spread_and_do_not_overlap_in_their_targets(n_ctx: int, extra: int, count: int) -> None:
    tokens = np.arange(n_ctx + 1 + extra)
    rows = windows(tokens, n_ctx=n_ctx, n_tokens=count * n_ctx)
    assert rows.shape == (min(count, (len(tokens) - 1) // n_ctx), n_ctx + 1)
    assert len(np.unique(rows[:, 1:])) == rows[:, 1:].size
    assert rows[0, 0] == 0
    if len(rows) > 1:
        assert rows[-1, -1] == tokens[-1]


def test_too_few_tokens_for_an_evaluation_window_are_refused() -> None:
    with pytest.raises(AllometryError, match="fewer than one window"):
        windows(np.arange(10), n_ctx=16, n_tokens=64)
    with pytest.raises(AllometryError, match="less than one window"):
        windows(np.arange(100), n_ctx=16, n_tokens=8)
