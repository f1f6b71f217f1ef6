"""A table of runs as (run, N, D, C, loss): what isoFLOP slices, the envelope and the planner read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from allometry.laws.estimate import Array
from allometry.laws.grouping import not_a_run, numbered
from allometry.laws.law import Law
from allometry.laws.observations import about_copies, observe
from allometry.runs.tables.headings import column_for, scale_notice

_SHAPE = Law(
    name="runs by size and compute",
    title="a table of runs",
    expression="C/(N*D)",
    inputs={"N": "parameters", "D": "training tokens", "C": "training compute, FLOPs"},
    parameters=(),
    source="C = 6ND (Kaplan et al. 2020, section 2.1)",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Runs:
    """`table`: columns run, N, D, C, loss (index of the original); `excluded`: rows left out with a
    `reason`."""

    table: pd.DataFrame
    excluded: pd.DataFrame
    notes: tuple[str, ...]


def read_runs(frame: pd.DataFrame, columns: Mapping[str, str] | None = None) -> Runs:
    """Read N, D, C and the loss; of D and C one may be missing and follows from C = 6ND.

    `columns` maps N, D, C and loss (or L) to columns of `frame` or to arithmetic of columns. Raises
    AllometryError for missing columns; rows that cannot be used are listed in `excluded`, not dropped
    silently. So are copies of earlier rows: a mean of repeats needs a measurement once.
    """
    mapping = {("L" if name == "loss" else name): text for name, text in (columns or {}).items()}
    notes = []
    has = {s: s in mapping or column_for(frame, s)[0] is not None for s in ("D", "C")}
    if not has["D"] and has["C"]:
        mapping |= {name: _alias(frame, name) for name in ("N", "C") if name not in mapping}
        mapping["D"] = "C/(6*N)"
        notes.append("D was computed as C/(6N)")
    elif not has["C"]:
        mapping |= {name: _alias(frame, name) for name in ("N", "D") if name not in mapping}
        mapping["C"] = "6*N*D"
        notes.append("C was computed as 6ND")
    seen = observe(frame, _SHAPE, columns=mapping)
    copied = about_copies(seen)
    if copied:
        notes.append(f"{copied}, and left out; a column that tells runs apart (run, seed) keeps them")
    rows = np.flatnonzero(seen.kept)[~seen.copies]
    copies = frame.iloc[np.flatnonzero(seen.kept)[seen.copies]].assign(reason="a copy of an earlier row")
    excluded = pd.concat([seen.excluded, copies]) if copied else seen.excluded
    table = seen.frame[~seen.copies].rename(columns={"L": "loss"})
    run = np.arange(len(table)).astype(str)
    if "run" in frame.columns:
        problem = not_a_run(numbered(frame["run"].iloc[rows]), table["N"].to_numpy(float))
        if problem:
            notes.append(f"column 'run' {problem}: its rows are taken as runs of their own")
        else:
            run = frame["run"].to_numpy()[rows]
    sizes = _snapped(table["N"].to_numpy(float))
    if len(np.unique(sizes)) < table["N"].nunique():
        notes.append(
            f"{table['N'].nunique()} values of N within 1 % of each other: {len(np.unique(sizes))} sizes"
        )
    doubts = (scale_notice(name, table[name]) for name in ("N", "D", "C"))
    notes += [doubt for doubt in doubts if doubt]
    return Runs(table=table.assign(run=run, N=sizes), excluded=excluded, notes=(*seen.notes, *notes))


def _alias(frame: pd.DataFrame, symbol: str) -> str:
    return column_for(frame, symbol)[0] or symbol


def _snapped(sizes: Array) -> Array:
    """Merge sizes that lie within 1 % of their neighbour (as digitised tables have them) into one size, their
    mean.
    """
    distinct = np.unique(sizes)
    group = np.concatenate([[0], np.cumsum(np.diff(np.log(distinct)) > 0.01)])
    means = np.bincount(group, weights=distinct) / np.bincount(group)
    return np.asarray(means[group[np.searchsorted(distinct, sizes)]])
