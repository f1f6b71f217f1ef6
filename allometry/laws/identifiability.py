"""What a table of runs cannot say about a law: refused designs, and how a fit is conditioned."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from allometry.core.errors import AllometryError
from allometry.core.units import counted, format_count
from allometry.laws.problem import Problem

Array = NDArray[np.float64]

_SINGULAR = 1e-9
"""Smallest singular value, relative to the largest, of a design that determines the parameters at all."""


def refuse_undetermined(problem: Problem, columns: dict[str, str]) -> None:
    """Raise AllometryError for a design that cannot determine the free parameters, whatever the losses
    are.
    """
    points = np.column_stack([*problem.inputs.values(), problem.output])
    n, p = len(np.unique(points, axis=0)), len(problem.free)  # copies determine nothing more
    if n < p:
        raise AllometryError(
            f"{counted(n, 'usable row')} cannot determine the {counted(p, 'parameter')} of the law "
            f"{problem.law.name!r} "
            f"({', '.join(problem.free)})",
            hint="add runs, choose a law with fewer parameters, or fix some: fixed={'alpha': 0.34}",
            cli_hint="add runs, choose a --law with fewer parameters, or fix some: --fix alpha=0.34",
        )
    _refuse_one_ratio(problem, columns)
    if p and _rank_deficient(problem):
        raise AllometryError(
            f"these runs cannot determine {', '.join(problem.free)} together, whatever their losses: "
            f"{_levels(problem)}",
            hint="train at least four values of each input, or fix a parameter: fixed={'alpha': 0.34}",
            cli_hint="train at least four values of each input, or fix a parameter: --fix alpha=0.34",
        )


def _rank_deficient(problem: Problem) -> bool:
    """Return whether the derivatives by the parameters are linearly dependent at every one of several generic
    points.
    """
    _, jacobians = problem.residuals(problem.starts(12))
    for jacobian in jacobians:
        norms = np.linalg.norm(jacobian, axis=1, keepdims=True)
        if not np.all(np.isfinite(jacobian)) or np.any(norms == 0):
            continue
        values = np.linalg.svd(jacobian / norms, compute_uv=False)
        if values[-1] > _SINGULAR * values[0]:
            return False
    return True


def _levels(problem: Problem) -> str:
    counts = {
        name: len(np.unique(np.round(x, 9))) for name, x in zip(problem.inputs, problem.offsets, strict=True)
    }
    return ", ".join(
        f"{name} takes {count} value{'s' if count > 1 else ''}" for name, count in counts.items()
    )


def _refuse_one_ratio(problem: Problem, columns: dict[str, str]) -> None:
    """Refuse runs with two inputs in one ratio (all at D = 20 N): they show one input, and one exponent."""
    names = [n for n in problem.inputs if n not in problem.law.linear]
    x = dict(zip(problem.inputs, problem.offsets, strict=True))
    if len(problem.free) <= 3:
        return
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            a, b = (x[n] - x[n].mean() for n in (first, second))
            if a.std() < 1e-9 or b.std() < 1e-9:
                continue
            slope = float(a @ b / (a @ a))
            if np.std(b - slope * a) > 0.02 * np.std(b) or "U" in (first, second):
                continue
            ratio = format_count(problem.centre[second] / problem.centre[first])
            what = f"one {second}/{first} ratio ({second} = {ratio} {first})"
            if abs(slope - 1) > 0.02:
                what = f"{second} growing as {first}^{slope:.2f} in every run"
            more = "add runs at other ratios (a factor of 4 to either side)"
            column = columns.get(first, first)
            raise AllometryError(
                f"all runs have {what}, so the exponents of {first} and {second} cannot be told apart",
                hint=f"{more}, or fit one input: law='power-offset', columns={{'X': {column!r}}}",
                cli_hint=f"{more}, or fit one input: --law power-offset --let 'X={column}'",
            )


@dataclass(frozen=True)
class Conditioning:
    """How well the data determine the fitted coordinates: condition number, and the natural parameters'
    correlations.
    """

    condition: float
    correlations: tuple[tuple[str, str, float], ...]


def conditioning(problem: Problem, z: Array, samples: dict[str, Array]) -> Conditioning:
    """Return the condition number of the scaled derivatives at the optimum, and correlations in the samples,
    strongest first.
    """
    _, jacobian = problem.residuals(z[None])
    scaled = jacobian[0] * np.sqrt(problem.weights)
    norms = np.linalg.norm(scaled, axis=1, keepdims=True)
    values = np.linalg.svd(scaled / np.maximum(norms, 1e-300), compute_uv=False) if len(z) else np.ones(1)
    condition = float(values[0] / max(values[-1], 1e-300))
    columns = []
    for name in problem.free:
        values = samples[name]
        log = problem.law.parameter(name).logarithmic and np.all(values > 0)
        values = np.log(values) if log else values
        known = len(values) and np.ptp(values) <= 1e-9 * max(1.0, float(np.abs(values).max()))
        columns.append(np.full(len(values), np.nan) if known else values)  # exact data: rounding errors only
    pairs = []
    if len(columns) > 1 and len(columns[0]) > 2:
        with np.errstate(invalid="ignore", divide="ignore"):
            matrix = np.corrcoef(np.array(columns))
        for i, a in enumerate(problem.free):
            for j in range(i + 1, len(problem.free)):
                if np.isfinite(matrix[i, j]):
                    pairs.append((a, problem.free[j], float(matrix[i, j])))
    pairs.sort(key=lambda t: -abs(t[2]))
    return Conditioning(condition, tuple(pairs))
