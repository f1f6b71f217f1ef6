"""Smaller sets of training tokens that are contained in larger ones, for laws of the amount of data."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from allometry.core.errors import AllometryError
from allometry.core.units import counted

Tokens = npt.NDArray[np.unsignedinteger]

FEWEST = 16
"""Minimum number of documents for random halves: with fewer, chance dominates."""

_ORDER = 20_01_08361
"""Seed of the order of blocks: one order for every set, or sets would not be contained in each other."""


def first(tokens: Tokens, limit: int | None, block: int = 0, skip: int = 0) -> Tokens:
    """Return the first `limit` of `tokens` (1-D array of ids), all of them for None, without the first `skip`.

    With `block`, the tokens are first cut into blocks of that many, whose order is drawn once and for all: a
    corpus that is sorted by age or topic gives small sets of the same mixture as large ones. Sets of one
    `block` are nested; a limit and a skip of as many tokens have none in common. What is left over at the end
    of the tokens comes last.
    """
    if limit is None and not skip:
        return tokens
    stop = len(tokens) if limit is None else skip + limit
    if not block:
        return tokens[skip:stop]
    count = len(tokens) // block
    order = np.random.default_rng(_ORDER).permutation(count)[skip // block : -(-stop // block)]
    parts = [tokens[start * block : (start + 1) * block] for start in order]
    begin = skip % block
    return np.concatenate([*parts, tokens[count * block :]])[begin : begin + stop - skip]


def documents(tokens: Tokens, separator: int, block: int = 0) -> list[Tokens]:
    """Return the documents of `tokens`, each with the separator that ends it; with `block`, blocks of that many
    tokens instead, the last of them whole.
    """
    if block:
        return [tokens[at : at + block] for at in range(0, len(tokens) - block + 1, block)]
    ends = np.flatnonzero(np.asarray(tokens) == separator) + 1
    if not len(ends) or ends[-1] < len(tokens):  # a limit may end within a document
        ends = np.append(ends, len(tokens))
    starts = np.concatenate([[0], ends[:-1]])
    return [tokens[a:b] for a, b in zip(starts, ends, strict=True)]


def chosen(count: int, seed: int) -> npt.NDArray[np.bool_]:
    """Return which of `count` documents are in the random half of that seed (count // 2 of them), (count,).

    AllometryError for fewer than FEWEST documents.
    """
    if count < FEWEST:
        raise AllometryError(
            f"{counted(count, 'document')} cannot be cut into random halves",
            hint=f"use a corpus or limit with at least {FEWEST}, or blocks of text (data.spread)",
        )
    inside = np.zeros(count, dtype=bool)
    inside[np.random.default_rng([_ORDER, seed]).permutation(count)[: count // 2]] = True
    return inside
