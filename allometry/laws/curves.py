"""Loss curves under any learning-rate schedule: the Multi-Power Law fitted to some curves predicts those of others.

Luo et al. 2025, arXiv 2503.12811: with the rate eta_t of step t and S_k(t) = eta_k + ... + eta_t,

    L(t) = L_0 + A S_1(t)^-alpha - B LD(t),   LD(t) = sum_k (eta_(k-1) - eta_k) G(eta_k^-gamma S_k(t)),
    G(x) = 1 - (1 + C x)^-beta.

LD is the loss that falling rates have taken away so far; a warm-up adds to the loss. The shape constants C, beta and
gamma are hardly seen in a few curves: the lowest objective of three curves is a worse predictor than the printed
constants, which nearly agree from 25M to 400M parameters. So they are kept near the printed ones unless they are freed.

Rates are taken at the logged steps: linear between them where they move slowly, and held until the later step where
they jump.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from allometry.core.errors import AllometryError
from allometry.core.units import counted
from allometry.laws.observations import read_symbol
from allometry.laws.solver import Box, get_objective, minimise
from allometry.laws.uncertainty import plain, student_quantile
from allometry.runs.tables.columns import run_column

Array = NDArray[np.float64]

NAMES = ("L_0", "A", "alpha", "B", "C", "beta", "gamma")
PRINTED: dict[str, tuple[float, ...]] = {
    "25M": (3.04045406, 0.52468604, 0.50786857, 363.78751622, 2.06560812, 0.58279013, 0.64142257),
    "100M": (2.6514477, 0.60115152, 0.45295811, 437.9464276, 2.13245612, 0.59785199, 0.65523644),
    "400M": (2.37474466, 0.65421216, 0.42878731, 523.42464371, 2.02462735, 0.59350493, 0.63472457),
}
"""Size -> the constants in the order of NAMES, from github.com/thu-yao-01-luo/MultiPowerLaw."""

_NEAR = np.array([0.5, 0.15, 0.15])
"""How far log C, log beta and gamma may be from the mean of the printed ones."""
_JUMP = 0.1
"""Share of the highest rate from which on a change between two logged steps is a jump."""
_POINTS = 500
"""Points of a curve at most: longer ones are averaged over blocks of rows."""
_WARM_UP = 60
"""Pieces that a warm-up which is not in the table is cut into."""
_LEAST_RATE = 1e-6
"""Smallest rate, as a share of the highest, that G is computed with."""
LEVELS = (0.80, 0.95)


@dataclass(frozen=True, kw_only=True, eq=False)
class Schedule:
    """Rates at logged steps, as the law sees them.

    `total` (n,) is S_1 at the steps. The rate falls by `drop` (k,) to `rate` (k,) at change k; `since` (n, k) is S_k at
    the steps, 0 before the change, and `seen` (n, k) says whether the change has come. `peak` is the highest rate.
    """

    step: Array
    total: Array
    drop: Array
    rate: Array
    since: Array
    seen: NDArray[np.bool_]
    peak: float

    def reduction(self, C: float, beta: float, gamma: float) -> Array:
        """Return LD (n,) at the steps, in units of a learning rate."""
        u = 1 + C * self.rate**-gamma * self.since
        return np.asarray((self.seen * self.drop * (1 - u**-beta)).sum(axis=1))


def schedule(step: ArrayLike, rate: ArrayLike, warmup: float | None = None) -> Schedule:
    """Return the schedule of rates (n,) logged at steps (n,), both positive, steps rising.

    A table that begins at its highest rate had a warm-up: linear, of `warmup` steps (default: up to the first step).
    Raises AllometryError for steps that do not rise and rates that are negative or all zero.
    """
    s, r = np.asarray(step, float), np.asarray(rate, float)
    if s.ndim != 1 or s.shape != r.shape or not len(s) or not np.isfinite([s, r]).all():
        raise AllometryError("a schedule needs a step and a rate in every row", hint="columns step and lr")
    if (np.diff(s) <= 0).any() or s[0] <= 0:
        raise AllometryError(
            "the steps of a schedule must rise, from 1 or later",
            hint="name the column of runs, if the table has several",
        )
    if (r < 0).any() or r.max() == 0:
        raise AllometryError("learning rates must not be negative, nor all zero", hint="check the column lr")
    peak = float(r.max())
    change = np.diff(r)
    moved = np.abs(change) > 1e-9 * peak
    jumps = (np.abs(change) > _JUMP * peak) & ~np.r_[False, moved[:-1]]
    width = np.diff(s)
    area = np.where(jumps, r[:-1], (r[1:] + r[:-1]) / 2) * width
    above = r[0] >= (1 - 1e-9) * peak
    ramp = min(s[0] if warmup is None else float(warmup), s[0]) if above else s[0]
    total = r[0] * ramp / 2 + r[0] * (s[0] - ramp) + np.r_[0.0, np.cumsum(area)]
    share = (np.arange(_WARM_UP) + 0.5) / _WARM_UP
    k = np.flatnonzero(moved)
    at = np.where(jumps[k], total[k + 1], (total[k] + total[k + 1]) / 2)
    seen = np.arange(len(s))[:, None] > k[None, :]
    early = np.broadcast_to(r[0] * ramp / 2 * share**2, (len(s), _WARM_UP))
    since = np.hstack([total[:, None] - early, np.maximum(total[:, None] - at[None, :], 0.0)])
    rates = np.r_[r[0] * share, np.where(jumps[k], r[k + 1], (r[k] + r[k + 1]) / 2)]
    return Schedule(
        step=s, total=total, peak=peak, since=since, rate=np.maximum(rates, _LEAST_RATE * peak),
        drop=np.r_[np.full(_WARM_UP, -r[0] / _WARM_UP), -change[k]],
        seen=np.hstack([np.ones((len(s), _WARM_UP), dtype=bool), seen]),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class _Curves:
    """Schedules and the logarithms of their losses, as the solver sees them.

    Coordinates: L_0, log of A's term at the centre of S_1, log alpha, log of B times the peak rate, log C, log beta,
    gamma. `centre` is the geometric mean of S_1.
    """

    schedules: tuple[Schedule, ...]
    target: Array
    centre: float
    peak: float

    def residuals(self, z: Array) -> tuple[Array, Array]:
        """Return residuals (K, n) of the log loss and their derivatives (K, 7, n) at coordinates (K, 7)."""
        out, jacobian = np.empty((len(z), len(self.target))), np.empty((len(z), 7, len(self.target)))
        with np.errstate(all="ignore"):
            for member, point in enumerate(z):
                parts = [self._one(curve, point) for curve in self.schedules]
                out[member] = np.concatenate([np.log(value) for value, _ in parts]) - self.target
                jacobian[member] = np.concatenate([slope / value for value, slope in parts], axis=1)
        return out, jacobian

    def _one(self, curve: Schedule, z: Array) -> tuple[Array, Array]:
        """Return the loss (n,) of one curve and its derivatives (7, n)."""
        floor, A, alpha, B, C, beta, gamma = z[0], *np.exp(z[1:6]), z[6]
        distance = np.log(curve.total / self.centre)
        first = A * np.exp(-alpha * distance)
        x = C * curve.rate**-gamma * curve.since
        u = 1 + x
        left = u**-beta
        weight = curve.seen * (curve.drop / self.peak)
        fall = (weight * (1 - left)).sum(axis=1)
        by_x = weight * beta * left / u * x
        slopes = [
            np.ones_like(first), first, -alpha * distance * first, -B * fall, -B * by_x.sum(axis=1),
            -B * beta * (weight * left * np.log(u)).sum(axis=1), B * (by_x * np.log(curve.rate)).sum(axis=1),
        ]  # fmt: skip
        return floor + first - B * fall, np.stack(slopes)

    @cached_property
    def lowest(self) -> float:
        """The lowest loss."""
        return float(np.exp(self.target.min()))

    def natural(self, z: Array) -> dict[str, float]:
        """Return the constants as the paper has them."""
        A, alpha, B, C, beta = (float(v) for v in np.exp(z[1:6]))
        values = (z[0], A * self.centre**alpha, alpha, B / self.peak, C, beta, z[6])
        return {name: float(value) for name, value in zip(NAMES, values, strict=True)}

    def coordinates(self, values: Mapping[str, float]) -> Array:
        """Return the coordinates (7,) of constants."""
        v = dict(values)
        scaled = v["A"] * self.centre ** -v["alpha"]
        logs = np.log([scaled, v["alpha"], v["B"] * self.peak, v["C"], v["beta"]])
        return np.array([v["L_0"], *logs, v["gamma"]])


def _shape() -> Array:
    """Return the mean of the printed log C, log beta and gamma."""
    rows = np.array(list(PRINTED.values()))[:, 4:]
    return np.r_[np.log(rows[:, :2]).mean(axis=0), rows[:, 2].mean()]


def _solved(curves: _Curves, free: bool, near: Mapping[str, float] | None = None) -> Array:
    """Return the coordinates (7,) of the lowest objective (Huber, log loss, as the paper's).

    From several starts, or from one and from constants that are known to be `near`.
    """
    middle = _shape()
    wide = np.array([4.0, 2.5, 2.0]) if free else _NEAR
    low = np.r_[0.0, -9.0, -4.0, -14.0, middle - wide]
    high = np.r_[curves.lowest, 4.0, 1.5, 3.0, middle + wide]
    starts = [
        [share * curves.lowest, np.log(first), np.log(alpha), np.log(fall), *middle]
        for share, first, alpha, fall in ((0.9, 0.3, 0.5, 0.1), (0.95, 0.2, 0.7, 0.1), (0.8, 0.5, 0.3, 0.05),
                                          (0.9, 0.3, 0.5, 0.02))
    ]  # fmt: skip
    if near is not None:
        starts = [list(curves.coordinates(near)), starts[0]]
    found = minimise(
        curves.residuals, np.array(starts), np.ones(len(curves.target)), get_objective("huber-log"),
        Box(low, high, np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5])), max_iterations=120, tolerance=1e-9,
    )  # fmt: skip
    return np.asarray(found.z[int(np.argmin(found.objective))])


@dataclass(frozen=True, kw_only=True, eq=False)
class CurveFit:
    """The Multi-Power Law fitted to loss curves.

    `held_out` has one row a test: `curve` was left out whole ("schedule"), or its second half was ("horizon"), and
    `error` is the root mean square error of its log loss. `noise` is that of an unseen schedule, `per_doubling` what a
    horizon twice as long adds, `dof` the curves that they rest on. `curves` has one row a curve: its points, last step
    and `rms`.
    """

    parameters: dict[str, float]
    curves: pd.DataFrame
    held_out: pd.DataFrame
    noise: float
    per_doubling: float
    dof: int
    longest: float
    warmup: float | None
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        constants = ", ".join(f"{name} {value:.4g}" for name, value in self.parameters.items())
        return f"<CurveFit to {counted(len(self.curves), 'curve')}: {constants}>"

    def predict(self, table: pd.DataFrame, columns: Mapping[str, str] | None = None) -> pd.DataFrame:
        """Predict the loss curve of a schedule: a table of its steps and learning rates.

        Returns the columns step, lr, predicted, low80, high80, low95 and high95 (nan where no curve could be held out).
        Raises AllometryError for tables without steps or rates.
        """
        values = {s: read_symbol(table, s, dict(columns or {})) for s in ("S", "lr")}
        return self.along(values["S"], values["lr"])

    def along(self, step: ArrayLike, rate: ArrayLike) -> pd.DataFrame:
        """Predict as `predict` does, for steps (n,) and rates (n,)."""
        new = schedule(step, rate, self.warmup)
        p = self.parameters
        value = p["L_0"] + p["A"] * new.total ** -p["alpha"]
        value = value - p["B"] * new.reduction(p["C"], p["beta"], p["gamma"])
        far = np.maximum(np.log2(new.total / self.longest), 0.0)
        spread = np.sqrt(self.noise**2 + (self.per_doubling * far) ** 2)
        out = pd.DataFrame({"step": new.step, "lr": np.asarray(rate, float), "predicted": value})
        for level in LEVELS:
            reach = student_quantile((1 + level) / 2, self.dof) * spread if self.dof else np.nan * spread
            out[f"low{round(100 * level)}"] = value * np.exp(-reach)
            out[f"high{round(100 * level)}"] = value * np.exp(reach)
        return out

    def report(self) -> str:
        """Return the fit as text."""
        lines = [f"Multi-Power Law, fitted to {counted(len(self.curves), 'curve')}"]
        lines += [f"  {name:6s} {value:.4g}" for name, value in self.parameters.items()]
        lines.append(f"  {'curve':24s} {'points':>7s} {'last step':>10s} {'rms':>8s}")
        lines += [
            f"  {str(row['curve'])[:24]:24s} {row['points']:7d} {row['last']:10.0f} {100 * row['rms']:6.2f} %"
            for _, row in self.curves.iterrows()
        ]
        for _, row in self.held_out.iterrows():
            what = "left out" if row["kind"] == "schedule" else "second half left out"
            lines.append(f"  {str(row['curve'])[:24]:24s} {what}: off by {100 * row['error']:.2f} % (rms)")
        if self.dof:
            lines.append(f"  an unseen schedule is off by {100 * self.noise:.2f} % (rms),")
            lines.append(f"  {100 * self.per_doubling:.2f} % more for each doubling of the horizon")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain JSON."""
        tables = {
            name: [
                {str(k): v if isinstance(v, str) else plain(v) for k, v in row.items()}
                for row in getattr(self, name).to_dict("records")
            ]
            for name in ("curves", "held_out")
        }
        numbers = {"noise": plain(self.noise), "per_doubling": plain(self.per_doubling), "dof": self.dof}
        return {"parameters": dict(self.parameters), **tables, **numbers, "notes": list(self.notes)}

    def _repr_html_(self) -> str:
        return f"<pre>{self.report()}</pre>"


def fit_curves(
    frame: pd.DataFrame,
    *,
    columns: Mapping[str, str] | None = None,
    run: str | None = None,
    warmup: float | None = None,
    free: bool = False,
) -> CurveFit:
    """Fit the Multi-Power Law to the loss curves of one model under several learning-rate schedules.

    Parameters
    ----------
    frame
        One row a logged step, of one run or of several: the step, its learning rate and its loss.
    columns
        Symbol (S, lr, L) -> column or arithmetic of columns, where the usual names do not fit.
    run
        Column that tells the runs apart (default: the usual names; one run without any).
    warmup
        Steps of a linear warm-up that is not in the table (default: up to the first logged step).
    free
        Whether the shape constants C, beta and gamma are free; else they stay near the printed ones.

    Returns
    -------
    CurveFit
        Constants, and predictions of other schedules with intervals from curves and halves that were held out.

    Raises
    ------
    AllometryError
        Where no rate falls (what a decay gains cannot be seen), or rows cannot be read.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from allometry.laws.curves import fit_curves, schedule
    >>> step = np.arange(1000, 20001, 500.0)
    >>> rates = {"flat": np.full(39, 3e-4), "down": 3e-4 * (1 - 0.9 * (step - 1000) / 19000),
    ...          "half": np.where(step < 9000, 3e-4, 1e-4)}
    >>> seen = {name: schedule(step, rate) for name, rate in rates.items()}
    >>> loss = {n: 2.6 + 0.6 * s.total**-0.45 - 440 * s.reduction(2.1, 0.6, 0.65) for n, s in seen.items()}
    >>> tables = [pd.DataFrame({"step": step, "lr": rates[n], "loss": loss[n]}).assign(run=n) for n in rates]
    >>> fit = fit_curves(pd.concat(tables))
    >>> {name: round(fit.parameters[name], 2) for name in ("L_0", "A", "alpha")}
    {'L_0': 2.6, 'A': 0.6, 'alpha': 0.45}
    """
    chosen = dict(columns or {})
    values = pd.DataFrame({s: read_symbol(frame, s, chosen) for s in ("S", "lr", "L")})
    name, notes = (run, list[str]()) if run else _run(frame)
    if name is not None and name not in frame.columns:
        raise AllometryError(f"the table has no column {name!r}", hint="name the column of runs")
    values["run"] = "run" if name is None else frame[name].astype(str).to_numpy()
    numbers = values[["S", "lr", "L"]].to_numpy(float)
    usable = np.isfinite(numbers).all(axis=1) & (numbers[:, 2] > 0) & (numbers[:, 0] > 0)
    if not usable.all():
        notes.append(
            f"{counted(int((~usable).sum()), 'row')} without a step, a rate or a positive loss left out"
        )
    tables = {
        str(key): _blocks(part.sort_values("S"), str(key), notes)
        for key, part in values[usable].groupby("run", sort=False)
    }
    if not tables or not any((np.diff(t["lr"]) < 0).any() for t in tables.values()):
        raise AllometryError(
            "no learning rate in the table falls: what a decay gains cannot be seen",
            hint="add the curve of a run whose rate decays",
        )
    whole = _made(tables, warmup)
    z = _solved(whole, free)
    held = _hold_out(tables, warmup, free, whole.natural(z))
    errors = {
        kind: held.loc[held["kind"] == kind, "error"].to_numpy(float) for kind in ("schedule", "horizon")
    }
    dof = len(errors["schedule"])
    noise = float(np.sqrt(np.mean(errors["schedule"] ** 2))) if dof else float("nan")
    more = np.maximum(errors["horizon"] ** 2 - (noise**2 if dof else 0.0), 0.0)
    if not dof:
        notes.append("no curve could be left out and predicted from the others: no intervals")
    residuals = whole.residuals(z[None])[0][0]
    rows, first = [], 0
    for key, curve in zip(tables, whole.schedules, strict=True):
        own = residuals[first : first + len(curve.step)]
        rows.append((key, len(own), curve.step[-1], float(np.sqrt(np.mean(own**2)))))
        first += len(own)
    return CurveFit(
        parameters=whole.natural(z), curves=pd.DataFrame(rows, columns=["curve", "points", "last", "rms"]),
        held_out=held, noise=noise, per_doubling=float(np.sqrt(np.mean(more))) if len(more) else 0.0, dof=dof,
        longest=max(float(c.total[-1]) for c in whole.schedules), warmup=warmup, notes=tuple(notes),
    )  # fmt: skip


def _run(frame: pd.DataFrame) -> tuple[str | None, list[str]]:
    found, said = run_column(frame)
    return found, [said] if said else []


def _blocks(table: pd.DataFrame, name: str, notes: list[str]) -> pd.DataFrame:
    """Return a curve of at most _POINTS rows: means of the loss over blocks, at the step and rate of their middle."""
    if table["S"].duplicated().any():
        raise AllometryError(
            f"the run {name!r} has several rows at one step",
            hint="name the column that tells the runs apart: run='…'",
            cli_hint="name the column that tells the runs apart: --group COLUMN",
        )
    size = -(-len(table) // _POINTS)
    if size == 1:
        return table.reset_index(drop=True)
    notes.append(f"{name}: {len(table):,} rows averaged over blocks of {size}")
    block = np.arange(len(table)) // size
    middle = table.groupby(block).nth(size // 2)
    kept = table.groupby(block)["L"].mean()
    full = table.groupby(block).size().to_numpy() > size // 2
    return middle.reset_index(drop=True).assign(L=kept[full].to_numpy())


def _made(tables: Mapping[str, pd.DataFrame], warmup: float | None) -> _Curves:
    schedules = tuple(schedule(t["S"], t["lr"], warmup) for t in tables.values())
    total = np.concatenate([s.total for s in schedules])
    return _Curves(
        schedules=schedules, target=np.log(np.concatenate([t["L"] for t in tables.values()])),
        centre=float(np.exp(np.log(total).mean())), peak=max(s.peak for s in schedules),
    )  # fmt: skip


def _hold_out(
    tables: Mapping[str, pd.DataFrame], warmup: float | None, free: bool, near: Mapping[str, float]
) -> pd.DataFrame:
    """Predict each curve from the others, and the second half of all from the first halves: a row a test.

    Each fit starts from the constants of all curves (`near`).
    """
    rows: list[tuple[str, str, float]] = []
    for name, table in tables.items():
        others = {key: t for key, t in tables.items() if key != name}
        if any((np.diff(t["lr"]) < 0).any() for t in others.values()):
            rows.append((name, "schedule", _error(others, {name: table}, warmup, free, near)[name]))
    first = {key: t[t["S"] <= t["S"].max() / 2] for key, t in tables.items()}
    enough = {key: t for key, t in first.items() if len(t) > len(NAMES)}
    if any((np.diff(t["lr"]) < 0).any() for t in enough.values()):
        found = _error(enough, {key: tables[key] for key in enough}, warmup, free, near, after=enough)
        rows += [(name, "horizon", error) for name, error in found.items()]
    return pd.DataFrame(rows, columns=["curve", "kind", "error"])


def _error(
    known: Mapping[str, pd.DataFrame], new: Mapping[str, pd.DataFrame], warmup: float | None, free: bool,
    near: Mapping[str, float], after: Mapping[str, pd.DataFrame] | None = None,
) -> dict[str, float]:  # fmt: skip
    """Return the root mean square error of the log loss of `new` curves from a fit to `known` ones.

    With `after` only rows beyond the last step of a curve there count.
    """
    made = _made(known, warmup)
    constants = made.natural(_solved(made, free, near))
    found = {}
    for name, table in new.items():
        one = _made({name: table}, warmup)
        residuals = one.residuals(one.coordinates(constants)[None])[0][0]
        if after is not None:
            residuals = residuals[(table["S"] > after[name]["S"].max()).to_numpy()]
        found[name] = float(np.sqrt(np.mean(residuals**2)))
    return found
