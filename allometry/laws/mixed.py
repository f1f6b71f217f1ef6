"""Tables whose rows follow several laws: runs on two corpora, with two tokenizers, of two families, …"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from allometry.laws.grouping import PERHAPS_RUN_NAMES, RUN_NAMES, between_groups, numbered

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

_LEVEL = 1e-3
_SHARE = 0.25
"""Smallest share of the variance of the residuals' ranks that a column must explain."""
_LEAST = 3
"""Fewest runs of a value from which its distance from the law is judged."""


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """A column whose values lie on different sides of one law.

    `medians` maps each value to the median log distance of its runs from the law (measured over law), largest
    first; `share` is the part of the variance of the ranks of the residuals between the values, `p` its
    significance.
    """

    column: str
    medians: Mapping[str, float]
    share: float
    p: float

    def text(self) -> str:
        """Return what was found, as a sentence."""
        shown = [f"{value} {100 * np.expm1(off):+.2g} %" for value, off in self.medians.items()]
        more = f", and {len(shown) - 4} more values" if len(shown) > 4 else ""
        return (
            f"rows of one {self.column!r} lie together above or below the law ({', '.join(shown[:4])}{more};"
            f" p = {self.p:.0e}): the table may hold runs of several laws, and this is none of them"
        )


def find_mixture(
    frame: pd.DataFrame, distance: Array, inputs: Mapping[str, Array], group: NDArray[np.int_] | None = None
) -> Mixture | None:
    """Return the column of words that best tells apart on which side of a fitted law rows lie, if any does.

    `distance` (n,) is the log of measured over law of the rows of `frame`, `inputs` are the law's inputs,
    (n,) each, and `group` (n,) numbers the run of each row; rows of one run count once. Columns that name
    runs or sizes, or are the same for all rows, tell nothing apart. The test is a one-way analysis of
    variance of the ranks, at the level 1e-3 divided by the number of columns tried.
    """
    import pandas as pd

    run = np.arange(len(frame)) if group is None else group
    found, tried = [], 0
    for name in frame.columns:
        column = frame[name]
        if isinstance(column, pd.DataFrame) or str(name) in inputs or str(name).lower() in RUN_NAMES:
            continue
        if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
            continue
        values = numbered(column.astype(str))
        off, value = _by_run(distance, values, run)
        counts = np.bincount(value)
        if not 2 <= len(counts) <= len(off) / _LEAST or np.sum(counts >= _LEAST) < 2:
            continue
        if str(name).lower() in PERHAPS_RUN_NAMES and counts.max() < 2 * _LEAST:
            continue
        if any(_nested(values, x) for x in inputs.values()):
            continue
        tried += 1
        p, share = between_groups(off, value)
        words = column.astype(str).to_numpy()
        medians = {words[values == v][0]: float(np.median(off[value == v])) for v in range(len(counts))}
        ordered = dict(sorted(medians.items(), key=lambda item: -item[1]))
        found.append(Mixture(column=str(name), medians=ordered, share=share, p=p))
    telling = [m for m in found if m.p < _LEVEL / tried and m.share >= _SHARE]
    return max(telling, key=lambda m: m.share, default=None)


def _by_run(
    distance: Array, values: NDArray[np.int_], run: NDArray[np.int_]
) -> tuple[Array, NDArray[np.int_]]:
    """Return one distance, the mean, and one value for each run and value."""
    pairs, at = np.unique(np.column_stack([values, run]), axis=0, return_inverse=True)
    at = at.reshape(-1)
    return np.bincount(at, weights=distance) / np.bincount(at), pairs[:, 0]


def _nested(values: NDArray[np.int_], x: Array) -> bool:
    """Return whether each value of a column comes with one value of an input: then it may name sizes."""
    pairs = np.unique(np.column_stack([values, np.round(np.log(np.maximum(x, 1e-300)), 6)]), axis=0)
    return len(pairs) == len(np.unique(values))
