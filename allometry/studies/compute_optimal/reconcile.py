"""Why Kaplan's exponent and Chinchilla's differ, taken apart on our own runs.

Chinchilla's law holds for all parameters N_T = N + ω N^γ, with N those without embeddings; Kaplan et al.
count N and C = 6ND. The frontier in N and C then is no power law: its local exponent falls towards β/(α + β)
as N grows.

Analysis: Pearce & Song 2024 on our own runs: the exponent that counting alone would give in our range.

Chinchilla's law of all parameters, fitted to our runs, with N_T = N + ω N^γ from our own shapes, says how
N_opt without embeddings grows with C = 6ND without embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from allometry.figures.several import several
from allometry.laws.fit import fit
from allometry.laws.uncertainty import Array, percentile_interval
from allometry.report.build import Section, Table
from allometry.studies.compute_optimal.ladder import ladder, rungs
from allometry.studies.core.sections import (
    LEVEL,
    StudySection,
    TooFewRuns,
    chapter,
    percent,
    scope,
    section_or_reason,
    seed_noise,
    usable_runs,
)
from allometry.studies.core.study import Study, register
from allometry.studies.shared.grid import recipe_runs

if TYPE_CHECKING:
    from collections.abc import Callable

    from allometry.laws.result import FitResult
    from allometry.report.build import Analysis
    from allometry.studies.compute_optimal.ladder import Rung
    from allometry.studies.core.study import StudyData


THEIR_GAMMA = 1 / 3
"""γ where depth grows with width: N ∝ d³, embeddings ∝ d. At a constant depth N ∝ d², and γ is 1/2."""


def total(N: ArrayLike, omega: float, gamma: float = THEIR_GAMMA) -> Array:
    """Return all parameters of a model with N without embeddings."""
    size = np.asarray(N, float)
    return np.asarray(size + omega * size**gamma)


def fit_omega(N: ArrayLike, N_total: ArrayLike, gamma: float = THEIR_GAMMA) -> float:
    """Fit ω to shapes with N parameters without embeddings and N_total with them: the geometric mean over
    shapes.
    """
    size, every = np.asarray(N, float), np.asarray(N_total, float)
    return float(np.exp(np.mean(np.log((every - size) / size**gamma))))


def optimal_compute(
    N: ArrayLike, params: Mapping[str, ArrayLike], omega: float, gamma: float = THEIR_GAMMA
) -> Array:
    """Return the compute C = 6ND (embeddings not counted) at which size N is the best one.

    `params` are A, B, alpha, beta of E + A/N_T^alpha + B/D^beta, as numbers or arrays that broadcast against
    N. Setting dL/dN = 0 at fixed C gives (6N/C)^beta = (alpha A/(beta B)) (N + γ ω N^γ) N_T^-(1 + alpha).
    """
    size = np.asarray(N, float)
    A, B, alpha, beta = (np.asarray(params[name], float) for name in ("A", "B", "alpha", "beta"))
    every, bent = total(size, omega, gamma), size + gamma * omega * size**gamma
    ratio = np.log(beta * B) - np.log(alpha * A) + (1 + alpha) * np.log(every) - np.log(bent)
    # a resample's beta may be next to nothing; the compute is then beyond all sizes, and stays a number
    return np.asarray(6 * size * np.exp(np.clip(ratio / beta, -500, 500)))


def local_exponent(
    N: ArrayLike, params: Mapping[str, ArrayLike], omega: float, gamma: float = THEIR_GAMMA
) -> Array:
    """Return d log N_opt / d log C at sizes N, both without embeddings."""
    size, step = np.asarray(N, float), 1e-4
    up, down = (np.log(optimal_compute(size * np.exp(sign * step), params, omega, gamma)) for sign in (1, -1))
    return np.asarray(2 * step / (up - down))


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
    run_sets: ClassVar[dict[str, float]] = {"grid": 0.7, "ladders": 0.3}

    def analyse(self, study_data: StudyData) -> Analysis:
        """Report the ladder, and the conversion."""
        usable, excluded = usable_runs(study_data)

        @cache
        def found() -> list[Rung]:
            noise, _ = seed_noise(recipe_runs(usable))
            return rungs(usable, study_data.curves, noise)

        asked: dict[str, tuple[str, Callable[[], StudySection]]] = {
            "ladder": ("The ladder", lambda: ladder(found())),
            "conversion": (
                "Pearce and Song's conversion",
                lambda: conversion(recipe_runs(usable), found()),
            ),
        }
        sections = {name: section_or_reason(title, section) for name, (title, section) in asked.items()}
        return chapter(
            self, study_data, sections, answer=answer(sections), next=_NEXT, excluded=excluded,
            warnings=scope(usable, study_data),
        )  # fmt: skip


_NEXT = (
    "Tune the rate at every rung and budget instead of by a rule in the width: in the paper that is the last "
    "step, and "
    "here it is only a rule. And a vocabulary of 50,000 tokens on the same ladder, where the output matrix "
    "would weigh "
    "as in the papers."
)


def answer(sections: dict[str, StudySection]) -> str:
    """Return the ends of the ladder, and the largest step."""
    rows = sections["ladder"].fits.get("rows")
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
    table = sections["conversion"].fits.get("conversion")
    if table is not None:
        row = table.iloc[0]
        parts.append(
            f"Counting alone would take it from {row['β/(α+β)']:.2f} to {row['predicted a']:.2f} in our "
            "range "
            "(Pearce and Song's argument with our constants)."
        )
    return " ".join(parts)


GAMMAS = {"γ = 1/2, as our shapes have it": 0.5, "γ = 1/3, as theirs have it": THEIR_GAMMA}
THEIRS = 47_491
"""ω of Chinchilla's shapes and its vocabulary of 32,000."""


def conversion(runs: pd.DataFrame, found: list[Rung]) -> StudySection:
    """Report ω and γ of our shapes, the predicted exponents, and what was measured."""
    law = fit(
        runs,
        law="chinchilla",
        columns={"N": "N_total", "D": "D", "L": "loss"},
        objective="huber-log",
    )
    sizes = runs[["N", "N_total"]].drop_duplicates()
    if len(sizes) < 3:
        raise TooFewRuns("fewer than three sizes: ω cannot be fitted")
    measured = {rung.name: rung for rung in found if rung.result is not None}
    grid = measured.get("the recipe on the grid, blocks only")
    window = _window(runs, grid)
    rows = [_row(name, gamma, sizes, law, window) for name, gamma in GAMMAS.items()]
    frame = pd.DataFrame(rows)
    caption = (
        "ω and γ in N_T = N + ω N^γ (mean error over our shapes), and the exponent of N_opt(C), blocks only, "
        "that our "
        "Chinchilla fit then predicts over the measured window; β/(α+β) is the limit of large N."
    )
    table = Table(name="conversion", title="What counting predicts", frame=frame, caption=caption)
    return StudySection(
        section=Section(
            title="Pearce and Song's conversion",
            text=_text(frame, law, grid),
            evidence=(_figure(law, sizes, grid), table),
        ),
        fits={"conversion": frame},
    )


def _window(runs: pd.DataFrame, grid: Rung | None) -> tuple[float, float]:
    """Return the compute over which the exponent was measured, or all that the runs span."""
    if grid is None or grid.result is None:
        return float(runs["C"].min()), float(runs["C"].max())
    used = grid.result.table[grid.result.table["used"]]["C"]
    return float(used.min()), float(used.max())


def _row(
    name: str, gamma: float, sizes: pd.DataFrame, law: FitResult, window: tuple[float, float]
) -> dict[str, Any]:
    n, every = sizes["N"].to_numpy(float), sizes["N_total"].to_numpy(float)
    omega = fit_omega(n, every, gamma)
    a, low, high = predicted(law, omega, gamma, window)
    return {
        "form": name, "ω": omega, "error": float(np.mean(np.abs(total(n, omega, gamma) / every - 1))),
        "predicted a": a, "low (95 %)": low, "high (95 %)": high,
        "β/(α+β)": law.derived("beta/(alpha+beta)", LEVEL)[0],
    }  # fmt: skip


def predicted(
    law: FitResult, omega: float, gamma: float, window: tuple[float, float]
) -> tuple[float, float, float]:
    """Return the slope of log N_opt against log C over a window of C, with its interval from the law's
    resamples.
    """
    samples = {p: law.samples[p].to_numpy()[:, None] for p in ("A", "B", "alpha", "beta")}
    values = _slopes({p: np.array([[law.parameters[p]]]) for p in samples}, omega, gamma, window)
    return (float(values[0]), *percentile_interval(_slopes(samples, omega, gamma, window), LEVEL))


def _slopes(params: dict[str, Array], omega: float, gamma: float, window: tuple[float, float]) -> Array:
    """Return the slope between the ends of the window, one for each row of the parameters."""
    n = np.geomspace(10, 1e12, 600)
    compute = np.log(optimal_compute(n, params, omega, gamma))
    ends = [np.array([np.interp(np.log(c), row, np.log(n)) for row in compute]) for c in window]
    return np.asarray((ends[1] - ends[0]) / np.log(window[1] / window[0]))


def _figure(law: FitResult, sizes: pd.DataFrame, grid: Rung | None) -> Any:

    n = np.geomspace(1e3, 1e9, 120)
    lines = [
        pd.DataFrame({"series": f"ours, {name}", "N": n, "a": local_exponent(
            n, law.parameters, fit_omega(sizes["N"], sizes["N_total"], gamma), gamma)})
        for name, gamma in GAMMAS.items()
    ]  # fmt: skip
    published = {"A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}
    lines.append(pd.DataFrame({"series": "Chinchilla's shapes, Besiroglu et al.'s constants", "N": n,
                               "a": local_exponent(n, published, THEIRS)}))  # fmt: skip
    points = None
    if grid is not None and grid.result is not None and grid.a is not None:
        used = grid.result.table[grid.result.table["used"]]
        middle = float(np.exp(np.log(used["N_opt"]).mean()))
        points = pd.DataFrame(
            [("measured on the grid, blocks only", middle, *grid.a)],
            columns=["series", "N", "a", "low", "high"],
        )
    return several(
        points, pd.concat(lines), x="N", y="a", y_title="Local exponent of N_opt(C)", y_scale="plain",
        name="local-exponent", title="What counting does to the exponent",
        caption="Lines: d log N_opt / d log C without embeddings, by equation; the point is measured over "
        "our window of "
        "compute and drawn at the middle of its optima (95 % interval).",
    )  # fmt: skip


def _text(frame: pd.DataFrame, law: FitResult, grid: Rung | None) -> str:
    own, theirs = frame.iloc[0], frame.iloc[1]
    text = (
        "Pearce and Song explain Kaplan's exponent by counting alone: N_T = N + ω N^γ with ω = 47,491 and γ "
        "= 1/3 for "
        "Chinchilla's shapes makes the exponent in N and C = 6ND larger than β/(α+β) where embeddings weigh. "
        "Our "
        f"vocabulary of bytes has ω = {theirs['ω']:.0f} with γ = 1/3 ({percent(theirs['error'])} off our "
        "shapes), or "
        f"{own['ω']:.0f} with γ = 1/2 ({percent(own['error'])} off), which a ladder of constant depth has. "
        "Our law of "
        f"all parameters then predicts a = {own['predicted a']:.2f} [{own['low (95 %)']:.2f}, "
        f"{own['high (95 %)']:.2f}] without embeddings, against {own['β/(α+β)']:.2f} in the limit of large N."
    )
    if grid is not None and grid.a is not None:
        a, low, high = grid.a
        inside = own["low (95 %)"] <= high and low <= own["high (95 %)"]
        text += (
            f" Measured there: {a:.2f} [{low:.2f}, {high:.2f}], which "
            f"{'agrees' if inside else 'does not agree'} with it."
        )
    return text
