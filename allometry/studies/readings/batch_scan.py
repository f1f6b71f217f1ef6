"""The reading of the batch study: hyperbolas at fixed losses, B_crit(L) for two sizes, and the gradient noise
scale at the same losses.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from allometry.errors import AllometryError
from allometry.laws.estimate import percentile_interval, said
from allometry.report.content import Constant, Figure, Section, Table
from allometry.studies.core.chapter import chapter
from allometry.studies.core.sections import KAPLAN, LEVEL, Reading, attempt, constant, percent
from allometry.studies.core.usable import scope, usable_runs
from allometry.studies.readings.batches import BatchLaw, critical_batch, scan_runs
from allometry.studies.readings.gradient_noise import TITLE, noise_beside, noise_points
from allometry.units import format_count

if TYPE_CHECKING:
    from allometry.report.content import Analysis
    from allometry.studies.core.study import Evidence, Study

_KAPLAN_ALPHA = 0.21
_SPAN = 1.25
"""Highest over lowest loss of a scan from which its exponent is compared: over less, any curve is a power."""

_SHEHPER = "Shehper 2024"
_SCAN, _LAW = "Tokens against updates at fixed losses", "The critical batch against the loss"
_RATES = "Which rate arrives first"


def analyse(study: Study, evidence: Evidence) -> Analysis:
    """The report's content from the finished runs; what cannot be answered says why."""
    runs, excluded = usable_runs(evidence)
    curves = evidence.curves

    @cache
    def law() -> BatchLaw:
        return critical_batch(runs, curves)

    readings = {
        "scan": attempt(_SCAN, lambda: _scans(law())),
        "law": attempt(_LAW, lambda: _law(law(), runs, curves)),
        "noise": attempt(TITLE, lambda: noise_beside(law(), runs, curves)),
        "rates": attempt(_RATES, lambda: _rates(law(), runs)),
    }
    limits = tuple(w for w in scope(runs, evidence) if "updates" not in w)  # few updates are the point here
    return chapter(
        study, evidence, readings, answer=_answer(readings), next=_next(readings), excluded=excluded,
        warnings=limits,
    )  # fmt: skip


def _scans(law: BatchLaw) -> Reading:
    """Figure 18: one figure a size."""
    from allometry.figures.trade_off import trade_off

    figures: list[Figure | Table] = []
    worst = []
    for n, scan in law.scans.items():
        size = format_count(n)
        figures.append(
            trade_off(
                law.targets[law.targets["N"] == n],
                scan,
                name=f"tokens-against-steps-{size}",
                title=f"Tokens against updates at fixed losses, N = {size}",
            )
        )
        worst.append(f"{percent(float(scan.table['rms'].median()))} at N = {size}")
    text = (
        "Every batch was trained at several constant rates on all the text. At each target loss that rate "
        "counts which arrives first, so that no batch is judged by a rate that is wrong for it. Through the "
        "points at one loss goes *(S/S_min − 1)(E/E_min − 1) = 1* (Kaplan et al. 2020, eq. 5.1), fitted in "
        f"log space; steps lie {' and '.join(worst)} off it (root mean square, median over losses). The "
        "corner of a hyperbola is at the critical batch E_min/S_min."
    )
    found = [scan.table.assign(N=n) for n, scan in law.scans.items()]
    table = Table(
        name="critical-batches",
        title="S_min, E_min and B_crit at each loss",
        caption="Bounds are 95 % intervals of a bootstrap that flips the residuals of one batch together.",
        frame=pd.concat(found, ignore_index=True),
    )
    warnings = tuple(
        f"N = {format_count(n)}: {text}" for n, scan in law.scans.items() for text in said(scan.warnings)
    )
    return Reading(section=Section(title=_SCAN, text=text, evidence=(*figures, table)), warnings=warnings)


def _law(law: BatchLaw, runs: pd.DataFrame, curves: pd.DataFrame) -> Reading:
    """Figure 10: B_crit(L) of both sizes, its power law, and Kaplan's slope through our data."""
    from allometry.figures.several import several

    points = law.table.rename(columns={"B_crit_low": "low", "B_crit_high": "high"})
    points["series"] = [f"B_crit, N = {format_count(n)}" for n in points["N"]]
    measured = noise_points(runs, curves)
    points = pd.concat([points, measured], ignore_index=True)
    figure = several(
        points[["series", "loss", "B_crit", "low", "high"]],
        _law_lines(law),
        x="loss",
        y="B_crit",
        y_title="Critical batch (tokens)",
        name="critical-batch-against-loss",
        title="The critical batch against the loss",
        caption=(
            "Points: E_min/S_min at each target loss, with 95 % intervals, and the gradient noise scale of "
            "runs along the way. Kaplan's slope goes through the centre of our data."
        ),
    )
    alpha, exponent = _alpha(law), law.line.exponent
    low, high = exponent.interval(LEVEL)
    sizes = _size_ratio(law)
    text = (
        f"Between {law.losses[0]:.2f} and {law.losses[1]:.2f} nats the critical batch goes as "
        f"L^{exponent.value:.1f} [{low:.1f}, {high:.1f}]; Kaplan's is L^−4.8, over losses from 10 to 3. "
        f"{sizes} Read from the training loss instead, as the paper does, it is "
        f"{_train_ratio(law, runs, curves)} the one read from the test loss, in the middle of the losses."
    )
    constants = () if alpha is None else (alpha,)
    return Reading(
        section=Section(title=_LAW, text=text, evidence=(figure,)), constants=constants, fits={"B_crit": law}
    )


def _law_lines(law: BatchLaw) -> pd.DataFrame:
    low, high = law.losses
    loss = np.geomspace(low / 1.05, high * 1.05, 40)
    centre = float(np.exp(law.line.center))
    kaplan = law(centre) * (loss / centre) ** (-1 / _KAPLAN_ALPHA)
    bounds = np.quantile(law.draws(loss), [0.025, 0.975], axis=0)
    ours = pd.DataFrame(
        {"series": law.line.formula, "loss": loss, "B_crit": law(loss), "low": bounds[0], "high": bounds[1]}
    )
    slope = pd.DataFrame({"series": "slope of Kaplan et al. 2020: −4.8", "loss": loss, "B_crit": kaplan})
    return pd.concat([ours, slope], ignore_index=True)


def _alpha(law: BatchLaw) -> Constant | None:
    """alpha_B beside Kaplan's; None where the critical batch is not seen to grow as the loss falls."""
    low, high = law.line.exponent.interval(LEVEL)
    if not high < 0:
        return None
    span = law.losses[1] / law.losses[0]
    why = (
        f"our losses are a factor of {span:.2f} apart, his more than 3; the law is of the whole loss, its "
        "irreducible part included, and need not have one exponent over both ranges"
    )
    row = constant(
        "critical batch against loss", "α_B", {KAPLAN: _KAPLAN_ALPHA, _SHEHPER: 0.235},
        (law.alpha_B.value, -1 / low, -1 / high), why,
    )  # fmt: skip
    return row if span > _SPAN else replace(row, verdict="cannot tell")


def _size_ratio(law: BatchLaw) -> str:
    """Whether the sizes share one critical batch, at the middle of the losses that both reached."""
    if len(law.scans) < 2:
        return "Only one size could be read, so whether B_crit depends on size is open."
    (small, a), (large, b) = sorted(law.scans.items())[0], sorted(law.scans.items())[-1]
    low = max(a.table["loss"].min(), b.table["loss"].min())
    high = min(a.table["loss"].max(), b.table["loss"].max())
    if not low < high:
        return "The sizes have no loss in common, so whether B_crit depends on size is open."
    middle = float(np.sqrt(low * high))
    ratio = b.at(middle).samples / a.at(middle).samples
    value, bounds = b.at(middle).value / a.at(middle).value, percentile_interval(ratio, LEVEL)
    verdict = "it is not a function of the loss alone."
    if bounds[0] <= 1 <= bounds[1]:
        verdict = "no difference is seen, as the paper says."
    elif 1 / 1.5 < value < 1.5:
        verdict = "nearly a function of the loss alone, as the paper says, though a difference is seen."
    return (
        f"At {middle:.2f} nats the larger size ({format_count(large)}) has {value:.2f} times "
        f"[{bounds[0]:.2f}, {bounds[1]:.2f}] the critical batch of the smaller ({format_count(small)}): "
        + verdict
    )


def _train_ratio(law: BatchLaw, runs: pd.DataFrame, curves: pd.DataFrame) -> str:
    try:
        other = critical_batch(runs, curves, loss="train_loss")
    except AllometryError as error:
        return f"not known ({error.message}) beside"
    middle = float(np.exp(law.line.center))
    return f"{float(other(middle) / law(middle)):.2f} times"


def _rates(law: BatchLaw, runs: pd.DataFrame) -> Reading:
    """The rate that arrived first, over batches and losses; warns where it is at the edge of those tried."""
    tried = scan_runs(runs).groupby(["N", "B"])["lr"].agg(lowest="min", highest="max").reset_index()
    table = law.targets.merge(tried, on=["N", "B"])
    below = float(np.isclose(table["lr"], table["lowest"]).mean())
    above = float(np.isclose(table["lr"], table["highest"]).mean())
    best = table[table["loss"] == table.groupby("N")["loss"].transform("min")]
    slope, _ = np.polyfit(np.log(best["B"]), np.log(best["lr"]), 1)
    text = (
        f"At the lowest common loss of each size the rate that arrives first goes as B^{slope:.2f}; theory "
        "has a power between 1/2 and 1 for Adam far below B_crit, and none far above it (McCandlish et al. "
        f"2018). It is the lowest of those tried in {percent(below)} of all cases and the highest in "
        f"{percent(above)}."
    )
    warnings: tuple[str, ...] = ()
    if below + above > 0.5:
        warnings = (
            "In most cases the rate that arrives first is at the edge of those tried, so S and E are upper "
            "bounds there.",
        )
    frame = best[["N", "B", "loss", "S", "E", "lr", "lowest", "highest"]]
    shown = Table(
        name="best-rates",
        title="The rate that arrives first at the lowest common loss",
        caption="With the lowest and highest rate that were tried.",
        frame=frame,
    )
    return Reading(section=Section(title=_RATES, text=text, evidence=(shown,)), warnings=warnings)


def _answer(readings: dict[str, Reading]) -> str:
    law = readings["law"].fits.get("B_crit")
    if law is None:
        return readings["law"].section.text
    low, high = law.line.exponent.interval(LEVEL)
    middle = float(np.exp(law.line.center))
    bounds = law.at(middle).interval(LEVEL)
    parts = [
        f"At {middle:.2f} nats the critical batch is {law.at(middle).value:,.0f} tokens "
        f"[{bounds[0]:,.0f}, {bounds[1]:,.0f}], and it goes as L^{law.line.slope:.1f} "
        f"[{low:.1f}, {high:.1f}] (Kaplan et al.: L^−4.8)."
    ]
    ratio = readings["noise"].constants
    if ratio:
        parts.append(
            f"The gradient noise scale is {ratio[0].ours:.2f} times as large "
            f"[{ratio[0].low:.2f}, {ratio[0].high:.2f}]."
        )
    return " ".join(parts)


def _next(readings: dict[str, Reading]) -> str:
    ratio = readings["noise"].constants
    if not ratio:
        return "Train the scan longer, so that B_crit and the noise scale are both known at common losses."
    if not 0.5 <= ratio[0].ours <= 2:
        return (
            "Is the noise scale of gradients as Adam rescales them, tr(P Σ)/(Gᵀ P G), nearer to the critical "
            "batch than the plain one?"
        )
    return "Does a batch that grows with B_crit during training save steps at equal tokens?"
