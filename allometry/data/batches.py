"""The order of training batches: a pure function of (seed, step), so that a run can stop and resume anywhere."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from allometry.core.errors import AllometryError

Tokens = npt.NDArray[np.unsignedinteger]


class BatchOrder:
    """The order of training batches over `tokens` (1-D array of ids).

    The data are read as windows of n_ctx + 1 tokens (n_ctx inputs, the same shifted by one as targets) that
    do not overlap in their targets. Each epoch starts at a fresh random offset and visits the windows in a
    fresh random order, so that no token is a target twice within an epoch, borders move from epoch to epoch,
    and what an epoch leaves out at the ends (less than two windows) is another part in the next. A batch may
    span epochs. Nothing depends on which batches were asked for before.

    With `record`, the tokens are records of that many each, and a window is the beginning of one record.

    Raises AllometryError if `tokens` are shorter than one window, or records are.
    """

    def __init__(
        self, tokens: Tokens, *, n_ctx: int, batch_tokens: int, seed: int, record: int | None = None
    ) -> None:
        if batch_tokens < n_ctx or batch_tokens % n_ctx:
            raise AllometryError(
                f"batch_tokens {batch_tokens} is not a multiple of the context n_ctx {n_ctx}",
                hint=f"use {max(1, round(batch_tokens / n_ctx)) * n_ctx}",
            )
        _require_window(tokens, n_ctx, record)
        self.tokens = tokens
        self.n_ctx = n_ctx
        self.rows = batch_tokens // n_ctx
        self.seed = seed
        # As many windows in every epoch, whatever its offset; at least one.
        self.n_windows = max(1, (len(tokens) - n_ctx) // n_ctx) if record is None else len(tokens) // record
        self._stride = record or n_ctx
        self._offsets = 1 if record else len(tokens) - self.n_windows * n_ctx
        self._span = np.arange(n_ctx + 1)
        self._epoch_starts = lru_cache(maxsize=4)(self._starts)

    def batch(self, step: int) -> npt.NDArray[np.int64]:
        """Return the windows of one step (counted from 1): ids of shape (batch_tokens // n_ctx, n_ctx + 1)."""
        assert step >= 1, "steps count from 1"
        first = (step - 1) * self.rows
        starts = self._window_starts(first, first + self.rows)
        return self.tokens[starts[:, None] + self._span].astype(np.int64)

    def _window_starts(self, first: int, last: int) -> npt.NDArray[np.int64]:
        epochs = range(first // self.n_windows, (last - 1) // self.n_windows + 1)
        parts = []
        for epoch in epochs:
            base = epoch * self.n_windows
            parts.append(self._epoch_starts(epoch)[max(0, first - base) : last - base])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _starts(self, epoch: int) -> npt.NDArray[np.int64]:
        """Return the first token of every window of an epoch, in the order in which they are visited."""
        generator = np.random.default_rng([self.seed, epoch])
        offset = generator.integers(self._offsets)
        order: npt.NDArray[np.int64] = generator.permutation(self.n_windows) * self._stride + offset
        return order


def windows(tokens: Tokens, *, n_ctx: int, n_tokens: int, record: int | None = None) -> npt.NDArray[np.int64]:
    """Return fixed windows for evaluation, evenly spread over `tokens`, whose targets do not overlap.

    Shape (n, n_ctx + 1) with n = n_tokens // n_ctx, or as many as the tokens hold. With `record`, each is the
    beginning of a record of so many tokens. Raises AllometryError if not even one window fits.
    """
    _require_window(tokens, n_ctx, record)
    if n_tokens < n_ctx:
        raise AllometryError(
            f"{n_tokens} evaluation tokens are less than one window of {n_ctx}", hint=f"use at least {n_ctx}"
        )
    if record:
        records = len(tokens) // record
        count = min(n_tokens // n_ctx, records)
        return np.reshape(tokens[: records * record], (records, record))[
            np.arange(count) * records // count, : n_ctx + 1
        ].astype(np.int64)
    starts = window_starts(len(tokens), n_ctx=n_ctx, n_tokens=n_tokens)
    return tokens[starts[:, None] + np.arange(n_ctx + 1)].astype(np.int64)


def window_starts(length: int, *, n_ctx: int, n_tokens: int) -> npt.NDArray[np.int64]:
    """Return the starts of the windows of `windows` in so many tokens without records."""
    count = min(n_tokens // n_ctx, (length - 1) // n_ctx)
    starts: npt.NDArray[np.int64] = np.arange(count) * (length - 1 - n_ctx) // max(1, count - 1)
    return starts


def _require_window(tokens: Tokens, n_ctx: int, record: int | None = None) -> None:
    if record is not None and n_ctx + 1 > record:
        raise AllometryError(
            f"a window of {n_ctx} + 1 tokens is longer than a record, which has {record}",
            hint=f"set n_ctx = {record - 1} or less",
        )
    if len(tokens) < n_ctx + 1:
        raise AllometryError(
            f"the data hold {len(tokens)} tokens, fewer than one window of {n_ctx} + 1",
            hint="use more text, a smaller tokenizer, a larger limit, or a shorter context",
        )
