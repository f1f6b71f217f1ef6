"""Word n-grams as 64-bit hashes, for near-duplicates, repetition and contamination alike, and MinHash signatures.

Words are runs of letters and digits after case folding, so punctuation, spacing and case make no difference.
Hashes are the same in every process and on every machine. Two different n-grams of a corpus of 10^10 share a
hash with probability below 10^-9 each; what is computed from the hashes is called exact for that reason.

With b bands of r rows two documents of Jaccard similarity J become candidates with probability 1 - (1 -
J^r)^b. The default, 32 bands of 4 rows (128 permutations), finds J = .5 with .87, J = .6 with .99 and J = .7
with .9998.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from allometry.core.errors import AllometryError, missing_extra
from allometry.data.webtext.jsonl import Chunk, chunk_rows

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


@dataclass(frozen=True, kw_only=True)
class MinHash:
    """The settings of the comparison: words a shingle, permutations, rows a band, seed of the permutations."""

    words: int = 5
    permutations: int = 128
    rows: int = 4
    seed: int = 1

    def __post_init__(self) -> None:
        if self.permutations % self.rows or self.rows < 1:
            raise AllometryError(
                f"{self.permutations} permutations cannot be cut into bands of {self.rows} rows",
                hint="take a number of permutations that the rows divide, such as 128 and 4",
            )

    @property
    def bands(self) -> int:
        """Number of bands."""
        return self.permutations // self.rows

    def keys_of_texts(self, texts: Sequence[str]) -> tuple[Hashes, Hashes]:
        """Return for each text the hash of its sequence of words, [n], and the keys of its bands, [n, bands].

        Equal keys in a band make two texts candidates.
        """
        words, counts = words_of_all(texts)
        edges = np.concatenate([[0], np.cumsum(counts)])
        exact = [sequence_hash(words[low:high]) for low, high in pairwise(edges)]
        grams, sizes = ngrams_of_all(words, counts, self.words)
        keys = np.zeros((len(texts), self.bands), dtype=np.uint64)
        keys[sizes > 0] = self._keys(grams, sizes[sizes > 0])
        short = np.flatnonzero(sizes == 0)
        if len(short):
            sets = [shingles(words[edges[number] : edges[number + 1]], self.words) for number in short]
            sets = [each if len(each) else np.zeros(1, dtype=np.uint64) for each in sets]
            keys[short] = self._keys(np.concatenate(sets), np.array([len(each) for each in sets]))
        return np.array(exact, dtype=np.uint64), keys

    def _keys(self, grams: Hashes, sizes: Ints) -> Hashes:
        if not len(sizes):
            return np.empty((0, self.bands), dtype=np.uint64)
        signature = _signatures(grams, sizes, self.permutations, self.seed)
        keys = np.zeros((len(sizes), self.bands), dtype=np.uint64)
        for row in range(self.rows):
            keys = mixed(keys ^ signature[:, row :: self.rows].astype(np.uint64))
        return keys


def _signatures(grams: Hashes, sizes: Ints, permutations: int, seed: int) -> npt.NDArray[np.uint32]:
    """Compute MinHash of sets given one after another; an element that occurs twice changes no minimum."""
    try:
        from rensa import RMinHash
    except ImportError as error:
        raise missing_extra("rensa", "webtext", "MinHash signatures") from error
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(grams, offsets, permutations, seed)
    return np.array(matrix.to_rows(), dtype=np.uint32)


class Signed(NamedTuple):
    """Signed documents in order: hash of the normalised text, band keys, and the positions of their lines in the
    file.
    """

    exact: Hashes
    keys: Hashes
    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Signer:
    """A function from a piece of a part to its documents' signatures; sent to the workers."""

    minhash: MinHash

    def __call__(self, chunk: Chunk) -> Signed:
        """Compute the signatures of every document of the piece."""
        rows = list(chunk_rows(chunk))
        exact, keys = self.minhash.keys_of_texts([row["text"] for _, _, row in rows])
        offsets = np.array([offset for offset, _, _ in rows], dtype=np.int64)
        return Signed(exact, keys, offsets, np.array([length for _, length, _ in rows], dtype=np.int64))


def sequence_hash(words: Hashes) -> int:
    """Return a hash of the whole sequence of words: equal for texts that differ only in case, spacing and
    punctuation.
    """
    return int.from_bytes(hashlib.blake2b(words.tobytes(), digest_size=8).digest(), "little")
