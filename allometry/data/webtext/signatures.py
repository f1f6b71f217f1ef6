"""MinHash signatures of documents, cut into bands (Broder 1997; banding as in Leskovec et al., Mining of
Massive Datasets).

With b bands of r rows two documents of Jaccard similarity J become candidates with probability 1 - (1 -
J^r)^b. The default, 32 bands of 4 rows (128 permutations), finds J = .5 with .87, J = .6 with .99 and J = .7
with .9998.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from allometry.core.errors import AllometryError, missing_extra
from allometry.data.webtext.chunks import Chunk, chunk_rows
from allometry.data.webtext.shingles import Hashes, Ints, mixed, ngrams_of_all, shingles, words_of_all


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
