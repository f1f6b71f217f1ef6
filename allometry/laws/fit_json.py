"""Fits to plain JSON and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from allometry.core.errors import AllometryError

if TYPE_CHECKING:
    import pandas as pd

    from allometry.laws.result import FitResult

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
    import pandas as pd

    from allometry.laws.solver import get_objective
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
    import pandas as pd

    return pd.DataFrame(dict(data["columns"]), index=data["index"])
