"""Near-duplicate search against datasketch: documents a processor second, recall and precision on planted
copies.

    python benchmarks/webtext_dedup.py [--documents 4000]          (datasketch: pip install datasketch)
    python benchmarks/webtext_dedup.py --templates 50000           (pages of one template, none a copy)

Both find duplicates of word 5-grams at Jaccard .5 with 128 permutations, first seen wins, from the same list
of texts, cutting into words included. Ours verifies each candidate; datasketch is used as OpenWebText2 does
(a query that returns anything drops the document), with its fastest documented way to build signatures.
Planted copies have a known similarity, computed from the shingles themselves.
"""

from __future__ import annotations

import argparse
import random
import re
import time
from functools import lru_cache

import numpy as np

from allometry.data.webtext.duplicates import Shared, find_duplicates, shared_keys
from allometry.data.webtext.shingles import MinHash, jaccard, shingles, word_hashes

THRESHOLD = 0.5
WORD = re.compile(r"\w+")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=4_000)
    parser.add_argument(
        "--templates", type=int, help="Time the search among this many pages of one template."
    )
    options = parser.parse_args()
    if options.templates:
        time_templates(options.templates)
        return
    texts, planted = corpus(options.documents)
    print(f"{len(texts):,} documents, {sum(map(len, texts)) / 1e6:.1f} MB, {len(planted):,} planted copies")
    ours, our_seconds = timed(allometry_duplicates, texts)
    report("allometry", texts, planted, ours, our_seconds)
    try:
        import datasketch  # noqa: F401
    except ImportError:
        print("datasketch is not installed: no comparison (pip install datasketch)")
        return
    theirs, their_seconds = timed(datasketch_duplicates, texts)
    report("datasketch", texts, planted, theirs, their_seconds)
    print(f"ratio of documents a processor second: {their_seconds / our_seconds:.1f}")


class Compared:
    """Documents as the search wants them, which counts its comparisons."""

    def __init__(self, shingles_of) -> None:
        self.shingles, self.count = shingles_of, 0

    def similarity(self, one: int, other: int) -> float:
        """Return the Jaccard similarity of two documents."""
        self.count += 1
        return jaccard(self.shingles(one), self.shingles(other))


def time_templates(count: int) -> None:
    """Time pages of one template with text of their own: pairwise J of .43 to .49, no copy; half, then all of
    them.
    """
    chooser = random.Random(0)
    template = " ".join(f"t{n}" for n in range(400))
    texts = [
        template + " " + " ".join(f"o{chooser.randrange(10**9)}" for _ in range(chooser.randrange(215, 260)))
        for _ in range(count)
    ]
    for some in (count // 2, count):
        start = time.process_time()
        documents = Compared(lru_cache(maxsize=50_000)(lambda i: shingles(word_hashes(texts[i]))))
        found = list(find_duplicates(all_bands(texts[:some]), some, documents, THRESHOLD))
        seconds = time.process_time() - start
        pairs = some * (some - 1) // 2
        print(
            f"{some:,} pages of one template: {seconds:.1f} s of one processor, "
            f"{documents.count:,} comparisons "
            f"of {pairs:,} pairs, {len(found)} copies"
        )


def corpus(count: int) -> tuple[list[str], dict[int, tuple[int, float]]]:
    """Make texts with word frequencies like those of a language, and copies with words replaced: copy ->
    (original, J).
    """
    chooser = random.Random(0)
    vocabulary = [f"{chooser.choice('bcdfglmnprstv')}{chooser.choice('aeiou')}{n:x}" for n in range(30_000)]
    weights = [1 / (rank + 3) for rank in range(len(vocabulary))]
    texts: list[str] = []
    planted: dict[int, tuple[int, float]] = {}
    for number in range(count):
        if number > 10 and chooser.random() < 0.15:
            original = chooser.randrange(number)
            words = texts[original].split()
            for _ in range(int(len(words) * chooser.choice([0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08]))):
                words[chooser.randrange(len(words))] = chooser.choice(vocabulary)
            texts.append(" ".join(words))
            sets = [shingles(word_hashes(texts[n])) for n in (original, number)]
            planted[number] = (original, jaccard(*sets))
        else:
            texts.append(" ".join(chooser.choices(vocabulary, weights, k=chooser.randrange(200, 900))))
    return texts, planted


def timed(function, texts):
    start = time.process_time()
    found = function(texts)
    return found, time.process_time() - start


def all_bands(texts: list[str]) -> list[Shared]:
    minhash = MinHash()
    keys = np.concatenate([minhash.keys_of_texts(texts[n : n + 500])[1] for n in range(0, len(texts), 500)])
    bands, bucket = [], 0
    for band in range(minhash.bands):
        bands.append(shared_keys(np.ascontiguousarray(keys[:, band]), bucket))
        bucket = int(bands[-1].buckets.max(initial=bucket - 1)) + 1
    return bands


def allometry_duplicates(texts: list[str]) -> dict[int, int]:
    bands = all_bands(texts)
    described = lru_cache(maxsize=5_000)(lambda number: shingles(word_hashes(texts[number])))
    found = find_duplicates(bands, len(texts), Compared(described), THRESHOLD)
    return {each.document: each.of for each in found}


def datasketch_duplicates(texts: list[str]) -> dict[int, int]:
    from datasketch import MinHash as Sketch
    from datasketch import MinHashLSH

    index = MinHashLSH(threshold=THRESHOLD, num_perm=128)
    found = {}
    for start in range(0, len(texts), 500):
        block = texts[start : start + 500]
        for offset, sketch in enumerate(Sketch.bulk([byte_shingles(text) for text in block], num_perm=128)):
            like = index.query(sketch)
            if like:
                found[start + offset] = min(like)
            else:
                index.insert(start + offset, sketch)
    return found


def byte_shingles(text: str) -> list[bytes]:
    words = WORD.findall(text.casefold())
    return list({" ".join(words[n : n + 5]).encode() for n in range(len(words) - 4)})


def true_duplicates(texts: list[str], planted: dict[int, tuple[int, float]]) -> dict[int, float]:
    """Return what first-seen-wins with exact comparison drops, and how like the nearest kept document each
    is.

    Only documents of one family (an original, its copies, their copies) can be alike.
    """
    family: dict[int, int] = {}
    kept: dict[int, list[int]] = {}
    dropped: dict[int, float] = {}
    described = [shingles(word_hashes(text)) for text in texts]
    for number in range(len(texts)):
        root = family[number] = family[planted[number][0]] if number in planted else number
        like = max(
            (jaccard(described[other], described[number]) for other in kept.get(root, ())), default=0.0
        )
        if like >= THRESHOLD:
            dropped[number] = like
        else:
            kept.setdefault(root, []).append(number)
    return dropped


def report(name: str, texts: list[str], planted: dict, found: dict[int, int], seconds: float) -> None:
    """Recall on copies of J >= .7; precision: the share of what was dropped that is like the document it was
    dropped for."""
    clear = {number for number, like in true_duplicates(texts, planted).items() if like >= 0.7}

    def similar(a: int, b: int) -> bool:
        return jaccard(shingles(word_hashes(texts[a])), shingles(word_hashes(texts[b]))) >= THRESHOLD

    right = sum(similar(number, of) for number, of in found.items())
    recall = len(clear & set(found)) / max(1, len(clear))
    precision = right / max(1, len(found))
    rate = len(texts) / seconds
    print(
        f"{name:>10}: {rate:8,.0f} documents/s  recall (J >= .7) {recall:.3f}  "
        f"precision {precision:.3f}  ({len(found):,} dropped)"
    )


if __name__ == "__main__":
    main()
