"""Fractional factorial designs of two levels (Box and Hunter 1961): many factors in few runs, with what is
mixed up with what said beforehand.

A factor is -1 or +1. Further factors are products of an odd number of base columns, so that no main effect is
mixed up with a two-factor interaction (resolution IV); interactions are mixed up with each other in groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product

import numpy as np
import pandas as pd

from allometry.errors import AllometryError

_GENERATORS = {3: ((0, 1, 2),), 4: ((0, 1, 2), (1, 2, 3), (0, 2, 3), (0, 1, 3))}
"""Base columns whose products make the further factors, by the number of base columns."""


def fractional(factors: Sequence[str]) -> pd.DataFrame:
    """The runs: a row each, a column of -1 and +1 for each factor; 8 runs for 4 factors, 16 for up to 8.

    Up to three factors get the full design. AllometryError for more than eight.
    """
    if not 0 < len(factors) <= 8:
        raise AllometryError(f"{len(factors)} factors: designs are for 1 to 8", hint="leave some out")
    base = len(factors) if len(factors) < 4 else 3 if len(factors) == 4 else 4
    full = np.array(list(product((-1, 1), repeat=base)))
    further = [full[:, list(columns)].prod(axis=1) for columns in _GENERATORS.get(base, ())]
    table = np.column_stack([full, *further])[:, : len(factors)]
    return pd.DataFrame(table, columns=list(factors))


def aliases(levels: pd.DataFrame) -> list[tuple[tuple[str, str], ...]]:
    """Two-factor interactions in groups that these runs cannot tell apart (equal columns, up to sign).

    Interactions that equal a main effect or are constant are left out: see `confounded`.
    """
    groups: dict[tuple[int, ...], list[tuple[str, str]]] = {}
    taken = {_direction(levels[name].to_numpy()) for name in levels}
    for a, b in combinations(levels.columns, 2):
        column = (levels[a] * levels[b]).to_numpy()
        key = _direction(column)
        if key not in taken and len(np.unique(column)) > 1:
            groups.setdefault(key, []).append((a, b))
    return [tuple(pairs) for pairs in groups.values()]


def confounded(levels: pd.DataFrame) -> list[tuple[str, tuple[str, str]]]:
    """Main effects that these runs cannot tell from a two-factor interaction: none in resolution IV."""
    mains = {_direction(levels[name].to_numpy()): str(name) for name in levels}
    pairs = combinations(levels.columns, 2)
    found = [(mains.get(_direction((levels[a] * levels[b]).to_numpy())), (a, b)) for a, b in pairs]
    return [(name, pair) for name, pair in found if name is not None]


def _direction(column: np.ndarray) -> tuple[int, ...]:
    """The column with its sign chosen so that it begins with +1."""
    return tuple(int(v) for v in column * column[0])
