"""Which rows of a table are points of one run, and which follow another law than the rest.

The noise of the points of one run is shared, so they are resampled together.

A column `run` says so. Without one the table is searched for what gives checkpoints away: a column of
steps, a column of names that repeat, one size with a long row of growing D. What only looks like it is
decided by the residuals: rows of one run agree in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from allometry.core.units import counted
from allometry.runs.trunks import TRUNK, trunks

Array = NDArray[np.float64]

RUN_NAMES = ("run", "run_id", "run_name")
"""Columns that tell runs apart by their name."""

PERHAPS_RUN_NAMES = ("name", "id", "model", "model_name", "experiment")
"""Columns that may: or hold the model's size, its family or the corpus."""

STEP_NAMES = ("step", "_step", "iter", "iteration", "global_step", "train_step", "trainer/global_step")
"""Columns of training logs that count updates (lower case)."""

CONDITIONS = (
    *("family", "shape", "model", "n_layer", "d_model", "N", "unique", "B", "peak_lr", "max_lr"),
    *("schedule", "corpus", "tokenizer", "dropout", "optimizer", "context", "seed"),
)
"""Columns that are the same for all points of one run."""

CHECKPOINT_NAMES = ("checkpoint", "ckpt", "revision", "checkpoint_step")
"""Columns that name the checkpoints of a run (lower case)."""

SETTINGS = (
    *("seed", "lr", "learning_rate", "peak_lr", "max_lr", "weight_decay", "wd", "warmup", "warmup_steps"),
    *("batch_size", "batch_tokens", "B", "dropout", "beta1", "beta2", "width", "depth", "n_layer", "d_model"),
)
"""Columns of numbers that tell runs apart where rows of one size and one D differ in them (lower case, or a symbol)."""

LONG_CURVE = 10
"""Points of one size from which on they may be checkpoints of one run although nothing names a run."""

SHORT_CURVE = 3
"""Points of one size from which on it is said if they look like checkpoints of one run."""

_SIZES = ("N", "U", "B")
"""Inputs of laws that stay the same within a run; the others grow."""


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """Clusters of rows: `group` (n,) numbers them 0 … g-1, `name` says by what, `why` how that is known.

    `name` is None where every row stands alone. `level` is the significance at which residuals must agree
    within the groups before they are used; 1 where it is known without them. `checkpoints` says that groups
    hold several values of what grows in training. `only_said` says that residuals which agree are said, and
    change nothing: a few points a size are as likely a grid of runs that the law does not fit.
    """

    group: NDArray[np.int_]
    name: str | None = None
    why: str = ""
    level: float = 1.0
    checkpoints: bool = False
    only_said: bool = False

    @property
    def groups(self) -> int:
        """Number of groups."""
        return int(self.group.max()) + 1 if len(self.group) else 0


def find_grouping(frame: pd.DataFrame, inputs: Mapping[str, Array]) -> tuple[Grouping, list[str]]:
    """Return the most telling grouping of a table's rows, and notes on columns that do not tell runs apart.

    `inputs` are the law's inputs, (n,) each, of the rows of `frame`. The grouping's `level` says whether it
    still has to be confirmed by the residuals (`decide`).
    """
    frame = frame.loc[:, ~frame.columns.duplicated()]
    alone = Grouping(group=np.arange(len(frame)))
    notes: list[str] = []
    seen: set[str] = set()
    size = _sizes(frame, inputs)
    by_trunk = _by_trunk(frame, size)
    if by_trunk is not None:
        return by_trunk, notes
    along = (*STEP_NAMES, *CHECKPOINT_NAMES)
    stepped = next(
        (str(c) for c in frame.columns if str(c).lower() in along and frame[c].astype(str).nunique() > 1),
        None,
    )
    for name in (*RUN_NAMES, *PERHAPS_RUN_NAMES):
        shown = _source(frame, name) if name in frame.columns else name
        if name not in frame.columns or shown in seen:
            continue
        seen.add(shown)
        sure = name in RUN_NAMES and shown not in PERHAPS_RUN_NAMES
        group = numbered(frame[name])
        found = replace(alone, group=group, name=shown, checkpoints=_grows(group, inputs))
        if found.groups == len(frame):
            if sure:
                return found, notes
            continue
        problem = not_a_run(group, size)
        if problem:
            notes.append(f"column {shown!r} {problem}: its rows are taken as independent runs")
            continue
        if sure or (stepped and found.checkpoints):
            why = f"column {shown!r}" if sure else f"columns {shown!r} and {stepped!r}"
            return replace(found, why=f"{why}: points of one run, resampled together"), notes
        return replace(found, level=0.05, why=f"column {shown!r} repeats"), notes
    return _by_all_else(frame, inputs, stepped) or alone, notes


def _by_trunk(frame: pd.DataFrame, size: Array | None) -> Grouping | None:
    """Group the rows by the trunk that their runs branch off; None where no run shares one, or nothing says so.

    A run has its rows in one trunk, so these groups hold all that a run's would.
    """
    named = trunks(frame)
    if named is None:
        return None
    group = numbered(named)
    groups = int(group.max(initial=-1)) + 1
    if groups in (0, len(frame)) or (size is not None and not_a_run(group, size)):
        return None
    if "run" in frame.columns and groups == frame["run"].astype(str).nunique():
        return None
    why = "runs that branch off one trunk (equal but for their horizon): resampled together"
    return Grouping(group=group, name=TRUNK, why=why)


def decide(
    suspected: Grouping, residuals: Array, original: NDArray[np.int_] | None = None
) -> tuple[Grouping, str]:
    """Return the grouping to use, and a note that says why, from the residuals (n,) of a fit.

    Rows that may belong together do so where their residuals agree (see `agreement`). `original` (n,) is the
    position of the row that each row is a copy of, its own for others: copies stay with their original, and
    their residuals are no agreement.
    """
    if original is None:
        original = np.arange(len(residuals))
    once = original == np.arange(len(residuals))
    first = np.flatnonzero(once)
    found, note = _decided(replace(suspected, group=_renumbered(suspected.group[once])), residuals[once])
    return replace(found, group=found.group[np.searchsorted(first, original)]), note


def _renumbered(group: NDArray[np.int_]) -> NDArray[np.int_]:
    return np.asarray(np.unique(group, return_inverse=True)[1].reshape(-1), dtype=int)


def _decided(suspected: Grouping, residuals: Array) -> tuple[Grouping, str]:
    if suspected.level >= 1:
        return suspected, suspected.why
    p = agreement(residuals, suspected.group)
    name = suspected.name
    if p < suspected.level and suspected.only_said:
        by = f"group by {name}" if name in ("N", "B") else "give them a column 'run' with its name"
        note = (
            f"{suspected.why}, whose residuals agree (p = {p:.1g}): if they are checkpoints of one run, {by}, and"
            f" the intervals are wider; if each is a run of its own, the law misses what they share"
        )
        return Grouping(group=np.arange(len(suspected.group))), note
    if p < suspected.level:
        note = (
            f"{suspected.why}, and residuals agree within it (p = {p:.1g}): rows of one {name} are resampled"
            f" together, as {counted(suspected.groups, 'run')}"
        )
        return suspected, note
    alone = Grouping(group=np.arange(len(suspected.group)))
    if suspected.level < 0.05:
        return alone, ""
    note = (
        f"{suspected.why}, but residuals do not agree within it (p = {p:.2g}): rows are taken as independent"
        f" runs; group by {name} if they are points of one run"
    )
    return alone, note


def agreement(residuals: Array, group: NDArray[np.int_]) -> float:
    """Return the probability that independent residuals (n,) agree so well within groups by chance.

    Two tests, the smaller p-value doubled: a one-way analysis of variance (rows of a run lie together above
    or below the law), and the correlation of neighbours within a group (rows in the order of the table).
    Ranks stand for the residuals, so that a single bad row decides neither.
    """
    from scipy.special import ndtr  # a fit without such a question does not load scipy

    n, groups = len(residuals), int(group.max()) + 1
    if groups >= n or np.ptp(residuals) <= 1e-9:
        return 1.0
    score = _normal_scores(residuals)
    order = np.argsort(group, kind="stable")
    same = np.diff(group[order]) == 0
    product = (score[order][1:] * score[order][:-1])[same]
    neighbours = float(ndtr(-product.sum() / max(np.sqrt((product**2).sum()), 1e-300)))
    if groups == 1:
        return neighbours
    return min(1.0, 2 * min(between_groups(residuals, group)[0], neighbours))


def between_groups(residuals: Array, group: NDArray[np.int_]) -> tuple[float, float]:
    """Return the p-value of a one-way analysis of variance of the ranks of residuals (n,), and the share of
    the variance that lies between the groups (n,). (1, 0) where there is nothing to compare.
    """
    from scipy.special import fdtrc

    n, groups = len(residuals), int(group.max()) + 1
    if not 1 < groups < n or np.ptp(residuals) <= 1e-9:
        return 1.0, 0.0
    score = _normal_scores(residuals)
    counts = np.bincount(group)
    means = np.bincount(group, weights=score) / counts
    within = float(np.sum((score - means[group]) ** 2))
    between = float(np.sum(counts * (means - score.mean()) ** 2))
    ratio = (between / (groups - 1)) / max(within / (n - groups), 1e-300)
    return float(fdtrc(groups - 1, n - groups, ratio)), between / max(between + within, 1e-300)


def _normal_scores(residuals: Array) -> Array:
    from scipy.special import ndtri

    return np.asarray(ndtri((np.argsort(np.argsort(residuals)) + 1) / (len(residuals) + 1)))


def numbered(column: pd.Series) -> NDArray[np.int_]:
    """Return the groups (n,) of equal values of a column, numbered 0 … g-1 in the order of the rows."""
    values = column.map(hashable) if column.dtype == object else column
    return np.asarray(pd.factorize(values, use_na_sentinel=False)[0], dtype=int)


def hashable(cell: Any) -> Any:
    """Return a cell of a table, as text if it holds several values."""
    return str(cell) if isinstance(cell, list | dict | np.ndarray) else cell


def not_a_run(group: NDArray[np.int_], size: Array | None) -> str:
    """Return why groups (n,) of rows are no runs, given the rows' sizes (n,) if known; "" if they may be."""
    groups = int(group.max()) + 1
    if groups == 1 and len(group) > 1 and (size is None or np.ptp(np.log(size)) > 0.01):
        return "is the same in all rows"
    if size is None:
        return ""
    order = np.lexsort((size, group))
    first = np.flatnonzero(np.diff(group[order], prepend=-1))
    last = np.append(first[1:], len(group)) - 1
    spread = np.log(size[order][last] / size[order][first])
    if (spread > 0.01).any():
        return "holds several sizes N under one name"
    return ""


def _sizes(frame: pd.DataFrame, inputs: Mapping[str, Array]) -> Array | None:
    if "N" in inputs:
        return np.asarray(inputs["N"])
    if "N" in frame.columns and frame["N"].dtype.kind in "if" and (frame["N"] > 0).all():
        return frame["N"].to_numpy(float)
    return None


def _source(frame: pd.DataFrame, name: str) -> str:
    """Return the column that `name` was copied from by the reader of tables, if there is one."""
    for other in frame.columns:
        if other != name and str(other).lower() in (*RUN_NAMES, *PERHAPS_RUN_NAMES):
            copied: Any = frame[other]
            if copied.equals(frame[name].rename(other)):
                return str(other)
    return name


def _grows(group: NDArray[np.int_], inputs: Mapping[str, Array]) -> bool:
    """Return whether any group holds several values of an input that grows in training."""
    groups = int(group.max()) + 1
    for name, x in inputs.items():
        if name not in _SIZES and groups < len(np.unique(np.column_stack([group, np.round(x, 9)]), axis=0)):
            return True
    return False


def _by_all_else(frame: pd.DataFrame, inputs: Mapping[str, Array], stepped: str | None) -> Grouping | None:
    """Group rows that agree in everything but what grows: one run's checkpoints, or one size's row of a grid."""
    keys = pd.DataFrame(
        {n: np.round(np.log(x), 6) for n, x in inputs.items() if n in _SIZES and np.all(x > 0)}
    )
    used = set(keys.columns)
    for column in frame.columns:
        if str(column) in used or str(column) in inputs or str(column) == stepped:
            continue
        values = frame[column]
        words = not pd.api.types.is_numeric_dtype(values)
        few = 2 <= values.astype(str).nunique() <= len(frame) / 2
        if few and (str(column) in CONDITIONS or (words and str(column) != "status")):
            keys[str(column)] = values.astype(str).to_numpy()
    names = list(keys.columns)
    if not names:
        return None
    growing = [x for name, x in inputs.items() if name not in _SIZES]
    for setting in _told_apart(frame, keys, growing):
        keys[setting] = frame[setting].astype(str).to_numpy()
        names.append(setting)
    group = np.asarray(keys.groupby(names, sort=False).ngroup().to_numpy(), dtype=int)
    found = Grouping(group=group, name=", ".join(names), checkpoints=_grows(group, inputs))
    if not found.checkpoints:
        return None
    if stepped:
        why = f"column {stepped!r}: rows of one {found.name} are points of one run, resampled together"
        return replace(found, why=why)
    points = len(group) / found.groups
    if points < SHORT_CURVE:
        return None
    why = f"no column names the runs, and there are {points:.0f} rows a {found.name}"
    short = points < LONG_CURVE
    return replace(found, level=1e-2 if short else 1e-3, why=why, only_said=short)


def _told_apart(frame: pd.DataFrame, keys: pd.DataFrame, growing: list[Array]) -> list[str]:
    """Return the columns of settings that differ between rows of equal keys at one value of what grows.

    One run has one row there: the rows are of several runs, and the setting says which. Along a run's curve
    the rate may change too, but not at one D.
    """
    if not growing:
        return []
    values = [
        frame[c].astype(str).to_numpy() if str(c) in frame else keys[c].to_numpy() for c in keys.columns
    ]
    cells = pd.DataFrame(dict(enumerate([*values, *(np.round(x, 9) for x in growing)])))
    place = cells.groupby(list(cells.columns), sort=False).ngroup().to_numpy()
    found = []
    for column in frame.columns:
        name = str(column)
        if name in keys or (name not in SETTINGS and name.lower() not in SETTINGS):
            continue
        kinds = numbered(frame[column].astype(str))
        pairs = len(np.unique(np.column_stack([place, kinds]), axis=0))
        if pairs > int(place.max()) + 1 and 2 * (int(kinds.max()) + 1) <= len(frame):
            found.append(name)
    return found


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
