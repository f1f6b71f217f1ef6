"""Candidates among many documents that share a bucket, such as the pages of a forum, by prefix filtering.

Pages made from one template lie in the same buckets, and comparing all of them takes a time that grows with
the square of their number. Prefix filtering (Chaudhuri et al. 2006; Bayardo et al. 2007; PPJoin, Xiao et
al. 2008) leaves out only pairs that cannot be similar. With the shingles of both in one order, rare ones
first, two sets of a and b shingles have a Jaccard similarity of t or more only if they share
o = t (a + b) / (1 + t), so one of
those that they share lies among the first a - o + 1 of the one and the first b - o + 1 of the other. What a
template brings is frequent, hence late in the order, and found in no such beginning.

Sizes are grouped into classes, because o depends on both. The outcome is exactly that of comparing all pairs.
Memory: the counters of shingles, 256 MB at most, and some 5 kB for each document that is kept.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from allometry.data.webtext.shingles import Hashes, Ints, mixed

MAX_SLOTS = 1 << 27
"""Counters of shingles, of 2 bytes. Shingles that share one count as more frequent: that costs time and
memory, never a pair."""

CLASS_WIDTH = 1.02
"""Ratio of the largest to the smallest size of a class."""


class Frequencies:
    """How often each shingle occurs among some documents, in counters whose number is bounded."""

    def __init__(self, n_documents: int) -> None:
        slots = 1 << max(
            16, (2_000 * n_documents).bit_length()
        )  # four for each shingle of a page of 500 words
        self._mask = np.uint64(min(slots, MAX_SLOTS) - 1)
        self._counts = np.zeros(int(self._mask) + 1, dtype=np.uint16)
        self.smallest = 0
        """Size of the smallest document that was counted and has shingles; 0 before the first."""

    def add(self, shingles: Hashes) -> None:
        """Count a document's shingles, each once."""
        if len(shingles):
            self.smallest = min(self.smallest or len(shingles), len(shingles))
        slots = shingles & self._mask
        self._counts[slots] = np.minimum(self._counts[slots], 65_534) + 1

    def of(self, shingles: Hashes) -> npt.NDArray[np.uint16]:
        """Return the counts of shingles."""
        return self._counts[shingles & self._mask]


class Ordered(NamedTuple):
    """A document's shingles that others have too, the rarest first, and their places among all of its
    shingles."""

    size: int
    positions: Ints
    names: list[int]


class Crowd:
    """An index of kept documents that finds those which may be similar to another one."""

    def __init__(self, frequencies: Frequencies, threshold: float) -> None:
        self._frequencies, self._threshold = frequencies, threshold
        self._postings: dict[int, int | list[int]] = {}
        self._empty: list[int] = []
        self._classes: dict[int, tuple[int, int]] = {}  # class -> smallest size in it, salt of its keys

    def ordered(self, shingles: Hashes) -> Ordered:
        """Put a document's shingles in the order that `candidates` and `add` need."""
        counts = self._frequencies.of(shingles)
        order = np.lexsort((shingles, counts))[: self._prefix(len(shingles), 0)]
        positions = np.flatnonzero(counts[order] > 1)
        return Ordered(len(shingles), positions, shingles[order[positions]].tolist())

    def candidates(self, document: Ordered) -> set[int]:
        """Return the numbers of indexed documents that may reach the threshold; no others can."""
        size = document.size
        if not size:
            return set(self._empty)
        found: set[int] = set()
        for smallest, salt in self._classes.values():
            if smallest * CLASS_WIDTH + 1 < self._threshold * size or smallest * self._threshold > size:
                continue
            for name in document.names[: self._end(document, smallest)]:
                posted = self._postings.get(name ^ salt)
                if isinstance(posted, int):
                    found.add(posted)
                elif posted is not None:
                    found.update(posted)
        return found

    def add(self, number: int, document: Ordered) -> None:
        """Index a document that is kept."""
        if not document.size:
            self._empty.append(number)
            return
        of_size = round(math.log(document.size) / math.log(CLASS_WIDTH))
        smallest, salt = self._classes.get(of_size, (document.size, _salt(of_size)))
        self._classes[of_size] = min(smallest, document.size), salt
        for name in document.names:  # as many as the smallest document that may be similar asks for
            posted = self._postings.setdefault(name ^ salt, number)
            if isinstance(posted, list):
                posted.append(number)
            elif posted != number:
                self._postings[name ^ salt] = [posted, number]

    def _end(self, document: Ordered, other: int) -> int:
        """Return how many of a document's names lie in its beginning, for others of at least a size."""
        return int(np.searchsorted(document.positions, self._prefix(document.size, other)))

    def _prefix(self, size: int, other: int) -> int:
        """Return the length of the beginning of a set, of which one shingle at least is shared with similar
        sets of `other` or more shingles. A similar one has at least threshold x size, and no fewer than the
        smallest document of the crowd: among pages of one template that spares the template's shingles."""
        smallest = max(other, self._frequencies.smallest, math.ceil(self._threshold * size - 1e-6))
        shared = self._threshold / (1 + self._threshold) * (size + smallest)
        return size - math.ceil(shared - 1e-6) + 1


def _salt(of_size: int) -> int:
    return int(mixed(np.array([of_size + 1], dtype=np.uint64))[0])
