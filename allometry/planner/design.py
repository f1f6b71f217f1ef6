"""Which runs to train next: the set that most reduces the uncertainty of a named target within a budget.

Linear design theory: near the fitted constants each run adds to the information about them in the
direction of its gradient; the variance of the target is a quadratic form of the inverse. Runs are
chosen one by one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError
from allometry.core.units import counted, format_count, format_flops, parse_number
from allometry.laws.result import FitResult
from allometry.laws.uncertainty import Array, plain
from allometry.planner.source import FLOPS_PER_PARAMETER_TOKEN, Source, best_size, from_fit, from_published

_TARGET = re.compile(r"^(a|loss|N_opt)(?:@(.+))?$")
DEFAULT_NOISE = 0.003
"""Relative standard deviation of a run's loss between seeds, where no fit says."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Design:
    """Runs to train: `runs` (N, D, C, deviation: the target's standard deviation once this and the ones
    before are in).

    `before` and `after` are the target's standard deviation now and with all of them; `value` is the
    target now. `before` is infinite where the data so far do not identify the target.
    """

    target: str
    value: float
    before: float
    after: float
    budget: float
    runs: pd.DataFrame
    notes: tuple[str, ...]

    def report(self) -> str:
        """Return the proposal as text."""
        cost = self.runs["C"].sum()
        spent = f"{format_flops(cost)} of {format_flops(self.budget)} FLOPs"
        head = f"{counted(len(self.runs), 'run')}, {spent}, for {self.target}"
        known = f"± {self.before:.3g}" if np.isfinite(self.before) else "not identified"
        lines = [head, f"  {self.target} = {self.value:.4g}: {known} now, ± {self.after:.3g} with these runs"]
        for _, row in self.runs.iterrows():
            size = (
                f"N {format_count(row['N']):>7s}  D {format_count(row['D']):>7s}  C {format_flops(row['C'])}"
            )
            lines.append(f"  {size}  then ± {row['deviation']:.3g}")
        return "\n".join(lines + [f"note: {n}" for n in self.notes])

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain JSON."""
        rows = [{k: plain(v) for k, v in row.items()} for row in self.runs.to_dict("records")]
        return {
            "target": self.target, "value": self.value, "before": plain(self.before), "after": self.after,
            "budget": self.budget, "runs": rows, "notes": list(self.notes),
        }  # fmt: skip

    def _repr_html_(self) -> str:
        return f"<pre>{escape(self.report())}</pre>"


def next_runs(
    fit: FitResult | None = None,
    *,
    budget: float,
    target: str,
    law: str = "chinchilla",
    published: str | None = None,
    candidates: pd.DataFrame | None = None,
    most: int = 12,
    noise: float | None = None,
) -> Design:
    """Choose the runs that give a target the smallest standard deviation within a budget.

    Parameters
    ----------
    fit
        A fit whose runs count as done; without one, constants of `law` are a first guess of where to measure.
    budget
        FLOPs of all chosen runs together.
    target
        "loss@1e21" (of the best run at that compute), "N_opt@1e21", "a" (the exponent of N_opt, at the budget)
        or a parameter's name.
    law, published
        Law and set of constants where there is no `fit`.
    candidates
        Runs to choose from, columns N and D (default: factors of two around the data and the budget).
    most
        Number of runs at most.
    noise
        Relative standard deviation of a loss (default: the fit's).

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
    source = from_fit(fit) if fit is not None else from_published(law, published)
    space = _Space(source)
    gradient, value = space.target(target, budget)
    sigma = noise or (max(fit.rms, 1e-4) if fit is not None else DEFAULT_NOISE)
    pool = _candidates(source, budget) if candidates is None else candidates[["N", "D"]].astype(float)
    pool = pool.assign(C=FLOPS_PER_PARAMETER_TOKEN * pool["N"] * pool["D"])
    pool = pool[pool["C"] <= budget].reset_index(drop=True)
    done = space.jacobian(*_points(fit)) / sigma if fit is not None else np.empty((0, space.size))
    rows = space.jacobian(pool["N"].to_numpy(), pool["D"].to_numpy()) / sigma
    _refuse(pool, rows, done, gradient, budget)
    chosen, spread = _greedy(rows, pool["C"].to_numpy(), done, gradient, budget, most)
    runs = pool.iloc[chosen].assign(deviation=spread[1:]).reset_index(drop=True)
    notes = [
        f"assumes a seed noise of {sigma:.2g} of the loss, and that the law holds; near its constants only"
    ]
    if fit is None:
        notes.append(f"constants: {source.label}; with runs of your own, fit first and plan from the fit")
    return Design(
        target=target, value=value, before=_identified(done, gradient), after=float(spread[-1]),
        budget=budget, runs=runs, notes=tuple(notes),
    )  # fmt: skip


class _Space:
    """The law's parameters in units of themselves, so that gradients are comparable."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.names = list(source.parameters)
        self.point = np.array([float(source.parameters[n][0]) for n in self.names])
        self.unit = np.maximum(np.abs(self.point), 1e-3)
        self.size = len(self.names)

    def params(self, shifts: Array) -> dict[str, Array]:
        """Return the parameters at shifts (R, p) in units of themselves, each (R,)."""
        values = self.point + shifts * self.unit
        return {n: values[:, i] for i, n in enumerate(self.names)}

    def derivative(self, function: Callable[[dict[str, Array]], Array], step: float = 1e-4) -> Array:
        """Differentiate a function of parameters (2p sets at once) by each shift, by central differences: (p, …)."""
        values = function(self.params(np.concatenate([np.eye(self.size), -np.eye(self.size)]) * step))
        return np.asarray((values[: self.size] - values[self.size :]) / (2 * step))

    def jacobian(self, N: Array, D: Array) -> Array:
        """Return the derivatives of log loss at runs (n,) by each shift: (n, p)."""
        return self.derivative(lambda p: np.log(self.source.loss(p, N[None, :], D[None, :], None))).T

    def target(self, text: str, budget: float) -> tuple[Array, float]:
        """Return the gradient (p,) and value of a named target. Raises AllometryError for an unknown one."""
        if text in self.names:
            index = self.names.index(text)
            return np.eye(self.size)[index] * self.unit[index], float(self.point[index])
        match = _TARGET.match(text)
        if not match:
            raise AllometryError(
                f"unknown target {text!r}",
                hint=f"name one of a, loss@1e21, N_opt@1e21 or a parameter ({', '.join(self.names)})",
            )
        at = parse_number(match[2], "the target's compute") if match[2] else budget
        function = {"a": _exponent, "loss": _loss, "N_opt": _size}[match[1]]
        center = float(function(self.source, self.params(np.zeros((1, self.size))), at)[0])
        if not np.isfinite(center):
            raise AllometryError(
                f"{text} is not defined by {self.source.label}", hint="choose another compute"
            )
        return self.derivative(lambda p: function(self.source, p, at), step=1e-3), center


def _loss(source: Source, params: dict[str, Array], at: float) -> Array:
    return best_size(source, params, at)[1]


def _size(source: Source, params: dict[str, Array], at: float) -> Array:
    return best_size(source, params, at)[0]


def _exponent(source: Source, params: dict[str, Array], at: float) -> Array:
    """Return d log N_opt / d log C over a decade around `at`."""
    low, high = (np.log(best_size(source, params, at * f)[0]) for f in (10**-0.5, 10**0.5))
    return np.asarray((high - low) / np.log(10))


def _points(fit: FitResult | None) -> tuple[Array, Array]:
    assert fit is not None
    data = fit.data
    N = data["N"].to_numpy(float)
    return N, data["D"].to_numpy(float) if "D" in data else N * data["M"].to_numpy(float)


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


def _refuse(pool: pd.DataFrame, rows: Array, done: Array, gradient: Array, budget: float) -> None:
    if not len(pool):
        raise AllometryError(
            f"no candidate run fits into {format_flops(budget)} FLOPs", hint="raise the budget"
        )
    if np.isfinite(_identified(np.vstack([done, rows]), gradient)):
        return
    ratios, sizes, tokens = (
        len(np.unique(np.round(np.log(v), 3))) for v in (pool["D"] / pool["N"], pool["N"], pool["D"])
    )
    why = "the candidates do not tell the law's terms apart"
    if ratios == 1:
        why = "all candidates have one D/N, so that size and data cannot be told apart"
    elif sizes < 3 or tokens < 3:
        have = f"{counted(sizes, 'size')} and {counted(tokens, 'amount')} of data"
        why = f"the candidates have {have}; three of each are needed"
    raise AllometryError(
        f"no choice of these runs identifies the target: {why}", hint="add runs that vary N and D"
    )


def _identified(rows: Array, gradient: Array) -> float:
    """Return the standard deviation of the target from runs' scaled gradients (n, p); infinite if they do not
    determine it.
    """
    if not len(rows):
        return float("inf")
    _, singular, directions = np.linalg.svd(rows, full_matrices=True)
    strength = np.zeros(rows.shape[1])
    strength[: len(singular)] = singular
    along = directions @ gradient
    weak = strength < 1e-8 * strength.max()
    if np.linalg.norm(along[weak]) > 1e-6 * np.linalg.norm(gradient):
        return float("inf")
    return float(np.sqrt(np.sum((along[~weak] / strength[~weak]) ** 2)))


def _greedy(
    rows: Array, cost: Array, done: Array, gradient: Array, budget: float, most: int
) -> tuple[list[int], Array]:
    """Choose runs one by one: return their indices, and the target's deviation before and after each.

    Each step takes the run with the largest drop of log variance, once per run and once per cost; the
    better of the two sequences is kept. A weak prior (100 % of every parameter) keeps the first steps
    finite.
    """
    best: tuple[list[int], list[float]] | None = None
    for power in (0.0, 0.5, 1.0):
        covariance = np.linalg.inv(done.T @ done + np.eye(rows.shape[1]))
        chosen: list[int] = []
        spread = [float(np.sqrt(gradient @ covariance @ gradient))]
        left = budget
        while len(chosen) < most:
            moved = rows @ covariance
            drop = (moved @ gradient) ** 2 / (1 + np.einsum("np,np->n", moved, rows))
            gain = -np.log(np.maximum(1 - drop / spread[-1] ** 2, 1e-12)) / cost**power
            gain[cost > left] = -1
            pick = int(gain.argmax())
            if gain[pick] <= 0:
                break
            step = moved[pick]
            covariance = covariance - np.outer(step, step) / (1 + step @ rows[pick])
            chosen.append(pick)
            spread.append(float(np.sqrt(gradient @ covariance @ gradient)))
            left -= cost[pick]
        if best is None or spread[-1] < best[1][-1]:
            best = chosen, spread
    assert best is not None
    return best[0], np.array(best[1])
