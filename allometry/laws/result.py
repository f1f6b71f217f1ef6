"""What a fit found and how far to trust it: a record that answers questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from allometry.errors import AllometryError
from allometry.laws.law import Law
from allometry.laws.objectives import Objective
from allometry.laws.problem import Problem

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class FitWarning:
    """Something that limits what a fit says: its name, what it means, and what *is* identified nevertheless."""

    name: str
    meaning: str
    identified: str = ""


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """A fitted law. Frozen; everything that it was made from is in it.

    `parameters` are the estimates; `samples` (one row a bootstrap resample, one column a parameter) their
    uncertainty; `status` is "converged", "doubtful" (read `reasons`) or "failed"; `residuals` are prediction minus
    measured (of logarithms where the objective takes them), `rms` their root mean square; `noise` the standard
    deviation of repeats of the same run under other seeds, on the same scale (None without repeats).
    """

    law: Law
    objective: Objective
    parameters: dict[str, float]
    samples: pd.DataFrame
    objective_value: float
    status: str
    reasons: tuple[str, ...]
    warnings: tuple[FitWarning, ...]
    data: pd.DataFrame
    excluded: pd.DataFrame
    columns: dict[str, str]
    notes: tuple[str, ...]
    group: NDArray[np.int_]
    group_name: str | None
    weights: Array
    fixed: dict[str, float]
    tied: dict[str, str]
    starts: int
    agreeing: int
    residuals: Array
    noise: float | None
    seed: int
    coordinates: Array = field(repr=False)
    seconds: float = 0.0

    @property
    def rms(self) -> float:
        """Root mean square of the residuals, weighted as the fit was."""
        return float(np.sqrt(np.average(self.residuals**2, weights=self.weights)))

    @property
    def free(self) -> tuple[str, ...]:
        """The parameters that were fitted."""
        return tuple(n for n in self.law.parameter_names if n not in self.fixed and n not in self.tied)

    def predict(self, frame: pd.DataFrame | None = None, /, **inputs: ArrayLike) -> Array:
        """The law at the estimates: for the rows of a table (columns read as in the fit), or for given inputs."""
        return self.law.predict(self.parameters, **self._inputs(frame, inputs))

    def interval(self, name: str, level: float = 0.95) -> tuple[float, float]:
        """The bootstrap interval of a parameter."""
        self.law.parameter(name)
        return self._quantiles(self.samples[name].to_numpy(), level)

    def derived(
        self, what: str | Callable[[Mapping[str, Any]], Any], level: float = 0.95
    ) -> tuple[float, float, float]:
        """Estimate and interval of anything computed from the parameters.

        `what` is arithmetic of parameter names ("beta/(alpha+beta)") or a function of a mapping from names to
        values, which must work on arrays. Returns (estimate, low, high).
        """
        from allometry.laws.expressions import evaluate

        def value(params: Mapping[str, Any]) -> Any:
            return evaluate(what, params) if isinstance(what, str) else what(params)

        samples = np.asarray(
            value({n: self.samples[n].to_numpy() for n in self.samples.columns}), dtype=float
        )
        return (float(value(self.parameters)), *self._quantiles(samples, level))

    def interval_at(
        self, points: pd.DataFrame | Mapping[str, ArrayLike], level: float = 0.95
    ) -> tuple[Array, Array]:
        """The confidence band of the law itself at some points: (low, high), each of shape (n,)."""
        curves = self._curves(points)
        low, high = (1 - level) / 2, (1 + level) / 2
        return np.nanquantile(curves, low, axis=0), np.nanquantile(curves, high, axis=0)

    def prediction_interval(
        self, points: pd.DataFrame | Mapping[str, ArrayLike], level: float = 0.95
    ) -> tuple[Array, Array]:
        """Where the measured output of a *new run* should lie: (low, high), each of shape (n,)."""
        curves = self.objective.transform(self._curves(points))
        rng = np.random.default_rng(self.seed + 1)
        scatter = rng.choice(self.residuals, size=curves.shape) * np.sqrt(self._inflation())
        total = curves - scatter
        low, high = (np.nanquantile(total, q, axis=0) for q in ((1 - level) / 2, (1 + level) / 2))
        return (np.exp(low), np.exp(high)) if self.objective.log else (low, high)

    def report(self, level: float = 0.95) -> str:
        """The fit as text."""
        from allometry.laws.fit_report import render

        return render(self)

    def _inflation(self) -> float:
        n, p = len(self.residuals), len(self.free)
        return n / max(n - p, 1)

    def _inputs(self, frame: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
        if frame is None:
            return dict(inputs)
        if isinstance(frame, Mapping):
            return dict(frame)
        from allometry.laws.observations import read_inputs

        return {**read_inputs(frame, self.law, self.columns), **inputs}

    def _curves(self, points: Any) -> Array:
        if not len(self.samples):
            raise AllometryError("this fit has no bootstrap samples", hint="fit with bootstrap=400")
        inputs = {k: np.atleast_1d(np.asarray(v, dtype=float)) for k, v in self._inputs(points, {}).items()}
        params = {n: self.samples[n].to_numpy()[:, None] for n in self.law.parameter_names}
        return self.law.predict(params, **inputs)

    def _quantiles(self, samples: Array, level: float) -> tuple[float, float]:
        if not len(samples):
            return float("nan"), float("nan")
        low, high = np.nanquantile(samples, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def problem(self) -> Problem:
        """The fit as the solver saw it."""
        return Problem(
            law=self.law,
            objective=self.objective,
            inputs={n: self.data[n].to_numpy(dtype=float) for n in self.law.inputs},
            output=self.data[self.law.output].to_numpy(dtype=float),
            weights=self.weights,
            fixed=self.fixed,
            tied=self.tied,
        )
