"""Readings of a table of runs that several studies share: each fits one law, and returns the fit, its figure
and its constants beside the published ones.

A reading that the runs cannot support raises AllometryError with the reason; `attempt` turns that into a
sentence, so that a study answers the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from allometry.errors import AllometryError
from allometry.laws.fit import fit
from allometry.report.content import Constant, Figure, Section, Table, Verdict

if TYPE_CHECKING:
    import pandas as pd

    from allometry.laws.result import FitResult

LEVEL = 0.95
KAPLAN = "Kaplan 2020"
CHINCHILLA = "Chinchilla 2022"
EPOCH = "Besiroglu 2024"
PORIAN = "Porian 2024"

TOKENS = "its scale depends on tokens and text (ours are bytes), so only exponents can be compared"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One question asked of the runs: a section of the report, constants for the table, fits by name, and
    warnings."""

    section: Section
    constants: tuple[Constant, ...] = ()
    fits: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def attempt(title: str, reading: Callable[[], Reading]) -> Reading:
    """The reading, or a section that says why the runs do not support it."""
    try:
        return reading()
    except AllometryError as error:
        text = f"This could not be answered from these runs: {error.message}. {_sentence(error.hint)}"
        return Reading(section=Section(title=title, text=text), warnings=(f"{title}: {error.message}",))


def _sentence(text: str | None) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def constant(
    name: str,
    symbol: str,
    published: dict[str, float],
    estimate: tuple[float, float, float],
    why: str,
    *,
    widest: float = 1.0,
) -> Constant:
    """A row of the table: agrees if the interval holds a published value, unless it is so wide that it says
    nothing.

    `estimate` is (value, low, high) at LEVEL; `widest` is the width of the interval over the value from which
    nothing can be told.
    """
    ours, low, high = estimate
    verdict: Verdict = "differs"
    if not high - low < widest * abs(ours):
        verdict = "cannot tell"
    elif any(low <= value <= high for value in published.values()):
        verdict = "agrees"
    inside = [paper for paper, value in published.items() if low <= value <= high]
    if verdict == "agrees" and len(inside) < len(published):
        why = f"the interval holds {' and '.join(inside)}, not the others: {why}"
    return Constant(
        name=name, symbol=symbol, published=published, ours=ours, low=low, high=high, level=LEVEL,
        verdict=verdict, why=why,
    )  # fmt: skip


EXPECTED = ("correlation", "scale-not-identified")
"""Warnings that every fit of power laws carries: only exponents are compared here, and never the scales."""


def caveats(result: FitResult, label: str) -> tuple[str, ...]:
    """The fit's own warnings, as sentences under its name."""
    return tuple(
        f"{label}: {warning.meaning}"
        + (f"; what is known: {warning.identified}" if warning.identified else "")
        for warning in result.warnings
        if warning.name not in EXPECTED
    )


def one_law(runs: pd.DataFrame, law: str, x: str) -> FitResult:
    """A power law of the loss in one column, by least squares on log loss, resampled by run."""
    from allometry.laws.zoo import get

    (symbol,) = get(law).inputs
    return fit(runs, law=law, columns={symbol: x, "L": "loss"}, objective="lsq-log", group="run")


def estimate(result: FitResult, name: str) -> tuple[float, float, float]:
    """A parameter with its interval at LEVEL."""
    return (result.parameters[name], *result.interval(name, LEVEL))


def percent(value: float) -> str:
    """A share in percent with two digits."""
    return f"{100 * value:.2g} %"


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


def common_horizon(runs: pd.DataFrame) -> float:
    """The longest D to which every size was trained. Raises AllometryError if there is none."""
    sizes = runs["N"].nunique()
    shared = runs.groupby("D")["N"].nunique()
    if not (shared == sizes).any():
        raise AllometryError("no horizon D is common to all sizes", hint="train the missing runs")
    return float(shared[shared == sizes].index.max())


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
