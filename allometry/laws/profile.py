"""Profile likelihood: how low the objective gets when one parameter is held at each of many values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from allometry.core.errors import AllometryError
from allometry.laws.solver import minimise

if TYPE_CHECKING:
    import pandas as pd

    from allometry.laws.problem import Problem
    from allometry.laws.result import FitResult

Array = NDArray[np.float64]


def profile(result: FitResult, name: str, points: int = 41) -> pd.DataFrame:
    """Return the lowest objective at `points` values of a fitted parameter, spread over its 99 % interval and
    beyond.

    Columns: the parameter, `objective`, and `rise` above the minimum relative to the minimum, which is flat
    where the data do not identify the parameter. Raises AllometryError for a parameter that was not fitted.
    """
    import pandas as pd

    if name not in result.free:
        result.law.parameter(name)
        raise AllometryError(f"{name} was not fitted", hint=f"profile one of {', '.join(result.free)}")
    values = _grid(result, name, points)
    problem = result.problem()
    lowest = [_lowest(problem.with_(fixed={name: float(v)}), result) for v in values]
    best = min([*lowest, result.objective_value])
    rise = (np.array(lowest) - best) / abs(best) if best else np.array(lowest)
    return pd.DataFrame({name: values, "objective": lowest, "rise": rise})


def _grid(result: FitResult, name: str, points: int) -> Array:
    value = result.parameters[name]
    low, high = result.interval(name, 0.99)
    if not np.isfinite(low + high) or low == high:
        low, high = 0.5 * value, 2 * value
    if result.law.parameter(name).logarithmic:
        low, high = max(low, value * 1e-4), min(high, value * 1e4)
        return np.geomspace(low * (low / value) ** 0.3, high * (high / value) ** 0.3, points)
    floor = 0.0 if result.law.parameter(name).floor else -np.inf
    return np.linspace(max(low - 0.3 * (value - low), floor), high + 0.3 * (high - value), points)


def _lowest(problem: Problem, result: FitResult) -> float:
    """Return the minimum with one more parameter fixed, from the estimate and from a few other starts."""
    here = problem.coordinates(result.parameters)
    starts = np.vstack([here[None], problem.starts(7)]) if len(here) else here[None]
    found = minimise(
        problem.residuals, starts, problem.weights, problem.objective, problem.box, tolerance=1e-10
    )
    return problem.objective.reported(float(found.objective.min()))
