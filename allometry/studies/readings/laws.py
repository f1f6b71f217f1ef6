"""The laws that several studies read from one table of runs: L(N), L(D) and L(N, D), each with its fit, its
figure and its constants beside the published ones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from allometry.errors import AllometryError
from allometry.laws.fit import fit
from allometry.report.content import Constant, Figure, Section, Table
from allometry.studies.core.sections import (
    CHINCHILLA,
    EPOCH,
    KAPLAN,
    LEVEL,
    TOKENS,
    Reading,
    caveats,
    constant,
    estimate,
    one_law,
    percent,
)

if TYPE_CHECKING:
    import pandas as pd

    from allometry.laws.result import FitResult


def by_size(runs: pd.DataFrame) -> Reading:
    """L(N) at the longest horizon that every size was trained to, as a power law and above a floor.

    Kaplan et al. 2020, eq. 1.1 and figure 6.
    """
    from allometry.figures.power_law import power_law

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
    return Reading(
        section=Section(
            title="L(N): loss against size",
            text=_size_text(table, straight, bent, total),
            evidence=figures,
        ),
        constants=(
            _slope(straight, bent),
            constant("the same above a floor", "α", {CHINCHILLA: 0.339, EPOCH: 0.348}, floored, _WHY_FLOOR),
        ),
        fits={"L(N)": straight, "L(N) with a floor": bent},
        warnings=(*caveats(straight, "L(N)"), *caveats(bent, "L(N) with a floor")),
    )


def _slope(straight: FitResult, bent: FitResult) -> Constant:
    """The exponent of the straight line; where losses bend, its slope is of the range and not of a law."""
    row = constant(
        "loss against size, at one horizon",
        "α_N",
        {KAPLAN: 0.076},
        estimate(straight, "alpha_N"),
        _WHY_SIZE,
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


def _size_text(table: pd.DataFrame, straight: FitResult, bent: FitResult, total: FitResult) -> str:
    alpha = estimate(straight, "alpha_N")
    span = table["N"].max() / table["N"].min()
    return (
        f"All sizes saw {table['D'].iloc[0]:,.0f} tokens. Over a factor of {span:.0f} in N the "
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
    """The horizons D to which every size was trained, ascending; empty if there is none."""
    shared = runs.groupby("D")["N"].nunique()
    return [float(d) for d in sorted(shared[shared == runs["N"].nunique()].index)]


def common_horizon(runs: pd.DataFrame) -> float:
    """The longest D to which every size was trained. Raises AllometryError if there is none."""
    shared = horizons_in_common(runs)
    if not shared:
        raise AllometryError("no horizon D is common to all sizes", hint="train the missing runs")
    return shared[-1]


def by_data(runs: pd.DataFrame) -> Reading:
    """L(D) of the largest size (Kaplan et al. 2020, eq. 1.2): there the model limits least."""
    from allometry.figures.power_law import power_law

    largest = runs[runs["N"] == runs["N"].max()]
    result = one_law(largest, "kaplan-d", "D")
    alpha = estimate(result, "alpha_D")
    text = (
        f"The largest model ({largest['N'].iloc[0]:,.0f} parameters) was trained to "
        f"{largest['D'].nunique()} horizons. Its loss falls as "
        f"D^-{alpha[0]:.3f} [{alpha[1]:.3f}, {alpha[2]:.3f}]. These are horizons of one pass, each with "
        f"its own decay of the "
        "learning rate, not data sets trained on until the test loss turns, as in Kaplan's L(D)."
    )
    why = (
        "ours is the loss after D tokens of one pass, Kaplan's that of early-stopped training on a set of "
        "D tokens; and below "
        "some ten million bytes a small model is still learning to use its context, which makes the loss "
        "fall faster"
    )
    row = constant("loss against tokens, largest size", "α_D", {KAPLAN: 0.095}, alpha, why)
    figure = power_law(
        largest, result, x="D", slopes={"Kaplan et al. 2020": -0.095}, name="loss-against-tokens"
    )
    return Reading(
        section=Section(title="L(D): loss against tokens", text=text, evidence=(figure,)),
        constants=(row,),
        fits={"L(D)": result},
        warnings=caveats(result, "L(D)"),
    )


def joint(runs: pd.DataFrame, noise: float | None) -> Reading:
    """L(N, D) in Kaplan's form (eq. 1.5) and in Chinchilla's (approach 3), over all runs."""
    from allometry.figures.residuals import residuals
    from allometry.figures.surface import surface

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
    return Reading(
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
    a, both = chinchilla.derived("beta/(alpha+beta)", LEVEL), {KAPLAN: 0.73, CHINCHILLA: 0.46, EPOCH: 0.513}
    doubt = "it inherits the doubts about α and β"
    return (
        constant("Kaplan's form, size", "α_N", {KAPLAN: 0.076}, estimate(kaplan, "alpha_N"), small),
        constant("Kaplan's form, tokens", "α_D", {KAPLAN: 0.103}, estimate(kaplan, "alpha_D"), short),
        constant("Chinchilla's form, size", "α", alpha, estimate(chinchilla, "alpha"), small),
        constant("Chinchilla's form, tokens", "β", beta, estimate(chinchilla, "beta"), short),
        constant("N_opt ∝ C^a from Chinchilla's form", "a = β/(α+β)", both, a, doubt),
    )
