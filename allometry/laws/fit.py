"""Fit a law to a table of runs: many starts at once, bootstrap over runs, and what the data do not say.

Warnings about a fit have names; each says what it means, and what is identified nevertheless.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from allometry.core.errors import AllometryError
from allometry.core.units import counted, format_count
from allometry.laws import uncertainty
from allometry.laws.grouping import Grouping, decide, find_mixture
from allometry.laws.law import Law, evaluate
from allometry.laws.observations import Observations, about_copies, observe
from allometry.laws.problem import Problem, conditioning, refuse_undetermined
from allometry.laws.result import FitResult, FitWarning
from allometry.laws.selftest import LEVEL, LEVEL_GROUPED, SelfTest, selftest
from allometry.laws.solver import Objective, get_objective, minimise
from allometry.laws.uncertainty import outlying, quantiles
from allometry.laws.zoo import get

Array = NDArray[np.float64]

_INSIDE = "the law in the range of the data"
ABOVE = "lies above measured values"
"""What a fit's reasons say of a law that cannot give losses which were measured."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A fit as the checks see it: estimates `z` (p,), resamples of them, and what the search found.

    `frame` holds the rows of the table that were used, `labels` their names, `grouping` which are one run's;
    `selftest_p` is the p-value of the fit's test of itself, nan without one.

    The checks add to `warnings`, and to `doubts` what makes the whole fit doubtful.
    """

    problem: Problem
    z: Array
    z_samples: Array
    samples: Mapping[str, Array]
    starts: int
    agreeing: int
    noise: float | None
    grouping: Grouping
    labels: Sequence[str]
    frame: pd.DataFrame
    selftest_p: float = float("nan")
    warnings: list[FitWarning] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    def warn(self, name: str, meaning: str, identified: str) -> None:
        """Add a warning."""
        self.warnings.append(FitWarning(name=name, meaning=meaning, identified=identified))

    def one_side(self, name: str, side: str) -> str:
        """Describe what the resamples say about a parameter that is open to one side ("upper" or "lower")."""
        low, high = quantiles(self.samples[name], 0.9)
        if side == "upper":
            return f"that {name} is at least {low:.3g} (95 %)"
        return f"that {name} is at most {high:.3g} (95 %)"


def examine(evidence: Evidence) -> None:
    """Run every check."""
    if evidence.agreeing < 2:
        evidence.doubts.append(f"only one of {evidence.starts} starts reached the lowest objective")
    for check in (
        _size,
        _checkpoints,
        _levels,
        _floors,
        _limit_above_data,
        _bounds,
        _spread,
        _conditioning,
        _outliers,
        _mixture,
        _lack_of_fit,
    ):
        check(evidence)


def _size(e: Evidence) -> None:
    n, p = len(e.problem.output), len(e.problem.free)
    groups, what = e.grouping.groups, "points"
    if groups < n:
        what = f"runs (rows of one {e.grouping.name})" if e.grouping.name else "different points"
    if n == p:
        passes = "the law passes through every point, which is no test of it"
        meaning = f"{counted(n, 'point')} for {counted(p, 'parameter')}: {passes}"
        e.warn("no-spare-points", meaning, "nothing can be said about the uncertainty")
        e.doubts.append("as many parameters as points")
    elif groups <= p:
        meaning = (
            f"{n} points come from {groups} {what}, for {counted(p, 'parameter')}: no interval can be given"
        )
        e.warn("few-runs", meaning, "how these runs differ, not how others would")
    elif groups - p < 5:
        spare = f"leave {groups - p} to judge the law by: intervals are wide"
        meaning = f"{groups} {what} for {counted(p, 'parameter')} {spare}"
        e.warn("few-points", meaning, _INSIDE)


def _checkpoints(e: Evidence) -> None:
    """Warn about points of one run at several D: on a decaying schedule they are no runs of those D."""
    if not e.grouping.checkpoints or e.grouping.groups == len(e.problem.output):
        return
    rate = next((c for c in ("lr", "learning_rate") if c in e.frame.columns), None)
    decays = rate is not None and bool((e.frame[rate].groupby(e.grouping.group).nunique() > 1).any())
    known = f"the column {rate!r} shows that it changed" if decays else "unless it was constant"
    meaning = (
        f"rows of one {e.grouping.name} are points of one run. Before its learning rate has decayed a run's"
        f" loss is higher than that of a run which ends there ({known}): L(N, D) through them is biased"
    )
    e.warn("checkpoints", meaning, "the law of these curves; fit the last point of each run for L(N, D)")


def _levels(e: Evidence) -> None:
    for name, x in zip(e.problem.inputs, e.problem.offsets, strict=True):
        if name in e.problem.law.linear:
            continue
        levels = len(np.unique(np.round(x, 9)))
        span = float(np.exp(x.max() - x.min()))
        if levels <= 3:
            values = "1 value" if levels == 1 else f"{levels} values"
            meaning = f"{name} takes {values} only, too few to see the shape of its term"
            e.warn(
                "few-levels", meaning, f"how {e.problem.law.output} differs between these values of {name}"
            )
        elif span < 10 and name != "L":
            low, high = (format_count(e.problem.centre[name] * np.exp(v)) for v in (x.min(), x.max()))
            meaning = f"{name} spans a factor of {span:.3g} only: do not extrapolate its exponent"
            e.warn("narrow-range", meaning, f"the law for {name} from {low} to {high}")


def _floors(e: Evidence) -> None:
    """Warn about a floor at zero, or one that reaches zero in some resamples."""
    tiny = 1e-3 * float(np.median(e.problem.output))
    for i, name in enumerate(e.problem.free):
        if not e.problem.law.parameter(name).floor:
            continue
        share = float(np.mean(e.samples[name] <= tiny)) if len(e.samples[name]) else 0.0
        known = e.one_side(name, "lower") if share else _INSIDE
        if e.z[i] <= tiny:
            e.doubts.append(f"{name} = 0: the floor is not identified")
            meaning = f"{name} went to 0: no floor is visible, and the exponents are those without one"
            e.warn("floor-at-zero", meaning, known)
        elif share > 0.025:
            meaning = (
                f"{name} is 0 in {100 * share:.0f} % of the resamples: a law without a floor is not excluded"
            )
            e.warn("floor-not-identified", meaning, known)


def _limit_above_data(e: Evidence) -> None:
    """Warn about a law that no scale brings down to a loss which was measured."""
    law, natural = e.problem.law, {n: float(v) for n, v in e.problem.natural(e.z).items()}
    if law.linear or not any(p.floor for p in law.parameters):
        return
    corners = np.array(list(itertools.product((1e30, 1e60), repeat=len(law.inputs)))).T
    limit = float(np.min(law.predict(natural, **dict(zip(law.inputs, corners, strict=True)))))
    below = np.flatnonzero(e.problem.output < limit)
    if not np.isfinite(limit) or not len(below):
        return
    lowest = below[np.argmin(e.problem.output[below])]
    measured = float(e.problem.output[lowest])
    meaning = (
        f"{law.output} = {limit:.4g} is the least that this law can give, and {counted(len(below), 'row')} of the table"
        f" measured less: {measured:.4g} in row {e.labels[lowest]}"
    )
    off = np.log(limit / measured) if e.problem.objective.log else limit - measured
    if e.selftest_p <= 0.05 or (e.noise is not None and off > 3 * e.noise):
        meaning += ". This is a wrong law for these runs, or these rows are wrong"
        e.doubts.append(f"the law's limit {limit:.4g} {ABOVE} ({measured:.4g})")
    else:
        meaning += ": noise near the limit, or a wrong law"
    e.warn("floor-above-data", meaning, f"how {law.output} changes in the range of the data, not its limit")


def _bounds(e: Evidence) -> None:
    """Warn about parameters at an end of the range that is searched, in the estimate or in some resamples."""
    box = e.problem.box
    for i, name in enumerate(e.problem.free):
        near = 1e-6 * (box.high[i] - box.low[i])
        ends = {"lower": (1, box.low[i]), "upper": (-1, box.high[i])}
        if e.problem.law.parameter(name).floor:
            del ends["lower"]
        for side, (sign, end) in ends.items():
            share = float(np.mean(sign * (e.z_samples[:, i] - end) <= near)) if len(e.z_samples) else 0.0
            if sign * (e.z[i] - end) <= near:
                e.doubts.append(f"{name} is at its {side} bound")
                other = "an upper" if side == "lower" else "a lower"
                meaning = f"{name} hit its {side} bound: only {other} bound can be estimated"
                e.warn("bound-hit", meaning, _INSIDE)
            elif share > 0.025:
                meaning = f"{name} hits its {side} bound in {100 * share:.0f} % of the resamples"
                e.warn("bound-hit-in-resamples", meaning, e.one_side(name, side))


def _spread(e: Evidence) -> None:
    """Warn about positive parameters that are known to no better than a factor of ten to one side."""
    estimate = e.problem.natural(e.z)
    for name in e.problem.free:
        p, values = e.problem.law.parameter(name), e.samples[name]
        if not p.logarithmic or not len(values):
            continue
        low, high = (float(v) for v in quantiles(values, 0.95))
        above, below = high / float(estimate[name]), float(estimate[name]) / max(low, 1e-300)
        if max(above, below) <= 10:
            continue
        known = f"(95 %: {low:.3g} to {high:.3g})"
        if p.anchor:
            meaning = f"{name} is a value far outside the data {known}; do not compare it between tables"
            e.warn("scale-not-identified", meaning, f"the size of {name}'s term within the range of the data")
            continue
        side, where = ("upper", "above") if above > below else ("lower", "below")
        meaning = f"the objective is flat in {name}: not identified from {where} {known}"
        e.warn("flat-profile", meaning, e.one_side(name, side))
        e.doubts.append(f"{name} is not identified from {where}")


def _conditioning(e: Evidence) -> None:
    state = conditioning(e.problem, e.z, dict(e.samples))
    if state.condition > 1e5:
        e.doubts.append(
            f"the parameters are not separately determined (condition number {state.condition:.0e})"
        )
    if state.condition > 1e3:
        meaning = (
            f"condition number {state.condition:.2g}: a combination of the parameters is poorly determined"
        )
        e.warn("ill-conditioned", meaning, "predictions near the data")
    strong = [f"{a} and {b} ({r:+.3f})" for a, b, r in state.correlations if abs(r) > 0.95]
    if strong:
        meaning = f"{', '.join(strong[:3])} trade off: their separate intervals overstate what is unknown"
        e.warn("correlation", meaning, "predictions, and the terms' sizes at the centre of the data")


def _outliers(e: Evidence) -> None:
    residuals = e.problem.residuals(e.z[None])[0][0]
    far = np.flatnonzero(outlying(residuals * np.sqrt(e.problem.weights), len(e.z)))
    if not len(far):
        return
    far = far[np.argsort(-np.abs(residuals[far]))]
    log = e.problem.objective.log
    shown = (f"{100 * np.expm1(-residuals[i]):+.3g} %" if log else f"{-residuals[i]:+.3g}" for i in far[:12])
    rows = ", ".join(f"{e.labels[i]} ({off})" for i, off in zip(far[:12], shown, strict=True))
    more = f" and {len(far) - 12} more" if len(far) > 12 else ""
    meaning = (
        f"{len(far)} of {len(residuals)} points lie farther off the law than the scatter of the others"
        f" explains (measured against law: row {rows}{more})"
    )
    robust = np.isfinite(e.problem.objective.threshold)
    known = (
        "the estimates: a Huber objective limits the influence of such rows; leave out those known to be wrong"
        if robust
        else "little before these rows are left out, or the objective is a Huber loss (huber-log)"
    )
    e.warn("outliers", meaning, known)


def _mixture(e: Evidence) -> None:
    """Rows of one corpus, tokenizer, … that lie together off the law: the table holds several laws."""
    residuals = e.problem.residuals(e.z[None])[0][0]
    measured = np.abs(e.problem.output)
    distance = -residuals if e.problem.objective.log else -residuals / measured
    inputs = {name: np.asarray(x) for name, x in e.problem.inputs.items()}
    found = find_mixture(e.frame, distance, inputs, e.grouping.group)
    if found is None:
        return
    e.warn("mixed-runs", found.text(), f"how the values of {found.column} differ; fit each of them alone")
    if found.share > 0.5:
        e.doubts.append(f"rows of different {found.column!r} lie on different sides of the law")


def _lack_of_fit(e: Evidence) -> None:
    residuals = e.problem.residuals(e.z[None])[0][0]
    rms = float(np.sqrt(np.average(residuals**2, weights=e.problem.weights)))
    if e.noise is not None and rms > 2 * e.noise and len(residuals) > len(e.z):
        ratio = f"{rms / e.noise:.1f} times the noise between repeats ({e.noise:.2g})"
        e.warn("lack-of-fit", f"residuals ({rms:.2g}) are {ratio}: the law's form does not fit", _INSIDE)


_BITS, _PERPLEXITY, _LOGARITHM = {"bits", "bpb", "bpc", "bpt"}, {"ppl", "perplexity"}, {"log", "ln"}
_CEILING = 12.0
"""Nats per token: more than guessing among 160,000 tokens costs."""


def about_scale(output: Array, name: str, column: str) -> list[FitWarning]:
    """Warn about a loss that is hardly in nats per token: too large, or called bits or perplexity.

    Only whole words of a column's name count, and only where it is taken as it is: an expression of columns
    (`log(val_ppl)`) is judged by its values.
    """
    if name != "L":
        return []
    words = set(re.split(r"[^a-z0-9]+", column.lower())) if re.fullmatch(r"[\w ./-]+", column) else set()
    plain = not words & _LOGARITHM
    median = float(np.median(output))
    if median > _CEILING or (plain and words & _PERPLEXITY):
        what = f"L, read from {column!r} (median {median:.3g}), looks like a perplexity"
        convert, identified = f"log(`{column}`)", "little: the form of the laws is that of a loss"
    elif plain and words & _BITS and not re.search(r"\d[ _-]*bits", column.lower()):
        what = f"L is read from {column!r}, a loss in bits"
        convert, identified = f"`{column}`*log(2)", "exponents"
    else:
        return []
    unit = "byte" if "bpb" in words else "character" if "bpc" in words else "token"
    meaning = f"{what}; floors and published constants are in nats per token. Nats per {unit}: L = {convert}"
    if unit != "token":
        meaning += f", times the {unit}s of a token for nats per token"
    return [FitWarning(name="loss-scale", meaning=meaning, identified=identified)]


_FOLLOWED = 12
"""Starts followed to their end where few agree."""
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
        Name of one of `solver.OBJECTIVES`, "huber-log@0.01" for another threshold, or an `Objective`.
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
    """Minimise from waves of starts until several agree on the lowest objective, or the waves are used up. The
    optima of laws that the law contains are starts too.

    A start that has not arrived after 60 iterations is in a bad place; the lowest is then followed to its
    end, and where few agree the lowest few are.
    """
    z, values = np.empty((0, len(problem.free))), np.empty(0)
    agreeing = 0
    patience = _PATIENCE * max(len(problem.free), 5)
    nested = _nested_starts(problem)
    for wave in range(_WAVES):
        start = problem.starts(_WAVE, skip=_WAVE * wave)
        start = np.concatenate([start, nested]) if wave == 0 else start
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
    best = z[np.argsort(values)[: 1 if agreeing >= _ENOUGH else _FOLLOWED]]
    end = minimise(
        problem.residuals, best, problem.weights, problem.objective, problem.box, max_iterations=500
    )
    first = int(np.argmin(end.objective))
    return Best(z=end.z[first], objective=float(end.objective[first]), starts=len(values), agreeing=agreeing)


def _nested_starts(problem: Problem) -> Array:
    """Return starts (k, p) at the optima of the laws that the law contains, found on the same points."""
    law, optima = problem.law, dict[str, dict[str, float]]()
    found = [np.empty((0, len(problem.free)))]
    for name, given in law.contains:
        inner = get(name)
        if name not in optima:
            inputs = {n: problem.inputs[n] for n in inner.inputs}
            less = replace(problem, law=inner, inputs=inputs, fixed={}, tied={})
            optima[name] = {n: float(v) for n, v in less.natural(solve(less).z).items()}
        known = optima[name] | problem.centre | {"highest": float(problem.output.max())}
        start = optima[name] | {n: float(evaluate(text, known)) for n, text in given.items()}
        start = {
            p.name: max(start[p.name], 1e-12) if p.logarithmic else start[p.name] for p in law.parameters
        }
        with np.errstate(all="ignore"):
            z = problem.coordinates(start)
        if np.isfinite(z).all():
            found.append(np.clip(z, problem.box.low, problem.box.high)[None])
    return np.concatenate(found)


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
