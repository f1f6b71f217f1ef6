"""Find near-duplicates among many documents: candidates by sorted band keys, verified one by one, the first is kept.

Pages made from one template lie in the same buckets, and comparing all of them takes a time that grows with
the square of their number. Prefix filtering (Chaudhuri et al. 2006; Bayardo et al. 2007; PPJoin, Xiao et
al. 2008) leaves out only pairs that cannot be similar. With the shingles of both in one order, rare ones
first, two sets of a and b shingles have a Jaccard similarity of t or more only if they share
o = t (a + b) / (1 + t), so one of
those that they share lies among the first a - o + 1 of the one and the first b - o + 1 of the other. What a
template brings is frequent, hence late in the order, and found in no such beginning.

Sizes are grouped into classes, because o depends on both. The outcome is exactly that of comparing all pairs.
Memory: the counters of shingles, 256 MB at most, and some 5 kB for each document that is kept.

Document j is a duplicate if an earlier document i < j that is kept has a Jaccard similarity of at least the
threshold. The outcome depends only on the order of the documents, not on chance, chunks or processes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

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


SLICE = 20_000_000
"""Keys that are sorted at a time: some 500 MB. More documents are taken in several passes, by ranges of the
keys."""

CROWD = 64
"""Documents in a bucket from which on not all pairs of them are compared."""

BLOCK = 1_000_000
"""Documents whose candidates are laid out in memory at a time."""


class Duplicate(NamedTuple):
    """A document is dropped because it is like `of`, an earlier one that is kept."""

    document: int
    of: int
    similarity: float


class Shared(NamedTuple):
    """The documents of one band that share their key with another (ascending), and a number for each such key."""

    documents: Ints
    buckets: Ints


def shared_keys(keys: Hashes, first_bucket: int = 0) -> Shared:
    """Return the documents of a band whose key occurs more than once; buckets are numbered from `first_bucket`."""
    passes = max(1, -(-len(keys) // SLICE))
    documents, buckets = [], []
    for number in range(passes):
        chosen = np.flatnonzero(_in_range(keys, number, passes)) if passes > 1 else np.arange(len(keys))
        mine = keys[chosen]
        order = np.argsort(mine, kind="stable")
        ordered = mine[order]
        starts = _run_starts(ordered)
        sizes = np.diff(np.concatenate([starts, [len(ordered)]]))
        several = np.repeat(sizes > 1, sizes)
        names = np.repeat(np.cumsum(sizes > 1) - 1, sizes)[several]
        documents.append(chosen[order[several]])
        buckets.append(names + first_bucket)
        first_bucket += int((sizes > 1).sum())
    joined, named = np.concatenate(documents), np.concatenate(buckets)
    order = np.argsort(joined, kind="stable")
    return Shared(joined[order].astype(np.int64), named[order].astype(np.int64))


def _run_starts(values: npt.NDArray[Any]) -> Ints:
    """Return the positions at which runs of equal values begin."""
    if not len(values):
        return np.empty(0, dtype=np.int64)
    return np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))


def _in_range(keys: Hashes, number: int, passes: int) -> npt.NDArray[np.bool_]:
    width = 2**64 // passes + 1
    return (keys >= np.uint64(number * width)) & (keys <= np.uint64(min(2**64 - 1, (number + 1) * width - 1)))


def candidates(bands: list[Shared], n_documents: int) -> Iterator[tuple[int, Ints]]:
    """Yield each document that lies in a bucket, in order, with its buckets over all bands."""
    for start in range(0, n_documents, BLOCK):
        ranges = [np.searchsorted(band.documents, (start, start + BLOCK)) for band in bands]
        documents = np.concatenate(
            [b.documents[low:high] for b, (low, high) in zip(bands, ranges, strict=True)]
        )
        buckets = np.concatenate([b.buckets[low:high] for b, (low, high) in zip(bands, ranges, strict=True)])
        order = np.argsort(documents, kind="stable")
        documents, buckets = documents[order], buckets[order]
        edges = [*_run_starts(documents).tolist(), len(documents)] if len(documents) else []
        for low, high in pairwise(edges):
            yield int(documents[low]), buckets[low:high]


class Documents(Protocol):
    """The documents, by number."""

    def similarity(self, one: int, other: int) -> float:
        """Return the Jaccard similarity of two documents."""
        ...

    def shingles(self, document: int) -> Hashes:
        """Return the sorted shingles of a document."""
        ...


def find_duplicates(
    bands: list[Shared], n_documents: int, documents: Documents, threshold: float
) -> Iterator[Duplicate]:
    """Yield the duplicates, in order. Only pairs of candidates are compared, of which the earlier is kept.

    Documents that share a bucket with few others are compared with all of those. Of a bucket with more than
    CROWD, prefix filtering (crowds.py) leaves out the pairs that cannot be similar: the outcome is the same.
    """
    crowded = _crowded_buckets(bands)
    crowd = Crowd(_frequencies(bands, documents, crowded), threshold) if len(crowded) else None
    kept: defaultdict[int, list[int]] = defaultdict(list)
    buckets_of: dict[int, frozenset[int]] = {}  # of the kept documents in crowded buckets
    for document, buckets in candidates(bands, n_documents):
        in_crowd = _contains(crowded, buckets)
        few, many = buckets[~in_crowd].tolist(), frozenset(buckets[in_crowd].tolist())
        earlier = {other for name in few for other in kept.get(name, ())}
        if many and crowd is not None:
            ordered = crowd.ordered(documents.shingles(document))
            possible = crowd.candidates(ordered)
            earlier |= {other for other in possible if not many.isdisjoint(buckets_of[other])}
        for other in sorted(earlier):
            found = documents.similarity(other, document)
            if found >= threshold:
                yield Duplicate(document, other, found)
                break
        else:
            for name in few:
                kept[name].append(document)
            if many and crowd is not None:
                crowd.add(document, ordered)
                buckets_of[document] = many


def _crowded_buckets(bands: list[Shared]) -> Ints:
    """Return the numbers of the buckets with more than CROWD documents, sorted."""
    crowded = []
    for band in bands:
        names, sizes = np.unique(band.buckets, return_counts=True)
        crowded.append(names[sizes > CROWD])
    return np.sort(np.concatenate(crowded)) if crowded else np.empty(0, dtype=np.int64)


def _contains(names: Ints, buckets: Ints) -> npt.NDArray[np.bool_]:
    """Return for each bucket whether its number is among sorted `names`."""
    if not len(names):
        return np.zeros(len(buckets), dtype=bool)
    at = np.minimum(np.searchsorted(names, buckets), len(names) - 1)
    return np.asarray(names[at] == buckets)


def _frequencies(bands: list[Shared], documents: Documents, crowded: Ints) -> Frequencies:
    """Count the shingles of the documents that lie in crowded buckets."""
    chosen = np.unique(np.concatenate([band.documents[_contains(crowded, band.buckets)] for band in bands]))
    frequencies = Frequencies(len(chosen))
    for document in chosen.tolist():
        frequencies.add(documents.shingles(document))
    return frequencies
