"""The reading of the study of least data: D*(N) on text, what repeats are worth, and grokking."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from allometry.errors import AllometryError
from allometry.report.content import Constant, Section, Table
from allometry.studies.core.chapter import chapter
from allometry.studies.core.sections import KAPLAN, Reading, attempt, constant, percent
from allometry.studies.core.usable import usable_runs
from allometry.studies.readings.constrained import constrained
from allometry.studies.readings.equations import equations
from allometry.studies.readings.grokking import after_memorising, critical_share, decay_and_size
from allometry.studies.readings.repeats import LeastData, excess, least_data, noise_of, repeated
from allometry.units import format_count

if TYPE_CHECKING:
    from allometry.report.content import Analysis, Figure
    from allometry.studies.core.study import Evidence, Study

TOLERANCES = (0.01, 0.02, 0.05)

STOPPINGS = {"best": "stopped at the best test loss", "loss": "not stopped"}

_SETS, _COST = "How much text is enough", "What a small set costs"


def analyse(study: Study, evidence: Evidence) -> Analysis:
    """The report's content from the finished runs; what cannot be answered says why."""
    runs, excluded = usable_runs(evidence)

    @cache
    def text() -> pd.DataFrame:
        return repeated(runs, evidence.curves)

    @cache
    def tables() -> pd.DataFrame:
        return equations(runs)

    readings = {
        "cost": attempt(_COST, lambda: _cost(text())),
        "sets": attempt(_SETS, lambda: _enough(text())),
        "repeats": attempt("What repeats are worth", lambda: constrained(text(), evidence.curves)),
        "after": attempt(
            "Understanding after memorising", lambda: after_memorising(tables(), evidence.curves)
        ),
        "share": attempt("The critical share of a table", lambda: critical_share(tables())),
        "decay": attempt("Weight decay and size", lambda: decay_and_size(tables())),
    }
    return chapter(
        study, evidence, readings, answer=_answer(readings), next=_next(readings), excluded=excluded
    )


def _cost(table: pd.DataFrame) -> Reading:
    """Excess loss of every size on every set, with and without early stopping."""
    from allometry.figures.several import several

    figures: list[Figure | Table] = []
    worst = {}
    for column, what in STOPPINGS.items():
        frame = excess(table, column)
        long = (100 * frame).reset_index().melt(id_vars="N", var_name="U", value_name="excess")
        long = long.dropna().astype({"U": float}).sort_values(["N", "U"])
        long = long.assign(series=[f"N = {format_count(n)}" for n in long["N"]])
        worst[column] = float(long["excess"].max())
        figures.append(
            several(
                long, long, x="U", y="excess", y_scale="percent", x_title="Unique tokens in the set",
                y_title="Test loss over that on all the text, less one", name=f"excess-{column}",
                title=f"What a small set costs, {what}",
                caption=f"Each size on each set, {what}; all runs see as many tokens. Without dropout.",
            )
        )  # fmt: skip
    noise = noise_of(table)
    text = (
        f"{table['N'].nunique()} sizes at a constant rate, each to {format_count(table['D'].max())} "
        f"tokens on "
        f"nested sets and on all the text, which stands for infinite data. Stopped at the best test "
        f"loss, the "
        f"smallest set costs up to {worst['best']:.0f} %; not stopped, up to {worst['loss']:.0f} %. Seeds "
        f"differ by {percent(noise)}."
    )
    passes = float((table.loc[table["infinite"], "D"] / table.loc[table["infinite"], "U"]).max())
    warnings = (
        (f"All the text is seen {passes:.1f} times: it does not stand for infinite data.",)
        if passes > 1.05
        else ()
    )
    return Reading(
        section=Section(title=_COST, text=text, evidence=tuple(figures)),
        fits={"worst": worst, "noise": noise},
        warnings=warnings,
    )


def _enough(table: pd.DataFrame) -> Reading:
    """D*(N) for each tolerance, early-stopped and not, and the exponents."""
    from allometry.figures.several import several

    found = {
        (column, tolerance): least_data(table, column, tolerance)
        for column in STOPPINGS
        for tolerance in TOLERANCES
    }
    rows = pd.concat(
        [each.table.assign(stopped=STOPPINGS[c], tolerance=100 * t) for (c, t), each in found.items()],
        ignore_index=True,
    )
    shown = Table(
        name="least-data", title="D*(N)",
        frame=rows[["stopped", "tolerance", "N", "D", "low", "high", "note"]],
        caption="The set of unique tokens from which a size loses no more than the tolerance (per cent) "
        "to all "
        "the text; 95 % intervals from the noise between seeds.",
    )  # fmt: skip
    drawn = rows.dropna(subset=["D"])
    if not len(drawn):
        raise AllometryError(
            "no size crosses a tolerance between two of its sets", hint="train longer, or on smaller sets"
        )
    drawn = drawn.assign(
        series=[f"{t:.0f} %, {s}" for t, s in zip(drawn["tolerance"], drawn["stopped"], strict=True)]
    )
    figure = several(
        drawn, drawn.drop(columns=["low", "high"]), x="N", y="D", y_title="D*: unique tokens that are enough",
        name="least-data-against-size", title="The least data against size",
        caption="Points with 95 % intervals. Kaplan et al. 2020 find D proportional to N^0.74 for 2 %.",
    )  # fmt: skip
    return Reading(
        section=Section(title=_SETS, text=_exponents(found), evidence=(figure, shown)),
        constants=_constants(found),
        fits={"least": found},
    )


def _exponents(found: dict[tuple[str, float], LeastData]) -> str:
    parts = []
    for (column, tolerance), each in found.items():
        low, high = each.interval(0.9)
        sizes = int(each.table["D"].notna().sum())
        said = f"{STOPPINGS[column]}, {percent(tolerance)} of the loss: "
        if np.isfinite(low) and np.isfinite(each.exponent):
            said += f"D* ∝ N^{each.exponent:.2f} [{low:.2f}, {high:.2f}] (90 %) over {sizes} sizes"
        else:
            said += f"{sizes} sizes have a D* within the sets, too few for an exponent"
        parts.append(said)
    return "; ".join(parts) + "."


def _constants(found: dict[tuple[str, float], LeastData]) -> tuple[Constant, ...]:
    rows = []
    why = (
        "one horizon for all sizes, bytes, no dropout; a power of N is free of units, but the sizes span "
        "little"
    )
    for column, what in STOPPINGS.items():
        each = found[column, 0.02]
        low, high = each.interval(0.95)
        if np.isfinite(low) and np.isfinite(each.exponent):
            estimate = (each.exponent, low, high)
            rows.append(constant(f"least data for 2 %, {what}", "D* ∝ N^x", {KAPLAN: 0.74}, estimate, why))
    return tuple(rows)


def _answer(readings: dict[str, Reading]) -> str:
    parts = []
    least = readings["sets"].fits.get("least")
    if least is not None:
        for column, what in STOPPINGS.items():
            each = least[column, 0.02]
            low, high = each.interval(0.9)
            if np.isfinite(low):
                parts.append(
                    f"To lose no more than 2 %, {what}, data must grow as N^{each.exponent:.2f} (90 % "
                    f"interval "
                    f"{low:.2f} to {high:.2f}; Kaplan et al.: 0.74)."
                )
    for name in ("repeats", "after", "share", "decay"):
        summary = readings[name].fits.get("summary")
        if summary:
            parts.append(str(summary))
    return " ".join(parts) or "These runs are too few to say how much data is enough: see the sections."


def _next(readings: dict[str, Reading]) -> str:
    if "least" not in readings["sets"].fits:
        return "Allow more time: D* needs three sizes that cross a tolerance between two of their sets."
    return (
        "Does D*(N) keep its exponent when every size is trained to its own best horizon, and when small "
        "sets "
        "are regularised as strongly as they can bear?"
    )
