"""The compute-optimal size by measurement: the best N at each budget, and the power law N_opt ∝ C^a through them.

A run that is diverged, unfinished or mislabelled moves the optimum of its budget, and with it the exponent:
such runs are named and left out. Of runs that differ in learning rate, batch or another setting the best of
each size counts; only runs that are alike in all of them are repeats.

Three methods: "akima" (Porian et al. 2024, arXiv 2406.19146: interpolation in log-log, seed-noise bootstrap,
edge budgets discarded, a line whose weights believe no optimum better than a third of the spacing of the
sizes), "parabola" (Hoffmann et al. 2022, approach 2, through the sizes near the optimum) and "envelope"
(approach 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from html import escape
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from allometry.core.errors import AllometryError, unknown
from allometry.core.units import counted, format_count
from allometry.laws.envelope import fit_envelope
from allometry.laws.fit import solve
from allometry.laws.grouping import find_mixture, numbered
from allometry.laws.observations import Runs, log_count, other_count, read_runs, with_unique_labels
from allometry.laws.power_lines import PowerLine, power_line
from allometry.laws.problem import Problem
from allometry.laws.result import FitWarning
from allometry.laws.slices import (
    METHODS,
    Minimum,
    Slice,
    best_of_settings,
    make_slices,
    minimum,
    parabola_window,
    points,
    seed_noise,
    settings,
    shape_cautions,
)
from allometry.laws.solver import get_objective
from allometry.laws.uncertainty import Array, Estimate, outlying, percentile_interval, plain, said
from allometry.laws.zoo import get

OFF_COMPUTE = 0.15
"""Difference of log C/(6ND) from that of runs of like size that rounding and counting do not explain."""
OFF_LOSS = 0.005
"""Smallest relative distance from the law of the others that counts as far."""
APART = 2.0
"""A far loss is also so many times as far off as the worst of the others: laws that bend leave no gap."""
MOST = 0.2
"""Share of the rows above which they are no exceptions: then the law, or the count of C, is another."""

_LAW = get("chinchilla")


def misfits(table: pd.DataFrame) -> pd.Series:
    """Return why rows of a table (columns N, D, C, loss) do not belong, indexed as the table; only those.

    Two checks: C/(6ND) against that of the runs of like size, and the loss against Chinchilla's law fitted to
    all rows by absolute deviations, which single rows do not move.
    """
    reasons = [""] * len(table)
    off = _off_compute(log_count(table), np.log(table["N"].to_numpy(float)))
    unlike = np.abs(off) > OFF_COMPUTE
    if unlike.mean() <= MOST:
        for i in np.flatnonzero(unlike):
            reasons[i] = (
                f"C/(6ND) is {np.exp(off[i]):.3g} times that of runs of like size:"
                f" {100 * np.exp(-off[i]):.0f} % of the tokens of its compute"
            )
    rest = [i for i, reason in enumerate(reasons) if not reason]
    distance = _off_loss(table.iloc[rest])
    far = np.flatnonzero(distance)
    if len(far) <= MOST * len(table):
        for i in far:
            reasons[rest[i]] = f"loss {100 * np.expm1(distance[i]):+.3g} % off the law of the other runs"
    found = pd.Series(reasons, index=table.index, dtype=object)
    return found[found != ""]


def _off_compute(log_ratio: Array, log_size: Array) -> Array:
    """Return each row's log ratio less that of rows of like size, (n,); 0 where that is within the scatter.

    Rows of like size are the three next smaller and the three next larger, as they are and continued by the
    three beyond them: the ratio may change with size. The nearest of these four decides.
    """
    order = np.lexsort((log_ratio, log_size))
    values, off = log_ratio[order], np.zeros(len(order))
    for i in range(len(order)):
        found = []
        for side in (values[:i][::-1], values[i + 1 :]):
            if len(side) >= 3:
                near = float(np.median(side[:3]))
                found.append(near)
                if len(side) >= 6:
                    found.append(2 * near - float(np.median(side[3:6])))
        off[order[i]] = min((values[i] - f for f in found), key=abs, default=0.0)
    scale = 1.4826 * float(np.median(np.abs(off)))
    return np.where(np.abs(off) > 6 * scale, off, 0.0)


def _off_loss(table: pd.DataFrame) -> NDArray[np.float64]:
    """Return the log distance of each far row from the law of the others; 0 for rows that are not far."""
    off = distances(table)
    if off is None:
        return np.zeros(len(table))
    far = outlying(off, len(_LAW.parameters))
    apart = max(OFF_LOSS, APART * float(np.abs(off[~far]).max(initial=0.0)))
    return np.where(far & (np.abs(off) > apart), off, 0.0)


def distances(table: pd.DataFrame) -> Array | None:
    """Return the log of measured loss over Chinchilla's law fitted to all rows of a table, shape (n,).

    None where the table (columns N, D, loss) has too few rows, sizes or numbers of tokens to fit it.
    """
    found = _fitted(table)
    return None if found is None else found[0]


def slope_in_tokens(table: pd.DataFrame) -> Array | None:
    """Return d log loss / d log D at a fixed size of each row, (n,), by Chinchilla's law fitted to all rows;
    None where the table (columns N, D, loss) does not allow that.
    """
    found = _fitted(table)
    if found is None:
        return None
    p = found[1]
    floor, data = (p["E"] + p["A"] / table["N"] ** p["alpha"], p["B"] / table["D"] ** p["beta"])
    return np.asarray(-p["beta"] * data / (floor + data), dtype=float)


def _fitted(table: pd.DataFrame) -> tuple[Array, dict[str, float]] | None:
    if len(table) < 2 * len(_LAW.parameters) or min(table["N"].nunique(), table["D"].nunique()) < 4:
        return None
    return _law_fit(*(table[name].to_numpy(float).tobytes() for name in (*_LAW.inputs, "loss")))


@lru_cache(maxsize=16)
def _law_fit(*columns: bytes) -> tuple[Array, dict[str, float]] | None:
    """Return the log distances of columns N, D and loss (bytes of float64) from their law, and its parameters:
    one table is asked about several times.
    """
    *inputs, loss = map(np.frombuffer, columns)
    problem = Problem(
        law=_LAW, objective=get_objective("huber-log"), output=loss,
        inputs=dict(zip(_LAW.inputs, inputs, strict=True)), weights=np.ones(len(loss)),
        fixed={}, tied={},
    )  # fmt: skip
    best = solve(problem)
    if not np.isfinite(best.objective):
        return None
    found = np.asarray(-problem.residuals(best.z[None])[0][0])
    found.flags.writeable = False
    return found, {name: float(value) for name, value in problem.natural(best.z).items()}


Method = Literal["akima", "parabola", "envelope"]


@dataclass(frozen=True, kw_only=True, eq=False)
class IsoflopResult:
    """The optimum of every budget and the frontier through them.

    `table`: one row a budget with C, N_opt, D_opt, loss and their 95 % bounds (columns ending _low and
    _high), `sizes` (number of sizes), `used` and `reason` (why a budget was discarded). `slices`: the
    points behind it.
    """

    method: str
    table: pd.DataFrame
    slices: pd.DataFrame
    N: PowerLine
    D: PowerLine
    loss: PowerLine
    noise: float
    noise_source: str
    made: str
    excluded: pd.DataFrame
    notes: tuple[str, ...]
    warnings: tuple[FitWarning, ...]

    def __repr__(self) -> str:
        used = int(self.table["used"].sum())
        return f"<IsoflopResult {self.method}: {used} budgets, a = {self.a.text()}, b = {self.b.text()}>"

    @property
    def a(self) -> Estimate:
        """Exponent of N_opt ∝ C^a."""
        return self.N.exponent

    @property
    def b(self) -> Estimate:
        """Exponent of D_opt ∝ C^b."""
        return self.D.exponent

    @property
    def discarded(self) -> pd.DataFrame:
        """Budgets that are excluded from the line, with the reason."""
        return self.table.loc[~self.table["used"], ["C", "sizes", "reason"]].reset_index(drop=True)

    def report(self) -> str:
        """Return the slices, the optima, the fits and the warnings as text."""
        used = int(self.table["used"].sum())
        head = f"isoFLOP, method {self.method}: {self.made}, {used} used"
        noise = f"noise of one run: {self.noise:.2g} of the loss ({self.noise_source})"
        noise = self.noise_source if self.method == "envelope" else noise
        rows = [] if self.method == "envelope" else [_row(r) for _, r in self.table.iterrows()]
        scatter = self.N.scatter
        laws = [
            f"{self.N.formula}    a = {self.a.text()}",
            f"{self.D.formula}    b = {self.b.text()}",
            f"{self.loss.formula}    (loss along the frontier; no offset)",
            "intervals 95 %"
            + (f"; the optima scatter {scatter:.2g} x their own noise" if scatter > 0 else ""),
        ]
        out = (
            [f"excluded: {counted(len(self.excluded), 'row')} ({_why(self.excluded)})"]
            if len(self.excluded)
            else []
        )
        tail = [*out, *(f"note: {n}" for n in self.notes), *(f"warning: {w}" for w in said(self.warnings))]
        return "\n".join([head, noise, *rows, *laws, *tail])

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain JSON."""
        table = self.table.astype(object).where(self.table.notna(), None)
        return {
            "method": self.method,
            "made": self.made,
            "noise": plain(self.noise),
            "noise_source": self.noise_source,
            "budgets": table.to_dict("records"),
            "N": self.N.to_dict(),
            "D": self.D.to_dict(),
            "loss": self.loss.to_dict(),
            "excluded": self.excluded["reason"].value_counts().to_dict() if len(self.excluded) else {},
            "notes": list(self.notes),
            "warnings": said(self.warnings),
        }

    def _repr_html_(self) -> str:
        return f"<pre>{escape(self.report())}</pre>"


def isoflop(
    frame: pd.DataFrame,
    *,
    columns: Mapping[str, str] | None = None,
    method: Method = "akima",
    budgets: list[float] | None = None,
    noise: float | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> IsoflopResult:
    """Fit the compute-optimal frontier of a table of runs, with columns N, loss, and D or C (FLOPs).

    Parameters
    ----------
    frame
        One row a run. Runs that do not belong are left out, and named in `excluded` and in a warning.
    columns
        Those names -> columns of `frame`, or expressions of them.
    method
        "akima" or "parabola" through each budget's losses, or "envelope" of all.
    budgets
        Needed only to choose where an N x D grid is sliced.
    noise
        Relative standard deviation of a loss between seeds (default: from repeats, else from the smoothness of
        the slices).
    bootstrap, seed
        Number of resamples, and what they are drawn with.

    Returns
    -------
    IsoflopResult
        Slices, optima, and the exponents a and b of N_opt and D_opt, each an `Estimate`.

    Raises
    ------
    AllometryError
        For unusable columns, or where fewer than two budgets have an optimum inside their sizes.

    Examples
    --------
    >>> import allometry, pandas as pd
    >>> found = allometry.isoflop(pd.read_csv("examples/runs.csv"), bootstrap=50)
    >>> round(found.a.value, 2)
    0.58
    """
    if method not in ("envelope", *METHODS):
        raise unknown("isoFLOP method", method, ("envelope", *METHODS))
    if bootstrap < 2:
        raise AllometryError(
            f"bootstrap={bootstrap}: the optima are the medians of resamples, which take at least 2",
            hint="leave bootstrap out for 1,000 resamples",
            cli_hint="leave --bootstrap out for 1,000 resamples",
        )
    frame, _ = with_unique_labels(frame, None)
    runs = read_runs(frame, columns)
    about = [*_count_of_compute(runs), *_mixture(frame, runs)]
    if method == "envelope":
        found = _by_envelope(runs, bootstrap, seed)
        return replace(found, warnings=(*about, *found.warnings))
    runs, left_out = _belonging(runs, settings(frame.loc[runs.table.index]), budgets)
    table = runs.table
    made, how = make_slices(table, budgets, slope_in_tokens(table))
    log_loss = np.log(table["loss"].to_numpy(float))
    _refuse_one_sided(made, log_loss)
    sigma, source = (noise, "given") if noise is not None else seed_noise(table, made)
    draws = log_loss + sigma * np.random.default_rng(seed).standard_normal((bootstrap, len(log_loss)))
    window = parabola_window(made, log_loss, sigma) if method == "parabola" else np.inf
    optima = [minimum(s, log_loss, draws, method, sigma, window, i) for i, s in enumerate(made)]
    rows = pd.DataFrame([_summary(o) for o in optima])
    used = [o for o in optima if not o.reason]
    if len(used) < 2:
        reasons = "; ".join(f"C = {o.slice.C:.2g}: {o.reason}" for o in optima if o.reason)
        raise AllometryError(
            f"{len(used)} of {counted(len(optima), 'budget')} with a usable optimum, and a line needs two ({reasons})",
            hint="add smaller and larger sizes at those budgets, or other budgets",
        )
    lines = {name: _through(used, name) for name in ("N", "D", "loss")}
    notes = [*runs.notes, *_about_window(window, method, used)]
    return IsoflopResult(
        method=method, table=rows, slices=points(made, log_loss),
        N=lines["N"], D=lines["D"], loss=lines["loss"],
        noise=float(sigma), noise_source=source, made=how,
        warnings=(*about, *left_out, *_cautions(optima, lines["N"], method)),
        excluded=runs.excluded, notes=tuple(notes),
    )  # fmt: skip


def _about_window(window: float, method: str, used: list[Minimum]) -> list[str]:
    if method != "parabola":
        return []
    wider = " (more where fewer than four sizes lie there)" if any(o.span > window**2 for o in used) else ""
    return [f"parabolas through the sizes within a factor {window:g} of the optimum{wider}"]


def _count_of_compute(runs: Runs) -> list[FitWarning]:
    """Return a warning where C is off 6ND, which plans, other tables and published fits count in."""
    found = other_count(runs.table)
    return [] if found is None else [FitWarning(name="count of compute", meaning=found[1])]


def _mixture(frame: pd.DataFrame, runs: Runs) -> list[FitWarning]:
    """Return a warning where rows of one corpus, tokenizer, … lie together off the law of all rows."""
    off = distances(runs.table)
    if off is None:
        return []
    rows = frame.loc[runs.table.index]
    inputs = {name: runs.table[name].to_numpy(float) for name in ("N", "D", "C")}
    found = find_mixture(rows, off, inputs, numbered(runs.table["run"]))
    return [] if found is None else [FitWarning(name="mixed-runs", meaning=found.text())]


def _belonging(
    runs: Runs, setting: tuple[NDArray[np.int_], list[str]], budgets: list[float] | None
) -> tuple[Runs, list[FitWarning]]:
    """Return of each size the runs of the best setting, without the misfits; and warnings that name both.

    A run whose loss is too low to belong would be the best of its size: it goes first, and the next best
    takes its place.
    """
    number, columns = setting
    every, why = runs.table, pd.Series(dtype=object)
    for _ in range(4):
        kept = ~every.index.isin(why.index)
        best = kept.copy()
        best[kept] = best_of_settings(every[kept], number[kept], budgets)
        fresh = misfits(every[best])
        if not len(fresh) or (~kept).mean() > MOST:
            break
        why = pd.concat([why, fresh])
        best &= ~every.index.isin(why.index)
    passed = kept & ~best
    bad = every.loc[why.index].assign(reason=why.str.replace(r":.*| [-+\d.e]+ %", "", regex=True))
    worse = every[passed].assign(reason="a better setting of this size is in the table")
    excluded = pd.concat([x for x in (runs.excluded, bad, worse) if len(x)] or [runs.excluded])
    found = replace(runs, table=every[kept & best], excluded=excluded)
    said = [_about_settings(int(passed.sum()), columns)] if passed.any() else []
    return found, [*said, *_about_misfits(every, why)]


def _about_settings(passed: int, columns: list[str]) -> FitWarning:
    names = ", ".join(columns[:4]) + (f" and {len(columns) - 4} more" if len(columns) > 4 else "")
    text = (
        f"runs of one size and compute differ in {names}: they are no repeats, and the best of each size counts"
        f" ({counted(passed, 'run')} with a higher loss left out). Where few settings were tried, the best of"
        " them is not yet the optimum"
    )
    return FitWarning(name="best settings", meaning=text)


def _about_misfits(table: pd.DataFrame, why: pd.Series) -> list[FitWarning]:
    if not len(why):
        return []
    cells = "; ".join(
        f"row {label} (N {format_count(row['N'])}, C {row['C']:.2g}): {reason}"
        for (label, row), reason in zip(table.loc[why.index].iterrows(), why, strict=True)
    )
    return [FitWarning(name="runs left out", meaning=f"{counted(len(why), 'run')} left out: {cells}")]


def _refuse_one_sided(made: list[Slice], log_loss: Array) -> None:
    """Raise AllometryError for a single budget, and where every budget's best size is the same end."""
    if len(made) == 1:
        raise AllometryError(
            f"the runs have one compute budget, {made[0].C:.2g} FLOPs; N_opt ∝ C^a needs a second budget",
            hint="train the sizes at another budget too, at least a few times larger or smaller",
        )
    best = [int(s.losses(log_loss).argmin()) for s in made]
    for side, at in (("smallest", [0] * len(made)), ("largest", [len(s.N) - 1 for s in made])):
        if best == at:
            other = "smaller" if side == "smallest" else "larger"
            raise AllometryError(
                f"at every budget the {side} size is the best one: the optimum lies outside the sizes tried",
                hint=f"add {other} sizes at these budgets",
            )


def _through(optima: list[Minimum], name: str) -> PowerLine:
    """Fit the weighted line through one quantity of the optima: values are the medians of the draws.

    No optimum is believed better than a third of the spacing of the sizes (its `floor`): an interpolant says
    nothing of what lies between them. Without that, a few optima that happen to be sharp decide the exponent.
    """
    C = np.array([o.slice.C for o in optima])
    draws = np.column_stack([getattr(o, name) for o in optima])
    floor = 1e-6 if name == "loss" else np.array([o.floor for o in optima])
    y = "L" if name == "loss" else f"{name}_opt"
    return power_line("C", y, (C, np.nanmedian(draws, axis=0)), draws, floor=floor)


def _summary(optimum: Minimum) -> dict[str, Any]:
    row: dict[str, Any] = {"C": optimum.slice.C, "sizes": len(optimum.slice.N)}
    for name, draws in (("N_opt", optimum.N), ("D_opt", optimum.D), ("loss", optimum.loss)):
        low, high = percentile_interval(draws, 0.95)
        finite = draws[np.isfinite(draws)]
        value = float(np.median(finite)) if finite.size else float("nan")
        row |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return row | {"used": not optimum.reason, "reason": optimum.reason}


def _why(excluded: pd.DataFrame) -> str:
    return "; ".join(f"{reason}: {count}" for reason, count in excluded["reason"].value_counts().items())


def _row(row: pd.Series) -> str:
    if not row["used"]:
        return f"  C {row['C']:.2e}  {row['sizes']} sizes  discarded: {row['reason']}"
    span = f"[{row['N_opt_low']:.3g}, {row['N_opt_high']:.3g}]"
    ratio = row["D_opt"] / row["N_opt"]
    best = f"N_opt {row['N_opt']:.3g} {span}  D/N {ratio:.3g}  L {row['loss']:.4f}"
    return f"  C {row['C']:.2e}  {row['sizes']} sizes  {best}"


def _cautions(optima: list[Minimum], fitted: PowerLine, method: str) -> tuple[FitWarning, ...]:
    found = list(shape_cautions(optima, method))
    out = [o for o in optima if o.reason]
    used = [o.slice.C for o in optima if not o.reason]
    if out:
        text = f"{len(out)} of {len(optima)} budgets excluded from the line: " + "; ".join(
            f"C = {o.slice.C:.2g}, {o.reason}" for o in out
        )
        found.append(FitWarning(name="budgets discarded", meaning=text))
    if len(used) < 4 or max(used) / min(used) < 10:
        over = f"over a factor of {max(used) / min(used):.2g} in compute"
        text = f"{counted(len(used), 'budget')} {over} carry the exponent"
        found.append(FitWarning(name="few budgets", meaning=text))
    if np.isfinite(fitted.scatter) and fitted.scatter > 2:
        text = (
            f"the optima scatter {fitted.scatter:.1f} times more than the noise explains, so N_opt(C) is not"
            " a pure power law here or the noise is larger; the intervals were widened by that factor"
        )
        found.append(FitWarning(name="scatter about the line", meaning=text))
    if any(o.slice.interpolated for o in optima):
        text = "budgets share runs and are not independent of each other; the draws account for it"
        found.append(FitWarning(name="interpolated slices", meaning=text))
    return tuple(found)


def _by_envelope(runs: Runs, bootstrap: int, seed: int) -> IsoflopResult:
    """Run approach 1 and return it in the same form: the 'budgets' are the frontier's points."""
    fitted = fit_envelope(runs.table, bootstrap=min(bootstrap, 400), seed=seed)
    points = fitted.points.assign(D_opt=fitted.points["D"] * fitted.points["N"] / fitted.points["N_opt"])
    sizes = runs.table["N"].nunique()
    return IsoflopResult(
        method="envelope", table=points.assign(sizes=sizes, used=True, reason=""), slices=fitted.points,
        N=fitted.N, D=fitted.D, loss=fitted.loss, noise=float("nan"), noise_source=fitted.how,
        made=f"envelope of {counted(fitted.runs, 'curve')}", warnings=fitted.warnings,
        excluded=runs.excluded, notes=runs.notes,
    )  # fmt: skip
