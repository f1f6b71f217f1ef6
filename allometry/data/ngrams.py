"""Which n-grams of a text occur in another one, by the suffix array of the other, for any n."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from allometry.core.errors import AllometryError

Tokens = npt.NDArray[np.integer]

_AFTER, _PAST = -1, -2
"""Padding after the end of the reference, and of a text: no token ids, and different ones."""


def longest_matches(reference: Tokens, texts: Tokens, most: int) -> npt.NDArray[np.int64]:
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


def _suffixes(reference: Tokens, starts: npt.NDArray[np.integer], most: int) -> npt.NDArray[np.int64]:
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


def duplicated(reference: Tokens, texts: Tokens, most: int) -> npt.NDArray[np.int64]:
    """Count for each text (k, T) how many of its T - n + 1 n-grams occur in `reference`, n = 1 ... most, (k, most).

    With the pointwise duplication score of a token, the length of the smallest n-gram that ends there and is
    not in the reference, these are the tokens whose score is above n (McCoy et al. 2021, arXiv 2111.09509).
    """
    found = longest_matches(reference, texts, most)
    return (found[:, :, None] > np.arange(most)).sum(axis=1)
