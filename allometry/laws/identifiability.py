"""What a table of runs cannot say about a law: designs that are refused, and named warnings about a fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from allometry.errors import AllometryError
from allometry.laws.law import Law
from allometry.laws.problem import Problem
from allometry.laws.result import FitWarning
from allometry.units import format_count

Array = NDArray[np.float64]

_SINGULAR = 1e-9
"""Smallest singular value, relative to the largest, of a design that determines the parameters at all."""


def refuse_undetermined(problem: Problem, columns: dict[str, str]) -> None:
    """Raise AllometryError for a design that cannot determine the free parameters, whatever the losses
    are.
    """
    n, p = len(problem.output), len(problem.free)
    if n < p:
        raise AllometryError(
            f"{n} usable rows cannot determine the {p} parameters of the law {problem.law.name!r} "
            f"({', '.join(problem.free)})",
            hint="add runs, choose a law with fewer parameters, or fix some: fixed={'alpha': 0.34}",
        )
    _refuse_one_ratio(problem, columns)
    if p and _rank_deficient(problem):
        raise AllometryError(
            f"these runs cannot determine {', '.join(problem.free)} together, whatever their losses: {_levels(problem)}",
            hint="train at least four values of each input, or fix a parameter: fixed={'alpha': 0.34}",
        )


def _rank_deficient(problem: Problem) -> bool:
    """Whether the derivatives by the parameters are linearly dependent at every one of several generic
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
    """Two inputs in one ratio (all runs at D = 20 N) leave one input, and one exponent, to be seen."""
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
            raise AllometryError(
                f"all runs have {what}, so the exponents of {first} and {second} cannot be told apart",
                hint=f"add runs at other ratios (a factor of 4 to either side), or fit one input: law='power-offset', "
                f"columns={{'X': {columns.get(first, first)!r}}}",
            )


@dataclass(frozen=True)
class Conditioning:
    """How well the data determine the fitted coordinates: condition number, and the natural parameters'
    correlations.
    """

    condition: float
    correlations: tuple[tuple[str, str, float], ...]


def conditioning(problem: Problem, z: Array, samples: dict[str, Array]) -> Conditioning:
    """Condition number of the scaled derivatives at the optimum, and correlations in the samples, strongest
    first.
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
        columns.append(np.log(values) if log else values)
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


def warnings_about(
    problem: Problem,
    z: Array,
    samples: dict[str, Array],
    z_samples: Array,
    agreeing: int,
    starts: int,
    noise: float | None,
) -> tuple[list[FitWarning], list[str]]:
    """Everything that limits what the fit says, and the reasons (if any) for calling it doubtful."""
    law = problem.law
    found: list[FitWarning] = []
    doubts: list[str] = []
    found += _about_size(problem)
    found += _about_levels(problem)
    for check in (_about_floors, _about_bounds, _about_spread):
        more, why = check(problem, z, samples, z_samples)
        found += more
        doubts += why
    state = conditioning(problem, z, samples)
    found += _about_conditioning(law, state)
    if state.condition > 1e5:
        doubts.append(
            f"the parameters are not separately determined (condition number {state.condition:.0e})"
        )
    if agreeing < 2:
        doubts.append(f"only one of {starts} starts reached the lowest objective")
    found += _about_residuals(problem, z, noise)
    return found, doubts


def _about_size(problem: Problem) -> list[FitWarning]:
    n, p = len(problem.output), len(problem.free)
    if n == p:
        meaning = f"{n} points for {p} parameters: the law passes through every point, which is no test of it"
        return [
            FitWarning(
                name="no-spare-points",
                meaning=meaning,
                identified="nothing can be said about the uncertainty",
            )
        ]
    if n - p < 5:
        meaning = (
            f"{n} points for {p} parameters leave {n - p} to judge the law by: intervals are wide and rough"
        )
        return [
            FitWarning(name="few-points", meaning=meaning, identified="the law inside the range of the data")
        ]
    return []


def _about_levels(problem: Problem) -> list[FitWarning]:
    found = []
    for name, x in zip(problem.inputs, problem.offsets, strict=True):
        if name in problem.law.linear:
            continue
        levels = len(np.unique(np.round(x, 9)))
        span = float(np.exp(x.max() - x.min()))
        if levels <= 3:
            meaning = f"{name} takes {levels} value{'s' if levels > 1 else ''} only, too few to see the shape of its term"
            inside = f"how the loss differs between these values of {name}"
            found.append(FitWarning(name="few-levels", meaning=meaning, identified=inside))
        elif span < 10:
            meaning = (
                f"{name} spans a factor of {span:.3g} only: an exponent read off it is a guess far outside"
            )
            low, high = (format_count(problem.centre[name] * np.exp(v)) for v in (x.min(), x.max()))
            found.append(
                FitWarning(
                    name="narrow-range",
                    meaning=meaning,
                    identified=f"the law for {name} from {low} to {high}",
                )
            )
    return found


_Found = tuple[list[FitWarning], list[str]]


def _about_floors(problem: Problem, z: Array, samples: dict[str, Array], z_samples: Array) -> _Found:
    """A floor at zero, or one that reaches zero in some resamples."""
    found, doubts = [], []
    for i, name in enumerate(problem.free):
        if not problem.law.parameter(name).floor:
            continue
        tiny = 1e-3 * float(np.median(problem.output))
        share = float(np.mean(samples[name] <= tiny)) if len(samples[name]) else 0.0
        identified = f"that {name} is at most {np.quantile(samples[name], 0.95):.3g} (95 %)" if share else ""
        if z[i] <= tiny:
            doubts.append(f"{name} = 0: the floor is not identified")
            meaning = f"{name} went to 0: no floor is visible at this scale, and the other parameters are those of a law without it"
            found.append(
                FitWarning(
                    name="floor-at-zero",
                    meaning=meaning,
                    identified=identified or "the law in the range of the data",
                )
            )
        elif share > 0.025:
            meaning = f"{name} is 0 in {100 * share:.0f} % of the resamples: the data do not exclude a law without a floor"
            found.append(FitWarning(name="floor-not-identified", meaning=meaning, identified=identified))
    return found, doubts


def _about_bounds(problem: Problem, z: Array, samples: dict[str, Array], z_samples: Array) -> _Found:
    """Parameters at a bound of the search, in the estimate or in some resamples."""
    found, doubts = [], []
    box = problem.box
    for i, name in enumerate(problem.free):
        width = box.high[i] - box.low[i]
        near = 1e-6 * width
        for side, at, distance in (
            ("lower", z[i] - box.low[i], z_samples[:, i] - box.low[i]),
            ("upper", box.high[i] - z[i], box.high[i] - z_samples[:, i]),
        ):
            if problem.law.parameter(name).floor and side == "lower":
                continue
            share = float(np.mean(distance <= near)) if len(distance) else 0.0
            if at <= near:
                doubts.append(f"{name} is at the {side} end of its range")
                meaning = f"{name} ran to the {side} end of its range: the data ask for a limit of the law, not for a value"
                found.append(
                    FitWarning(
                        name="bound-hit", meaning=meaning, identified="the law in the range of the data"
                    )
                )
            elif share > 0.025:
                meaning = (
                    f"{name} runs to the {side} end of its range in {100 * share:.0f} % of the resamples"
                )
                found.append(
                    FitWarning(
                        name="bound-hit-in-resamples",
                        meaning=meaning,
                        identified=_one_side(name, samples[name], side),
                    )
                )
    return found, doubts


def _one_side(name: str, samples: Array, side: str) -> str:
    """What the samples say about a parameter that is open to one side."""
    if side == "upper":
        return f"that {name} is at least {np.quantile(samples, 0.05):.3g} (95 %)"
    return f"that {name} is at most {np.quantile(samples, 0.95):.3g} (95 %)"


def _about_spread(problem: Problem, z: Array, samples: dict[str, Array], z_samples: Array) -> _Found:
    """Positive parameters that are known to no better than a factor of ten to one side."""
    found: list[FitWarning] = []
    doubts: list[str] = []
    estimate = problem.natural(z)
    for name in problem.free:
        p, values = problem.law.parameter(name), samples[name]
        if not p.logarithmic or not len(values):
            continue
        low, high = np.quantile(values, [0.025, 0.975])
        value = float(estimate[name])
        above, below = high / value, value / max(low, 1e-300)
        if p.anchor and max(above, below) > 10:
            meaning = f"{name} is a value far outside the data (95 %: {low:.3g} to {high:.3g}); do not compare it between tables"
            found.append(
                FitWarning(
                    name="scale-not-identified",
                    meaning=meaning,
                    identified=f"the size of {name}'s term within the range of the data",
                )
            )
        elif not p.anchor and max(above, below) > 10:
            side, what = ("upper", "above") if above > below else ("lower", "below")
            meaning = (
                f"the objective is flat in {name}: not identified from {what} (95 %: {low:.3g} to {high:.3g})"
            )
            found.append(
                FitWarning(name="flat-profile", meaning=meaning, identified=_one_side(name, values, side))
            )
            doubts.append(f"{name} is not identified from {what}")
    return found, doubts


def _about_conditioning(law: Law, state: Conditioning) -> list[FitWarning]:
    found = []
    if state.condition > 1e3:
        meaning = (
            f"condition number {state.condition:.2g}: some combination of the parameters is hardly determined"
        )
        found.append(
            FitWarning(name="ill-conditioned", meaning=meaning, identified="predictions near the data")
        )
    strong = [(a, b, r) for a, b, r in state.correlations if abs(r) > 0.95]
    if strong:
        pairs = ", ".join(f"{a} and {b} ({r:+.3f})" for a, b, r in strong[:3])
        meaning = f"{pairs} trade off against each other: their separate intervals overstate what is unknown"
        found.append(
            FitWarning(
                name="correlation",
                meaning=meaning,
                identified="predictions, and the terms' sizes at the centre of the data",
            )
        )
    return found


def _about_residuals(problem: Problem, z: Array, noise: float | None) -> list[FitWarning]:
    found = []
    residuals = problem.residuals(z[None])[0][0]
    spread = 1.4826 * float(np.median(np.abs(residuals)))
    far = np.flatnonzero(np.abs(residuals) > 6 * spread) if spread > 0 else np.empty(0, dtype=int)
    if 0 < len(far) <= 0.1 * len(residuals):
        meaning = f"{len(far)} point{'s' if len(far) > 1 else ''} lie more than 6 robust standard deviations off the law"
        found.append(
            FitWarning(
                name="outliers",
                meaning=meaning,
                identified="see the largest residuals; exclude= leaves rows out, with a reason",
            )
        )
    rms = float(np.sqrt(np.average(residuals**2, weights=problem.weights)))
    if noise is not None and rms > 2 * noise and len(residuals) > len(z):
        meaning = f"residuals ({rms:.2g}) are {rms / noise:.1f} times the noise between repeats ({noise:.2g}): the law's form does not fit"
        found.append(
            FitWarning(
                name="lack-of-fit", meaning=meaning, identified="predictions within the size of the residuals"
            )
        )
    return found


def about_scale(output: Array, name: str, column: str) -> list[FitWarning]:
    """A loss that is hardly in nats per token: bits, a perplexity, a negative logarithm of something else."""
    lower = column.lower()
    if name != "L":
        return []
    if any(word in lower for word in ("bit", "bpb", "bpc", "bpt")):
        what, remedy = (
            f"column {column!r} is named like bits",
            f"multiply by log(2): columns={{'L': '`{column}`*log(2)'}}",
        )
    elif "ppl" in lower or "perplex" in lower or float(np.median(output)) > 12:
        what = f"column {column!r} (median {np.median(output):.3g}) is larger than any loss in nats per token: a perplexity?"
        remedy = f"take its logarithm: columns={{'L': 'log(`{column}`)'}}"
    else:
        return []
    meaning = f"{what}; a law's floor and the published constants are in nats per token. To convert, {remedy}"
    return [
        FitWarning(
            name="loss-scale",
            meaning=meaning,
            identified="exponents of terms without a floor are not affected by bits",
        )
    ]
