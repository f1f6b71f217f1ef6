"""Which training tokens make a batch: its order is a pure function of (seed, step), so that a run can stop and resume
anywhere; smaller sets inside larger ones, and n-grams that occur in both.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from allometry.core.errors import AllometryError
from allometry.core.units import counted

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


FEWEST = 16
"""Minimum number of documents for random halves: with fewer, chance dominates."""

_ORDER = 20_01_08361
"""Seed of the order of blocks: one order for every set, or sets would not be contained in each other."""


def first(tokens: Tokens, limit: int | None, block: int = 0, skip: int = 0) -> Tokens:
    """Return the first `limit` of `tokens` (1-D array of ids), all of them for None, without the first `skip`.

    With `block`, the tokens are first cut into blocks of that many, whose order is drawn once and for all: a
    corpus that is sorted by age or topic gives small sets of the same mixture as large ones. Sets of one
    `block` are nested; a limit and a skip of as many tokens have none in common. What is left over at the end
    of the tokens comes last.
    """
    if limit is None and not skip:
        return tokens
    stop = len(tokens) if limit is None else skip + limit
    if not block:
        return tokens[skip:stop]
    count = len(tokens) // block
    order = np.random.default_rng(_ORDER).permutation(count)[skip // block : -(-stop // block)]
    parts = [tokens[start * block : (start + 1) * block] for start in order]
    begin = skip % block
    return np.concatenate([*parts, tokens[count * block :]])[begin : begin + stop - skip]


def documents(tokens: Tokens, separator: int, block: int = 0) -> list[Tokens]:
    """Return the documents of `tokens`, each with the separator that ends it; with `block`, blocks of that many
    tokens instead, the last of them whole.
    """
    if block:
        return [tokens[at : at + block] for at in range(0, len(tokens) - block + 1, block)]
    ends = np.flatnonzero(np.asarray(tokens) == separator) + 1
    if not len(ends) or ends[-1] < len(tokens):  # a limit may end within a document
        ends = np.append(ends, len(tokens))
    starts = np.concatenate([[0], ends[:-1]])
    return [tokens[a:b] for a, b in zip(starts, ends, strict=True)]


def chosen(count: int, seed: int) -> npt.NDArray[np.bool_]:
    """Return which of `count` documents are in the random half of that seed (count // 2 of them), (count,).

    AllometryError for fewer than FEWEST documents.
    """
    if count < FEWEST:
        raise AllometryError(
            f"{counted(count, 'document')}: too few for random halves",
            hint=f"use a corpus or limit with at least {FEWEST}, or blocks of text (data.spread)",
        )
    inside = np.zeros(count, dtype=bool)
    inside[np.random.default_rng([_ORDER, seed]).permutation(count)[: count // 2]] = True
    return inside


TextTokens = npt.NDArray[np.integer]

_AFTER, _PAST = -1, -2
"""Padding after the end of the reference, and of a text: no token ids, and different ones."""


def longest_matches(reference: TextTokens, texts: TextTokens, most: int) -> npt.NDArray[np.int64]:
    """Return how many of the tokens that begin at each place of `texts` (k, T) occur in a row in `reference`
    (1-D), (k, T): at most `most`, and never beyond the end of a text.

    An n-gram of a text occurs in the reference if this is n or more where it begins. AllometryError for an
    empty reference.
    """
    from pydivsufsort import divsufsort

    if not len(reference):
        raise AllometryError("a text is compared with an empty one", hint="give the text that was trained on")
    reference = np.array(reference)  # the library takes no read-only arrays
    order = divsufsort(reference)
    padded = np.pad(np.asarray(texts, dtype=np.int64), ((0, 0), (0, most)), constant_values=_PAST)
    asked = np.lib.stride_tricks.sliding_window_view(padded, most, axis=1)[:, :-1].reshape(-1, most)
    low, high = np.zeros(len(asked), np.int64), np.full(len(asked), len(reference))
    longest = np.zeros(len(asked), np.int64)
    while (open_ := low < high).any():
        middle = np.minimum((low + high) // 2, len(reference) - 1)
        shared, smaller = _compared(_suffixes(reference, order[middle], most), asked)
        longest = np.where(open_, np.maximum(longest, shared), longest)
        low, high = np.where(open_ & smaller, middle + 1, low), np.where(open_ & ~smaller, middle, high)
    return longest.reshape(np.shape(texts))


def _suffixes(reference: TextTokens, starts: npt.NDArray[np.integer], most: int) -> npt.NDArray[np.int64]:
    """Return the `most` tokens of the reference from each start on, (k, most)."""
    places = starts[:, None].astype(np.int64) + np.arange(most)
    found = reference[np.minimum(places, len(reference) - 1)].astype(np.int64)
    return np.where(places < len(reference), found, _AFTER)


def _compared(
    suffixes: npt.NDArray[np.int64], asked: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return how many tokens each suffix has in common with what is asked for, and whether it sorts before it."""
    different = suffixes != asked
    first = different.argmax(axis=1)
    rows = np.arange(len(asked))
    same = ~different[rows, first]
    return np.where(same, asked.shape[1], first), ~same & (suffixes[rows, first] < asked[rows, first])


def duplicated(reference: TextTokens, texts: TextTokens, most: int) -> npt.NDArray[np.int64]:
    """Count for each text (k, T) how many of its T - n + 1 n-grams occur in `reference`, n = 1 ... most, (k, most).

    With the pointwise duplication score of a token, the length of the smallest n-gram that ends there and is
    not in the reference, these are the tokens whose score is above n (McCoy et al. 2021, arXiv 2111.09509).
    """
    found = longest_matches(reference, texts, most)
    return (found[:, :, None] > np.arange(most)).sum(axis=1)
