"""One fit as the solver sees it: residuals in centred, anchored, logarithmic coordinates, with bounds and
starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from allometry.core.errors import AllometryError
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
        """Return the coordinates (p,) of natural parameters: anchors are log-linear in the anchored value."""
        z = np.zeros(len(self.free))
        anchored = []
        for i, name in enumerate(self.free):
            p = self.law.parameter(name)
            if p.anchor:
                anchored.append(i)
            else:
                z[i] = np.log(params[name]) if p.logarithmic else params[name]
        for i in anchored:
            name = self.free[i]
            at = []
            for trial in (0.0, 1.0):
                z[i] = trial
                at.append(float(np.log(self.natural(z)[name])))
            z[i] = (np.log(params[name]) - at[0]) / (at[1] - at[0])
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
