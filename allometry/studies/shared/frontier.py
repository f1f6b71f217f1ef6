"""Readings along the compute-efficient frontier: L(C), N_opt(C), and what the counting convention does to
them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from allometry.core.errors import AllometryError
from allometry.figures.curves import learning_curves
from allometry.figures.fits import power_law
from allometry.figures.surface import isoflop_slices
from allometry.laws.envelope import fit_envelope
from allometry.laws.isoflop import isoflop
from allometry.laws.slices import grid_budgets
from allometry.report.content import Section, Table
from allometry.studies.core.sections import CHINCHILLA, EPOCH, KAPLAN, LEVEL, PORIAN, StudySection, constant

if TYPE_CHECKING:
    from allometry.laws.uncertainty import Estimate

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
    slices = isoflop(table, columns={"N": "N", "D": "D", "loss": "loss"})
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
                "loss along the frontier", "α_C", {KAPLAN: 0.057}, (-alpha[0], -alpha[2], -alpha[1]), why_c
            ),
            constant(
                "N_opt ∝ C^a from slices", "a", {f"{KAPLAN}, fixed batch": 0.88, f"{KAPLAN}, C_min": 0.73,
                CHINCHILLA: 0.49, EPOCH: 0.513, PORIAN: 0.5}, a, why_a,
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
