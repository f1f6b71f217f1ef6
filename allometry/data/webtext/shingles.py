"""Word n-grams as 64-bit hashes, for near-duplicates, repetition and contamination alike.

Words are runs of letters and digits after case folding, so punctuation, spacing and case make no difference.
Hashes are the same in every process and on every machine. Two different n-grams of a corpus of 10^10 share a
hash with probability below 10^-9 each; what is computed from the hashes is called exact for that reason.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_SPACE = 0x20
_NOT_IN_WORDS = re.compile(r"[^\w\x00-\x7f]+")
_ASCII = bytes(
    byte if byte >= 128 or chr(byte).isalnum() or byte == ord("_") else _SPACE for byte in range(256)
)
_POSITIONS = 64


def word_hashes(text: str) -> Hashes:
    """Return the hash of each word, in order: [n_words]."""
    return words_of_all([text])[0]


def words_of_all(texts: Sequence[str]) -> tuple[Hashes, Ints]:
    """Return the hashes of the words of several texts, one after another, and the number of words of each text.

    Tabulation hashing (Zobrist 1970): the sum of a random number for each byte at its position, over all
    words at once. Several times as fast as cutting texts into Python strings and hashing those.
    """
    spelled = [_spelled(text) for text in texts]
    letters = np.frombuffer(b"".join(spelled), dtype=np.uint8)
    starts = _word_starts(letters)
    if not len(starts):
        return np.empty(0, dtype=np.uint64), np.zeros(len(texts), dtype=np.int64)
    position = np.arange(len(letters), dtype=np.int32)
    longest = np.diff(starts, append=len(letters))
    position[starts[0] :] -= np.repeat(starts.astype(np.int32), longest)
    index = position & (_POSITIONS - 1)
    index <<= 8
    index |= letters
    values = _table().take(index)
    if (
        longest.max() > _POSITIONS
    ):  # the positions of very long words repeat, each time with another odd factor
        values *= (2 * (position // _POSITIONS) + 1).astype(np.uint64)
    hashes = mixed(np.add.reduceat(values, starts))
    ends = np.cumsum([len(each) for each in spelled])
    return hashes, np.diff(np.searchsorted(starts, ends), prepend=0)


def word_lengths(text: str) -> Ints:
    """Return the number of characters of each word: [n_words]."""
    letters = np.frombuffer(_spelled(text), dtype=np.uint8)
    starts = _word_starts(letters)
    # A character is a byte that does not continue another (UTF-8).
    first_bytes = (letters != _SPACE) & ((letters & 0xC0) != 0x80)
    return (
        np.add.reduceat(first_bytes.astype(np.int64), starts) if len(starts) else np.empty(0, dtype=np.int64)
    )


def _spelled(text: str) -> bytes:
    """Return the words in lower case, everything else as spaces; ends with a space."""
    folded = text.casefold()
    if not folded.isascii():
        folded = _NOT_IN_WORDS.sub(" ", folded)
    return folded.encode("utf-8", "replace").translate(_ASCII) + b" "


def _word_starts(letters: npt.NDArray[np.uint8]) -> Ints:
    inside = letters != _SPACE
    inside[1:] &= ~inside[:-1].copy()
    return np.flatnonzero(inside)


@lru_cache(maxsize=1)
def _table() -> Hashes:
    """Return a random number for each position and byte (0 for a space), the same everywhere: splitmix64 of
    their count.
    """
    numbers = mixed(np.arange(1, _POSITIONS * 256 + 1, dtype=np.uint64) * _MULTIPLIER)
    numbers[_SPACE::256] = 0
    return numbers


def ngrams(words: Hashes, n: int) -> Hashes:
    """Return the hash of each run of n words: [max(0, n_words - n + 1)]."""
    count = len(words) - n + 1
    if count <= 0:
        return np.empty(0, dtype=np.uint64)
    rolled = words[:count].copy()
    for offset in range(1, n):
        rolled *= _MULTIPLIER
        rolled += words[offset : offset + count]
    return mixed(rolled)


def shingles(words: Hashes, n: int = 5) -> Hashes:
    """Return the set of n-grams, sorted. A text shorter than n words is one shingle, so that short texts can be
    compared.
    """
    grams = np.sort(ngrams(words, min(n, len(words)) if len(words) else n))
    return grams if len(grams) < 2 else grams[np.concatenate([[True], grams[1:] != grams[:-1]])]


def jaccard(a: Hashes, b: Hashes) -> float:
    """Return |A and B| / |A or B| of two sorted sets; 1 for two empty ones."""
    if not len(a) and not len(b):
        return 1.0
    shared = np.intersect1d(a, b, assume_unique=True).size
    return shared / (len(a) + len(b) - shared)


def ngrams_of_all(words: Hashes, counts: Ints, n: int) -> tuple[Hashes, Ints]:
    """Return the n-grams of several texts, one after another, and the number of each; none spans two texts."""
    number = np.maximum(counts - n + 1, 0)
    first = np.repeat(np.cumsum(counts) - counts, number)
    within = np.arange(len(first)) - np.repeat(np.cumsum(number) - number, number)
    return ngrams(words, n)[first + within], number


def mixed(values: Hashes) -> Hashes:
    """Apply splitmix64's finaliser (Steele et al. 2014), which mixes every bit into all others."""
    values = values ^ (values >> np.uint64(30))
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values
