"""The critical batch: steps against examples at a fixed loss (McCandlish et al. 2018; Kaplan et al. 2020,
section 5).

Batches B and examples E are in tokens, S in steps, losses in nats per token. At a fixed target loss
(S/S_min - 1)(E/E_min - 1) = 1 (eq. 5.1), that is S = S_min + E_min/B, and B_crit = E_min/S_min (eq. 5.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import t

from allometry.core.errors import AllometryError
from allometry.laws.power_lines import PowerLine, power_line
from allometry.laws.result import FitWarning
from allometry.laws.uncertainty import Array, Estimate, percentile_interval, plain, said


def s_min(S: ArrayLike, B: ArrayLike, B_crit: ArrayLike) -> Array:
    """Return the fewest steps that reach the same loss, S/(1 + B_crit/B) (Kaplan eq. 5.4); B and B_crit in
    tokens.
    """
    return np.asarray(S, float) / (1 + np.asarray(B_crit, float) / np.asarray(B, float))


def c_min(C: ArrayLike, B: ArrayLike, B_crit: ArrayLike) -> Array:
    """Return the least compute that reaches the same loss, C/(1 + B/B_crit) (Kaplan eq. 5.5); the ratio is
    inverted here.
    """
    return np.asarray(C, float) / (1 + np.asarray(B, float) / np.asarray(B_crit, float))


def b_crit(L: ArrayLike, B_star: float, alpha_B: float) -> Array:
    """Return the critical batch in tokens at the loss L (nats): B_star / L^(1/alpha_B) (Kaplan eq. 5.3)."""
    return np.asarray(B_star / np.asarray(L, float) ** (1 / alpha_B))


def hyperbola(S: ArrayLike, S_min: float, E_min: float) -> Array:
    """Return the examples E needed at S steps: E_min · S/(S - S_min) (eq. 5.1 solved); NaN where S <= S_min."""
    steps = np.asarray(S, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(steps > S_min, E_min * steps / (steps - S_min), np.nan))


def targets_from_curves(curves: pd.DataFrame, losses: Sequence[float], *, loss: str = "loss") -> pd.DataFrame:
    """Return the steps S and examples E = B·S at which runs first reach target losses: columns loss, B, S, E,
    run.

    `curves` has the columns run, step, B (tokens) and the loss column. Between evaluations the loss is
    interpolated in log step; of the runs of one batch size (learning rates, seeds) the one that arrives
    first counts. Batches that never reach a target give no row. Raises AllometryError for missing columns
    or targets that none reaches.
    """
    _need(curves, ["run", "step", "B", loss])
    rows = []
    for run, curve in curves[np.isfinite(curves[loss]) & (curves["step"] > 0)].groupby("run", sort=False):
        curve = curve.sort_values("step")
        reached = _crossings(
            curve["step"].to_numpy(float), curve[loss].to_numpy(float), np.asarray(losses, float)
        )
        batch = float(curve["B"].iloc[0])
        rows += [
            (t, batch, s, s * batch, run) for t, s in zip(losses, reached, strict=True) if np.isfinite(s)
        ]
    if not rows:
        raise AllometryError(
            f"no run reaches any of the target losses {', '.join(f'{t:.3g}' for t in losses)}",
            hint=f"the lowest loss in the table is {curves[loss].min():.4g}; choose targets above it",
        )
    table = pd.DataFrame(rows, columns=["loss", "B", "S", "E", "run"])
    return table.sort_values("S").groupby(["loss", "B"], as_index=False).first()


def _crossings(steps: Array, losses: Array, targets: Array) -> Array:
    """Return the first step at which a curve is at or below each target (its running minimum), NaN if never."""
    lowest = np.minimum.accumulate(losses)
    out = np.full(len(targets), np.nan)
    for i, target in enumerate(targets):
        after = int(np.argmax(lowest <= target))
        if lowest[after] > target or after == 0:
            continue  # never reached, or below the target before the first evaluation
        high, low = lowest[after - 1], lowest[after]
        share = (high - target) / (high - low)
        out[i] = np.exp(np.log(steps[after - 1]) + share * np.log(steps[after] / steps[after - 1]))
    return out


@dataclass(frozen=True, kw_only=True, eq=False)
class CriticalBatch:
    """S_min, E_min and B_crit at each target loss, and the power law B_crit(L) = B_star / L^(1/alpha_B).

    `table`: one row a loss with S_min, E_min, B_crit, their 95 % bounds (_low, _high), `batches` and `rms`
    (of log steps). `samples`: B_crit draws, (resamples, losses).
    """

    table: pd.DataFrame
    samples: Array
    law: PowerLine | None
    warnings: tuple[FitWarning, ...]

    @property
    def alpha_B(self) -> Estimate:
        """-1/slope of log B_crit against log L. Raises AllometryError with fewer than two target losses."""
        line = self._line()
        return Estimate(value=-1 / line.slope, samples=-1 / line.draws[:, 0])

    @property
    def B_star(self) -> Estimate:
        """B_crit at a loss of 1 nat (an extrapolation: it trades off against alpha_B)."""
        return self._line().at(1.0)

    def at(self, loss: float) -> Estimate:
        """Return B_crit in tokens at a loss, with draws."""
        return self._line().at(loss)

    def report(self) -> str:
        """Return the fit as text."""
        lines = ["critical batch (tokens), 95 % intervals from a wild bootstrap over batch sizes"]
        for _, row in self.table.iterrows():
            lines.append(
                f"  L {row['loss']:.3f}  S_min {row['S_min']:.3g}  E_min {row['E_min']:.3g}  B_crit"
                f" {row['B_crit']:.3g} [{row['B_crit_low']:.3g}, {row['B_crit_high']:.3g}]"
                f"  rms {row['rms']:.2g}"
            )
        if self.law is not None:
            lines.append(
                f"  B_crit = B_star/L^(1/alpha_B): alpha_B {self.alpha_B.text()}, B_star {self.B_star.text()}"
            )
        return "\n".join(lines + [f"  warning: {w}" for w in said(self.warnings)])

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain JSON."""
        law = self.law and {"alpha_B": self.alpha_B.to_dict(), "B_star": self.B_star.to_dict()}
        rows = [{k: plain(v) for k, v in row.items()} for row in self.table.to_dict("records")]
        return {"losses": rows, "law": law, "warnings": said(self.warnings)}

    def _line(self) -> PowerLine:
        if self.law is None:
            raise AllometryError("B_crit(L) needs at least two target losses", hint="add target losses")
        return self.law


def fit_critical_batch(frame: pd.DataFrame, *, bootstrap: int = 400, seed: int = 0) -> CriticalBatch:
    """Fit S = S_min + E_min/B in log space at every target loss of a table with the columns loss, B, S.

    B may be missing where E is there (B = E/S). The draws come from a wild bootstrap that flips all
    residuals of one batch size together, because they come from the same runs.

    Raises AllometryError for missing columns and where no loss has three batch sizes.
    """
    if "B" not in frame and {"E", "S"} <= set(frame.columns):
        frame = frame.assign(B=frame["E"] / frame["S"])
    _need(frame, ["loss", "B", "S"])
    counts = frame.groupby("loss")["B"].nunique()
    kept = frame[frame["loss"].isin(counts[counts >= 3].index)]
    if not len(kept):
        raise AllometryError(
            "no target loss was reached by three batch sizes",
            hint="train more batch sizes, or raise the targets",
        )
    signs = _signs(np.unique(kept["B"]), bootstrap, np.random.default_rng(seed))
    rows, draws = [], []
    for loss, part in kept.groupby("loss"):
        row, sample = _one_loss(float(str(loss)), part, signs)
        rows.append(row)
        draws.append(sample)
    table, samples = pd.DataFrame(rows), np.array(draws).T
    losses = table["loss"].to_numpy(float)
    law = (
        power_line("L", "B_crit", (losses, table["B_crit"].to_numpy(float)), samples)
        if len(losses) > 1
        else None
    )
    return CriticalBatch(table=table, samples=samples, law=law, warnings=_warnings(table, kept, counts))


def _signs(batches: Array, count: int, rng: np.random.Generator) -> dict[float, Array]:
    return {float(b): rng.choice([-1.0, 1.0], size=count) for b in batches}


def _one_loss(loss: float, part: pd.DataFrame, signs: dict[float, Array]) -> tuple[dict[str, float], Array]:
    B, log_s = part["B"].to_numpy(float), np.log(part["S"].to_numpy(float))
    best = _tradeoff(B, log_s[None])[0]
    fitted = np.log(np.exp(best[0]) + np.exp(best[1]) / B)
    residual = (log_s - fitted) / _slack(best, B)
    flips = np.column_stack([signs[float(b)] for b in B])
    draws = best + _few(len(B)) * (_tradeoff(B, fitted + flips * residual) - best)
    row = {
        "loss": loss,
        "batches": float(len(np.unique(B))),
        "rms": float(np.sqrt(np.mean((log_s - fitted) ** 2))),
    }
    quantities = {"S_min": (best[0], draws[:, 0]), "E_min": (best[1], draws[:, 1])}
    quantities["B_crit"] = (best[1] - best[0], draws[:, 1] - draws[:, 0])
    for name, (value, sample) in quantities.items():
        low, high = percentile_interval(np.exp(sample), 0.95)
        row |= {name: float(np.exp(value)), f"{name}_low": low, f"{name}_high": high}
    return row, np.exp(draws[:, 1] - draws[:, 0])


def _few(points: int) -> float:
    """Return how much wider Student's intervals are than the normal ones for so few points and two
    parameters.
    """
    return float(t.ppf(0.975, max(points - 2, 2)) / 1.96)


def _slack(theta: Array, B: Array) -> Array:
    """Return the factor by which the fit itself shrinks each residual, 1 minus its leverage: the smallest
    batch alone decides E_min, so that its residual says little of its noise (MacKinnon & White 1985, HC3).
    """
    share = 1 / (1 + np.exp(theta[1] - np.log(B) - theta[0]))
    J = np.column_stack([share, 1 - share])
    leverage = np.einsum("ni,ij,nj->n", J, np.linalg.pinv(J.T @ J), J)
    return np.asarray(np.maximum(1 - leverage, 0.1))


def _tradeoff(B: Array, log_s: Array, steps: int = 60) -> Array:
    """Fit (log S_min, log E_min) by least squares in log S, for rows of log_s (R, n): damped Gauss-Newton,
    (R, 2).
    """
    theta = np.column_stack([log_s.min(1) - 0.5, (log_s + np.log(B)).min(1) - 0.5])
    damping = np.full(len(theta), 1e-2)
    value = _misfit(theta, B, log_s)
    for _ in range(steps):
        share = 1 / (1 + np.exp(theta[:, 1:] - np.log(B) - theta[:, :1]))  # of S_min in S
        model = theta[:, :1] - np.log(share)
        J = np.stack([share, 1 - share], axis=-1)
        A = np.einsum("rni,rnj->rij", J, J) + damping[:, None, None] * np.eye(2)
        trial = theta + np.linalg.solve(A, np.einsum("rni,rn->ri", J, log_s - model)[..., None])[..., 0]
        fresh = _misfit(trial, B, log_s)
        better = fresh < value
        if np.all(np.abs(fresh - value) <= 1e-12 * (1e-12 + value)):
            break
        theta = np.where(better[:, None], trial, theta)
        value, damping = np.where(better, fresh, value), np.where(better, damping / 5, damping * 4)
    return theta


def _misfit(theta: Array, B: Array, log_s: Array) -> Array:
    model = np.logaddexp(theta[:, :1], theta[:, 1:] - np.log(B))
    return np.asarray(((log_s - model) ** 2).sum(1))


def _warnings(table: pd.DataFrame, used: pd.DataFrame, counts: pd.Series) -> tuple[FitWarning, ...]:
    found = []
    low, high = used["B"].min(), used["B"].max()
    below, above = table[table["B_crit"] < low], table[table["B_crit"] > high]
    if len(below):
        text = (
            f"at {len(below)} losses B_crit lies below the smallest batch tried ({low:.3g} tokens): E_min is"
            " extrapolated; S_min is identified"
        )
        found.append(FitWarning(name="batches too large", meaning=text, identified="S_min"))
    if len(above):
        text = (
            f"at {len(above)} losses B_crit lies above the largest batch tried ({high:.3g} tokens): S_min is"
            " extrapolated; E_min is identified"
        )
        found.append(FitWarning(name="batches too small", meaning=text, identified="E_min"))
    few = int((counts < 3).sum())
    if few:
        text = f"{few} target losses were reached by fewer than three batch sizes and are left out"
        found.append(FitWarning(name="losses left out", meaning=text))
    return tuple(found)


def _need(frame: pd.DataFrame, names: list[str]) -> None:
    missing = [name for name in names if name not in frame]
    if missing:
        raise AllometryError(
            f"the table lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)};"
            f" it has {', '.join(map(str, frame.columns))}",
            hint="rename its columns: frame.rename(columns={'batch_size': 'B'})",
        )
