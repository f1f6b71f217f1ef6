"""How far a constant depends on which runs were made: the fit repeated on parts of its own design.

The interval of a fit says where the constant of this law on these runs lies, if the law has the right form. It does
not say what other sizes or horizons would have given: where a curve bends, the exponent of a straight line is a
property of the place where it was measured. Refits without the smallest sizes, without the largest, without the
shortest horizons, and to either half of each input, show that: the range of their estimates is the design interval.
A claim about a law, and not about a table, needs both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from allometry.core.errors import AllometryError
from allometry.core.units import counted
from allometry.laws.fit import solve
from allometry.laws.law import evaluate
from allometry.laws.problem import Problem, refuse_undetermined
from allometry.laws.result import FitResult
from allometry.laws.uncertainty import plain

FEWEST_LEVELS = 4
"""Values of an input from which on parts of them are fitted alone."""

_WORDS = {
    "N": ("smallest sizes", "largest sizes", "smaller sizes", "larger sizes"),
    "D": ("shortest horizons", "longest horizons", "shorter horizons", "longer horizons"),
}
"""What the ends, and the halves, of an input are called."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DesignRange:
    """Estimates on parts of a design. `table`: one row a part (index), the first is the whole; columns `rows` and
    the free parameters. `left_out` says which parts do not determine the law, and why.
    """

    table: pd.DataFrame
    left_out: Mapping[str, str]

    def interval(self, what: str) -> tuple[float, float]:
        """Return the lowest and highest estimate of a parameter, or of arithmetic of parameters, over the parts;
        (nan, nan) where fewer than two parts can be fitted.
        """
        values = np.asarray(evaluate(what, {c: self.table[c].to_numpy() for c in self.table.columns}), float)
        values = np.broadcast_to(values, (len(self.table),))
        finite = values[np.isfinite(values)]
        if len(finite) < 3:  # the whole, and two parts
            return float("nan"), float("nan")
        return float(finite.min()), float(finite.max())

    def report(self) -> str:
        """Return the range of each parameter, and what was fitted, as text of 80 columns."""
        names = [c for c in self.table.columns if c != "rows"]
        lines = ["design intervals: lowest and highest estimate when parts of the table are", "fitted alone"]
        for name in names:
            values = self.table[name]
            low, high = self.interval(name)
            if not np.isfinite(low + high):
                continue
            where = f"({values.idxmin()}; {values.idxmax()})"
            lines.append(f"  {name:8s} [{low:.4g}, {high:.4g}]")
            lines.append(f"           {where}")
        lines += [f"  not fitted: {part} ({why})" for part, why in self.left_out.items()]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the intervals, the estimates of every part and what was left out as plain JSON."""
        names = [c for c in self.table.columns if c != "rows"]
        return {
            "intervals": {n: [plain(bound) for bound in self.interval(n)] for n in names},
            "parts": [
                {"part": str(part), "rows": int(row["rows"]), **{n: plain(row[n]) for n in names}}
                for part, row in self.table.iterrows()
            ],
            "left_out": dict(self.left_out),
        }


def design_range(result: FitResult) -> DesignRange:
    """Fit the law of a result again to parts of its table, and return the estimates.

    Parts are made along each input with FEWEST_LEVELS values or more: without its lowest quarter of values, without
    the highest, and either half (the middle value of an odd number is in both). Parts that leave another input with
    fewer than two values, or fewer rows than parameters and one, are left out.
    """
    problem = result.problem()
    whole = {"rows": len(problem.output), **{n: result.parameters[n] for n in result.free}}
    rows, left_out = {"all": whole}, dict[str, str]()
    for part, kept in _parts(problem).items():
        why = _refusal(problem, kept)
        if why:
            left_out[part] = why
            continue
        less = _less(problem, kept)
        try:
            refuse_undetermined(less, dict(result.columns))
        except AllometryError as error:
            left_out[part] = error.message
            continue
        best = solve(less)
        if not np.isfinite(best.objective):
            left_out[part] = "the law is not finite there"
            continue
        found = less.natural(best.z)
        rows[part] = {"rows": int(kept.sum()), **{n: float(found[n]) for n in result.free}}
    return DesignRange(table=pd.DataFrame.from_dict(rows, orient="index"), left_out=left_out)


def _parts(problem: Problem) -> dict[str, NDArray[np.bool_]]:
    """Return which rows (n,) each part keeps, by the part's name."""
    found: dict[str, NDArray[np.bool_]] = {}
    for name, values in problem.inputs.items():
        x = np.asarray(values, dtype=float)
        levels = np.unique(x)
        if len(levels) < FEWEST_LEVELS:
            continue
        quarter, half = max(1, len(levels) // 4), (len(levels) + 1) // 2
        lowest, highest, lower, upper = _WORDS.get(
            name, (f"lowest {name}", f"highest {name}", f"lower {name}", f"higher {name}")
        )
        found[f"without the {lowest}"] = x >= levels[quarter]
        found[f"without the {highest}"] = x <= levels[-quarter - 1]
        found[f"only the {lower}"] = x <= levels[half - 1]
        found[f"only the {upper}"] = x >= levels[-half]
    return found


def _refusal(problem: Problem, kept: NDArray[np.bool_]) -> str:
    """Return why a part is not fitted, or ""."""
    rows, free = int(kept.sum()), len(problem.free)
    if rows < free + 1:
        return f"{counted(rows, 'row')} for {counted(free, 'parameter')}"
    for name, values in problem.inputs.items():
        levels = len(np.unique(np.asarray(values)[kept]))
        if levels < 2:
            return f"one value of {name}"
    return ""


def _less(problem: Problem, kept: NDArray[np.bool_]) -> Problem:
    return replace(
        problem,
        inputs={n: np.asarray(x)[kept] for n, x in problem.inputs.items()},
        output=problem.output[kept],
        weights=problem.weights[kept],
    )


def slope_range(x: ArrayLike, y: ArrayLike) -> tuple[float, float]:
    """Return the lowest and highest slope of log y in log x (n,) over all points, without the lowest or the highest
    quarter of x, and over either half; (nan, nan) for fewer than FEWEST_LEVELS values of x.
    """
    log_x, log_y = np.log(np.asarray(x, dtype=float)), np.log(np.asarray(y, dtype=float))
    levels = np.unique(log_x)
    if len(levels) < FEWEST_LEVELS:
        return float("nan"), float("nan")
    quarter, half = max(1, len(levels) // 4), (len(levels) + 1) // 2
    kept = (
        np.full(len(log_x), True),
        log_x >= levels[quarter],
        log_x <= levels[-quarter - 1],
        log_x <= levels[half - 1],
        log_x >= levels[-half],
    )
    slopes = [float(np.polyfit(log_x[part], log_y[part], 1)[0]) for part in kept]
    return min(slopes), max(slopes)
