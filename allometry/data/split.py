"""Split documents into training and held-out text: cleaned, de-duplicated, divided by document and by hash.

A document's side depends on its text alone, so that the same document is on the same side in every subset of
a corpus. Held-out text must not have been trained on: exact copies are dropped before the split, and the
split is by whole document because neighbouring passages of one document are far from independent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from allometry.core.errors import AllometryError
from allometry.core.units import counted, format_bytes

Split = Literal["train", "test"]

HELD_OUT = 0.05
"""Share of the documents that is held out."""

SMALLEST = 4000
"""Bytes of text below which a corpus is too small to be split."""

PASSAGES = 400
"""A corpus with too few documents to hold some out is cut into about this many passages first."""


class Document(NamedTuple):
    """A text, and the split that its corpus puts it in if the corpus comes with splits of its own."""

    text: str
    split: Split | None = None


@dataclass(frozen=True, kw_only=True)
class SplitPlan:
    """How a corpus is divided. `passage_bytes` is None where whole documents are held out."""

    rule: str
    passage_bytes: int | None
    held_out: frozenset[int]
    given: bool
    duplicates: int
    nul_bytes: int


def clean(text: str) -> str:
    """Return the text without surrounding white space, with Unix line ends, without the byte 0 (the separator)."""
    return text.replace("\r\n", "\n").replace("\0", "").strip()


def digest(text: str) -> int:
    """Return 64 bits of BLAKE2b over the text's UTF-8: its identity for de-duplication and for the split."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def plan_split(
    documents: Callable[[], Iterable[Document]], *, name: str, share: float = HELD_OUT
) -> SplitPlan:
    """Read a corpus once and decide what is held out. `name` is for the errors.

    Raises AllometryError if the corpus is empty or too small to be split.
    """
    sizes, given, duplicates, nul_bytes = _survey(documents())
    total = sum(sizes.values())
    if total < SMALLEST:
        raise AllometryError(
            f"corpus {name!r} holds {format_bytes(total)} of text in {counted(len(sizes), 'document')}: "
            "too little to hold out a test set",
            hint=f"give at least {format_bytes(SMALLEST)} of text (some MB for a result that means anything)",
        )
    common = {"duplicates": duplicates, "nul_bytes": nul_bytes}
    if given:
        return _given_split(given, sizes, name, duplicates, nul_bytes)
    held = frozenset(key for key in sizes if key < share * 2**64)
    part = sum(sizes[key] for key in held) / total
    if share / 2 <= part <= share * 2:
        rule = f"whole documents, those whose hash is below {share:g} of its range"
        return SplitPlan(rule=rule, passage_bytes=None, held_out=held, given=False, **common)
    return _passage_split(documents, total, share, len(sizes), **common)


def split_documents(documents: Iterable[Document], plan: SplitPlan) -> Iterator[tuple[Split, str]]:
    """Yield the documents (or passages) that are kept, each with its side, in the order of the corpus."""
    seen: set[int] = set()
    for document in documents:
        for text in _pieces(clean(document.text), plan.passage_bytes):
            key = digest(text)
            if not text or key in seen:
                continue
            seen.add(key)
            yield ("test" if key in plan.held_out else "train"), text


def cut(text: str, size: int) -> Iterator[str]:
    """Yield passages of `size` to twice that, cut at a blank line, else a line end, else a space; none is lost."""
    at = 0
    while len(text) - at > 2 * size:
        end = _boundary(text, at + size, at + 2 * size)
        yield text[at:end].strip()
        at = end
    yield text[at:].strip()


def _boundary(text: str, low: int, high: int) -> int:
    for mark in ("\n\n", "\n", ". ", " "):
        found = text.find(mark, low, high)
        if found >= 0:
            return found + len(mark)
    return high


def _pieces(text: str, size: int | None) -> Iterator[str]:
    return iter([text]) if size is None else cut(text, size)


def _survey(documents: Iterable[Document]) -> tuple[dict[int, int], dict[int, Split], int, int]:
    """Return bytes by digest, the splits that the corpus gives, the number of copies and the number of bytes 0."""
    sizes: dict[int, int] = {}
    given: dict[int, Split] = {}
    duplicates = nul_bytes = 0
    for document in documents:
        nul_bytes += document.text.count("\0")
        text = clean(document.text)
        if not text:
            continue
        key = digest(text)
        duplicates += key in sizes
        sizes[key] = len(text.encode())
        # A text on both sides stays held out: test text must not have been trained on.
        if document.split and given.get(key) != "test":
            given[key] = document.split
    return sizes, given, duplicates, nul_bytes


def _given_split(
    given: dict[int, Split], sizes: dict[int, int], name: str, duplicates: int, nul: int
) -> SplitPlan:
    held = frozenset(key for key, split in given.items() if split == "test")
    if not held or len(held) == len(sizes):
        raise AllometryError(
            f"corpus {name!r}: its {'training' if held else 'test'} split has no document",
            hint="both splits need documents; copies of test documents are taken out of the training split",
        )
    rule = "as the corpus gives it"
    return SplitPlan(
        rule=rule, passage_bytes=None, held_out=held, given=True, duplicates=duplicates, nul_bytes=nul
    )


def _passage_split(
    documents: Callable[[], Iterable[Document]],
    total: int,
    share: float,
    count: int,
    duplicates: int,
    nul_bytes: int,
) -> SplitPlan:
    """Cut few or very unequal documents into passages, and hold out the first passages by hash."""
    size = max(SMALLEST // 20, total // PASSAGES)
    sizes = {
        digest(text): len(text.encode())
        for document in documents()
        for text in cut(clean(document.text), size)
        if text
    }
    held: set[int] = set()
    wanted = share * sum(sizes.values())
    for key in sorted(sizes):
        if wanted <= 0:
            break
        held.add(key)
        wanted -= sizes[key]
    rule = (
        f"passages of about {format_bytes(size)}, {len(held)} of {len(sizes)} by hash, because "
        f"the {count} documents are too few or too unequal "
        "to hold out whole ones: held-out text neighbours training text"
    )
    return SplitPlan(
        rule=rule,
        passage_bytes=size,
        held_out=frozenset(held),
        given=False,
        duplicates=duplicates,
        nul_bytes=nul_bytes,
    )
