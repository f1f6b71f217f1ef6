"""The laws that several studies read from one table of runs: L(N), L(D) and L(N, D), each with its fit, its
figure and its constants beside the published ones.

Analysis: how the exponent of L(N) moves with the horizon, and where it goes as D → ∞.

Kaplan et al. 2020 read L(N) off models near convergence; ours are not, so the limit is extrapolated through
L(N, D).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError
from allometry.core.units import counted
from allometry.figures.curves import learning_curves
from allometry.figures.fits import power_law, predictions, residuals
from allometry.figures.several import several
from allometry.figures.surface import isoflop_slices, surface
from allometry.figures.theme import Figure
from allometry.laws.backtest import backtest
from allometry.laws.envelope import fit_envelope
from allometry.laws.fit import fit
from allometry.laws.isoflop import isoflop
from allometry.laws.slices import grid_budgets
from allometry.laws.subgrids import design_range, slope_range
from allometry.report.build import Constant, Section, Table
from allometry.studies.core.predictions import score
from allometry.studies.core.scoring import compared, sentence
from allometry.studies.core.sections import (
    CHINCHILLA,
    EPOCH,
    KAPLAN,
    LEVEL,
    MARGIN_A,
    PORIAN,
    TOKENS,
    StudySection,
    TooFewRuns,
    caveats,
    constant,
    design_of,
    estimate,
    one_law,
    percent,
)

if TYPE_CHECKING:
    from allometry.laws.result import FitResult
    from allometry.laws.uncertainty import Estimate


def by_size(runs: pd.DataFrame) -> StudySection:
    """Report L(N) at the longest horizon that every size was trained to, as a power law and above a floor.

    Kaplan et al. 2020, eq. 1.1 and figure 6.
    """
    horizon = common_horizon(runs)
    table = runs[runs["D"] == horizon]
    straight = one_law(table, "kaplan-n", "N")
    bent = one_law(table, "power-offset", "N")
    total = one_law(table, "kaplan-n", "N_total")
    floored = estimate(bent, "alpha")
    named = {"Kaplan et al. 2020": -0.076}
    figures = (
        power_law(table, straight, x="N", slopes=named, name="loss-against-size"),
        power_law(table, bent, x="N", name="loss-against-size-floor", title="The same, with a floor"),
    )
    return StudySection(
        section=Section(
            title="L(N): loss against size",
            text=_size_text(table, straight, bent, total),
            evidence=(*figures, local_table(table)),
        ),
        constants=(
            _slope(straight, bent),
            constant("the same above a floor", "α", {CHINCHILLA: 0.339, EPOCH: 0.348}, floored, _WHY_FLOOR,
                     design=design_of(bent, "alpha")),
        ),
        fits={"L(N)": straight, "L(N) with a floor": bent},
        warnings=(*caveats(straight, "L(N)"), *caveats(bent, "L(N) with a floor")),
    )  # fmt: skip


def local_slopes(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the slope −d log L / d log N between neighbouring sizes at one horizon, of means over seeds: columns N,
    next N and slope. A power law has one slope; where they fall along the ladder, a line through all of them has the
    slope of the range.
    """
    means = np.log(runs["loss"]).groupby(runs["N"]).mean()
    size = means.index.to_numpy(dtype=float)
    slope = -np.diff(means.to_numpy()) / np.diff(np.log(size))
    return pd.DataFrame({"N": size[:-1], "next N": size[1:], "slope": slope})


def local_table(runs: pd.DataFrame) -> Table:
    """Return the local slopes as a table of the report."""
    return Table(
        name="local-slopes", title="The slope along the ladder", frame=local_slopes(runs),
        caption="Between each size and the next, of means over seeds. One power law would have one slope.",
    )  # fmt: skip


def _slope(straight: FitResult, bent: FitResult) -> Constant:
    """Return the exponent of the straight line; where losses bend, its slope is of the range and not of a
    law.
    """
    row = constant(
        "loss against size, at one horizon",
        "α_N",
        {KAPLAN: 0.076},
        estimate(straight, "alpha_N"),
        _WHY_SIZE,
        design=design_of(straight, "alpha_N"),
    )
    if bent.rms > 0.5 * straight.rms:
        return row
    bends = (
        f"these losses bend ({percent(straight.rms)} off a straight line, {percent(bent.rms)} with a "
        f"floor), so the "
        f"slope belongs to this range of N, whatever it is: {row.why}"
    )
    return replace(row, verdict="cannot tell", why=bends)


_WHY_SIZE = (
    "at one horizon D the larger models are further from convergence, which flattens the line, while "
    "Kaplan's "
    f"were trained to convergence; {TOKENS}"
)
_WHY_FLOOR = (
    "64 bytes of context cannot predict what lies beyond them, so part of the loss is out of every model's "
    "reach; "
    "over two orders of magnitude of N this bends the line in log-log"
)


def _local_text(table: pd.DataFrame) -> str:
    slopes = ", ".join(f"{slope:.3f}" for slope in local_slopes(table)["slope"])
    return f"From each size to the next the slope is {slopes}."


def _size_text(table: pd.DataFrame, straight: FitResult, bent: FitResult, total: FitResult) -> str:
    alpha = estimate(straight, "alpha_N")
    span = table["N"].max() / table["N"].min()
    return (
        f"All sizes saw {table['D'].iloc[0]:,.0f} tokens. {_local_text(table)} Over a factor of {span:.0f} in N the "
        f"straight line "
        f"has α_N = {alpha[0]:.3f} [{alpha[1]:.3f}, {alpha[2]:.3f}] (95 %), and a run lies "
        f"{percent(straight.rms)} "
        f"from it (root mean square). With a floor, L = E + A/N^α, that becomes {percent(bent.rms)}, with "
        f"E = "
        f"{bent.parameters['E']:.2f}: whether the floor is real or the line merely bends within this "
        f"range, a wider "
        "range must tell. Counting embeddings too, as Chinchilla does, the straight line has "
        f"{total.parameters['alpha_N']:.3f}: the convention alone moves the exponent."
    )


def horizons_in_common(runs: pd.DataFrame) -> list[float]:
    """Return the horizons D to which every size was trained, ascending; empty if there is none."""
    shared = runs.groupby("D")["N"].nunique()
    return [float(d) for d in sorted(shared[shared == runs["N"].nunique()].index)]


def common_horizon(runs: pd.DataFrame) -> float:
    """Return the longest D to which every size was trained. Raises AllometryError if there is none."""
    shared = horizons_in_common(runs)
    if not shared:
        raise TooFewRuns("no horizon D is common to all sizes")
    return shared[-1]


def by_data(runs: pd.DataFrame) -> StudySection:
    """Report L(D) of the largest size (Kaplan et al. 2020, eq. 1.2): there the model limits least."""
    largest = runs[runs["N"] == runs["N"].max()]
    result = one_law(largest, "kaplan-d", "D")
    alpha = estimate(result, "alpha_D")
    text = (
        f"The largest model ({largest['N'].iloc[0]:,.0f} parameters) was trained to "
        f"{largest['D'].nunique()} horizons. Its loss falls as "
        f"D^-{alpha[0]:.3f}{between(alpha)}. These are horizons of one pass, each with "
        f"its own decay of the "
        "learning rate, not data sets trained on until the test loss turns, as in Kaplan's L(D)."
    )
    why = (
        "ours is the loss after D tokens of one pass, Kaplan's that of early-stopped training on a set of "
        "D tokens; and below "
        "some ten million bytes a small model is still learning to use its context, which makes the loss "
        "fall faster"
    )
    row = constant(
        "loss against tokens, largest size", "α_D", {KAPLAN: 0.095}, alpha, why,
        design=design_of(result, "alpha_D"),
    )  # fmt: skip
    figure = power_law(
        largest, result, x="D", slopes={"Kaplan et al. 2020": -0.095}, name="loss-against-tokens"
    )
    return StudySection(
        section=Section(title="L(D): loss against tokens", text=text, evidence=(figure,)),
        constants=(row,),
        fits={"L(D)": result},
        warnings=caveats(result, "L(D)"),
    )


def between(estimate: tuple[float, float, float]) -> str:
    """Return an interval as " [0.1, 0.2]", or why there is none."""
    _, low, high = estimate
    return (
        f" [{low:.3f}, {high:.3f}]" if np.isfinite(high - low) else " (one trunk: no interval can be given)"
    )


def joint(runs: pd.DataFrame, noise: float | None) -> StudySection:
    """Report L(N, D) in Kaplan's form (eq. 1.5) and in Chinchilla's (approach 3), over all runs."""
    columns = {"N": "N", "D": "D", "L": "loss"}
    kaplan = fit(runs, law="kaplan", columns=columns, objective="huber-log")
    chinchilla = fit(runs, law="chinchilla", columns=columns, objective="huber-log")
    fits = {"Kaplan L(N, D)": kaplan, "Chinchilla": chinchilla}
    text = (
        f"Two forms through the same {len(runs)} runs. Kaplan's lies {percent(kaplan.rms)} from a run, "
        f"Chinchilla's "
        f"{percent(chinchilla.rms)} (root mean square). Chinchilla's irreducible loss E comes out as "
        f"{chinchilla.parameters['E']:.2f} nats per token; whether that is a number about text or about "
        f"this range of sizes is for "
        "its interval, and the warnings, to say."
    )
    evidence: tuple[Figure | Table, ...] = (
        surface(runs, fits, x="D", colour="N", name="loss-against-size-and-tokens"),
        residuals(runs, fits, x="C", noise=noise, name="residuals"),
    )
    return StudySection(
        section=Section(title="L(N, D): both at once", text=text, evidence=evidence),
        constants=_joint_constants(kaplan, chinchilla),
        fits=fits,
        warnings=(*caveats(kaplan, "Kaplan L(N, D)"), *caveats(chinchilla, "Chinchilla")),
    )


def _joint_constants(kaplan: FitResult, chinchilla: FitResult) -> tuple[Constant, ...]:
    small = (
        "small N and D, a vocabulary of bytes, and N without embeddings where Chinchilla counts everything"
    )
    short = "our horizons reach down to where the loss still falls fast; " + TOKENS
    alpha, beta = {CHINCHILLA: 0.339, EPOCH: 0.348}, {CHINCHILLA: 0.285, EPOCH: 0.366}
    of_size, of_both = design_range(kaplan), design_range(chinchilla)
    a, both = chinchilla.derived("beta/(alpha+beta)", LEVEL), {KAPLAN: 0.73, CHINCHILLA: 0.46, EPOCH: 0.513}
    doubt = "it inherits the doubts about α and β"
    return (
        constant("Kaplan's form, size", "α_N", {KAPLAN: 0.076}, estimate(kaplan, "alpha_N"), small,
                 design=of_size.interval("alpha_N")),
        constant("Kaplan's form, tokens", "α_D", {KAPLAN: 0.103}, estimate(kaplan, "alpha_D"), short,
                 design=of_size.interval("alpha_D")),
        constant("Chinchilla's form, size", "α", alpha, estimate(chinchilla, "alpha"), small,
                 design=of_both.interval("alpha")),
        constant("Chinchilla's form, tokens", "β", beta, estimate(chinchilla, "beta"), short,
                 design=of_both.interval("beta")),
        constant("N_opt ∝ C^a from Chinchilla's form", "a = β/(α+β)", both, a, doubt,
                 design=of_both.interval("beta/(alpha+beta)"), margin=MARGIN_A),
    )  # fmt: skip


def horizons(runs: pd.DataFrame) -> StudySection:
    """Return how α_N moves with the horizon, and where it goes as D → ∞ through L(N, D)."""
    rows = [_at_horizon(runs, d) for d in horizons_in_common(runs)]
    if len(rows) < 2:
        raise TooFewRuns("only one horizon is common to all sizes")
    table = pd.DataFrame(rows)
    fits = joint_fits(runs)
    limit = converged(runs, fits["Chinchilla"])
    straight = one_law(limit, "kaplan-n", "N")
    at_limit = estimate(fits["Kaplan"], "alpha_N")
    drawn = table.rename(columns={"α_N": "alpha", "low (95 %)": "low", "high (95 %)": "high"})
    figure = several(
        drawn.assign(series="straight line over all sizes, at one horizon"), _limits(table, at_limit),
        x="D", y="alpha", y_title="α_N", y_scale="plain", name="exponent-against-horizon",
        title="The exponent of L(N) moves with the horizon",
        caption=f"{len(table)} horizons; points: the slope at one horizon with its 95 % interval (all points "
        "share "
        "their trunks, so neighbours move together).",
    )  # fmt: skip
    return StudySection(
        section=Section(
            title="At which horizon: α_N as the models converge",
            text=_horizon_text(table, at_limit, straight, fits),
            evidence=(figure, Table(name="horizons", title="α_N by horizon", frame=table, caption=_BOTH)),
        ),
        constants=(
            constant("loss against size as D → ∞ (Kaplan's L(N, D))", "α_N", {KAPLAN: 0.076}, at_limit,
                     f"an extrapolation of Kaplan's form, which has no floor; {TOKENS}",
                     design=design_of(fits["Kaplan"], "alpha_N")),
        ),
        fits={"horizons": table, **fits},
    )  # fmt: skip


_BOTH = "The power law's slope, and the exponent above a floor, at each horizon that all sizes share."


def _at_horizon(runs: pd.DataFrame, horizon: float) -> dict[str, Any]:
    table = runs[runs["D"] == horizon]
    straight = one_law(table, "kaplan-n", "N")
    value, low, high = estimate(straight, "alpha_N")
    row = {"D": horizon, "α_N": value, "low (95 %)": low, "high (95 %)": high, "residual": straight.rms}
    floored = one_law(table, "power-offset", "N")
    return row | {"α above a floor": floored.parameters["alpha"], "its residual": floored.rms}


def joint_fits(runs: pd.DataFrame) -> dict[str, FitResult]:
    """Fit Kaplan's and Chinchilla's L(N, D) to all runs."""
    columns = {"N": "N", "D": "D", "L": "loss"}
    return {
        name: fit(runs, law=law, columns=columns, objective="huber-log")
        for name, law in (("Kaplan", "kaplan"), ("Chinchilla", "chinchilla"))
    }


def converged(runs: pd.DataFrame, joint: FitResult) -> pd.DataFrame:
    """Return each size's loss as D → ∞: its longest run less the law's term in D there. Columns run, N,
    loss.
    """
    last = runs[runs["D"] == runs.groupby("N")["D"].transform("max")]
    at_end = joint.predict(last)
    without = joint.law.predict(joint.parameters, N=last["N"].to_numpy(float), D=np.full(len(last), 1e30))
    return last.assign(loss=last["loss"] * without / at_end)[["run", "N", "loss"]]


def _limits(table: pd.DataFrame, at_limit: tuple[float, float, float]) -> pd.DataFrame:
    grid = np.array([table["D"].min(), table["D"].max()])
    named = {"Kaplan et al. 2020: 0.076": 0.076, "as D → ∞, Kaplan's L(N, D)": at_limit[0]}
    return pd.concat([pd.DataFrame({"series": name, "D": grid, "alpha": v}) for name, v in named.items()])


def _horizon_text(
    table: pd.DataFrame, limit: tuple[float, float, float], straight: FitResult, fits: dict[str, FitResult]
) -> str:
    first, last = table.iloc[0], table.iloc[-1]
    chinchilla = fits["Chinchilla"]
    alpha = estimate(chinchilla, "alpha")
    return (
        f"From D = {first['D']:,.0f} to {last['D']:,.0f} tokens the slope goes from {first['α_N']:.3f} to "
        f"{last['α_N']:.3f}. Kaplan's losses are of converged models; ours are not, so we extrapolate to D → "
        "∞ "
        f"through L(N, D): Kaplan's form has α_N = {limit[0]:.3f} [{limit[1]:.3f}, {limit[2]:.3f}] there, "
        f"Chinchilla's E + A/N^α has α = {alpha[0]:.3f} [{alpha[1]:.3f}, {alpha[2]:.3f}] above a floor of "
        f"{chinchilla.parameters['E']:.2f}; a straight line through each size's loss so extrapolated has "
        f"{straight.parameters['alpha_N']:.3f}, {percent(straight.rms)} off. Kaplan's 0.076 is this limit, "
        "not a "
        "slope at one horizon."
    )


def forecast(runs: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    """Return losses at `points` (columns N, D) from finished runs, as columns loss, low, high, level, method
    added to it.

    Back-tests by size: fitted up to each of the last sizes but one, every law predicts the larger ones. The
    interval holds the laws' own uncertainty, their disagreement and the errors of the back-test. Fits have
    three sizes or more, or two where there are only three in all. Raises TooFewRuns for fewer.
    """
    sizes = np.sort(runs["N"].unique())
    if len(sizes) < 3:
        raise TooFewRuns(f"{len(sizes)} sizes are finished: two to fit and one to test are the least")
    cuts = [float(n) for n in sizes[2 if len(sizes) > 3 else 1 : -1]][-3:]
    tested = backtest(runs, columns={"N": "N", "D": "D", "L": "loss"}, by="N", cuts=cuts)
    combined = tested.forecast(points[["N", "D"]], LEVEL)
    weights = ", ".join(f"{r.law} {r.weight:.2f}" for r in tested.scores.itertuples())
    return points.assign(
        loss=combined.value,
        low=combined.low,
        high=combined.high,
        level=LEVEL,
        method=f"laws weighted by their back-test on the smaller sizes: {weights}",
    )


def prediction(runs: pd.DataFrame, registered: dict[str, Any], ledger: pd.DataFrame | None) -> StudySection:
    """Return what was predicted before the largest models were trained, and what they then measured."""
    table = score(registered, runs)
    scored = table[table["scored"]]
    made = registered["predictions"][0]["method"] if registered["predictions"] else ""
    text = (
        f"On {registered['registered']} the losses of {len(registered['predictions'])} larger runs were "
        f"written down, "
        f"from {len(registered['made_from'])} smaller ones ({made}). {verdict(scored)}"
        f"{in_scores(scored, runs, registered)}"
    )
    evidence: list[Figure | Table] = []
    if len(table):
        columns = ["run", "N", "D", "predicted", "low", "high", "measured", "error", "inside", "scored"]
        evidence.append(predictions(table, level=LEVEL))
        evidence.append(
            Table(
                name="predictions",
                title="The registered prediction, scored",
                caption=(
                    f"Intervals {LEVEL:.0%}; error is measured over predicted, minus one. "
                    "Runs known before are not scored."
                ),
                frame=table[columns],
            )
        )
    if ledger is not None and ledger["study"].nunique() > 1:
        evidence.append(_ledger(ledger))
    return StudySection(
        section=Section(title="Predicted and measured losses", text=text, evidence=tuple(evidence))
    )


def in_scores(scored: pd.DataFrame, runs: pd.DataFrame, registered: dict[str, Any]) -> str:
    """Return how sharp and how honest the predictions were, in words that follow the outcome's."""
    if not len(scored):
        return ""
    return " " + sentence(*compared(scored, runs, registered["made_from"]))


def verdict(scored: pd.DataFrame) -> str:
    """Return the outcome in words: hits and misses alike.

    Runs of a size share a trunk and its luck: the prediction missed where no size's longest run is inside.
    """
    if not len(scored):
        return "None of them has been measured since, so there is nothing to score."
    error, inside = scored["error"].abs(), int(scored["inside"].sum())
    bias = scored["error"].mean()
    outcome = (
        f"They came out within {percent(error.mean())} on average ({percent(error.max())} at worst, "
        f"{'above' if bias > 0 else 'below'} the prediction by {percent(abs(bias))} on the whole); "
        f"{inside} of {len(scored)} lie inside their 95 % interval."
    )
    if not {"N", "D"} <= set(scored) or scored[["N", "D"]].isna().any(axis=None):
        return outcome
    last = scored.loc[scored.groupby("N")["D"].idxmax()]
    sizes = f" Each size counts once ({counted(len(last), 'size')}), for runs of one size share their trunk."
    if not last["inside"].any():
        return f"{outcome}{sizes} The prediction missed: the law of the smaller models does not hold as it stands."
    return outcome + (sizes if len(last) < len(scored) else "")


def _ledger(ledger: pd.DataFrame) -> Table:
    grouped = ledger[ledger["scored"]].groupby(["study", "registered"], sort=False)
    frame = grouped.agg(
        runs=("run", "size"),
        inside=("inside", "sum"),
        mean_error=("error", lambda e: e.abs().mean()),
        worst_error=("error", lambda e: e.abs().max()),
    ).reset_index()
    return Table(
        name="ledger",
        title="Every prediction registered in this store",
        caption="Hits and misses alike, oldest first.",
        frame=frame,
    )


CONVENTIONS = (
    ("N", "C", "blocks only (Kaplan)"),
    ("N_head", "C_head", "with the output matrix (Porian)"),
    ("N_total", "C_attention", "everything (as Chinchilla)"),
)
"""Columns of N and C under each convention, and what it counts."""


def frontier(runs: pd.DataFrame, curves: pd.DataFrame) -> StudySection:
    """Report L(C) and N_opt(C) from the finished runs (Kaplan et al. 2020, section 3.3; Hoffmann et al. 2022,
    approaches 1 and 2).
    """
    table = runs[["run", "N", "D", "C", "loss"]]
    envelope = fit_envelope(table)
    columns = {"N": "N", "D": "D", "loss": "loss"}
    slices = isoflop(table, columns=columns)
    alpha, a = _three(envelope.loss.exponent), _three(slices.a)
    optima = slices.table[slices.table["used"]]
    text = (
        f"The frontier joins the best finished run at each compute: L falls as C^{alpha[0]:.3f} "
        f"[{alpha[1]:.3f}, "
        f"{alpha[2]:.3f}]. Slices of equal compute through the grid have their lowest loss at a size that "
        f"grows as "
        f"C^a with a = {a[0]:.2f} [{a[1]:.2f}, {a[2]:.2f}] over {len(optima)} budgets. Thin lines are "
        f"learning curves; "
        "their points before the final decay of the rate lie above what a run of that length reaches, so the "
        "frontier uses finished runs only."
    )
    figures = (
        learning_curves(curves, runs, frontier=envelope.points, fit=envelope.loss, name="learning-curves"),
        isoflop_slices(slices),
        power_law(optima, slices.N, x="C", y="N_opt", low="N_opt_low", high="N_opt_high", name="optimal-size",
                  title="Compute-optimal size"),
        conventions(runs),
    )  # fmt: skip
    slopes = slope_range(envelope.points["C"], envelope.points["loss"])
    windows = slope_range(optima["C"], optima["N_opt"])
    others = [envelope.a.value]  # what other methods say of the same runs
    with suppress(AllometryError):
        others.append(isoflop(table, columns=columns, method="parabola", bootstrap=50).a.value)
    with suppress(AllometryError):
        form = fit(runs, law="chinchilla", columns={"L": "loss"}, bootstrap=0, test=False)
        others.append(form.derived("beta/(alpha+beta)")[0])
    windows = (min(windows[0], *others), max(windows[1], *others))
    why_c = "our budgets lie many orders of magnitude below the paper's, where the loss still falls faster"
    why_a = (
        "the exponent depends on what N and C count (see the table of conventions), and at this scale the "
        "budgets span "
        "little more than a decade"
    )
    return StudySection(
        section=Section(title="L(C) and N_opt(C): what compute buys", text=text, evidence=figures),
        constants=(
            constant(
                "loss along the frontier", "α_C", {KAPLAN: 0.057}, (-alpha[0], -alpha[2], -alpha[1]), why_c,
                design=(-slopes[1], -slopes[0]),
            ),
            constant(
                "N_opt ∝ C^a from slices", "a", {f"{KAPLAN}, fixed batch": 0.88, f"{KAPLAN}, C_min": 0.73,
                CHINCHILLA: 0.49, EPOCH: 0.513, PORIAN: 0.5}, a, why_a, design=windows, margin=MARGIN_A,
            ),
        ),
        fits={"L(C)": envelope, "N_opt(C)": slices},
        warnings=tuple(f"L(C): {w.meaning}" for w in envelope.warnings)
        + tuple(f"N_opt(C): {w.meaning}" for w in slices.warnings),
    )  # fmt: skip


def _three(estimate: Estimate) -> tuple[float, float, float]:
    return (estimate.value, *estimate.interval(LEVEL))


def conventions(runs: pd.DataFrame) -> Table:
    """Return the same runs under three ways of counting N and C: exponents of L(C) and of N_opt(C), with
    intervals.
    """
    rows = []
    for n, c, what in CONVENTIONS:
        table = pd.DataFrame(
            {"run": runs["run"], "N": runs[n], "D": runs["D"], "C": runs[c], "loss": runs["loss"]}
        )
        rows.append({"what is counted": what, **_exponents(table)})
    return Table(
        name="conventions",
        title="What is counted moves the exponents",
        caption=(
            "The same runs, counted in three ways. Porian et al. 2024 found the same on larger models: the "
            "output matrix's FLOPs "
            "alone take the exponent of N_opt from 0.84 to 0.71."
        ),
        frame=pd.DataFrame(rows),
    )


def _exponents(table: pd.DataFrame) -> dict[str, str]:
    try:
        alpha = fit_envelope(table).loss.exponent.text(LEVEL)
    except AllometryError as error:
        alpha = f"not available: {error.message}"
    try:
        columns = {"N": "N", "D": "D", "C": "C", "loss": "loss"}
        a = isoflop(table, columns=columns, budgets=grid_budgets(table)).a.text(LEVEL)
    except AllometryError as error:
        a = f"not available: {error.message}"
    return {"exponent of L(C)": alpha, "a in N_opt ∝ C^a": a}
