"""The critical batch B_crit(L) from a scan of batches: what other readings correct steps and compute by.

Kaplan et al. 2020, section 5.1: at a fixed loss (S/S_min - 1)(E/E_min - 1) = 1, B_crit = E_min/S_min
(eq. 5.1, 5.2) and B_crit(L) = B_star/L^(1/alpha_B) (eq. 5.3). Batches B and examples E are in tokens,
losses in nats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from allometry.errors import AllometryError
from allometry.laws.critical_batch import (
    CriticalBatch,
    fit_critical_batch,
    targets_from_curves,
)
from allometry.laws.estimate import Array, Estimate
from allometry.laws.frontier import PowerLine, power_line

if TYPE_CHECKING:
    from collections.abc import Mapping

FEWEST_BATCHES = 3
"""Batches of one size that make a scan: two constants, and one to tell whether they fit."""

MISSING = 2
"""Batches that may not have reached a target loss."""

TARGETS = 12
"""Target losses of a size, evenly spaced in log loss over what its batches reach."""

WIDEST = 10.0
"""Upper over lower bound of B_crit (95 %), in the middle of the losses, from which it is not identified."""

_HINT = "train the scan of batches longer, or with more batches: allometry run batch"


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchLaw:
    """B_crit(L) as measured: call it with losses (nats per token) for tokens.

    `scans` are the fits of each size by its N; `line` is the power law through all of them, whose draws carry
    the uncertainty; `targets` the steps S and tokens E at each target loss, with N, B, lr and run.
    """

    scans: Mapping[float, CriticalBatch]
    line: PowerLine
    targets: pd.DataFrame

    def __call__(self, loss: ArrayLike) -> Array:
        """B_crit in tokens at losses of any shape; outside `losses` it is an extrapolation."""
        return self.line.predict(loss)

    def draws(self, loss: ArrayLike) -> Array:
        """B_crit in tokens in every resample, shape (resamples, *loss.shape): to carry its uncertainty on."""
        offset = np.log(np.asarray(loss, float)) - self.line.center
        slope, level = (column.reshape(-1, *[1] * offset.ndim) for column in self.line.draws.T)
        return np.asarray(np.exp(level + slope * offset))

    def at(self, loss: float) -> Estimate:
        """B_crit in tokens at one loss, with draws."""
        return self.line.at(loss)

    @property
    def losses(self) -> tuple[float, float]:
        """Lowest and highest target loss: where B_crit was measured."""
        return self.line.x_range

    @property
    def alpha_B(self) -> Estimate:
        """-1/slope of log B_crit against log L."""
        return Estimate(value=-1 / self.line.slope, samples=-1 / self.line.draws[:, 0])

    @property
    def B_star(self) -> Estimate:
        """B_crit in tokens at a loss of 1 nat (an extrapolation that trades off against alpha_B)."""
        return self.line.at(1.0)

    @property
    def table(self) -> pd.DataFrame:
        """S_min, E_min and B_crit with bounds (95 %) at each size N and target loss."""
        return pd.concat([scan.table.assign(N=n) for n, scan in self.scans.items()], ignore_index=True)


def critical_batch(runs: pd.DataFrame, curves: pd.DataFrame, *, loss: str = "loss") -> BatchLaw:
    """B_crit(L) from the scan of batches among `runs` (columns of `Store.frame()`) and their `curves`.

    `loss` may be "train_loss", which is averaged between evaluations. Of the rates of a batch the one that
    arrives first counts, for each loss anew. Raises AllometryError where there is no scan, where its sizes
    share no loss with enough batches, or where B_crit is not identified (see WIDEST).
    """
    scanned = scan_runs(runs)
    tables = {float(str(n)): _targets(part, curves, loss) for n, part in scanned.groupby("N")}
    fits = {n: fit_critical_batch(table) for n, table in tables.items()}
    law = BatchLaw(
        scans=fits,
        line=_line(list(fits.values())),
        targets=pd.concat([table.assign(N=n) for n, table in tables.items()], ignore_index=True),
    )
    _require_identified(law)
    return law


def scan_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """The scan: finished transformers at a constant rate on all the text, of sizes with several batches.

    Raises AllometryError if no size was trained with FEWEST_BATCHES batches.
    """
    plain = (
        (runs["status"] == "done")
        & (runs["family"] == "transformer")
        & (runs["schedule"] == "constant")
        & runs["early_stop"].isna()
        & runs["limit"].isna()
        & ~(runs["dropout"].astype(float) > 0)
    )
    alike = runs[plain]
    batches = alike.groupby(["N", "n_ctx"])["B"].transform("nunique")
    scanned = alike[batches >= FEWEST_BATCHES]
    if not len(scanned):
        raise AllometryError(
            f"no size was trained at a constant rate with {FEWEST_BATCHES} batches: B_crit is not measured",
            hint=_HINT,
        )
    return scanned.reset_index(drop=True)


def _targets(runs: pd.DataFrame, curves: pd.DataFrame, loss: str) -> pd.DataFrame:
    """Steps and tokens of one size at each target loss; batches that were not there yet have no row."""
    settings = runs[["run", "B", "lr", "warmup"]]
    joined = curves.drop(columns=["B", "lr"], errors="ignore").merge(settings, on="run")
    if loss == "train_loss":
        joined = _centred(joined)
    warm = joined[(joined["step"] > joined["warmup"]) & np.isfinite(joined[loss])]
    table = targets_from_curves(warm, _target_losses(warm, loss), loss=loss)
    return table.merge(settings[["run", "lr"]], on="run")


def _centred(curves: pd.DataFrame) -> pd.DataFrame:
    """Training loss is a mean since the evaluation before: it belongs to the step in the middle."""
    before = curves.sort_values("step").groupby("run")["step"].shift(fill_value=0).reindex(curves.index)
    return curves.assign(step=(before + 1 + curves["step"]) / 2)


def _target_losses(curves: pd.DataFrame, loss: str) -> list[float]:
    """Losses that every run is above after its warm-up, and that all batches but MISSING reach at some
    rate."""
    ends = curves.groupby(["B", "run"])[loss].agg(["max", "min"]).reset_index()
    reached = np.sort(ends.groupby("B")["min"].min().to_numpy(float))
    enough = max(FEWEST_BATCHES, len(reached) - MISSING)
    lowest, highest = reached[enough - 1], float(ends["max"].min())
    if not lowest < highest:
        raise AllometryError("no loss is reached by enough batches of a size", hint=_HINT)
    return [float(x) for x in np.geomspace(0.99 * highest, 1.001 * lowest, TARGETS)]


def _line(fits: list[CriticalBatch]) -> PowerLine:
    """The power law through the target losses of all sizes; draws of different sizes are independent."""
    table = pd.concat([each.table for each in fits], ignore_index=True)
    draws = np.concatenate([each.samples for each in fits], axis=1)
    points = table["loss"].to_numpy(float), table["B_crit"].to_numpy(float)
    return power_line("L", "B_crit", points, draws)


def _require_identified(law: BatchLaw) -> None:
    """Refuse a B_crit that is known to no better than a factor WIDEST."""
    low, high = law.at(float(np.exp(law.line.center))).interval(0.95)
    if not high < WIDEST * low:
        raise AllometryError(
            f"B_crit is not identified: between {low:.3g} and {high:.3g} tokens in the middle of the losses",
            hint=_HINT,
        )
