"""The gradient noise scale of McCandlish et al. 2018 beside the critical batch, at equal loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from allometry.errors import AllometryError
from allometry.laws.estimate import percentile_interval
from allometry.report.content import Constant, Section, Table, Verdict
from allometry.studies.core.sections import LEVEL, Reading
from allometry.studies.readings.batches import scan_runs
from allometry.train.noise_scale import noise_scale
from allometry.units import format_count

if TYPE_CHECKING:
    from allometry.studies.readings.batches import BatchLaw

TITLE = "The gradient noise scale beside it"
WITHIN = 2.0
"""What the noise scale promises of the critical batch: this factor, to both sides."""

FEWEST = 3
"""Evaluations with a measured noise below which a run says nothing."""


def noise_points(runs: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """B_simple in tokens along every run that measured it: columns series, N, B, run, loss, B_crit."""
    parts = []
    if "noise_trace" in curves and curves["noise_trace"].notna().any():
        for run in scan_runs(runs).to_dict("records"):
            curve = curves[(curves["run"] == run["run"]) & curves["noise_trace"].notna()]
            past = curve[curve["step"] > run["warmup"]].reset_index(drop=True)
            if len(past) < FEWEST:
                continue
            scale = noise_scale(past, n_ctx=int(run["n_ctx"]))
            frame = pd.DataFrame({"loss": past["loss"], "B_crit": scale})
            name = f"noise scale, N = {format_count(run['N'])}"
            parts.append(frame.assign(series=name, N=run["N"], B=run["B"], run=run["run"]))
    columns = ["series", "N", "B", "run", "loss", "B_crit"]
    return pd.concat(parts)[columns].dropna() if parts else pd.DataFrame(columns=columns)


def noise_beside(law: BatchLaw, runs: pd.DataFrame, curves: pd.DataFrame) -> Reading:
    """B_simple over B_crit at equal loss, for each run that measured the noise."""
    points = noise_points(runs, curves)
    low, high = law.losses
    inside = points[(points["loss"] >= low) & (points["loss"] <= high)]
    if not len(inside):
        raise AllometryError(
            "no run measured its gradient noise at the losses of the scan",
            hint="train the scan again: its runs measure it",
        )
    inside = inside.assign(ratio=inside["B_crit"] / law(inside["loss"].to_numpy(float)))
    table = (
        inside.groupby(["N", "B"])["ratio"]
        .agg(ratio=lambda r: float(np.exp(np.log(r).mean())), lowest="min", highest="max", points="size")
        .reset_index()
    )
    row = _ratio_row(law, inside)
    text = (
        "B_simple = tr Σ/|G|² (McCandlish et al. 2018), from single sequences against all of a measurement, "
        "averaged over neighbouring evaluations before dividing, and in tokens. Over the losses of the scan "
        f"it is {row.ours:.2f} times the critical batch [{row.low:.2f}, {row.high:.2f}]. {_reason(row.ours)} "
        f"{_trend(inside)}"
    )
    shown = Table(
        name="noise-scale-over-critical-batch",
        title="Noise scale over critical batch, at equal loss",
        caption="Geometric mean over the evaluations of a run within the losses of the scan, and its range.",
        frame=table,
    )
    return Reading(section=Section(title=TITLE, text=text, evidence=(shown,)), constants=(row,))


def _ratio_row(law: BatchLaw, inside: pd.DataFrame) -> Constant:
    """The geometric mean of the ratio; its interval holds the scan's uncertainty and the spread of runs."""
    log_ratio = np.log(inside["ratio"])
    draws = np.log(law.draws(inside["loss"].to_numpy(float))).mean(1)
    spread = (
        float(log_ratio.groupby(inside["run"]).mean().std(ddof=1)) if inside["run"].nunique() > 1 else 0.0
    )
    runs = max(1, inside["run"].nunique())
    noise = np.random.default_rng(0).standard_normal(len(draws)) * (spread if np.isfinite(spread) else 0.0)
    centre = float(log_ratio.mean())
    samples = np.exp(centre + draws.mean() - draws + noise / np.sqrt(runs))
    low, high = percentile_interval(samples, LEVEL)
    why = "B_simple takes the curvature to be the same in all directions and plain gradient steps"
    promised = low >= 1 / WITHIN and high <= WITHIN
    refuted = high < 1 / WITHIN or low > WITHIN
    verdict: Verdict = "agrees" if promised else "differs" if refuted else "cannot tell"
    return Constant(
        name="noise scale over critical batch", symbol="B_simple/B_crit",
        published={"McCandlish 2018, to a factor of two": 1.0}, ours=float(np.exp(centre)), low=low,
        high=high, level=LEVEL, verdict=verdict, why=why,
    )  # fmt: skip


def _trend(inside: pd.DataFrame) -> str:
    """Whether the noise scale keeps up with the critical batch as the loss falls."""
    middle = float(inside["loss"].median())
    above, below = (np.exp(np.log(part["ratio"]).mean()) for part in
                    (inside[inside["loss"] >= middle], inside[inside["loss"] < middle]))  # fmt: skip
    return (
        f"At losses above {middle:.2f} nats it is {above:.2f} times, below {below:.2f} times: it "
        + ("keeps up" if 1 / 1.5 < below / above < 1.5 else "does not keep up")
        + " with the critical batch as the loss falls."
    )


def _reason(ratio: float) -> str:
    if 1 / WITHIN <= ratio <= WITHIN:
        return "That is within a factor of two, which is what it promises."
    lower = (
        "Adam rescales directions by their gradients, so the steps that count lie where signal is weak and "
        "noise large; B_simple, an average over all directions by squared length, is set by the few strong "
        "ones"
    )
    upper = (
        "directions of large noise that hardly curve count fully in B_simple and hardly in B_crit, which "
        "weighs both by the curvature"
    )
    reason = lower if ratio < 1 else upper
    return f"That is not within a factor of two. A reason that fits, untested here: {reason}."
