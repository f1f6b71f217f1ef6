"""Does a fit extrapolate? Every fit tests itself along the directions that a prediction would take.

The directions are the law's positive inputs, and C = 6ND and D/N where there are sizes and tokens. In each:

* **hold-outs**: the law is fitted again without the highest tenth, fifth, third and half of the runs, and predicts
  them. A run that has several rows is held out whole.
* **trend**, **bend**: the residuals rise, fall or curve, beyond what the parameters could have taken up.
* **neighbours**: residuals that follow each other along the direction agree in sign (a runs test with sizes).

All tests share one p-value. The residuals are given random signs, run by run (the wild bootstrap, Wu 1986): that
keeps their sizes, outliers and what rows of a run have in common, and destroys every pattern. Every test is made on
every such table, with the fit linear around the optimum, and the largest standardised statistic of the real table
is compared with the largest of each of these (Westfall & Young 1993). So the share of right laws that fail is the
level, however many tests there are; `benchmarks/coverage.py` counts it.

A fit that fails does not extrapolate. Its hold-outs say how wrong it may be: see `SelfTest.model_error`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from allometry.core.units import format_count
from allometry.laws.problem import Problem
from allometry.laws.solver import minimise
from allometry.laws.uncertainty import outlying, plain

Array = NDArray[np.float64]
Numbers = NDArray[np.int_]

LEVEL, LEVEL_GROUPED = 0.01, 0.05
"""A fit fails below this p-value (all tests together); where rows are grouped only because their residuals agree, which
a wrong law does too, below the second."""

_SHARES = (0.1, 0.2, 0.35, 0.5)
_DRAWS = 399
_CELLS = 1_000_000
"""Signs drawn at most: long tables get fewer draws, but no fewer than 199."""
_TELLING = 1.2
"""Hold-out errors this many times what was expected are quoted as the evidence."""
_LEVELS = 4
"""A direction with fewer different values is not tested."""
_GROUPS = 7
"""With fewer groups there are too few different signs."""
_SPARE = 8
"""Runs beyond the number of parameters that a test needs; half as many must be left by a hold-out."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SelfTest:
    """What a fit's test of itself found.

    `p` is the probability that a right law looks as bad as this one in any of the tests; it fails below `level` (nan:
    not tested, `reason` says why). `test` and `direction` name the test that is worst by its standardised statistic.

    `tests` has one row a test: test, direction, share (of the runs held out), score (statistic in standard
    deviations). `holdouts` has one row a hold-out: direction, share, threshold (value up to which rows were fitted),
    fitted and held (rows), bias and rms (of log predicted over measured), expected (the rms that noise and the
    parameters' uncertainty explain), reach (largest log distance beyond the threshold). `edges` maps each direction
    to its largest value in the data.
    """

    p: float
    level: float = LEVEL
    reason: str = ""
    test: str = ""
    direction: str = ""
    tests: pd.DataFrame = field(default_factory=pd.DataFrame)
    holdouts: pd.DataFrame = field(default_factory=pd.DataFrame)
    edges: Mapping[str, float] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether the law is shown not to extrapolate."""
        return bool(self.p <= self.level)

    def model_error(self, inputs: Mapping[str, Array], linear: frozenset[str] = frozenset()) -> Array:
        """Return by how much (n,) predictions at `inputs` may be off beyond their own intervals, as a standard
        deviation on the scale of the residuals. Zero for a fit that passed, and within the data.

        For each direction in which a point lies beyond the data: the largest mean square error of its hold-outs, less
        what was expected of them; beyond the largest distance that a hold-out tested it grows with the log distance.
        The largest of the directions counts.
        """
        along = directions({name: np.asarray(x, dtype=float) for name, x in inputs.items()}, linear)
        found = np.zeros(np.broadcast_shapes(*(u.shape for u in along.values())))
        if not self.failed or not len(self.holdouts):
            return found
        for name, rows in self.holdouts.groupby("direction"):
            excess = float(np.maximum(rows["rms"] ** 2 - rows["expected"] ** 2, 0.0).max()) ** 0.5
            beyond = along[str(name)] - np.log(self.edges[str(name)])
            grown = excess * np.maximum(beyond / float(rows["reach"].max()), 1.0)
            found = np.maximum(found, np.where(beyond > 1e-9, grown, 0.0))
        return found

    def sentence(self) -> str:
        """Return what the test found, in one line."""
        if np.isnan(self.p):
            return f"not made: {self.reason}"
        count = f"p = {self.p:.2g}, {len(self.tests)} tests together"
        if not self.failed:
            return f"passed: no trend, and what is held out is predicted as well as noise allows ({count})"
        wider = "intervals beyond the data are widened by" if len(self.holdouts) else "there are no"
        return f"does not extrapolate along {self.direction} ({count}); {wider} errors of hold-outs"

    def evidence(self, log: bool = True) -> str:
        """Return what speaks against a law that failed: the direction, and how far off it was. `log`: errors are of
        logarithms, and read as per cent.
        """
        return f"along {self.direction} {self._evidence(log)}"

    def _evidence(self, log: bool) -> str:
        if len(self.holdouts):
            rows = self.holdouts[self.holdouts["direction"] == self.direction]
            ratio = rows["rms"] / rows["expected"]
            if len(rows) and ratio.max() > _TELLING:
                worst = rows.iloc[int(ratio.to_numpy().argmax())]
                rms, expected = (
                    f"{100 * worst[c]:.2g} %" if log else f"{worst[c]:.2g}" for c in ("rms", "expected")
                )
                return (
                    f"the law, fitted up to {format_count(worst['threshold'])}, is off by {rms} above; noise explains"
                    f" {expected}"
                )
        return {
            "trend": "the residuals rise or fall",
            "bend": "the residuals bend",
            "neighbours": "neighbouring residuals agree",
        }.get(self.test, "what is held out is not where it is predicted")

    def to_dict(self) -> dict[str, Any]:
        """Return the test as plain JSON, from which `from_dict` makes it again."""
        tables = {
            name: [
                {k: plain(v) if isinstance(v, float) else v for k, v in row.items()}
                for row in getattr(self, name).to_dict("records")
            ]
            for name in ("tests", "holdouts")
        }
        facts = {"reason": self.reason, "test": self.test, "direction": self.direction}
        return {
            "p": plain(self.p),
            "level": self.level,
            "failed": self.failed,
            **facts,
            **tables,
            "edges": dict(self.edges),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SelfTest:
        """Return a test from `to_dict`'s JSON."""
        facts: dict[str, Any] = {
            name: data[name] for name in ("level", "reason", "test", "direction", "edges")
        }
        tables: dict[str, Any] = {name: pd.DataFrame(data[name]) for name in ("tests", "holdouts")}
        return cls(p=np.nan if data["p"] is None else data["p"], **facts, **tables)


def directions(inputs: Mapping[str, Array], linear: frozenset[str] = frozenset()) -> dict[str, Array]:
    """Return the log values (n,) along every direction: positive inputs, and C and D/N of sizes and tokens."""
    found = {name: np.log(x) for name, x in inputs.items() if name not in linear}
    if {"N", "M"} <= set(found):
        found.setdefault("D", found["N"] + found["M"])
    if {"N", "D"} <= set(found):
        found.setdefault("C", np.log(6.0) + found["N"] + found["D"])
        if "M" not in found:
            found["D/N"] = found["D"] - found["N"]
    return found


@dataclass(frozen=True)
class _Cut:
    """A hold-out: rows with more than `threshold` (log) along a direction."""

    direction: str
    share: float
    threshold: float
    held: NDArray[np.bool_]


@dataclass
class _Statistics:
    """Statistics of the real table, and of the tables of random signs (draws,)."""

    names: list[tuple[str, str, float]] = field(default_factory=list)
    real: list[float] = field(default_factory=list)
    drawn: list[Array] = field(default_factory=list)
    both_sides: list[bool] = field(default_factory=list)

    def add(
        self, test: str, direction: str, real: float, drawn: Array, *, both: bool, share: float = np.nan
    ) -> None:
        """Add a statistic; `both`: small values speak against the law as large ones do."""
        if np.isfinite(real) and np.ptp(drawn) > 0:
            self.names.append((test, direction, share))
            self.real.append(real)
            self.drawn.append(drawn)
            self.both_sides.append(both)

    def scores(self) -> tuple[Array, Array]:
        """Return the standardised statistics (tests,), and those of the draws (tests, draws)."""
        drawn = np.array(self.drawn)
        middle, spread = drawn.mean(axis=1), drawn.std(axis=1)
        both = np.array(self.both_sides)
        real = (np.array(self.real) - middle) / spread
        drawn = (drawn - middle[:, None]) / spread[:, None]
        return np.where(both, np.abs(real), real), np.where(both[:, None], np.abs(drawn), drawn)


def selftest(
    problem: Problem, z: Array, group: Numbers, *, whole: bool, level: float = LEVEL, seed: int = 0
) -> SelfTest:
    """Test whether a fit with coordinates `z` (p,) extrapolates.

    `group` (n,) numbers the run of each row, which may share their noise; `whole` says that the table itself names
    the runs, which are then held out whole. Else residuals agree in a group, which may be a run, and may be the law's
    fault: signs are drawn by group, and rows held out one by one.
    """
    runs = int(group.max()) + 1 if whole else len(problem.output)
    if problem.objective.above != 1.0:
        return SelfTest(p=np.nan, reason="the objective asks for an envelope, not for the middle of the data")
    if not len(z) or runs < len(z) + _SPARE:
        return SelfTest(p=np.nan, reason=f"{runs} runs are too few (it needs {len(z) + _SPARE})")
    if int(group.max()) + 1 < _GROUPS:
        return SelfTest(
            p=np.nan, reason=f"rows of one {'run' if whole else 'size'} agree, and there are too few"
        )
    residuals, jacobian = (part[0] for part in problem.residuals(z[None]))
    scale = np.sqrt(problem.weights)
    weighted, slopes = residuals * scale, jacobian.T * scale[:, None]
    far = outlying(weighted, len(z))
    limit = float(np.abs(weighted[~far]).max())
    if limit < 1e-9 or not np.isfinite(slopes).all():
        return SelfTest(p=np.nan, reason="the law passes through every point")
    table = _Signs(problem, np.clip(weighted, -limit, limit), slopes, group, seed)
    along = {
        name: u
        for name, u in directions(problem.inputs, problem.law.linear).items()
        if len(np.unique(np.round(u, 6))) >= _LEVELS
    }
    if not along:
        return SelfTest(p=np.nan, reason=f"no input takes {_LEVELS} values")
    found = _Statistics()
    for name, u in along.items():
        _test_residuals(found, table, name, u, [v for other, v in along.items() if other != name])
    cuts = _cuts(problem, along, group, whole)
    holdouts = _test_holdouts(found, table, problem, z, cuts, along, limit, far) if cuts else pd.DataFrame()
    edges = {name: float(np.exp(u.max())) for name, u in along.items()}
    return _judged(found, holdouts, edges, level)


def _judged(found: _Statistics, holdouts: pd.DataFrame, edges: dict[str, float], level: float) -> SelfTest:
    if not found.names:
        return SelfTest(p=np.nan, reason="nothing could be held out, and the parameters take up every trend")
    scores, drawn = found.scores()
    p = (1 + int(np.sum(drawn.max(axis=0) >= scores.max()))) / (1 + drawn.shape[1])
    tests = pd.DataFrame(found.names, columns=["test", "direction", "share"]).assign(score=scores)
    worst = tests.iloc[int(scores.argmax())]
    return SelfTest(
        p=p,
        level=level,
        test=str(worst["test"]),
        direction=str(worst["direction"]),
        tests=tests,
        holdouts=holdouts,
        edges=edges,
    )


class _Signs:
    """Residuals of a least-squares fit around the optimum, and the same under random signs, run by run.

    `residuals` (n,) and `noise` (draws, n), which is what the runs' noise would have been; `left` (draws, n) is what
    a fit leaves of it.
    """

    def __init__(self, problem: Problem, weighted: Array, slopes: Array, group: Numbers, seed: int) -> None:
        n, p = slopes.shape
        self.slopes = slopes
        self.base = np.linalg.qr(slopes / np.maximum(np.linalg.norm(slopes, axis=0), 1e-300))[0]
        self.residuals = self.without_fit(weighted)
        leverage = np.minimum(np.sum(self.base**2, axis=1), 0.9)
        draws = min(_DRAWS, max(199, _CELLS // n))
        signs = np.random.default_rng([seed, 7]).integers(0, 2, size=(draws, int(group.max()) + 1)) * 2.0 - 1
        self.noise = signs[:, group] * (self.residuals / np.sqrt(1 - leverage))
        self.left = self.without_fit(self.noise)
        self.size = float(np.sqrt(np.sum(self.residuals**2) / max(n - p, 1)))
        self.influence = self._influence(problem)

    def without_fit(self, rows: Array) -> Array:
        """Return rows (…, n) less what the parameters take up."""
        return np.asarray(rows - (rows @ self.base) @ self.base.T)

    def _influence(self, problem: Problem) -> Array:
        """Return what each noise (draws, n) moves the estimates by: itself, or its sign for absolute deviations."""
        threshold = problem.objective.threshold * (self.size if problem.objective.free_scale else 1.0)
        if not np.isfinite(threshold):
            return self.noise
        inside = 2 * NormalDist().cdf(threshold / self.size) - 1
        return np.clip(self.noise, -threshold, threshold) / max(inside, 1e-300)


def _test_residuals(found: _Statistics, table: _Signs, name: str, u: Array, others: list[Array]) -> None:
    """Add the trend, bend and neighbours of the residuals along one direction."""
    t = (u - u.mean()) / u.std()
    for test, shape in (("trend", t), ("bend", t**2)):
        free = table.without_fit(shape)
        if np.linalg.norm(free) > 1e-2 * np.linalg.norm(shape):
            found.add(test, name, float(free @ table.residuals), table.left @ free, both=True)
    order = np.lexsort([*others, np.round(u, 6)])
    reach = 2.5 * table.size
    real, drawn = (np.clip(r[..., order], -reach, reach) for r in (table.residuals, table.left))
    product = np.mean(drawn[:, 1:] * drawn[:, :-1], axis=1)
    found.add("neighbours", name, float(np.mean(real[1:] * real[:-1])), product, both=False)


def _cuts(problem: Problem, along: Mapping[str, Array], group: Numbers, whole: bool) -> list[_Cut]:
    """Return the hold-outs that leave enough runs to fit; a small loss is no cost, so L is not cut."""
    found, least = [], len(problem.free) + _SPARE // 2
    for name, u in along.items():
        if name == "L":
            continue
        order, sizes = u, set()
        if whole:
            top = np.full(int(group.max()) + 1, -np.inf)
            np.maximum.at(top, group, u)
            order = top[group]
        for share in _SHARES:
            threshold = float(np.quantile(order, 1 - share, method="lower"))
            held = order > threshold + 1e-9
            enough = (len(np.unique(group[~held])) if whole else int((~held).sum())) >= least
            if 2 <= held.sum() <= 0.6 * len(u) and held.sum() not in sizes and enough:
                sizes.add(held.sum())
                found.append(_Cut(name, share, threshold, held))
    return found


def _refitted(problem: Problem, z: Array, cuts: list[_Cut]) -> Array:
    """Return the coordinates (cuts, p) without what is held out, from the optimum and two starts near it."""
    step = 0.1 * problem.box.reach * np.resize([1.0, -1.0], len(z))
    starts = np.array([z, z + step, z - step])
    weights = np.array([np.where(cut.held, 0.0, problem.weights) for cut in cuts])
    found = minimise(
        problem.residuals, np.tile(starts, (len(cuts), 1)), np.repeat(weights, len(starts), axis=0),
        problem.objective, problem.box, tolerance=1e-9,
    )  # fmt: skip
    best = found.objective.reshape(len(cuts), -1).argmin(axis=1)
    return found.z.reshape(len(cuts), len(starts), -1)[np.arange(len(cuts)), best]


def _test_holdouts(
    found: _Statistics, table: _Signs, problem: Problem, z: Array, cuts: list[_Cut], along: Mapping[str, Array],
    limit: float, far: NDArray[np.bool_],
) -> pd.DataFrame:  # fmt: skip
    """Add the mean and the size of the errors of every hold-out, and return the hold-outs as a table.

    Errors are limited as residuals are, to `limit`, in the tests; points that lie `far` off the whole fit take no
    part in the table, as they do not in the scatter of a fit.
    """
    coordinates = _refitted(problem, z, cuts)
    errors, slopes = problem.residuals(coordinates)
    root = np.sqrt(problem.weights)
    variance = 2.0 - problem.objective.absorbed(table.size)  # of the estimates, over that of least squares
    rows = []
    for cut, error, slope in zip(cuts, errors * root, slopes, strict=True):
        held, near = cut.held, cut.held & ~far
        effect = np.linalg.pinv(table.slopes[~held], rcond=1e-8)
        drawn = table.noise[:, held] - (table.influence[:, ~held] @ effect.T) @ table.slopes[held].T
        real = np.clip(error[held], -limit, limit)
        if not np.isfinite(real).all():
            continue
        name = cut.direction
        found.add("hold-out mean", name, float(real.mean()), drawn.mean(axis=1), both=True, share=cut.share)
        size, sizes = (np.log(np.mean(v**2, axis=-1) + 1e-300) for v in (real, drawn))
        found.add("hold-out size", name, float(size), sizes, both=False, share=cut.share)
        near = near if near.any() else held
        own = (slope * root).T
        spread = np.linalg.pinv(own[~held].T @ own[~held], rcond=1e-10, hermitian=True)
        leverage = np.einsum("np,pq,nq->n", own[near], spread, own[near])
        rows.append(
            {
                "direction": name,
                "share": cut.share,
                "threshold": float(np.exp(cut.threshold)),
                "fitted": int((~held).sum()),
                "held": int(held.sum()),
                "bias": float(np.mean(error[near])),
                "rms": float(np.sqrt(np.mean(error[near] ** 2))),
                "expected": float(table.size * np.sqrt(np.mean(1 + variance * np.maximum(leverage, 0)))),
                "reach": float(along[name].max() - cut.threshold),
            }
        )
    return pd.DataFrame(rows)
