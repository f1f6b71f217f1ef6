"""Which runs to train next: the set that most reduces the uncertainty of a target within a budget.

Linear design theory: near the fitted constants each run adds to the information about them in the direction of its
gradient; the variance of the target is a quadratic form of the inverse. Runs are chosen one by one. A target is
anything that the constants decide: one of them, the law at a point, its mean variance over several points, the best
size for a compute, or what two recipes differ by.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError
from allometry.core.units import counted, format_count, format_flops, parse_number
from allometry.laws.backtest import Backtest, as_lists
from allometry.laws.law import Law, evaluate
from allometry.laws.result import FitResult
from allometry.laws.uncertainty import Array, plain
from allometry.planner.source import FLOPS_PER_PARAMETER_TOKEN, Source, best_size, from_fit, from_published

_TARGET = re.compile(r"^(a|loss|N_opt)(?:@([^=]+))?$")
_AT = re.compile(r"^([^@]+)@(.+=.+)$")
DEFAULT_NOISE = 0.003
"""Relative standard deviation of a run's loss between seeds, where no fit says."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Design:
    """Runs to train: `runs` (the law's inputs, C: their cost, `recipe` where two are compared, deviation: the target's
    standard deviation once this and the ones before are in).

    `before` and `after` are the target's standard deviation now and with all of them (root mean square over a target's
    points); `value` is the target now (its mean). `before` is infinite where the data so far do not identify the
    target.
    """

    target: str
    value: float
    before: float
    after: float
    budget: float
    runs: pd.DataFrame
    notes: tuple[str, ...]
    in_flops: bool = True

    def __repr__(self) -> str:
        runs = counted(len(self.runs), "run")
        return f"<Design for {self.target}: {runs}, ± {self.before:.3g} to ± {self.after:.3g}>"

    def report(self) -> str:
        """Return the proposal as text."""
        cost = self.runs["C"].sum()
        spent = f"{format_flops(cost)} of {format_flops(self.budget)}{' FLOPs' if self.in_flops else ''}"
        head = f"{counted(len(self.runs), 'run')}, {spent}, for {self.target}"
        known = f"± {self.before:.3g}" if np.isfinite(self.before) else "not identified"
        lines = [head, f"  {self.target} = {self.value:.4g}: {known} now, ± {self.after:.3g} with these runs"]
        inputs = [str(c) for c in self.runs.columns if c not in ("C", "recipe", "deviation")]
        for _, row in self.runs.iterrows():
            point = "  ".join(f"{name} {format_count(row[name]):>7s}" for name in inputs)
            whose = f"recipe {row['recipe']}  " if "recipe" in self.runs else ""
            lines.append(f"  {whose}{point}  C {format_flops(row['C'])}  then ± {row['deviation']:.3g}")
        return "\n".join(lines + [f"note: {n}" for n in self.notes])

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain JSON."""
        rows = [{str(k): plain(v) for k, v in row.items()} for row in self.runs.to_dict("records")]
        return {
            "target": self.target, "value": self.value, "before": plain(self.before), "after": self.after,
            "budget": self.budget, "runs": rows, "notes": list(self.notes),
        }  # fmt: skip

    def _repr_html_(self) -> str:
        return f"<pre>{escape(self.report())}</pre>"


Target = str | Mapping[str, Any] | pd.DataFrame


def next_runs(
    fit: FitResult | Backtest | None = None,
    *,
    budget: float,
    target: Target,
    law: str = "chinchilla",
    published: str | None = None,
    candidates: pd.DataFrame | None = None,
    most: int = 12,
    noise: float | None = None,
    cost: str | None = None,
    against: FitResult | None = None,
) -> Design:
    """Choose the runs that give a target the smallest standard deviation within a budget.

    Parameters
    ----------
    fit
        A fit of any law whose runs count as done; without one, constants of `law` are a first guess of where to
        measure.
    budget
        What all chosen runs together may cost: FLOPs, or the unit of `cost`.
    target
        What is to be known: a parameter's name; "L@N=1B,D=20B" (the law's output at inputs; "B_crit@L=2.5" for the
        law of the critical batch); several such points as a mapping of lists or a table (their mean variance); for
        laws of N and D also "loss@1e21" and "N_opt@1e21" (of the best run at that compute) and "a" (the exponent of
        N_opt, at the budget).
    law, published
        Law and set of constants where there is no `fit`.
    candidates
        The pool of runs to choose from: columns of the law's inputs (default, for laws of N and D: factors of two
        around the data and the budget). Without repeats: each row can be chosen once.
    most
        Number of runs at most.
    noise
        Relative standard deviation of a run's output (default: the fit's).
    cost
        What a run costs: a column of `candidates`, or arithmetic of the law's inputs (default: 6*N*D).
    against
        A fit of the same law to a second recipe: the target is then the first recipe's output less the second's, and
        runs of both are chosen.

    Returns
    -------
    Design
        The runs, and the target's standard deviation before and after.

    Raises
    ------
    AllometryError
        For designs that cannot identify the target, with the reason.

    Examples
    --------
    >>> import allometry
    >>> design = allometry.next_runs(budget=1e20, target="a", most=8)
    >>> bool(design.runs["C"].sum() <= 1e20), len(design.runs) <= 8
    (True, True)
    """
    if isinstance(fit, Backtest):
        raise AllometryError(
            "runs are chosen for the constants of one law, and a back-test has several",
            hint="give one of its fits: tested.fits['chinchilla']",
            cli_hint="name one with --law",
        )
    own = _Space.of_fit(fit) if fit is not None else _Space.of_constants(from_published(law, published))
    spaces = [own, *([_Space.of_fit(against)] if against is not None else [])]
    if against is not None and (fit is None or fit.law.name != against.law.name):
        raise AllometryError("two recipes are compared by fits of one law", hint="fit the same law to both")
    parts = [space.target(target, budget) for space in spaces]
    gradient = parts[0][0] if against is None else np.hstack([parts[0][0], -parts[1][0]])
    value = float(np.mean(parts[0][1] - (parts[1][1] if against is not None else 0.0)))
    sigma = noise or own.noise
    pool, formula = _pool(own, candidates, cost, budget)
    rows = [space.jacobian(pool) / sigma for space in spaces]
    done = _blocks([space.done / (noise or space.noise) for space in spaces])
    if against is not None:
        pool = pd.concat([pool.assign(recipe=1), pool.assign(recipe=2)], ignore_index=True)
    new = _blocks(rows)
    _refuse(pool, new, done, gradient, budget, list(own.law.inputs))
    chosen, spread = _greedy(new, pool["C"].to_numpy(), done, gradient, budget, most, candidates is not None)
    runs = pool.iloc[chosen].assign(deviation=spread[1:]).reset_index(drop=True)
    notes = [
        f"assumes a seed noise of {sigma:.2g} of the output, and that the law holds; near its constants only"
    ]
    if fit is None:
        notes.append(f"constants: {own.label}; with runs of your own, fit first and plan from the fit")
    if formula != _FLOPS:
        notes.append(f"cost of a run: {formula}")
    return Design(
        target=_named(target, against), value=value, before=_identified(done, gradient), after=float(spread[-1]),
        budget=budget, runs=runs, notes=tuple(notes), in_flops=formula == _FLOPS,
    )  # fmt: skip


_FLOPS = "6*N*D"


def _named(target: Target, against: FitResult | None) -> str:
    what = target if isinstance(target, str) else f"the law at {counted(len(_points(target)), 'point')}"
    return what if against is None else f"{what}, first recipe less second"


def _points(target: Mapping[str, Any] | pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(as_lists(target) if isinstance(target, Mapping) else target)


class _Space:
    """A law's constants in coordinates in which a shift of 1 is a large change, so that gradients are comparable."""

    def __init__(
        self, law: Law, names: list[str], size: int, params: Callable[[Array], dict[str, Array]], label: str
    ) -> None:
        self.law, self.names, self.size, self.params, self.label = law, names, size, params, label
        self.source: Source | None = None
        self.noise = DEFAULT_NOISE
        self.done = np.empty((0, size))

    @classmethod
    def of_constants(cls, source: Source) -> _Space:
        """Use printed constants: a shift of 1 is a constant's own size."""
        names = list(source.parameters)
        point = np.array([float(source.parameters[n][0]) for n in names])
        unit = np.maximum(np.abs(point), 1e-3)

        def params(shifts: Array) -> dict[str, Array]:
            values = point + shifts * unit
            return {n: values[:, i] for i, n in enumerate(names)}

        space = cls(source.law, names, len(names), params, source.label)
        space.source = source
        return space

    @classmethod
    def of_fit(cls, result: FitResult) -> _Space:
        """Use a fit: a shift of 1 is a factor of e, or the range that starts are drawn from, of an anchored value."""
        if result.status == "failed":
            raise AllometryError("a failed fit chooses no runs", hint="; ".join(result.reasons) or None)
        problem, z = result.problem(), result.coordinates
        free = [result.law.parameter(n).logarithmic for n in problem.free]
        unit = np.where(free, 1.0, np.ptp(problem.ranges, axis=1))
        space = cls(
            result.law,
            list(problem.free),
            len(z),
            lambda shifts: problem.natural(z + shifts * unit),
            result.law.title,
        )
        space.source = (
            from_fit(result)
            if {"N", "D"} == set(result.law.inputs) - {"U"} or "M" in result.law.inputs
            else None
        )
        scale = 1.0 if result.objective.log else float(np.median(problem.output))
        space.noise = max(result.rms / scale, 1e-4)
        space.done = space.jacobian(result.data)
        return space

    def derivative(self, function: Callable[[dict[str, Array]], Array], step: float = 1e-4) -> Array:
        """Differentiate a function of parameters (2p sets at once) by each shift, by central differences: (p, …)."""
        values = function(self.params(np.concatenate([np.eye(self.size), -np.eye(self.size)]) * step))
        return np.asarray((values[: self.size] - values[self.size :]) / (2 * step))

    def output(self, params: Mapping[str, Array], points: pd.DataFrame) -> Array:
        """Return the law at points (n,) for parameters (R,): (R, n)."""
        inputs = {n: points[n].to_numpy(float)[None, :] for n in self.law.inputs}
        return self.law.predict({k: v[:, None] for k, v in params.items()}, **inputs)

    def jacobian(self, points: pd.DataFrame) -> Array:
        """Return the derivatives of the log output at points (n,) by each shift: (n, p)."""
        return self.derivative(lambda p: np.log(self.output(p, points))).T

    def target(self, target: Target, budget: float) -> tuple[Array, Array]:
        """Return the gradients (m, p) and values (m,) of a target. Raises AllometryError for an unknown one."""
        here = self.params(np.zeros((1, self.size)))
        if not isinstance(target, str):
            return self._at(_points(target), here)
        if target in self.names:
            return self.derivative(lambda p: p[target])[None, :], here[target]
        if found := _AT.match(target):
            if found[1].strip() != self.law.output:
                raise AllometryError(
                    f"the law {self.law.name!r} gives {self.law.output}, not {found[1].strip()}",
                    hint=f"{self.law.output}@{found[2]}",
                )
            pairs = [part.partition("=") for part in found[2].split(",")]
            return self._at(
                pd.DataFrame([{n.strip(): parse_number(v, n.strip()) for n, _, v in pairs}]), here
            )
        match = _TARGET.match(target)
        if not match or self.source is None:
            known = "a, loss@1e21, N_opt@1e21, " if self.source is not None else ""
            like = ",".join(f"{name}=…" for name in self.law.inputs)
            raise AllometryError(
                f"unknown target {target!r}",
                hint=f"name one of {known}{self.law.output}@{like} or a parameter ({', '.join(self.names)})",
            )
        at = parse_number(match[2], "the target's compute") if match[2] else budget
        function, source = {"a": _exponent, "loss": _loss, "N_opt": _size}[match[1]], self.source
        value = function(source, here, at)
        if not np.isfinite(value[0]):
            raise AllometryError(f"{target} is not defined by {source.label}", hint="choose another compute")
        return self.derivative(lambda p: function(source, p, at), step=1e-3)[None, :], value

    def _at(self, points: pd.DataFrame, here: Mapping[str, Array]) -> tuple[Array, Array]:
        missing = [name for name in self.law.inputs if name not in points]
        if missing or not len(points):
            raise AllometryError(
                f"a point of the law {self.law.name!r} needs {', '.join(missing or self.law.inputs)}",
                hint=f"its inputs are {', '.join(self.law.inputs)}",
            )
        return self.derivative(lambda p: self.output(p, points)).T, self.output(here, points)[0]


def _loss(source: Source, params: dict[str, Array], at: float) -> Array:
    return best_size(source, params, at)[1]


def _size(source: Source, params: dict[str, Array], at: float) -> Array:
    return best_size(source, params, at)[0]


def _exponent(source: Source, params: dict[str, Array], at: float) -> Array:
    """Return d log N_opt / d log C over a decade around `at`."""
    low, high = (np.log(best_size(source, params, at * f)[0]) for f in (10**-0.5, 10**0.5))
    return np.asarray((high - low) / np.log(10))


def _blocks(parts: list[Array]) -> Array:
    """Return the rows of one or two recipes as the blocks of one matrix."""
    if len(parts) == 1:
        return parts[0]
    first, second = parts
    return np.vstack([
        np.hstack([first, np.zeros((len(first), second.shape[1]))]),
        np.hstack([np.zeros((len(second), first.shape[1])), second]),
    ])  # fmt: skip


def _pool(
    space: _Space, candidates: pd.DataFrame | None, cost: str | None, budget: float
) -> tuple[pd.DataFrame, str]:
    """Return the candidates that the budget allows, with their cost as C, and what the cost is."""
    inputs = list(space.law.inputs)
    if candidates is None:
        if space.source is None or set(inputs) != {"N", "D"}:
            raise AllometryError(
                f"the law {space.law.name!r} needs a pool of runs to choose from",
                hint=f"candidates: a table with the columns {', '.join(inputs)}",
            )
        table = _candidates(space.source, budget)
    else:
        missing = [name for name in inputs if name not in candidates]
        if missing:
            raise AllometryError(
                f"the candidates lack {', '.join(missing)}", hint=f"columns {', '.join(inputs)}"
            )
        table = candidates
    formula = cost or (
        _FLOPS if {"N", "D"} <= set(table) else "6*N*N*M" if {"N", "M"} <= set(table) else None
    )
    if formula is None:
        raise AllometryError(
            "nothing says what a run costs",
            hint="cost='1' if all cost the same, or arithmetic of the columns",
            cli_hint="--cost 1 if all cost the same, or arithmetic of the columns",
        )
    columns = {
        str(c): table[c].to_numpy(float) for c in table.columns if pd.api.types.is_numeric_dtype(table[c])
    }
    prices = np.broadcast_to(np.asarray(evaluate(formula, columns), float), (len(table),))
    if not (np.isfinite(prices) & (prices > 0)).all():
        raise AllometryError(f"the cost {formula!r} is not positive for every candidate", hint="check it")
    pool = table[inputs].astype(float).assign(C=prices)
    return pool[pool["C"] <= budget].reset_index(drop=True), formula


def _candidates(source: Source, budget: float) -> pd.DataFrame:
    """Return a grid of sizes and tokens in factors of two, 1 to 1,000 tokens per parameter, from a thousandth
    of the budget up.
    """
    sizes, _ = best_size(source, source.parameters, budget)
    middle = float(sizes[0]) if np.isfinite(sizes[0]) else float(np.sqrt(budget / 120))
    N = middle * 2.0 ** np.arange(-9, 5)
    grid = pd.MultiIndex.from_product([N, 2.0 ** np.arange(2, 12)], names=["N", "ratio"]).to_frame(
        index=False
    )
    grid = grid.assign(D=grid["N"] * grid["ratio"])
    keep = FLOPS_PER_PARAMETER_TOKEN * grid["N"] * grid["D"] >= budget * 1e-4
    for name, (low, high) in source.ranges.items():
        if name in grid:
            keep &= grid[name].between(low / 2, high * 8)
    return grid.loc[keep, ["N", "D"]]


def _refuse(
    pool: pd.DataFrame, rows: Array, done: Array, gradient: Array, budget: float, inputs: list[str]
) -> None:
    if not len(pool):
        raise AllometryError(f"no candidate run fits into {format_flops(budget)}", hint="raise the budget")
    if np.isfinite(_identified(np.vstack([done, rows]), gradient)):
        return
    levels = {name: len(np.unique(np.round(np.log(np.maximum(pool[name], 1e-300)), 3))) for name in inputs}
    few = {name: count for name, count in levels.items() if count < 3}
    why = "the candidates do not tell the law's terms apart"
    if {"N", "D"} <= set(inputs) and len(np.unique(np.round(np.log(pool["D"] / pool["N"]), 3))) == 1:
        why = "all candidates have one D/N, so that size and data cannot be told apart"
    elif few:
        words = {"N": "sizes", "D": "amounts of data"}
        have = " and ".join(
            f"{count} {words.get(name, f'values of {name}')}" for name, count in levels.items()
        )
        why = f"the candidates have {have}; three of each are needed"
    vary = " and ".join(inputs)
    raise AllometryError(
        f"no choice of these runs identifies the target: {why}", hint=f"add runs that vary {vary}"
    )


def _identified(rows: Array, gradient: Array) -> float:
    """Return the standard deviation of the target (root mean square over gradients (m, p)) from runs' scaled gradients
    (n, p); infinite if they do not determine it.
    """
    if not len(rows):
        return float("inf")
    _, singular, directions = np.linalg.svd(rows, full_matrices=True)
    strength = np.zeros(rows.shape[1])
    strength[: len(singular)] = singular
    along = directions @ gradient.T
    weak = strength < 1e-8 * strength.max()
    if (np.linalg.norm(along[weak], axis=0) > 1e-6 * np.linalg.norm(gradient, axis=1)).any():
        return float("inf")
    return float(np.sqrt(np.sum((along[~weak] / strength[~weak, None]) ** 2) / len(gradient)))


def _greedy(
    rows: Array, cost: Array, done: Array, gradient: Array, budget: float, most: int, once: bool
) -> tuple[list[int], Array]:
    """Choose runs one by one: return their indices, and the target's deviation before and after each.

    Each step takes the run with the largest drop of log variance, once per run and once per cost; the better of the
    sequences is kept. A weak prior (a shift of 1 in every coordinate) keeps the first steps finite. With `once` no row
    is taken twice.
    """
    best: tuple[list[int], list[float]] | None = None
    for power in (0.0, 0.5, 1.0):
        covariance: Array = np.asarray(np.linalg.inv(done.T @ done + np.eye(rows.shape[1])), dtype=float)
        chosen: list[int] = []
        spread = [_deviation(covariance, gradient)]
        left, free = budget, np.ones(len(rows), dtype=bool)
        while len(chosen) < most:
            moved = rows @ covariance
            drop = ((moved @ gradient.T) ** 2).mean(axis=1) / (1 + np.einsum("np,np->n", moved, rows))
            gain = -np.log(np.maximum(1 - drop / spread[-1] ** 2, 1e-12)) / cost**power
            gain[(cost > left) | ~free] = -1
            pick = int(gain.argmax())
            if gain[pick] <= 0:
                break
            step = moved[pick]
            covariance = covariance - np.outer(step, step) / (1 + step @ rows[pick])
            chosen.append(pick)
            spread.append(_deviation(covariance, gradient))
            left -= cost[pick]
            free[pick] = not once
        if best is None or spread[-1] < best[1][-1]:
            best = chosen, spread
    assert best is not None
    return best[0], np.array(best[1])


def _deviation(covariance: Array, gradient: Array) -> float:
    """Return the target's standard deviation, root mean square over its gradients (m, p)."""
    return float(np.sqrt(np.maximum(np.einsum("mp,pq,mq->m", gradient, covariance, gradient), 0.0).mean()))
