"""Batch: how many tokens a step is worth, and when larger batches stop to pay.

Analysis: hyperbolas at fixed losses, B_crit(L) for two sizes, and the gradient noise scale at the same
losses.

Analysis: the gradient noise scale of McCandlish et al. 2018 beside the critical batch, at equal loss.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError
from allometry.core.units import format_count
from allometry.figures.several import several
from allometry.figures.surface import trade_off
from allometry.figures.theme import Figure
from allometry.laws.uncertainty import percentile_interval, said
from allometry.report.build import Constant, Section, Table, Verdict
from allometry.studies.core.sections import (
    KAPLAN,
    LEVEL,
    NotRecorded,
    StudySection,
    chapter,
    constant,
    percent,
    scope,
    section_or_reason,
    undecided,
    usable_runs,
)
from allometry.studies.core.study import Study, register
from allometry.studies.shared.batches import BatchLaw, critical_batch, scan_runs
from allometry.train.evaluate import noise_scale

if TYPE_CHECKING:
    from allometry.report.build import Analysis
    from allometry.studies.core.study import StudyData


@register
class Batch(Study):
    """Trains two sizes at many batches and learning rates, and asks in how many steps and tokens each batch
    reaches a loss.

    Kaplan et al. 2020 (section 5.1, figures 10 and 18) find a hyperbola between the two, whose corner, the
    critical batch, depends on the loss alone. Their compute-efficient frontier rests on it. The gradient
    noise scale of McCandlish et al. 2018 should predict it without a scan, and is measured beside it.
    """

    name: ClassVar[str] = "batch"
    question: ClassVar[str] = (
        "How do steps and tokens trade off at a fixed loss, is the critical batch a function of the loss "
        "alone, and does the gradient noise scale tell it?"
    )
    expected: ClassVar[str] = (
        "Hyperbolas within some 10 % in steps, the same critical batch for both sizes, some thousand tokens "
        "near 2 nats and growing as the loss falls, about as L^(-1/0.21); the noise scale of the same order, "
        "but not equal: it assumes plain gradient descent on a round valley, and we train with Adam."
    )
    run_sets: ClassVar[dict[str, float]] = {"batches": 1.0}

    def analyse(self, study_data: StudyData) -> Analysis:
        """Report S_min, E_min and B_crit at each loss, the law B_crit(L), and the noise scale at equal loss."""
        runs, excluded = usable_runs(study_data)
        curves = study_data.curves

        @cache
        def law() -> BatchLaw:
            return critical_batch(runs, curves)

        sections = {
            "scan": section_or_reason(_SCAN, lambda: _scans(law())),
            "law": section_or_reason(_LAW, lambda: _law(law(), runs, curves)),
            "noise": section_or_reason(TITLE, lambda: noise_beside(law(), runs, curves)),
            "rates": section_or_reason(_RATES, lambda: _rates(law(), runs)),
        }
        limits = tuple(
            w for w in scope(runs, study_data) if "updates" not in w
        )  # few updates are the point here
        return chapter(
            self, study_data, sections, answer=_answer(sections), next=_next(sections), excluded=excluded,
            warnings=limits,
        )  # fmt: skip


_KAPLAN_ALPHA = 0.21
_SPAN = 1.25
"""Highest over lowest loss of a scan from which its exponent is compared: over less, any curve is a power."""

_SHEHPER = "Shehper 2024"
_SCAN, _LAW = "Tokens against updates at fixed losses", "The critical batch against the loss"
_RATES = "Which rate arrives first"


def _scans(law: BatchLaw) -> StudySection:
    """Report figure 18: one figure a size."""
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
    return StudySection(
        section=Section(title=_SCAN, text=text, evidence=(*figures, table)), warnings=warnings
    )


def _law(law: BatchLaw, runs: pd.DataFrame, curves: pd.DataFrame) -> StudySection:
    """Report figure 10: B_crit(L) of both sizes, its power law, and Kaplan's slope through our data."""
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
    return StudySection(
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
    """Compare alpha_B with Kaplan's; None where the critical batch is not seen to grow as the loss falls."""
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
    """Return whether the sizes share one critical batch, at the middle of the losses that both reached."""
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


def _rates(law: BatchLaw, runs: pd.DataFrame) -> StudySection:
    """Report the rate that arrived first, over batches and losses; warns where it is at the edge of those
    tried.
    """
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
    return StudySection(section=Section(title=_RATES, text=text, evidence=(shown,)), warnings=warnings)


def _answer(sections: dict[str, StudySection]) -> str:
    law = sections["law"].fits.get("B_crit")
    if law is None:
        return sections["law"].section.text
    low, high = law.line.exponent.interval(LEVEL)
    middle = float(np.exp(law.line.center))
    bounds = law.at(middle).interval(LEVEL)
    parts = [
        f"At {middle:.2f} nats the critical batch is {law.at(middle).value:,.0f} tokens "
        f"[{bounds[0]:,.0f}, {bounds[1]:,.0f}], and it goes as L^{law.line.slope:.1f} "
        f"[{low:.1f}, {high:.1f}] (Kaplan et al.: L^−4.8)."
    ]
    ratio = sections["noise"].constants
    if ratio:
        parts.append(
            f"The gradient noise scale is {ratio[0].ours:.2f} times as large "
            f"[{ratio[0].low:.2f}, {ratio[0].high:.2f}]."
        )
    return " ".join(parts)


def _next(sections: dict[str, StudySection]) -> str:
    ratio = sections["noise"].constants
    if not ratio:
        return "Train the scan longer, so that B_crit and the noise scale are both known at common losses."
    if not 0.5 <= ratio[0].ours <= 2:
        return (
            "Is the noise scale of gradients as Adam rescales them, tr(P Σ)/(Gᵀ P G), nearer to the critical "
            "batch than the plain one?"
        )
    return "Does a batch that grows with B_crit during training save steps at equal tokens?"


TITLE = "The gradient noise scale beside it"
WITHIN = 2.0
"""What the noise scale promises of the critical batch: this factor, to both sides."""

HOT = 0.5
"""Learning rate, over the run's, above which a measured noise scale belongs to that rate."""

FEWEST = 3
"""Evaluations with a measured noise below which a run says nothing."""


def noise_points(runs: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Return B_simple in tokens along every run that measured it: columns series, N, B, run, loss, B_crit, and
    `rate`, the learning rate over the run's (nan where it is not recorded).
    """
    parts = []
    if "noise_trace" in curves and curves["noise_trace"].notna().any():
        for run in scan_runs(runs).to_dict("records"):
            curve = curves[(curves["run"] == run["run"]) & curves["noise_trace"].notna()]
            past = curve[curve["step"] > run["warmup"]].reset_index(drop=True)
            if len(past) < FEWEST:
                continue
            scale = noise_scale(past, n_ctx=int(run["n_ctx"]))
            rate = past["lr"] / run["lr"] if "lr" in past and "lr" in run else np.nan
            frame = pd.DataFrame({"loss": past["loss"], "B_crit": scale, "rate": rate})
            name = f"noise scale, N = {format_count(run['N'])}"
            parts.append(frame.assign(series=name, N=run["N"], B=run["B"], run=run["run"]))
    columns = ["series", "N", "B", "run", "loss", "B_crit", "rate"]
    return (
        pd.concat(parts)[columns].dropna(subset=["loss", "B_crit"])
        if parts
        else pd.DataFrame(columns=columns)
    )


def noise_beside(law: BatchLaw, runs: pd.DataFrame, curves: pd.DataFrame) -> StudySection:
    """Report B_simple over B_crit at equal loss, for each run that measured the noise."""
    points = noise_points(runs, curves)
    low, high = law.losses
    inside = points[(points["loss"] >= low) & (points["loss"] <= high)]
    if not len(inside):
        raise NotRecorded("no run measured its gradient noise at the losses of the scan")
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
        f"it is {row.ours:.2f} times the critical batch [{row.low:.2f}, {row.high:.2f}]. "
        + (_HOT_NOISE + "." if _is_hot(inside) else f"{_reason(row.ours)} {_trend(inside)}")
    )
    shown = Table(
        name="noise-scale-over-critical-batch",
        title="Noise scale over critical batch, at equal loss",
        caption="Geometric mean over the evaluations of a run within the losses of the scan, and its range.",
        frame=table,
    )
    return StudySection(section=Section(title=TITLE, text=text, evidence=(shown,)), constants=(row,))


def _ratio_row(law: BatchLaw, inside: pd.DataFrame) -> Constant:
    """Return the geometric mean of the ratio; its interval holds the scan's uncertainty and the spread of
    runs.
    """
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
    row = Constant(
        name="noise scale over critical batch", symbol="B_simple/B_crit",
        published={"McCandlish 2018, to a factor of two": 1.0}, ours=float(np.exp(centre)), low=low,
        high=high, level=LEVEL, verdict=verdict, why=why,
    )  # fmt: skip
    if not _is_hot(inside):
        return row
    decides = (
        "the same measurement at the ends of runs whose rate has decayed, in three seeds, about 2e14 FLOPs"
    )
    return undecided(row, _HOT_NOISE, decides)


_HOT_NOISE = (
    "It was measured at rates that had not decayed; the noise scale falls as the rate rises (McCandlish et al. 2018, "
    "appendix C), so this ratio belongs to those rates"
)


def _is_hot(inside: pd.DataFrame) -> bool:
    """Return whether the noise was measured at high rates, or at rates that are not known."""
    rate = inside["rate"].astype(float)
    return bool(rate.isna().any() or rate.median() > HOT)


def _trend(inside: pd.DataFrame) -> str:
    """Return whether the noise scale keeps up with the critical batch as the loss falls."""
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
