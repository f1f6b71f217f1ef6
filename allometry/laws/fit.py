"""Fit a law to a table of runs: many starts at once, bootstrap over runs, and what the data do not say."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from allometry.core.errors import AllometryError
from allometry.core.units import counted
from allometry.laws import uncertainty
from allometry.laws.fit_warnings import Evidence, about_scale, examine
from allometry.laws.grouping import Grouping, decide
from allometry.laws.law import Law
from allometry.laws.observations import Observations, about_copies, observe
from allometry.laws.problem import Problem, refuse_undetermined
from allometry.laws.result import FitResult, FitWarning
from allometry.laws.selftest import LEVEL, LEVEL_GROUPED, SelfTest, selftest
from allometry.laws.solver import Objective, get_objective, minimise
from allometry.laws.zoo import get

Array = NDArray[np.float64]

_WAVE, _WAVES, _ENOUGH, _PATIENCE = 16, 8, 5, 12
"""Starts a wave, waves at most, agreeing starts that suffice, iterations of a start for each parameter."""


def fit(
    frame: pd.DataFrame,
    *,
    law: str | Law,
    columns: Mapping[str, str] | None = None,
    objective: str | Objective = "huber-log",
    weights: str | None = None,
    group: str | None = None,
    fixed: Mapping[str, float] | None = None,
    tied: Mapping[str, str] | None = None,
    exclude: Mapping[Any, str] | Sequence[Any] | None = None,
    bootstrap: int = 400,
    resample: str = "auto",
    seed: int = 0,
    mapped: uncertainty.Mapped = map,
    test: bool = True,
) -> FitResult:
    """Fit a law to a table with one row a run.

    Parameters
    ----------
    frame
        One row a run.
    law
        Name of a law of the zoo (`allometry laws`), or a `Law`.
    columns
        Symbol of the law -> column, or arithmetic of columns ({"D": "C/(6*N)"}). A symbol that is not mapped is
        looked for under its own name and under common ones.
    objective
        Name of `objectives.OBJECTIVES`, or an `Objective`.
    weights
        Column of relative weights.
    group
        Column whose values are resampled together (default: "run" where there is one, else what `grouping`
        finds).
    fixed, tied
        Parameters held at values, and parameters that equal another.
    exclude
        Rows to leave out, by index label; with reasons if it is a mapping.
    bootstrap, resample, seed
        Number of resamples, of "runs", or of "noise" around the fit ("auto" chooses, see `uncertainty`), and
        what they are drawn with. 0 gives no intervals.
    mapped
        Fits the resamples in parts, as `map` does: here, or on a cluster (`allometry.cluster.mapped`).
    test
        Whether the fit tests itself: a law that does not predict the highest runs from the others has the status
        "does not extrapolate", and wider prediction intervals (see `laws.selftest`).

    Returns
    -------
    FitResult
        Parameters, intervals, predictions, and warnings of what the data do not determine.

    Raises
    ------
    AllometryError
        For tables that cannot be read, and for designs that cannot determine the law at all.

    Examples
    --------
    >>> import allometry, pandas as pd
    >>> runs = pd.read_csv("examples/runs.csv")
    >>> fit = allometry.fit(runs, law="chinchilla", columns={"L": "loss"}, bootstrap=20)
    >>> round(fit.parameters["alpha"], 2)
    0.46
    >>> low, high = fit.interval("alpha")
    >>> low < 0.46 < high
    True
    >>> float(fit.predict(N=1e6, D=1e7).round(2))
    1.17
    """
    began = time.perf_counter()
    chosen = get(law) if isinstance(law, str) else law
    goal = get_objective(objective) if isinstance(objective, str) else objective
    points = observe(frame, chosen, columns=columns, weights=weights, group=group, exclude=exclude)
    problem = Problem(
        law=chosen,
        objective=goal,
        inputs=points.inputs,
        output=points.output,
        weights=points.weights,
        fixed=dict(fixed or {}),
        tied=dict(tied or {}),
    )
    refuse_undetermined(problem, points.columns)
    if group is not None and bootstrap:
        _refuse_few_groups(points.grouping, problem)
    best = solve(problem)
    residuals = problem.residuals(best.z[None])[0][0] * np.sqrt(points.weights)
    grouping, note = decide(points.grouping, residuals, points.original)
    points = replace(points, grouping=grouping, notes=(*points.notes, *([note] if note else ())))
    samples = uncertainty.bootstrap(
        problem, best.z, grouping.group, bootstrap, seed, resample, mapped, points.original
    )
    checked = None
    if test and np.isfinite(best.objective):
        whole = group is not None or (grouping.name is not None and points.grouping.level >= 1)
        level = LEVEL if whole or grouping.name is None else LEVEL_GROUPED
        checked = selftest(problem, best.z, grouping.group, whole=whole, level=level, seed=seed)
    return _record(frame, points, problem, best, samples, checked, seed, began)


def _about_copies(points: Observations) -> list[FitWarning]:
    said = about_copies(points)
    if not said:
        return []
    meaning = (
        f"{said}: kept in the estimate, and counted once in the intervals. Delete them if a run was pasted"
        " twice; a column that tells runs apart (run, seed) makes them runs of their own"
    )
    return [FitWarning(name="copies", meaning=meaning, identified="how sure the estimates are")]


def _refuse_few_groups(grouping: Grouping, problem: Problem) -> None:
    """Raise AllometryError where groups leave nothing to say of the uncertainty of as many parameters."""
    if grouping.groups <= len(problem.free):
        raise AllometryError(
            f"grouped by {grouping.name!r} the table has {counted(grouping.groups, 'run')} for"
            f" {counted(len(problem.free), 'parameter')}: no interval can be given",
            hint="fix or tie parameters, take a law with fewer, or do without intervals (0 resamples)",
        )


@dataclass(frozen=True)
class Best:
    """The lowest minimum found: coordinates, objective, and how many of the starts ended there."""

    z: Array
    objective: float
    starts: int
    agreeing: int


def solve(problem: Problem) -> Best:
    """Minimise from waves of starts until several agree on the lowest objective, or the waves are used up.

    A start that has not arrived after 60 iterations is in a bad place; the lowest is then followed to its
    end.
    """
    z, values = np.empty((0, len(problem.free))), np.empty(0)
    agreeing = 0
    patience = _PATIENCE * max(len(problem.free), 5)
    for wave in range(_WAVES):
        start = problem.starts(_WAVE, skip=_WAVE * wave)
        found = minimise(
            problem.residuals,
            start,
            problem.weights,
            problem.objective,
            problem.box,
            max_iterations=patience,
        )
        z, values = np.concatenate([z, found.z]), np.concatenate([values, found.objective])
        lowest = float(values.min())
        agreeing = int(np.sum(values <= lowest + 1e-6 * abs(lowest) + 1e-15))
        if agreeing >= _ENOUGH or not len(problem.free):
            break
    best = z[[int(np.argmin(values))]]
    end = minimise(
        problem.residuals, best, problem.weights, problem.objective, problem.box, max_iterations=500
    )
    return Best(z=end.z[0], objective=float(end.objective[0]), starts=len(values), agreeing=agreeing)


def _record(
    frame: pd.DataFrame,
    points: Observations,
    problem: Problem,
    best: Best,
    resamples: uncertainty.Resamples,
    checked: SelfTest | None,
    seed: int,
    began: float,
) -> FitResult:
    law = problem.law
    samples = problem.natural(resamples.z)
    noise = uncertainty.seed_noise(frame[points.kept], problem.target, problem.inputs)
    found = [
        FitWarning(name="data", meaning=f"column {c!r}: {what}", identified=how)
        for c, what, how in points.problems
    ]
    found += _about_copies(points)
    found += about_scale(points.output, law.output, points.columns[law.output])
    evidence = Evidence(
        problem=problem,
        z=best.z,
        z_samples=resamples.z,
        samples=samples,
        starts=best.starts,
        agreeing=best.agreeing,
        noise=noise[0] if noise else None,
        grouping=points.grouping,
        labels=[str(label) for label in points.frame.index],
        frame=frame[points.kept],
        selftest_p=float("nan") if checked is None else checked.p,
    )
    if np.isfinite(best.objective):
        examine(evidence)
        status = "doubtful" if evidence.doubts else "converged"
        if checked is not None and checked.failed:
            status = "does not extrapolate"
            evidence.doubts.insert(0, checked.evidence(problem.objective.log))
    else:
        status = "failed"
        evidence.doubts.append("the law is not finite at any start: check the units of the columns")
    return FitResult(
        law=law,
        objective=problem.objective,
        parameters={n: float(v) for n, v in problem.natural(best.z).items()},
        samples=pd.DataFrame(samples),
        resampling=resamples.kind,
        dof=resamples.dof,
        objective_value=problem.objective.reported(best.objective),
        status=status,
        reasons=tuple(evidence.doubts),
        warnings=(*found, *evidence.warnings),
        data=points.frame,
        excluded=points.excluded,
        columns=points.columns,
        notes=points.notes,
        group=points.grouping.group,
        group_name=points.grouping.name,
        weights=points.weights,
        fixed=dict(problem.fixed),
        tied=dict(problem.tied),
        starts=best.starts,
        agreeing=best.agreeing,
        residuals=problem.residuals(best.z[None])[0][0],
        noise=noise[0] if noise else None,
        seed=seed,
        selftest=checked,
        seconds=time.perf_counter() - began,
    )
