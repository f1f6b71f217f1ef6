"""The batch scan: two sizes at many batches and several rates, for the critical batch and the noise scale.

Analysis: the critical batch B_crit(L) from a scan of batches: what other analyses correct steps and compute
by.

Kaplan et al. 2020, section 5.1: at a fixed loss (S/S_min - 1)(E/E_min - 1) = 1, B_crit = E_min/S_min
(eq. 5.1, 5.2) and B_crit(L) = B_star/L^(1/alpha_B) (eq. 5.3). Batches B and examples E are in tokens,
losses in nats.

Analysis: the critical batch as other analyses use it: steps and compute adjusted to what the best batch would
take.

S_min = S/(1 + B_crit(L)/B) and C_min = C/(1 + B/B_crit(L)) (Kaplan et al. 2020, eq. 5.4 and 5.5), with L the
loss at the same point. Where B_crit was not measured, analyses go on at the fixed batch and say so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from allometry.core.errors import AllometryError
from allometry.laws.critical_batch import CriticalBatch, c_min, fit_critical_batch, s_min, targets_from_curves
from allometry.laws.power_lines import PowerLine, power_line
from allometry.laws.uncertainty import Array, Estimate
from allometry.studies.core.sections import TooFewRuns
from allometry.studies.core.study import (
    BATCH_TOKENS,
    learning_rate,
    run_set,
    small_model,
    small_run,
    too_little,
    vocabulary,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from allometry.models.base import ModelConfig
    from allometry.train.config import DataConfig, RunConfig

BATCHES: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 8192, 16_384)
"""Batches in tokens, a factor of 64 apart: B_crit was near 2,000 tokens at a loss of 2.4 nats, and near
14,000 at 2.0."""

RATES: tuple[float, ...] = (0.3, 0.75, 1.8)
"""Learning rates over the rule for their batch: at a constant rate the best one is about twice the rule's
early in training, and half of it or less in the end."""

FEW_BATCHES: tuple[int, ...] = (128, 512, 2048)
"""What a small budget tries: a factor of 16 in three batches, which is as few as determine two constants."""

FEW_RATES: tuple[float, ...] = (0.4, 1.0)

EXPECTED_CRITICAL = 6000.0
"""Tokens at which B_crit is expected, for nothing but the horizons: batch B sees (1 + B/B_crit) times the
tokens of the smallest (Kaplan et al. 2020, eq. 5.1), so that all batches end near one loss."""

RATE_SATURATES = 8000.0
"""Tokens of batch from which Adam's best rate no longer grows as the square root of the batch."""

WARMUP_STEPS, WARMUP_TOKENS = 20, 25_600
"""The warm-up of batch B takes WARMUP_STEPS + WARMUP_TOKENS/B steps: a trade of the same form as that of
steps against tokens, which it then does not bend."""

NOISE_AT: tuple[int, ...] = (512, 2048, 8192)
"""Batches at which the gradient noise scale is measured along the way, at the middle rate."""

NOISE_TOKENS, FEW_NOISE_TOKENS = 32_768, 4096
"""Tokens of a measurement of the noise: several times B_crit, or |G|^2 is lost in it."""

REFERENCE, N_AT_REFERENCE, RATIO = 5e13, 14_000, 4
"""FLOPs at which the smaller model has N_AT_REFERENCE parameters, and the larger over the smaller."""

FEWEST_UPDATES = 60
"""Updates of the largest batch below which there is no scan."""

ENOUGH = 3e12
"""FLOPs from which the whole scan is affordable; less buys the small one."""


@run_set
def batches(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Return two sizes, every batch at every rate, at a constant rate: at how many steps and tokens each
    reaches a loss gives S_min, E_min and B_crit (Kaplan et al. 2020, figures 10 and 18).
    """
    scale, n_vocab = (compute / REFERENCE) ** 0.5, vocabulary(data)
    small = small_model(max(1500, round(N_AT_REFERENCE * scale)), n_vocab=n_vocab)
    models = [small, small_model(RATIO * small.counts().N, n_vocab=n_vocab)]
    whole = compute >= ENOUGH
    tried, rates = (BATCHES, RATES) if whole else (FEW_BATCHES, FEW_RATES)
    noise = NOISE_TOKENS if whole else FEW_NOISE_TOKENS
    least, middle = _least_tokens(compute, models, tried, rates), rates[len(rates) // 2]
    if least * _longer(tried[-1]) < FEWEST_UPDATES * tried[-1]:
        raise too_little(compute, "batch scan")

    def run(model: ModelConfig, batch: int, rate: float) -> RunConfig:
        measured = noise // batch if batch in NOISE_AT and rate == middle else 0
        return _run(model, batch, rate, data, tokens=least * _longer(batch), noise_batches=measured)

    return tuple(run(model, batch, rate) for model in models for batch in tried for rate in rates)


def rate_for_batch(rate: float, batch: float, *, at: float) -> float:
    """Return the rate for batch `batch` that `rate` is for batch `at` (tokens): it grows as the square root
    of the batch and saturates, McCandlish et al. 2018's form for Adam with exponent 1/2.
    """
    return rate * math.sqrt((1 + RATE_SATURATES / at) / (1 + RATE_SATURATES / batch))


def _run(
    model: ModelConfig, batch: int, rate: float, data: DataConfig, *, tokens: float, noise_batches: int
) -> RunConfig:

    rule = learning_rate(model)
    return small_run(
        model,
        tokens=batch * round(tokens / batch),
        data=data,
        batch_tokens=batch,
        lr=round(rate * rate_for_batch(rule, batch, at=BATCH_TOKENS), 6),
        schedule="constant",
        warmup=WARMUP_STEPS + round(WARMUP_TOKENS / batch),
        evals_per_octave=4,
        noise_batches=noise_batches,
    )


def _longer(batch: float) -> float:
    """Return tokens of a batch over those of a vanishing batch, at about the same loss."""
    return 1 + batch / EXPECTED_CRITICAL


def _least_tokens(
    compute: float, models: list[ModelConfig], tried: tuple[int, ...], rates: tuple[float, ...]
) -> float:
    """Return tokens of a vanishing batch with which the whole scan costs `compute`."""
    each = sum(model.counts().flops_per_token("attention") for model in models)
    return compute / (each * len(rates) * sum(_longer(batch) for batch in tried))


FEWEST_BATCHES = 3
"""Batches of one size that make a scan: two constants, and one to tell whether they fit."""

MISSING = 2
"""Batches that may not have reached a target loss."""

TARGETS = 12
"""Target losses of a size, evenly spaced in log loss over what its batches reach."""

WIDEST = 10.0
"""Upper over lower bound of B_crit (95 %), in the middle of the losses, from which it is not identified."""


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
        """Return B_crit in tokens at losses of any shape; outside `losses` it is an extrapolation."""
        return self.line.predict(loss)

    def draws(self, loss: ArrayLike) -> Array:
        """Return B_crit in tokens in every resample, shape (resamples, *loss.shape): to carry its uncertainty on."""
        offset = np.log(np.asarray(loss, float)) - self.line.center
        slope, level = (column.reshape(-1, *[1] * offset.ndim) for column in self.line.draws.T)
        return np.asarray(np.exp(level + slope * offset))

    def at(self, loss: float) -> Estimate:
        """Return B_crit in tokens at one loss, with draws."""
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
    """Fit B_crit(L) to the scan of batches among `runs` (columns of `Store.frame()`) and their `curves`.

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
    """Return the scan: finished transformers at a constant rate on all the text, of sizes with several
    batches.

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
        raise TooFewRuns(
            f"no size was trained at a constant rate with {FEWEST_BATCHES} batches: B_crit is not measured"
        )
    return scanned.reset_index(drop=True)


def _targets(runs: pd.DataFrame, curves: pd.DataFrame, loss: str) -> pd.DataFrame:
    """Return steps and tokens of one size at each target loss; batches that were not there yet have no
    row.
    """
    settings = runs[["run", "B", "lr", "warmup"]]
    joined = curves.drop(columns=["B", "lr"], errors="ignore").merge(settings, on="run")
    if loss == "train_loss":
        joined = _centred(joined)
    warm = joined[(joined["step"] > joined["warmup"]) & np.isfinite(joined[loss])]
    table = targets_from_curves(warm, _target_losses(warm, loss), loss=loss)
    return table.merge(settings[["run", "lr"]], on="run")


def _centred(curves: pd.DataFrame) -> pd.DataFrame:
    """Move training losses, means since the evaluation before, to the step in the middle."""
    before = curves.sort_values("step").groupby("run")["step"].shift(fill_value=0).reindex(curves.index)
    return curves.assign(step=(before + 1 + curves["step"]) / 2)


def _target_losses(curves: pd.DataFrame, loss: str) -> list[float]:
    """Return losses that every run is above after its warm-up, and that all batches but MISSING reach at some
    rate.
    """
    ends = curves.groupby(["B", "run"])[loss].agg(["max", "min"]).reset_index()
    reached = np.sort(ends.groupby("B")["min"].min().to_numpy(float))
    enough = max(FEWEST_BATCHES, len(reached) - MISSING)
    lowest, highest = reached[enough - 1], float(ends["max"].min())
    if not lowest < highest:
        raise TooFewRuns("no loss is reached by enough batches of a size")
    return [float(x) for x in np.geomspace(0.99 * highest, 1.001 * lowest, TARGETS)]


def _line(fits: list[CriticalBatch]) -> PowerLine:
    """Return the power law through the target losses of all sizes; draws of different sizes are
    independent.
    """
    table = pd.concat([each.table for each in fits], ignore_index=True)
    draws = np.concatenate([each.samples for each in fits], axis=1)
    points = table["loss"].to_numpy(float), table["B_crit"].to_numpy(float)
    return power_line("L", "B_crit", points, draws)


def _require_identified(law: BatchLaw) -> None:
    """Refuse a B_crit that is known to no better than a factor WIDEST."""
    low, high = law.at(float(np.exp(law.line.center))).interval(0.95)
    if not high < WIDEST * low:
        raise TooFewRuns(
            f"B_crit is not identified: between {low:.3g} and {high:.3g} tokens in the middle of the losses"
        )


@dataclass(frozen=True, kw_only=True)
class Critical:
    """B_crit(L), or None with the reason why it cannot be had."""

    law: BatchLaw | None
    reason: str = ""

    @property
    def steps(self) -> str:
        """The column of steps that analyses use: S_min where B_crit is known, else S."""
        return "S_min" if self.law else "S"

    @property
    def compute(self) -> str:
        """The column of compute: C_min where B_crit is known, else C."""
        return "C_min" if self.law else "C"

    def adjusted(self, points: pd.DataFrame) -> pd.DataFrame:
        """Return `points` (columns loss, B, S, C, D) with B_crit, S_min, C_min and E_min, where B_crit is known."""
        if self.law is None:
            return points
        crit = self.law(points["loss"].to_numpy(float))
        share = 1 + points["B"].to_numpy(float) / crit
        return points.assign(
            B_crit=crit,
            S_min=s_min(points["S"], points["B"], crit),
            C_min=c_min(points["C"], points["B"], crit),
            E_min=points["D"].to_numpy(float) / share,
        )

    def drawn(self, points: pd.DataFrame, count: int) -> list[Critical]:
        """Return `count` copies whose B_crit is a draw of the fit, to carry its uncertainty through an analysis."""
        if self.law is None:
            return []
        rows = np.linspace(0, len(self.law.line.draws) - 1, count).astype(int)
        return [Critical(law=_fixed(self.law, int(row))) for row in rows]

    def sentence(self, points: pd.DataFrame) -> str:
        """Return what was corrected by what, in words."""
        if self.law is None:
            return (
                f"B_crit could not be had ({self.reason}), so steps and compute are those of the fixed batch "
                "of "
                f"{points['B'].iloc[0]:,.0f} tokens."
            )
        low, high = (float(self.law(x)) for x in (points["loss"].max(), points["loss"].min()))
        seen = self.law.losses
        outside = float(((points["loss"] < seen[0]) | (points["loss"] > seen[1])).mean())
        beyond = f", extrapolated at {100 * outside:.0f} % of the points" if outside > 0.005 else ""
        return (
            f"B_crit was measured by the scan of batches: {low:,.0f} tokens at the highest of these losses "
            "and "
            f"{high:,.0f} at the lowest{beyond}, against a batch of {points['B'].iloc[0]:,.0f}."
        )


def _fixed(law: BatchLaw, row: int) -> BatchLaw:
    """Return the law at one of its draws."""
    slope, level = law.line.draws[row]
    return replace(law, line=replace(law.line, slope=float(slope), level=float(level)))


def critical(runs: pd.DataFrame, curves: pd.DataFrame) -> Critical:
    """Fit B_crit(L) to the scan among the runs; never raises: without a scan, the reason is kept."""
    try:
        return Critical(law=critical_batch(runs, curves))
    except AllometryError as error:
        return Critical(law=None, reason=error.message)


def solve_loss(law: BatchLaw | None, loss_at: object, S: Array, B: float) -> Array:
    """Return the loss of a law of S_min at S steps of batch B: B_crit depends on the loss, so it is iterated.

    `loss_at` maps S_min (array) to the loss.
    """
    assert callable(loss_at)
    loss = np.asarray(loss_at(S), float)
    if law is None:
        return loss
    for _ in range(40):
        loss = 0.5 * loss + 0.5 * np.asarray(loss_at(s_min(S, B, law(loss))), float)
    return loss
