"""Why Kaplan's exponent and Chinchilla's differ, taken apart on our own runs."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, ClassVar

from allometry.studies.core.study import Study, register

if TYPE_CHECKING:
    from collections.abc import Callable

    from allometry.report.content import Analysis
    from allometry.studies.core.sections import Reading
    from allometry.studies.core.study import Evidence
    from allometry.studies.readings.ladder import Rung


@register
class Reconcile(Study):
    """Climbs the ladder of Porian et al. 2024 from Kaplan's practice to Hoffmann's, one correction at a
    time, and asks how far counting alone goes (Pearce & Song 2024).

    The first steps are read from ladders of small models that were trained as in 2020; the last from the
    recipe, on the same sizes and on the grid's larger ones.
    """

    name: ClassVar[str] = "reconcile"
    question: ClassVar[str] = (
        "Which differences in counting and training move the exponent of N_opt from Kaplan's 0.88 to "
        "Hoffmann's 0.50?"
    )
    expected: ClassVar[str] = (
        "The same order of steps as Porian et al., with smaller ones: bytes make the output matrix light, "
        "and a long "
        "warm-up should weigh most, since small budgets end inside it. The intervals of single steps will "
        "overlap."
    )
    designs: ClassVar[dict[str, float]] = {"grid": 0.7, "ladders": 0.3}

    def analyse(self, evidence: Evidence) -> Analysis:
        """The ladder, and the conversion."""
        from allometry.studies.core.chapter import chapter
        from allometry.studies.core.sections import attempt
        from allometry.studies.core.usable import scope, seed_noise, usable_runs
        from allometry.studies.readings.conversion import conversion
        from allometry.studies.readings.ladder import ladder, rungs
        from allometry.studies.readings.trunks import recipe_runs

        usable, excluded = usable_runs(evidence)

        @cache
        def found() -> list[Rung]:
            noise, _ = seed_noise(recipe_runs(usable))
            return rungs(usable, evidence.curves, noise)

        asked: dict[str, tuple[str, Callable[[], Reading]]] = {
            "ladder": ("The ladder", lambda: ladder(found())),
            "conversion": (
                "Pearce and Song's conversion",
                lambda: conversion(recipe_runs(usable), found()),
            ),
        }
        readings = {name: attempt(title, reading) for name, (title, reading) in asked.items()}
        return chapter(
            self, evidence, readings, answer=answer(readings), next=_NEXT, excluded=excluded,
            warnings=scope(usable, evidence),
        )  # fmt: skip


_NEXT = (
    "Tune the rate at every rung and budget instead of by a rule in the width: in the paper that is the last "
    "step, and "
    "here it is only a rule. And a vocabulary of 50,000 tokens on the same ladder, where the output matrix "
    "would weigh "
    "as in the papers."
)


def answer(readings: dict[str, Reading]) -> str:
    """The ends of the ladder, and the largest step."""
    rows = readings["ladder"].fits.get("rows")
    if rows is None:
        return "These runs are too few for the ladder: see the sections."
    own = rows[rows["a, Porian et al. 2024"].notna()].dropna(subset=["a"])
    if len(own) < 2:
        return "Fewer than two steps of the ladder have an exponent: see the sections."
    first, last = own.iloc[0], own.iloc[-1]
    moves = own["a"].diff().iloc[1:]
    largest = own.loc[moves.abs().idxmax(), "step"].removeprefix("+ ")
    parts = [
        f"From Kaplan's practice to the recipe a goes from {first['a']:.2f} [{first['low (95 %)']:.2f}, "
        f"{first['high (95 %)']:.2f}] to {last['a']:.2f} [{last['low (95 %)']:.2f}, "
        f"{last['high (95 %)']:.2f}] (Porian "
        f"et al.: 0.84 to 0.50); the largest step is {largest}, {moves.loc[moves.abs().idxmax()]:+.2f}."
    ]
    table = readings["conversion"].fits.get("conversion")
    if table is not None:
        row = table.iloc[0]
        parts.append(
            f"Counting alone would take it from {row['β/(α+β)']:.2f} to {row['predicted a']:.2f} in our "
            "range "
            "(Pearce and Song's argument with our constants)."
        )
    return " ".join(parts)
