"""MinHash signatures of documents, cut into bands (Broder 1997; banding as in Leskovec et al., Mining of
Massive Datasets).

With b bands of r rows two documents of Jaccard similarity J become candidates with probability 1 - (1 -
J^r)^b. The default, 32 bands of 4 rows (128 permutations), finds J = .5 with .87, J = .6 with .99 and J = .7
with .9998.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from allometry.data.webtext.chunks import Chunk, chunk_rows
from allometry.data.webtext.shingles import Hashes, WordHasher, mixed, shingles
from allometry.errors import AllometryError, missing_extra


@dataclass(frozen=True, kw_only=True)
class MinHash:
    """How documents are compared: words a shingle, permutations, rows a band, seed of the permutations."""

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

    def keys(self, sets: list[Hashes]) -> Hashes:
        """The band keys of sets of shingles: [n_sets, bands]. Equal keys in a band make two sets
        candidates."""
        if not sets:
            return np.empty((0, self.bands), dtype=np.uint64)
        signature = _signatures(sets, self.permutations, self.seed)
        keys = np.zeros((len(sets), self.bands), dtype=np.uint64)
        for row in range(self.rows):
            keys = mixed(keys ^ signature[:, row :: self.rows].astype(np.uint64))
        return keys


def _signatures(sets: list[Hashes], permutations: int, seed: int) -> npt.NDArray[np.uint32]:
    try:
        from rensa import RMinHash
    except ImportError as error:
        raise missing_extra("rensa", "webtext", "MinHash signatures") from error
    offsets = np.concatenate([[0], np.cumsum([len(each) for each in sets])]).astype(np.uint64)
    flat = np.concatenate(sets)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(flat, offsets, permutations, seed)
    return np.array(matrix.to_rows(), dtype=np.uint32)


class Signed(NamedTuple):
    """Documents in order: hash of the normalised text, band keys, and where their lines lie in the file."""

    exact: Hashes
    keys: Hashes
    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Signer:
    """From a piece of a part to its documents' signatures; sent to the workers."""

    minhash: MinHash

    def __call__(self, chunk: Chunk) -> Signed:
        """Sign every document of the piece."""
        exact, sets, offsets, lengths = [], [], [], []
        for offset, length, row in chunk_rows(chunk):
            words = _hasher().words(row["text"])
            exact.append(sequence_hash(words))
            sets.append(shingles(words, self.minhash.words))
            offsets.append(offset)
            lengths.append(length)
        return Signed(
            np.array(exact, dtype=np.uint64),
            self.minhash.keys(sets),
            np.array(offsets, dtype=np.int64),
            np.array(lengths, dtype=np.int64),
        )


def sequence_hash(words: Hashes) -> int:
    """A hash of the whole sequence of words: equal for texts that differ only in case, spacing and
    punctuation."""
    import hashlib

    return int.from_bytes(hashlib.blake2b(words.tobytes(), digest_size=8).digest(), "little")


@lru_cache(maxsize=1)
def _hasher() -> WordHasher:
    return WordHasher()
