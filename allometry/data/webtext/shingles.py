"""Word n-grams as 64-bit hashes, for near-duplicates, repetition and contamination alike.

Words are runs of letters and digits after case folding, so punctuation, spacing and case make no difference.
Hashes are the same in every process and on every machine. Two different n-grams of a corpus of 10^10 share a
hash with probability below 10^-9 each; what is computed from the hashes is called exact for that reason.
"""

from __future__ import annotations

import hashlib
import re

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

_WORD = re.compile(r"\w+")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_MEMO_WORDS = 500_000


class _Memo(dict[str, int]):
    """word -> hash, computed at the first use; emptied when it grows beyond _MEMO_WORDS."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _MEMO_WORDS:
            self.clear()
        value = int.from_bytes(
            hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest(), "little"
        )
        self[word] = value
        return value


class WordHasher:
    """Turns texts into the hashes of their words. Keeps a memory of words, so use one for many texts."""

    def __init__(self) -> None:
        self._memo = _Memo()

    def words(self, text: str) -> Hashes:
        """The hash of each word, in order: [n_words]."""
        found = _WORD.findall(text.casefold())
        return np.fromiter(map(self._memo.__getitem__, found), dtype=np.uint64, count=len(found))


def ngrams(words: Hashes, n: int) -> Hashes:
    """The hash of each run of n words: [max(0, n_words - n + 1)]."""
    count = len(words) - n + 1
    if count <= 0:
        return np.empty(0, dtype=np.uint64)
    rolled = np.zeros(count, dtype=np.uint64)
    for offset in range(n):
        rolled *= _MULTIPLIER
        rolled += words[offset : offset + count]
    return mixed(rolled)


def shingles(words: Hashes, n: int = 5) -> Hashes:
    """The set of n-grams, sorted. A text shorter than n words is one shingle, so that short texts can be
    compared."""
    return np.unique(ngrams(words, min(n, len(words)) if len(words) else n))


def jaccard(a: Hashes, b: Hashes) -> float:
    """|A and B| / |A or B| of two sorted sets; 1 for two empty ones."""
    if not len(a) and not len(b):
        return 1.0
    shared = np.intersect1d(a, b, assume_unique=True).size
    return shared / (len(a) + len(b) - shared)


def mixed(values: Hashes) -> Hashes:
    """splitmix64's finaliser (Steele et al. 2014): spreads every bit over all."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
