"""Smaller sets of training tokens that are contained in larger ones, for laws of the amount of data."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.unsignedinteger]

_ORDER = 20_01_08361
"""Seed of the order of blocks: one order for every set, or sets would not be contained in each other."""


def first(tokens: Tokens, limit: int | None, block: int = 0) -> Tokens:
    """The first `limit` of `tokens` (1-D array of ids), all of them for None.

    With `block`, the tokens are first cut into blocks of that many, whose order is drawn once and for all: a
    corpus that is sorted by age or topic gives small sets of the same mixture as large ones. Sets of one
    `block` are nested. What is left over at the end of the tokens comes last.
    """
    if limit is None:
        return tokens
    if not block:
        return tokens[:limit]
    count = len(tokens) // block
    order = np.random.default_rng(_ORDER).permutation(count)[: -(-limit // block)]
    parts = [tokens[start * block : (start + 1) * block] for start in order]
    return np.concatenate([*parts, tokens[count * block :]])[:limit]
