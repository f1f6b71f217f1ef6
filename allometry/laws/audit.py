"""What is wrong with a table of runs before any law is fitted to it.

Each check is a function of `Ladder`, the table as it was read, that returns what it found. A *fault* makes a fit
wrong, a *caution* may, a *note* is worth knowing. What a table has no column for is said to be unchecked.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from allometry.core.errors import AllometryError
from allometry.core.units import counted, format_count
from allometry.laws.fit import about_scale
from allometry.laws.grouping import Grouping, decide, find_grouping, find_mixture, numbered
from allometry.laws.isoflop import MOST, distances, misfits
from allometry.laws.observations import (
    OFF_COUNT,
    log_count,
    originals,
    other_count,
    read_symbol,
    snapped,
    with_unique_labels,
)
from allometry.laws.slices import best_of_settings, cells, make_slices, settings
from allometry.laws.uncertainty import Array
from allometry.runs.tables.columns import column_for, conversion, is_named, is_text, similar, wrong_scale
from allometry.runs.tables.trackers import finished, status_column

Rows = NDArray[np.int_]
Found = Iterable["Finding"]

LEVELS = ("fault", "caution", "note")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that a check found: its `level`, a `name`, the evidence in words, the labels of the `rows` it
    rests on, and the run or the step that would cure it.
    """

    level: str
    name: str
    what: str
    cure: str
    rows: tuple[Any, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain JSON."""
        rows = [row.item() if isinstance(row, np.generic) else row for row in self.rows]
        return {"level": self.level, "name": self.name, "what": self.what, "cure": self.cure, "rows": rows}


@dataclass(frozen=True, kw_only=True, eq=False)
class Audit:
    """What the checks found in a table, the worst first; which checks found nothing, and which could not be
    made, each with what it lacks.
    """

    rows: int
    columns: Mapping[str, str]
    findings: tuple[Finding, ...]
    passed: tuple[str, ...]
    unchecked: Mapping[str, str]

    def __repr__(self) -> str:
        counts = ", ".join(counted(len(self.level(level)), level) for level in LEVELS)
        return f"<Audit of {counted(self.rows, 'row')}: {counts}>"

    def level(self, name: str) -> tuple[Finding, ...]:
        """Return the findings of one level: "fault", "caution" or "note"."""
        return tuple(f for f in self.findings if f.level == name)

    @property
    def table(self) -> pd.DataFrame:
        """One row a finding: level, name, what, rows, cure."""
        return pd.DataFrame(
            [f.to_dict() for f in self.findings], columns=["level", "name", "what", "rows", "cure"]
        )

    def report(self, width: int = 80) -> str:
        """Return all findings, what was checked, and what could not be, as text of a width."""
        counts = [counted(len(self.level(level)), level) for level in LEVELS]
        read = ", ".join(f"{s} from {c!r}" if s != c else s for s, c in self.columns.items())
        lines = [
            f"audit of {counted(self.rows, 'row')}: {', '.join(counts)}",
            f"read: {read or 'nothing'}",
            "",
        ]
        for f in self.findings:
            where = f" ({_labelled(f.rows)})" if f.rows else ""
            lines += [f"{f.level.upper()} {f.name}: {f.what}{where}", f"  to cure it: {f.cure}"]
        if not self.findings:
            lines.append("nothing was found" + (" in what could be checked" if self.unchecked else ""))
        lines += ["", f"checked, nothing found: {'; '.join(self.passed) or 'nothing'}"]
        for why in dict.fromkeys(self.unchecked.values()):
            which = [what for what, reason in self.unchecked.items() if reason == why]
            lines.append(f"not checked ({why}): {'; '.join(which)}")
        folded = (
            textwrap.wrap(
                line, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
            )
            or [""]
            for line in lines
        )
        return "\n".join(part for parts in folded for part in parts)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain JSON."""
        return {
            "rows": self.rows,
            "columns": dict(self.columns),
            "findings": [f.to_dict() for f in self.findings],
            "passed": list(self.passed),
            "unchecked": dict(self.unchecked),
        }

    def _repr_html_(self) -> str:
        return f"<pre>{escape(self.report())}</pre>"


def _labelled(rows: tuple[Any, ...]) -> str:
    more = f" and {len(rows) - 6} more" if len(rows) > 6 else ""
    return f"{'row' if len(rows) == 1 else 'rows'} {', '.join(map(str, rows[:6]))}{more}"


_RATE = r"((peak|max|base|initial)_?)?(lr|learning_?rate)(_(peak|max|base))?"
_BATCH = r"(global_?|total_?)?batch(_?size)?(_(in_)?(tokens|sequences))?|bs|gbs|b|tokens_per_(batch|step)|batch_tokens"
_SCHEDULE = r"(lr_?)?schedule(r)?(_type)?|lr_scheduler_type|decay_type"
_CORPUS = r"corpus|dataset|data|tokenizer|train_(data|dataset|corpus)|data_?mix"
_LENGTH = r"total_steps|max_steps|num_train_steps|planned_steps"
_SHARE = r"portion_(steps_)?elapsed|progress|fraction(_of_run)?"
_SYMBOLS = ("N", "D", "C", "L", "U", "S")
_NEAR = 0.0025
"""Relative difference of loss up to which a setting at the edge of its grid is as good as its neighbour."""


@dataclass(frozen=True, eq=False)
class Ladder:
    """A table as the checks see it: `values` of symbols, (n,) each with nan where missing, the `columns` that
    they were read from, and what of it could not be read (`unreadable`).
    """

    frame: pd.DataFrame
    values: dict[str, Array]
    columns: dict[str, str]
    unreadable: tuple[tuple[str, str], ...] = ()
    computed: frozenset[str] = field(default_factory=frozenset)

    @cached_property
    def usable(self) -> NDArray[np.bool_]:
        """Which rows have a positive finite N, D and loss (those that the table has), and did finish."""
        keep = ~self.unfinished
        for symbol in {"N", "D", "L"} & set(self.values):
            x = self.values[symbol]
            keep = keep & np.isfinite(x) & (x > 0)
        return keep

    @cached_property
    def unfinished(self) -> NDArray[np.bool_]:
        """Which rows have a status that says that the run did not finish."""
        status = status_column([str(c) for c in self.frame.columns])
        if status is None or not is_text(self.frame[status]):
            return np.zeros(len(self.frame), dtype=bool)
        return ~np.asarray(finished(self.frame[status])[0], dtype=bool)

    @cached_property
    def grouping(self) -> Grouping:
        """Which usable rows are points of one run."""
        inputs = {s: x[self.usable] for s, x in self.values.items() if s in ("N", "D")}
        return find_grouping(self.frame[self.usable], inputs)[0]

    @cached_property
    def runs(self) -> pd.DataFrame:
        """The last row of each run with N (sizes within 1 % are one), D, C and loss; `at` is its position."""
        at = np.flatnonzero(self.usable)
        table = pd.DataFrame({s: self.values[s][at] for s in ("N", "D", "C", "L") if s in self.values})
        table = table.rename(columns={"L": "loss"}).assign(at=at)
        if self.grouping.checkpoints and self.grouping.level >= 1:
            order = np.lexsort((table["D" if "D" in table else "at"].to_numpy(), self.grouping.group))
            last = np.append(np.diff(self.grouping.group[order]) != 0, True)
            table = table.iloc[np.sort(order[last])]
        table = table[originals(self.frame.iloc[table["at"]]) == np.arange(len(table))]
        return table.assign(N=snapped(table["N"].to_numpy())).reset_index(drop=True)

    @cached_property
    def best(self) -> pd.DataFrame:
        """Of `runs` those of the best setting of each size at each compute."""
        number, _ = settings(self.frame.iloc[self.runs["at"]])
        return self.runs[best_of_settings(self.runs, number)].reset_index(drop=True)

    @cached_property
    def lawful(self) -> bool:
        """Whether the runs of less than one token a parameter lie on the law of the others."""
        off = distances(self.best)
        few = (self.best["D"] < self.best["N"]).to_numpy()
        if off is None or not few.any() or (~few).sum() < 6:
            return False
        return float(np.median(np.abs(off[few]))) < 4 * float(np.median(np.abs(off[~few]))) + 1e-3

    def labels(self, at: Iterable[int]) -> tuple[Any, ...]:
        """Return the labels of rows, from their positions in the table."""
        return tuple(self.frame.index[int(i)] for i in at)

    def column(self, pattern: str) -> str | None:
        """Return the first column whose name, in lower case with _, a pattern fits wholly."""
        for name in self.frame.columns:
            if is_named(name, pattern):
                return str(name)
        return None

    def numbers(self, pattern: str) -> tuple[str, Array] | None:
        """Return the first column of numbers that a pattern fits, and its values (n,)."""
        name = self.column(pattern)
        if name is None or isinstance(self.frame[name], pd.DataFrame):
            return None
        values = pd.to_numeric(self.frame[name], errors="coerce").to_numpy(float)
        return (name, values) if np.isfinite(values[self.usable]).any() else None


def audit(frame: pd.DataFrame, *, columns: Mapping[str, str] | None = None) -> Audit:
    """Look for what is wrong with a table of runs, before a law is fitted to it.

    Parameters
    ----------
    frame
        One row a run, or a row a checkpoint.
    columns
        N, D, C, loss, U -> columns of `frame`, or expressions of them, where the names do not say it.

    Returns
    -------
    Audit
        Findings with evidence, rows and cure; the checks that found nothing; and those that could not be
        made for want of a column.

    Raises
    ------
    AllometryError
        For a table without rows.

    Examples
    --------
    >>> import allometry, pandas as pd
    >>> found = allometry.audit(pd.read_csv("examples/runs.csv"))
    >>> [finding.name for finding in found.level("fault")]
    []
    """
    if not len(frame):
        raise AllometryError("the table has no rows", hint="give a table with one row a run")
    ladder = _read(with_unique_labels(frame, None)[0], dict(columns or {}))
    findings: list[Finding] = []
    passed: list[str] = []
    unchecked: dict[str, str] = {}
    for check, (what, needed) in CHECKS.items():
        missing = [_missing(ladder, s) for s in needed if s not in ladder.values]
        if missing:
            unchecked[what] = " and ".join(missing)
            continue
        if check is not _unusable and not ladder.usable.any():
            unchecked[what] = "no row can be used"
            continue
        try:
            found = list(check(ladder))
        except _Lacking as lacking:
            unchecked[what] = str(lacking)
            continue
        findings += found
        if not found:
            passed.append(what)
    order = sorted(findings, key=lambda f: LEVELS.index(f.level))
    return Audit(
        rows=len(frame), columns={"loss" if s == "L" else s: c for s, c in ladder.columns.items()},
        findings=tuple(order), passed=tuple(passed), unchecked=unchecked,
    )  # fmt: skip


def _missing(a: Ladder, symbol: str) -> str:
    near = [name for name in similar(a.frame.columns, symbol) if symbol in "NDL"]
    letter = "loss" if symbol == "L" else symbol
    return f"no {_MEANING[symbol]}" + (f"; say which, such as {letter}={conversion(near[0])}" if near else "")


class _Lacking(Exception):
    """Why a check cannot be made."""


_MEANING = {"N": "column of sizes N", "D": "column of tokens D", "C": "column of compute C", "L": "column of losses",
            "U": "column of unique tokens U", "S": "column of steps"}  # fmt: skip


def _read(frame: pd.DataFrame, mapping: dict[str, str]) -> Ladder:
    mapping = {("L" if s == "loss" else "U" if s == "unique" else s): text for s, text in mapping.items()}
    values, columns, bad = {}, {}, []
    for symbol in _SYMBOLS:
        source = mapping.get(symbol) or column_for(frame, symbol)[0]
        if source is None:
            continue
        try:
            values[symbol] = read_symbol(frame, symbol, mapping)
            columns[symbol] = source
        except AllometryError as error:
            bad.append((symbol, error.message))
    computed = set()
    with np.errstate(all="ignore"):
        if "N" in values and "C" in values and "D" not in values:
            values["D"], columns["D"] = values["C"] / (6 * values["N"]), "C/(6*N)"
            computed.add("D")
        elif "N" in values and "D" in values and "C" not in values:
            values["C"], columns["C"] = 6 * values["N"] * values["D"], "6*N*D"
            computed.add("C")
    return Ladder(frame, values, columns, tuple(bad), frozenset(computed))


def _unusable(a: Ladder) -> Found:
    for symbol, message in a.unreadable:
        yield Finding(
            level="fault", name="unreadable column", what=f"{symbol}: {message}",
            cure="write numbers in full, or say with columns (--let) what is meant",
        )  # fmt: skip
    if a.unfinished.any():
        yield Finding(
            level="caution", name="unfinished runs", what=f"{counted(int(a.unfinished.sum()), 'run')} did not finish",
            cure="finish them, or leave them out", rows=a.labels(np.flatnonzero(a.unfinished)),
        )  # fmt: skip
    for symbol in ("N", "D", "L"):
        if symbol not in a.values:
            continue
        x = a.values[symbol]
        wrong = (~np.isfinite(x) | (x <= 0)) & ~a.unfinished
        if not wrong.any():
            continue
        many = 0.5 < wrong.mean() < 1
        yield Finding(
            level="note" if many else "fault", name="values that cannot be used",
            what=f"{a.columns[symbol]!r} is missing, infinite or not positive in {wrong.sum()} of {len(x)} rows",
            cure="rows of a log without an evaluation are left out" if many
            else "correct them, run them again (a loss of nan is a run that diverged), or leave them out",
            rows=() if many else a.labels(np.flatnonzero(wrong)),
        )  # fmt: skip


def _copies(a: Ladder) -> Found:
    at = np.flatnonzero(a.usable)
    rows = at[originals(a.frame.iloc[at]) != np.arange(len(at))]
    if len(rows):
        yield Finding(
            level="caution", name="duplicates", rows=a.labels(rows), cure="leave the copies out",
            what=f"{counted(len(rows), 'row')} equal to an earlier row in every column",
        )  # fmt: skip
    if "L" not in a.values or "N" not in a.values:
        return
    at = at[~np.isin(at, rows)]
    loss = pd.Series(a.values["L"][at])
    decimals = loss.map(lambda x: len(f"{x:.12g}".partition(".")[2]))
    # Among many rounded losses some are equal by chance: pairs times the share of the range that one value takes.
    chance = len(loss) ** 2 / 2 * 10.0**-decimals / max(float(np.ptp(np.quantile(loss, [0.1, 0.9]))), 1e-9)
    twice = loss.duplicated(keep=False).to_numpy() & (chance < 0.1).to_numpy()
    groups = [part.to_numpy() for _, part in pd.Series(at[twice]).groupby(loss[twice].to_numpy())]
    groups = [
        part
        for part in groups
        if _differ(a.values["N"][part]) or _differ(a.values.get("D", a.values["N"])[part])
    ]
    rows = np.array([i for part in groups for i in part], dtype=int)
    if len(rows) > 0.1 * len(at):
        yield Finding(
            level="note", name="losses of few values", cure="count the step between them as noise",
            what=f"{len(rows)} of {len(at)} losses are equal to another's, to all digits: they were rounded, or read"
            " off a figure",
        )  # fmt: skip
    elif len(rows):
        values = ", ".join(
            f"{a.values['L'][part[0]]:.8g} ({_labelled(a.labels(part))})" for part in groups[:3]
        )
        yield Finding(
            level="caution", name="one loss in two runs", rows=a.labels(rows),
            what=f"runs of different size or tokens have the same loss {values}: one of them holds the loss of"
            " another run, or is counted under a wrong size or length",
            cure="look up the loss of each in its own log",
        )  # fmt: skip


def _differ(x: Array) -> bool:
    return bool(np.ptp(np.log(x)) > 0.01)


def _units(a: Ladder) -> Found:
    for symbol in ("N", "D", "C"):
        if symbol in a.values and symbol not in a.computed:
            found = wrong_scale(symbol, a.values[symbol])
            if found:
                remedy = (
                    f"{symbol}=`{a.columns[symbol]}`*{found[1]}"
                    if found[1]
                    else "state the unit in the heading"
                )
                yield Finding(level="fault", name=f"unit of {symbol}", what=f"{found[0]}?", cure=remedy)


def _loss_unit(a: Ladder) -> Found:
    loss = a.values["L"][a.usable]
    if not len(loss):
        return
    for warning in about_scale(loss, "L", a.columns["L"]):
        what, _, cure = warning.meaning.partition("; floors")
        yield Finding(level="fault", name="unit of the loss", what=what, cure=cure.partition(": ")[2])
    if np.median(loss) < 1.0:
        yield Finding(
            level="caution", name="unit of the loss",
            what=f"losses of {loss.min():.3g} to {loss.max():.3g} lie below what a token of text is known to cost"
            " (about 1.5 nats at best): they are per byte or character, in another unit, or of text that was"
            " trained on",
            cure="nats per token, of text that was not trained on; exponents do not depend on a constant factor",
        )  # fmt: skip


def _sizes(a: Ladder) -> Found:
    sizes = np.unique(a.runs["N"])
    span = sizes[-1] / sizes[0]
    if len(sizes) < 4 or span < 10:
        few = len(sizes) < 4
        said = f"{counted(len(sizes), 'size')} over a factor of {span:.3g} in N"
        more = format_count(sizes[-1] * max(4.0, 10 / span)) if span < 10 else format_count(sizes[-1] * 3)
        yield Finding(
            level="fault" if few else "caution", name="few sizes",
            what=f"{said}: {'three parameters of N take four sizes' if few else 'an exponent wants a decade'}",
            cure=f"add sizes, such as {more} and {format_count(sizes[0] / 3)}",
        )  # fmt: skip


def _horizons(a: Ladder) -> Found:
    ratio = (a.runs["D"] / a.runs["N"]).to_numpy()
    n, d = np.log(a.runs["N"].to_numpy()), np.log(a.runs["D"].to_numpy())
    if len(np.unique(a.runs["N"])) >= 2:
        low, high = format_count(np.exp(n.min())), format_count(np.exp(n.max()))
        more = f"train {low} on {format_count(np.exp(d[n.argmin()]) * 8)} tokens and {high} on" \
               f" {format_count(np.exp(d[n.argmax()]) / 4)}"  # fmt: skip
        if np.ptp(np.log(ratio)) < np.log(1.5):
            yield Finding(
                level="fault", name="one D/N", cure=more,
                what=f"all runs have {ratio.min():.3g} to {ratio.max():.3g} tokens a parameter: what size and what"
                " tokens give cannot be told apart, nor the optimum found",
            )  # fmt: skip
        elif np.ptp(d) < np.log(1.3):
            yield Finding(
                level="caution", name="one D", cure=more,
                what=f"all runs have {format_count(np.exp(np.median(d)))} tokens: a law of D cannot be fitted",
            )  # fmt: skip
        elif np.ptp(n + d) < np.log(1.3):
            yield Finding(
                level="fault", name="one compute", what=f"all runs cost about {np.exp(np.median(n + d)) * 6:.2g} FLOPs",
                cure="train the sizes at a second budget, several times larger",
            )  # fmt: skip
        elif len(n) > 2 and abs(np.corrcoef(n, d)[0, 1]) > 0.98:
            yield Finding(
                level="caution", name="N and D move together", cure=more,
                what=f"log N and log D are correlated by {np.corrcoef(n, d)[0, 1]:.3f}: their exponents trade off",
            )  # fmt: skip
    short = a.runs[ratio < 1]
    if len(short):
        yield _starved(a, short)
    steps = a.values.get("S")
    batch = a.numbers(r"tokens_per_(batch|step)|batch_tokens|batch_size_(in_)?tokens")
    if steps is None and batch is not None:
        steps = a.values["D"] / batch[1]
    if steps is not None:
        last = steps[a.runs["at"]]
        few = a.runs[np.isfinite(last) & (last < 500) & (last > 0)]
        if len(few) and len(few) < len(a.runs):
            yield Finding(
                level="caution", name="short horizons", rows=a.labels(few["at"]),
                what=f"{counted(len(few), 'run')} took less than 500 steps: warm-up and decay are most of them",
                cure="train them longer, or with a smaller batch",
            )  # fmt: skip


def _starved(a: Ladder, short: pd.DataFrame) -> Finding:
    """Return the finding on runs of less than a token a parameter: a caution unless they lie on the law."""
    said = f"{counted(len(short), 'run')} saw less than one token a parameter"
    if a.lawful:
        return Finding(
            level="note", name="under-trained runs", rows=a.labels(short["at"]),
            what=f"{said}; they lie on the law of the others", cure="nothing, where larger runs are as short",
        )  # fmt: skip
    return Finding(
        level="caution", name="under-trained runs", rows=a.labels(short["at"]),
        what=f"{said}, where losses follow the warm-up and not a law",
        cure="leave them out, or train them on at least five tokens a parameter",
    )  # fmt: skip


def _rungs(a: Ladder) -> Found:
    sizes = a.runs.groupby("N")["D"].max()
    if len(sizes) < 4 or _slices(a):
        return
    ratio = sizes.to_numpy() / sizes.index.to_numpy(float)
    trend = np.polyfit(np.log(sizes.index.to_numpy(float)), np.log(sizes.to_numpy()), 1)
    away = np.log(sizes.to_numpy()) - np.polyval(trend, np.log(sizes.index.to_numpy(float)))
    low = (ratio < 5) & (away < -np.log(3)) & (sizes.to_numpy() < sizes.median() / 3)
    for n, d in zip(sizes.index[low], sizes[low], strict=True):
        rows = a.runs.loc[a.runs["N"] == n, "at"]
        yield Finding(
            level="caution", name="under-trained rung", rows=a.labels(rows),
            what=f"the longest run of {format_count(n)} has {format_count(d)} tokens, {d / n:.2g} a parameter,"
            " far less than those of the sizes beside it",
            cure=f"train {format_count(n)} on {format_count(float(np.median(sizes)))} tokens",
        )  # fmt: skip


def _rates(a: Ladder) -> Found:
    found = a.numbers(_RATE)
    if found is None:
        raise _Lacking("no column of learning rates")
    name, values = found
    rate, n = values[a.runs["at"]], a.runs["N"].to_numpy()
    if not np.isfinite(rate).any():
        raise _Lacking(f"column {name!r} is empty")
    sizes = np.unique(n)
    if len(sizes) < 3 or sizes[-1] < 4 * sizes[0]:
        return
    if len(np.unique(rate[np.isfinite(rate)])) == 1:
        yield Finding(
            level="fault", name="one rate for all sizes",
            what=f"every run from {format_count(sizes[0])} to {format_count(sizes[-1])} parameters has"
            f" {name} {rate[np.isfinite(rate)][0]:.3g}; the best rate falls with size, so the rungs are not equally"
            " well tuned and exponents of N are biased",
            cure=f"train {format_count(sizes[0])} and {format_count(sizes[-1])} at {np.nanmax(rate) * 2:.2g} and"
            f" {np.nanmin(rate) / 2:.2g} too, and take the best of each size",
        )  # fmt: skip
    elif all(len(np.unique(rate[n == size])) == 1 for size in sizes):
        yield Finding(
            level="note", name="rates set by a rule",
            what=f"each size has one {name}: whether it is the best is not known",
            cure=f"train {format_count(sizes[0])} and {format_count(sizes[-1])} at twice and half their rate",
        )  # fmt: skip


def _edges(a: Ladder) -> Found:
    """Settings whose best value is the largest or smallest that was tried."""
    known = 0
    for what, pattern in (("learning rate", _RATE), ("batch", _BATCH)):
        found = a.numbers(pattern)
        if found is None:
            continue
        name, values = found
        table = a.runs.assign(x=values[a.runs["at"]], cell=cells(a.runs)).dropna()
        edge: dict[str, list[pd.Series]] = {"highest": [], "lowest": []}
        tried = 0
        for _, part in table.groupby("cell"):
            by = part.groupby("x")["loss"].min()
            if len(by) < 3:
                continue
            tried += 1
            best = int(by.to_numpy().argmin())
            if best not in (0, len(by) - 1):
                continue
            beside = by.iloc[1 if best == 0 else -2]
            if beside > by.iloc[best] * (1 + _NEAR):
                lowest = part.iloc[int(part["loss"].to_numpy().argmin())]
                edge["lowest" if best == 0 else "highest"].append(lowest)
        known += tried
        for side, cases in edge.items():
            if not cases:
                continue
            shown = [f"N {format_count(r.N)} D {format_count(r.D)} at {r.x:.3g}" for r in cases]
            more = f" and {len(cases) - 4} more" if len(cases) > 4 else ""
            beyond = cases[0].x * (2.0 if side == "highest" else 0.5)
            yield Finding(
                level="fault" if len(cases) > 0.2 * tried else "caution", name=f"{what} not tuned",
                rows=a.labels(sorted(r["at"] for r in cases)),
                what=f"the best {name} is the {side} tried at {len(cases)} of {tried} sizes and horizons:"
                f" {', '.join(shown[:4])}{more}",
                cure=f"train N {format_count(cases[0].N)}, D {format_count(cases[0].D)} at {name} {beyond:.3g}, and the"
                " others alike, until the best lies inside",
            )  # fmt: skip
    if not known:
        raise _Lacking("no size was trained at three rates or batches")


def _seeds(a: Ladder) -> Found:
    number, _ = settings(a.frame.iloc[a.runs["at"]])
    words = [
        c for c in a.frame.columns if str(c).lower() not in ("run", "name", "id") and is_text(a.frame[c])
    ]
    at = pd.DataFrame({"N": a.runs["N"], "D": a.runs["D"].round(-3), "setting": number})
    for name in words:
        kind = numbered(a.frame[name].iloc[a.runs["at"]].astype(str))
        if kind.max() < len(kind) / 3:
            at[f"word {name}"] = kind
    repeats = int(at.duplicated().sum())
    if repeats < 3:
        n = np.unique(a.runs["N"])
        yield Finding(
            level="note" if repeats else "caution", name="no seeds" if not repeats else "few seeds",
            what=f"{repeats or 'no'} {'run repeats' if repeats < 2 else 'runs repeat'} another with everything equal"
            " but the seed: the noise of one run is not measured, and a difference between runs cannot be judged",
            cure=f"repeat the cheapest run (N {format_count(n[0])}) with three more seeds, and one of the middle",
        )  # fmt: skip


def _slices(a: Ladder) -> list[Any]:
    """Return isoFLOP slices of the best runs where the table has set budgets, else an empty list.

    Sizes of a grid of N and D meet at equal compute too, and those at its corners are no optimum missed.
    """
    log_d = np.log(a.best["D"].to_numpy(float))
    order = np.argsort(log_d)
    level = np.empty(len(order), dtype=int)
    level[order] = np.cumsum(np.diff(log_d[order], prepend=log_d[order[0]]) > 0.03)
    pairs = a.best[["N"]].assign(D=level).drop_duplicates()
    if len(pairs) > 0.7 * pairs["N"].nunique() * pairs["D"].nunique():
        return []
    try:
        made, how = make_slices(a.best)
    except AllometryError:
        return []
    return made if "set budget" in how else []


def _optima(a: Ladder) -> Found:
    made = _slices(a)
    if not made:
        raise _Lacking("the table has no set budgets of compute")
    log_loss = np.log(a.best["loss"].to_numpy())
    for side, at in (("smallest", 0), ("largest", -1)):
        out = [s for s in made if s.losses(log_loss).argmin() == range(len(s.N))[at]]
        if not out:
            continue
        rows = [int(a.best["at"].iloc[i]) for s in out for i in s.pieces[at].rows]
        s = out[0]
        n = s.N[at] * (s.N[1] / s.N[0] if at else s.N[0] / s.N[1])
        yield Finding(
            level="fault" if len(out) > len(made) / 2 else "caution", name="optimum at the edge", rows=a.labels(rows),
            what=f"at {len(out)} of {counted(len(made), 'budget')} (C {', '.join(f'{o.C:.2g}' for o in out[:4])}) the"
            f" {side} size is the best: the optimum is not bracketed",
            cure=f"train N {format_count(n)} on {format_count(s.C / (6 * n))} tokens, and so at the others",
        )  # fmt: skip


def _counts(a: Ladder) -> Found:
    """C against 6ND, and N against width and layers."""
    table = a.runs
    if "C" not in a.computed and "D" not in a.computed:
        off = misfits(table) if len(table) > 3 else pd.Series()
        wrong = off[off.str.startswith("C/(6ND)")] if len(off) else off
        if len(wrong):
            yield Finding(
                level="fault", name="wrong compute of single runs", rows=a.labels(table.loc[wrong.index, "at"]),
                what=f"C is not that of runs of like size: {wrong.iloc[0]}",
                cure="correct C or D of these rows; a run that stopped early has less of both",
            )  # fmt: skip
        rest = table.drop(index=wrong.index)
        found = other_count(rest)
        ratio = log_count(rest)
        size = np.log(rest["N"].to_numpy())
        slope = np.polyfit(size, ratio, 1)[0] if np.ptp(size) > 0.5 else 0.0
        if np.ptp(ratio) > 0.2 and abs(slope) * np.ptp(size) > 0.2:
            small, large = np.exp(ratio[size == size.min()].mean()), np.exp(ratio[size == size.max()].mean())
            more = "N leaves out embeddings or the head, which C counts"
            if small < large:
                more = "N counts embeddings, which C leaves out"
            yield Finding(
                level="caution", name="N and C count differently",
                what=f"C/(6ND) goes from {small:.3g} at the smallest size to {large:.3g} at the largest:"
                f" {more}. That alone changes the exponent of N_opt by up to 0.1",
                cure="count N and C alike: both with everything, or both without embeddings",
            )  # fmt: skip
        elif found is not None:
            far = not 1 / OFF_COUNT < found[0] < OFF_COUNT
            yield Finding(level="fault" if far else "caution", name="wrong FLOPs", what=found[1],
                          cure=f"C=C/{found[0]:.3g}, if 6ND is meant")  # fmt: skip
    yield from _against_shape(a)


def _against_shape(a: Ladder) -> Found:
    n = a.values["N"]
    width, depth = (
        a.numbers(r"d_?model|n_embd|hidden_(size|dim)|width|h"),
        a.numbers(r"n_?layers?|num_(hidden_)?layers|depth|numl"),
    )
    other = a.numbers(
        r"n_(no|non)_?emb(ed|edding)?s?|(params_)?non_?emb(edding)?(_params)?|params_non_emb(edding)?"
    )
    if other is not None and other[0] != a.columns["N"]:
        share = 100 * (1 - other[1][a.runs["at"]] / n[a.runs["at"]])
        least, most = np.nanmin(share), np.nanmax(share)
        if most > 30 and most - least > 10:
            yield Finding(
                level="caution", name="embeddings in N",
                what=f"{most:.0f} % of the smallest model is embeddings, {least:.0f} % of the largest: N from"
                f" {a.columns['N']!r} and from {other[0]!r} give different exponents",
                cure=f"fit both, and say which (N=`{other[0]}`)",
            )  # fmt: skip
    elif width is not None and depth is not None:
        at = a.runs["at"].to_numpy()
        d, blocks = width[1][at], (depth[1] * width[1] ** 2)[at]
        known = np.isfinite(d * blocks) & (d > 0)
        if len(np.unique(d[known])) < 4:
            return
        # N = k n_layer d_model^2 + V d_model: V is a vocabulary, once or twice
        terms = np.column_stack([blocks, d])[known] / n[at][known, None]
        (k, vocabulary), *_ = np.linalg.lstsq(terms, np.ones(len(terms)), rcond=None)
        miss = np.sqrt(np.mean((terms @ (k, vocabulary) - 1) ** 2))
        share = vocabulary * d[known] / n[at][known]
        if miss < 0.03 and vocabulary > 500 and share.max() > 0.3 and np.ptp(share) > 0.1:
            yield Finding(
                level="caution", name="embeddings in N",
                what=f"N is {k:.3g} n_layer d_model² and {vocabulary:,.0f} d_model: embeddings are"
                f" {100 * share.max():.0f} % of the smallest model and {100 * share.min():.0f} % of the largest",
                cure=f"fit N without embeddings too: N={k:.3g}*`{depth[0]}`*`{width[0]}`**2",
            )  # fmt: skip


def _schedules(a: Ladder) -> Found:
    schedule = a.column(_SCHEDULE)
    kinds = [] if schedule is None else list(a.frame[schedule].iloc[a.runs["at"]].astype(str).unique())
    if 1 < len(kinds) <= len(a.runs) / 2:
        yield Finding(
            level="caution", name="mixed schedules", what=f"{schedule} is {' and '.join(sorted(kinds)[:4])}: their"
            " final losses differ by more than many sizes do",
            cure="fit the runs of one schedule",
        )  # fmt: skip
    share, length = a.numbers(_SHARE), a.numbers(_LENGTH)
    part = share[1] if share is not None else None
    if part is None and length is not None and "S" in a.values and a.columns["S"] != length[0]:
        part = a.values["S"] / length[1]
    early = np.zeros(len(a.frame), dtype=bool) if part is None else a.usable & (part < 0.98)
    decays = not kinds or any(not re.search("const", kind.lower()) for kind in kinds)
    if early.any() and decays:
        yield Finding(
            level="fault", name="checkpoints before the end", rows=a.labels(np.flatnonzero(early)),
            what=f"{counted(int(early.sum()), 'row')} of runs that had not reached the end of their schedule: their"
            " rate had not decayed, and their losses lie above those of runs of that length",
            cure="keep the last row of each run",
        )  # fmt: skip
    elif a.grouping.checkpoints and a.grouping.level >= 1 and a.grouping.groups < a.usable.sum() and decays:
        yield Finding(
            level="caution", name="checkpoints of one schedule",
            what=f"{int(a.usable.sum())} rows are points of {counted(a.grouping.groups, 'run')}: if the rate decays,"
            " all but the last lie above what a run of that length reaches",
            cure="keep the last row of each run (--row last), or train with a constant rate and branch",
        )  # fmt: skip


def _dependence(a: Ladder) -> Found:
    found = a.grouping
    sure = found.level >= 1
    if not sure:
        if settings(a.frame[a.usable])[1]:
            return  # rows of a sweep, not of a run
        table = pd.DataFrame({s: a.values[s][a.usable] for s in ("N", "D")}).assign(
            loss=a.values["L"][a.usable]
        )
        off = distances(table)
        if off is None:
            return
        found, _ = decide(found, off)
    if found.groups and found.groups < a.usable.sum() and found.checkpoints:
        yield Finding(
            level="note" if sure else "caution", name="dependent rows",
            what=f"{int(a.usable.sum())} rows are points of {counted(found.groups, 'run')}"
            f" ({found.why.partition(':')[0]}): their noise is shared{'' if sure else ', as their residuals say'}",
            cure=f"resample them together: group {found.name!r}",
        )  # fmt: skip


def _mixtures(a: Ladder) -> Found:
    name = a.column(_CORPUS)
    if name is not None and is_text(a.frame[name]):
        kinds = a.frame[name].iloc[a.runs["at"]].astype(str).unique()
        if 1 < len(kinds) <= len(a.runs) / 3:
            yield Finding(
                level="caution", name="several laws in one table",
                what=f"{name} is {', '.join(map(str, kinds[:4]))}: floors and exponents differ between them",
                cure=f"fit each alone (--where '{name}={kinds[0]}')",
            )  # fmt: skip
            return
    table = a.runs if len(a.runs) < 500 else a.best
    off = distances(table)
    if off is None:
        raise _Lacking("too few sizes and horizons to fit a law")
    inputs = {s: table[s].to_numpy() for s in ("N", "D", "C")}
    found = find_mixture(a.frame.iloc[table["at"]], off, inputs)
    if found is not None:
        yield Finding(
            level="fault", name="several laws in one table", what=found.text(),
            cure=f"fit each {found.column} alone",
        )  # fmt: skip


def _outliers(a: Ladder) -> Found:
    # shorter runs are a finding of their own where no law holds for them
    table = a.best if a.lawful else a.best[a.best["D"] >= a.best["N"]]
    off = distances(table)
    if off is None:
        raise _Lacking("too few sizes and horizons to fit a law")
    away = 100 * np.expm1(off)
    named = misfits(table)
    sure = table.index.isin(named[named.str.startswith("loss")].index if len(named) else [])
    # Several bad runs leave no gap to the worst of the others: those are said with less force.
    scale = 1.4826 * float(np.median(np.abs(away)))
    far = sure | ((np.abs(away) > 8 * scale) & (np.abs(away) > 4))
    if far.mean() > 1.5 * MOST:
        far = sure
    for sign, name, cure in (
        (1, "runs that diverged or are mislabelled", "look at their curves; run them again at half the rate"),
        (-1, "losses too low", "look them up: another corpus, split, size or step; else run them again"),
    ):
        which = np.flatnonzero(far & (np.sign(away) == sign))
        if not len(which):
            continue
        rows, shown = a.labels(table["at"].iloc[which]), ", ".join(f"{away[i]:+.3g} %" for i in which[:6])
        if len(which) > 1 and table["D"].rank(pct=True).iloc[which].max() < 0.15:
            longest = format_count(float(table["D"].iloc[which].max()))
            yield Finding(
                level="caution", name="short runs off the law", rows=rows,
                what=f"the {counted(len(which), 'run')} of up to {longest} tokens are off the law of the longer ones:"
                f" {shown}",
                cure=f"fit runs of more than {longest} tokens (--where D>...), or a law that bends there",
            )  # fmt: skip
        else:
            yield Finding(
                level="fault" if sure[which].any() else "caution", name=name, rows=rows, cure=cure,
                what=f"{counted(len(which), 'run')} far from the law of the others, beyond their scatter: {shown}",
            )  # fmt: skip


def _diverged(a: Ladder) -> Found:
    """Runs far above another setting of their own size and compute."""
    _, names = settings(a.frame.iloc[a.runs["at"]])
    if not names:
        raise _Lacking("no size was trained with several settings")
    best = a.runs.groupby(cells(a.runs))["loss"].transform("min")
    bad = a.runs[a.runs["loss"] > 1.25 * best]
    if len(bad):
        yield Finding(
            level="note", name="settings that fail", rows=a.labels(bad["at"]),
            what=f"{counted(len(bad), 'run')} more than 25 % above another setting of the same size and compute",
            cure="take the best of each size; a fit to all rows measures the settings",
        )  # fmt: skip


def _repeated(a: Ladder) -> Found:
    times = a.values["D"] / a.values["U"]
    over = a.usable & (times > 1.01)
    if over.any():
        many = a.usable & (times > 4)
        yield Finding(
            level="caution" if many.any() else "note", name="repeated data",
            rows=a.labels(np.flatnonzero(many if many.any() else over)),
            what=f"{counted(int(over.sum()), 'row')} read their text more than once, up to"
            f" {times[over].max():.3g} times"
            + (f", {int(many.sum())} of them more than four times" if many.any() else ""),
            cure="fit a law of D and U (--law data-constrained), or runs on fresh text alone",
        )  # fmt: skip


CHECKS: dict[Callable[[Ladder], Found], tuple[str, tuple[str, ...]]] = {
    _unusable: ("values that can be used", ()),
    _copies: ("duplicates", ()),
    _units: ("units of N, D and C", ("N",)),
    _loss_unit: ("unit of the loss", ("L",)),
    _sizes: ("number and range of sizes", ("N", "L")),
    _horizons: ("tokens a parameter, horizons", ("N", "D", "L")),
    _rungs: ("rungs trained alike", ("N", "D", "L")),
    _rates: ("one rate for all sizes", ("N", "L")),
    _edges: ("best rate and batch inside their grids", ("N", "D", "L")),
    _seeds: ("seeds", ("N", "D", "L")),
    _optima: ("isoFLOP optima inside their sizes", ("N", "D", "L")),
    _counts: ("C against 6ND, embeddings", ("N", "D", "L")),
    _schedules: ("schedules and unfinished horizons", ("N", "D", "L")),
    _dependence: ("dependent rows", ("N", "D", "L")),
    _mixtures: ("several laws in one table", ("N", "D", "L")),
    _outliers: ("runs off the law of the others", ("N", "D", "L")),
    _diverged: ("settings that fail", ("N", "D", "L")),
    _repeated: ("repeated data", ("N", "D", "L", "U")),
}
"""Each check, what it looks at, and the symbols that it needs."""
