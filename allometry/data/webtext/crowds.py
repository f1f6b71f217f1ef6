"""Candidates among many documents that share a bucket, such as the pages of a forum, by prefix filtering.

Pages made from one template lie in the same buckets, and comparing all of them takes a time that grows with the
square of their number. Prefix filtering (Chaudhuri et al. 2006; Bayardo et al. 2007; PPJoin, Xiao et al. 2008)
leaves out only pairs that cannot be similar. With the shingles of both in one order, rare ones first, two sets of
a and b shingles have a Jaccard similarity of t or more only if they share o = t (a + b) / (1 + t), so one of
those that they share lies among the first a - o + 1 of the one and the first b - o + 1 of the other. What a
template brings is frequent, hence late in the order, and found in no such beginning.

Sizes are grouped into classes, because o depends on both. The outcome is exactly that of comparing all pairs.
"""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import numpy.typing as npt

from allometry.data.webtext.shingles import Hashes, Ints

TABLE = 1 << 24
"""Counters of shingles. Shingles that share one count as more frequent: that costs time, never a pair."""

CLASS_WIDTH = 1.02
"""Ratio of the largest to the smallest size of a class."""


class Frequencies:
    """How often each shingle occurs among some documents, in counters that do not grow with them."""

    def __init__(self) -> None:
        self._counts = np.zeros(TABLE, dtype=np.uint32)

    def add(self, shingles: Hashes) -> None:
        """Count a document's shingles (each once)."""
        np.add.at(self._counts, self._slots(shingles), 1)

    def of(self, shingles: Hashes) -> npt.NDArray[np.uint32]:
        """Return the counts of shingles."""
        return self._counts[self._slots(shingles)]

    @staticmethod
    def _slots(shingles: Hashes) -> Ints:
        return (shingles % np.uint64(TABLE)).astype(np.int64)


class Crowd:
    """An index of kept documents, asked for those that may be similar to another one.

    Memory: about half of a document's shingles that occur in others too, 8 bytes each.
    """

    def __init__(self, frequencies: Frequencies, threshold: float) -> None:
        self._frequencies, self._threshold = frequencies, threshold
        self._postings: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        self._empty: list[int] = []
        self._classes: dict[int, int] = {}  # class -> smallest size in it

    def candidates(self, shingles: Hashes) -> set[int]:
        """Return the numbers of indexed documents that may reach the threshold; no other one does."""
        size = len(shingles)
        if not size:
            return set(self._empty)
        positions, names = self._shared_in_order(shingles)
        found: set[int] = set()
        for number, smallest in self._classes.items():
            largest = smallest * CLASS_WIDTH + 1
            if largest < self._threshold * size or smallest * self._threshold > size:
                continue
            prefix = size - self._overlap(size, max(smallest, math.ceil(self._threshold * size))) + 1
            for name in names[: int(np.searchsorted(positions, prefix))]:
                found.update(self._postings.get((number, name), ()))
        return found

    def add(self, document: int, shingles: Hashes) -> None:
        """Index a document that is kept."""
        size = len(shingles)
        if not size:
            self._empty.append(document)
            return
        number = round(math.log(size) / math.log(CLASS_WIDTH))
        self._classes[number] = min(size, self._classes.get(number, size))
        positions, names = self._shared_in_order(shingles)
        # The smallest document that may be similar asks for the longest beginning.
        prefix = size - self._overlap(size, math.ceil(self._threshold * size)) + 1
        for name in names[: int(np.searchsorted(positions, prefix))]:
            self._postings[number, name].append(document)

    def _overlap(self, one: int, other: int) -> int:
        """Return the shingles that sets of these sizes must share (a little less, against rounding)."""
        return math.ceil(self._threshold / (1 + self._threshold) * (one + other) - 1e-6)

    def _shared_in_order(self, shingles: Hashes) -> tuple[Ints, list[int]]:
        """Return the shingles that other documents have too, the rarest first, and their places among all."""
        counts = self._frequencies.of(shingles)
        order = np.lexsort((shingles, counts))
        positions = np.flatnonzero(counts[order] > 1)
        names: list[int] = shingles[order][positions].tolist()
        return positions, names
