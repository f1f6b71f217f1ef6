"""One fit as the solver sees it: residuals in centred, anchored, logarithmic coordinates, with bounds and
starts; and what a table of runs cannot say about a law.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from allometry.core.errors import AllometryError
from allometry.core.units import counted, format_count
from allometry.laws.law import Internal, Law, Parameter, internal
from allometry.laws.solver import Box, Objective

Array = NDArray[np.float64]

_WIDE = 14.0
"""How far a logarithmic coordinate may go beyond its range of starts: a factor of 1.2 million."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A law, an objective and the points, with some parameters fixed to values or tied to others."""

    law: Law
    objective: Objective
    inputs: Mapping[str, Array]
    output: Array
    weights: Array
    fixed: Mapping[str, float]
    tied: Mapping[str, str]

    def __post_init__(self) -> None:
        for name in (*self.fixed, *self.tied, *self.tied.values()):
            self.law.parameter(name)
        for name, leader in self.tied.items():
            if name in self.fixed or leader in self.tied or name == leader:
                raise AllometryError(
                    f"{name} is tied to {leader}, but one of them is fixed or tied already",
                    hint="tie each parameter to one that is free, or fix it",
                )

    @cached_property
    def code(self) -> Internal:
        """The compiled law in the coordinates of the fit."""
        return internal(self.law, tuple(sorted(self.fixed)), tuple(sorted(self.tied.items())))

    @property
    def free(self) -> tuple[str, ...]:
        """Names of the parameters that are fitted, in the order of the coordinates."""
        return self.code.free

    @cached_property
    def centre(self) -> dict[str, float]:
        """Geometric mean of each positive input; 1 for inputs that may be zero."""
        return {
            n: 1.0 if n in self.law.linear else float(np.exp(np.mean(np.log(x))))
            for n, x in self.inputs.items()
        }

    @cached_property
    def offsets(self) -> list[Array]:
        """Each input's logarithm relative to the centre (the input itself where it may be zero)."""
        return [x if n in self.law.linear else np.log(x / self.centre[n]) for n, x in self.inputs.items()]

    @cached_property
    def constants(self) -> list[float]:
        """Centres and fixed values, in the order that the compiled code takes them."""
        return [*self.centre.values(), *(float(self.fixed[n]) for n in self.code.fixed)]

    @cached_property
    def target(self) -> Array:
        """The measured output on the scale of the residuals."""
        return self.objective.transform(self.output)

    def residuals(self, z: Array) -> tuple[Array, Array]:
        """Return residuals (K, n) and derivatives (K, p, n) at coordinates (K, p)."""
        columns = [z[:, i : i + 1] for i in range(z.shape[1])]
        with np.errstate(all="ignore"):
            value, *gradient = self.code.value_and_gradient(*self.offsets, *self.constants, *columns)
            shape = (len(z), len(self.output))
            value = np.broadcast_to(value, shape)
            jacobian = np.empty((len(z), len(gradient), len(self.output)))
            for i, column in enumerate(gradient):
                jacobian[:, i] = column / value if self.objective.log else column
            return self.objective.transform(value) - self.target, jacobian

    def spent(self, residuals: Array) -> float:
        """Return how many points' worth of squared residuals (n,) the fitted parameters take away.

        One for each parameter of a least-squares fit, fewer for the Huber objectives (`Objective.absorbed`).
        """
        spread = float(np.sqrt(np.mean(residuals**2)))
        return len(self.free) * self.objective.absorbed(spread)

    def natural(self, z: Array) -> dict[str, Array]:
        """Return every parameter of the law, arrays of shape (...), at coordinates (..., p)."""
        columns = [z[..., i] for i in range(z.shape[-1])]
        with np.errstate(all="ignore"):
            values = self.code.natural(*self.constants, *columns)
        shape = z.shape[:-1]
        names = self.law.parameter_names
        return {
            n: np.broadcast_to(np.asarray(v, dtype=float), shape).copy()
            for n, v in zip(names, values, strict=True)
        }

    def coordinates(self, params: Mapping[str, float]) -> Array:
        """Return the coordinates (p,) of natural parameters.

        Anchors are log-linear in the anchored value (linear where the fit does not work with the logarithm), and use
        anchored values only of parameters before their own.
        """
        z = np.zeros(len(self.free))
        logarithmic = [self.law.parameter(name).logarithmic for name in self.free]
        anchored = []
        for i, name in enumerate(self.free):
            if self.law.parameter(name).anchor:
                anchored.append(i)
            else:
                z[i] = np.log(params[name]) if logarithmic[i] else params[name]
        for i in anchored:
            name = self.free[i]
            scale = np.log if logarithmic[i] else np.asarray
            at = []
            for trial in (0.0, 1.0):
                z[i] = trial
                at.append(float(scale(self.natural(z)[name])))
            z[i] = (float(scale(params[name])) - at[0]) / (at[1] - at[0])
        return z

    @cached_property
    def ranges(self) -> Array:
        """The range of each coordinate that starts are drawn from, (p, 2)."""
        return np.array([self._range(self.law.parameter(n)) for n in self.free]).reshape(len(self.free), 2)

    def _range(self, p: Parameter) -> tuple[float, float]:
        low, high = p.start
        if p.relative:
            size = float(
                np.min(self.output) if p.floor else np.max(self.output) if p.upper else np.median(self.output)
            )
            low, high = low * size, high * size
        return (float(np.log(low)), float(np.log(high))) if p.logarithmic else (low, high)

    @cached_property
    def box(self) -> Box:
        """Bounds of the coordinates: the law's own, within reach of the starts."""
        low, high = np.array(self.ranges[:, 0]), np.array(self.ranges[:, 1])
        for i, name in enumerate(self.free):
            p = self.law.parameter(name)
            wide = _WIDE if p.logarithmic else 1e3 * max(high[i] - low[i], 1e-3)
            floor, ceiling = p.low, p.high
            if p.logarithmic:
                floor, ceiling = (float(np.log(v)) if v > 0 else -np.inf for v in (p.low, p.high))
            low[i] = floor if p.anchor is None and np.isfinite(floor) else low[i] - wide
            high[i] = ceiling if p.anchor is None and np.isfinite(ceiling) else high[i] + wide
        reach = np.where(
            [self.law.parameter(n).logarithmic for n in self.free], 2.0, self.ranges[:, 1] - self.ranges[:, 0]
        )
        return Box(low, high, reach)

    def starts(self, count: int, skip: int = 0) -> Array:
        """Return `count` starts that fill the ranges evenly (an additive recurrence on the generalised golden
        ratio).
        """
        dimension = max(len(self.free), 1)
        ratio = 2.0
        for _ in range(64):
            ratio = (1 + ratio) ** (1 / (dimension + 1))
        steps = ratio ** -np.arange(1, dimension + 1)
        unit = (0.5 + np.outer(np.arange(1 + skip, 1 + skip + count), steps)) % 1.0
        return self.ranges[:, 0] + (self.ranges[:, 1] - self.ranges[:, 0]) * unit[:, : len(self.free)]

    def with_(self, *, fixed: Mapping[str, float]) -> Problem:
        """Return the same problem with more parameters fixed (for profiles)."""
        return replace(self, fixed={**self.fixed, **fixed})


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
