"""What a fit found and how far to trust it: a record that answers questions, and goes to plain JSON and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from allometry.core.errors import AllometryError
from allometry.laws.law import Law, evaluate
from allometry.laws.problem import Problem
from allometry.laws.selftest import SelfTest
from allometry.laws.solver import Objective, get_objective
from allometry.laws.uncertainty import noise_variance, outlying, profile, quantiles, student_scales

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class FitWarning:
    """Something that limits what a fit says: its name, what it means, and what *is* identified
    nevertheless.
    """

    name: str
    meaning: str
    identified: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class FitResult:
    """A fitted law. Frozen; everything that it was made from is in it.

    `parameters` are the estimates; `samples` (one row a bootstrap resample, one column a parameter) their
    uncertainty, made by resampling "runs" or "noise" (`resampling`); `dof` the runs less the
    parameters; `status` is "converged", "doubtful" or "does not extrapolate" (read `reasons`), or "failed";
    `selftest` is how well the fit predicts its own highest runs, None if that was not tested; `residuals` are
    prediction minus measured (of logarithms where the objective takes them), `rms` their root mean square; `noise` the
    standard deviation of repeats of the same run under other seeds, on the same scale (None without
    repeats).
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
    resampling: str = "runs"
    dof: int = 1
    seconds: float = 0.0
    selftest: SelfTest | None = None

    @property
    def rms(self) -> float:
        """Root mean square of the residuals, weighted as the fit was."""
        return float(np.sqrt(np.average(self.residuals**2, weights=self.weights)))

    @property
    def free(self) -> tuple[str, ...]:
        """The parameters that were fitted."""
        return tuple(n for n in self.law.parameter_names if n not in self.fixed and n not in self.tied)

    def predict(self, frame: pd.DataFrame | None = None, /, **inputs: ArrayLike) -> Array:
        """Evaluate the law at the estimates: for the rows of a table (columns read as in the fit), or for
        given inputs.
        """
        return self.law.predict(self.parameters, **self._inputs(frame, inputs))

    def interval(self, name: str, level: float = 0.95) -> tuple[float, float]:
        """Return the bootstrap interval of a parameter."""
        self.law.parameter(name)
        return self._quantiles(self.samples[name].to_numpy(), level)

    def derived(
        self, what: str | Callable[[Mapping[str, Any]], Any], level: float = 0.95
    ) -> tuple[float, float, float]:
        """Estimate and interval of anything computed from the parameters.

        `what` is arithmetic of parameter names ("beta/(alpha+beta)") or a function of a mapping from names to
        values, which must work on arrays. Returns (estimate, low, high).
        """

        def value(params: Mapping[str, Any]) -> Any:
            return evaluate(what, params) if isinstance(what, str) else what(params)

        samples = np.asarray(
            value({n: self.samples[n].to_numpy() for n in self.samples.columns}), dtype=float
        )
        return (float(value(self.parameters)), *self._quantiles(samples, level))

    def interval_at(
        self, points: pd.DataFrame | Mapping[str, ArrayLike], level: float = 0.95
    ) -> tuple[Array, Array]:
        """Return the confidence band of the law itself at some points: (low, high), each of shape (n,)."""
        return quantiles(self._curves(points), level)

    def prediction_interval(
        self, points: pd.DataFrame | Mapping[str, ArrayLike], level: float = 0.95
    ) -> tuple[Array, Array]:
        """Return where the measured output of a *new run* should lie: (low, high), each of shape (n,).

        The law's own uncertainty and the scatter of the residuals about it (which holds the noise between
        seeds). For a law that does not extrapolate also the errors of its hold-outs, beyond the data
        (`SelfTest.model_error`).
        """
        curves = self.objective.transform(self._curves(points))
        rng = np.random.default_rng(self.seed + 1)
        size = self.scatter * student_scales(self.dof, len(curves), self.seed)[:, None]
        times = max(1, 2000 // len(curves))
        curves, size = np.repeat(curves, times, axis=0), np.repeat(size, times, axis=0)
        if self.selftest is not None and self.selftest.failed:
            inputs = self._inputs(points, {})
            size = np.hypot(
                size, self.selftest.model_error({n: inputs[n] for n in self.law.inputs}, self.law.linear)
            )
        low, high = quantiles(curves + size * rng.standard_normal(curves.shape), level)
        return (np.exp(low), np.exp(high)) if self.objective.log else (low, high)

    @property
    def scatter(self) -> float:
        """Standard deviation of a new run about the law, corrected for the parameters spent on the residuals.

        Points far outside the others (`outliers`) do not count. Without spare points the noise between
        repeats, nan without repeats.
        """
        if self.dof < 1:
            return self.noise if self.noise is not None else float("nan")
        scaled = self.residuals * np.sqrt(self.weights)
        return float(np.sqrt(noise_variance(scaled, self.outliers, self.group, self.spent)))

    @property
    def spent(self) -> float:
        """How many points' worth of squared residuals the fitted parameters took away."""
        return self.problem().spent(self.residuals)

    @property
    def outliers(self) -> NDArray[np.bool_]:
        """Which points (n,) lie farther off the law than noise like that of the others reaches."""
        return outlying(self.residuals * np.sqrt(self.weights), len(self.free))

    @property
    def coordinates(self) -> Array:
        """The estimates in the coordinates of the fit, (p,)."""
        return self.problem().coordinates(self.parameters)

    def table(self) -> pd.DataFrame:
        """Return one row per parameter: estimate, standard error, 80 and 95 % bootstrap intervals, how it was
        treated.
        """
        from allometry.laws.fit_report import table

        return table(self)

    def report(self, width: int | None = None) -> str:
        """Return the fit as text: estimates, how sure they are, and what they rest on.

        In fewer columns than tables need (`width`) the 95 % intervals stay and other ones are left out.
        """
        from allometry.laws.fit_report import render

        return render(self, width)

    def _repr_html_(self) -> str:
        from allometry.laws.fit_report import html

        return html(self)

    def __repr__(self) -> str:
        values = ", ".join(f"{n}={v:.4g}" for n, v in self.parameters.items())
        return f"<FitResult {self.law.name}: {values}; {self.status}>"

    def to_dict(self) -> dict[str, Any]:
        """Return the fit as plain JSON, from which `from_dict` makes it again."""

        return to_dict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FitResult:
        """Return a fit from `to_dict`'s JSON. Raises AllometryError for JSON of something else."""

        fields = read_fields(data)
        stored = data.get("selftest")
        return cls(
            **{**fields, "warnings": tuple(FitWarning(**w) for w in fields["warnings"])},
            selftest=None if stored is None else SelfTest.from_dict(stored),
        )

    def profile(self, name: str, points: int = 41) -> pd.DataFrame:
        """Return the lowest objective at fixed values of a parameter (see `profile.profile`)."""
        return profile(self, name, points)

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
        low, high = quantiles(samples, level)
        return float(low), float(high)

    def problem(self) -> Problem:
        """Return the fit as the solver saw it."""
        return Problem(
            law=self.law,
            objective=self.objective,
            inputs={n: self.data[n].to_numpy(dtype=float) for n in self.law.inputs},
            output=self.data[self.law.output].to_numpy(dtype=float),
            weights=self.weights,
            fixed=self.fixed,
            tied=self.tied,
        )


_KIND = "allometry fit 1"


def to_dict(result: FitResult) -> dict[str, Any]:
    """Return all fields of a fit as JSON types; numbers that are not finite become None."""
    return {
        "kind": _KIND,
        "law": result.law.name,
        "formula": result.law.expression,
        "objective": result.objective.name,
        "parameters": _plain(result.parameters),
        "intervals": {
            n: {str(level): _plain(list(result.interval(n, level))) for level in (0.8, 0.95)}
            for n in result.free
        },
        "derived": {n: _plain(list(result.derived(text))) for n, text in result.law.derived.items()},
        "objective_value": _plain(result.objective_value),
        "status": result.status,
        "selftest": None if result.selftest is None else result.selftest.to_dict(),
        "reasons": list(result.reasons),
        "warnings": [asdict(w) for w in result.warnings],
        "starts": result.starts,
        "agreeing": result.agreeing,
        "rms": _plain(result.rms),
        "noise": _plain(result.noise),
        "resampling": result.resampling,
        "freedom": result.dof,
        "fixed": dict(result.fixed),
        "tied": dict(result.tied),
        "columns": dict(result.columns),
        "notes": list(result.notes),
        "group_name": result.group_name,
        "seed": result.seed,
        "seconds": result.seconds,
        "samples": {c: _plain(result.samples[c].tolist()) for c in result.samples.columns},
        "data": _frame(result.data),
        "group": result.group.tolist(),
        "weights": result.weights.tolist(),
        "residuals": _plain(result.residuals.tolist()),
        "excluded": _frame(result.excluded),
    }


def read_fields(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the fit that `to_dict` wrote, for `FitResult(**fields)`; warnings are still
    mappings. Raises AllometryError for anything else.
    """

    from allometry.laws.zoo import get

    if data.get("kind") != _KIND:
        raise AllometryError(
            "this JSON is not a fit written by this version",
            hint="write one with: allometry fit TABLE --json",
        )
    return {
        "law": get(data["law"]),
        "objective": get_objective(data["objective"]),
        "parameters": _numbers(data["parameters"]),
        "samples": pd.DataFrame({c: np.array(_numbers(v), dtype=float) for c, v in data["samples"].items()}),
        "objective_value": _numbers(data["objective_value"]),
        "status": data["status"],
        "reasons": tuple(data["reasons"]),
        "warnings": tuple(data["warnings"]),
        "data": _unframe(data["data"]),
        "excluded": _unframe(data["excluded"]),
        "columns": dict(data["columns"]),
        "notes": tuple(data["notes"]),
        "group": np.array(data["group"], dtype=int),
        "group_name": data["group_name"],
        "weights": np.array(data["weights"], dtype=float),
        "fixed": dict(data["fixed"]),
        "tied": dict(data["tied"]),
        "starts": data["starts"],
        "agreeing": data["agreeing"],
        "residuals": np.array(_numbers(data["residuals"]), dtype=float),
        "noise": data["noise"],
        "seed": data["seed"],
        "resampling": data["resampling"],
        "dof": data["freedom"],
        "seconds": data["seconds"],
    }


def _plain(value: Any) -> Any:
    """Convert to JSON types only: NumPy scalars to Python's, what is not finite to None."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _numbers(value: Any) -> Any:
    """Invert `_plain` for numbers: None to nan."""
    if isinstance(value, Mapping):
        return {k: _numbers(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_numbers(v) for v in value]
    return float("nan") if value is None else value


def _frame(frame: pd.DataFrame) -> dict[str, Any]:
    return {
        "index": _plain(frame.index.tolist()),
        "columns": {str(c): _plain(frame[c].tolist()) for c in frame.columns},
    }


def _unframe(data: Mapping[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(dict(data["columns"]), index=data["index"])
