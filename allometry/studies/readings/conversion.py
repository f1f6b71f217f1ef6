"""Pearce & Song 2024 on our own runs: the exponent that counting alone would give in our range.

Chinchilla's law of all parameters, fitted to our runs, with N_T = N + ω N^γ from our own shapes, says how
N_opt without embeddings grows with C = 6ND without embeddings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from allometry.errors import AllometryError
from allometry.laws.counting import THEIR_GAMMA, fit_omega, local_exponent, optimal_compute, total
from allometry.laws.estimate import Array, percentile_interval
from allometry.laws.fit import fit
from allometry.report.content import Section, Table
from allometry.studies.core.sections import LEVEL, Reading, percent

if TYPE_CHECKING:
    from allometry.laws.result import FitResult
    from allometry.studies.readings.ladder import Rung

GAMMAS = {"γ = 1/2, as our shapes have it": 0.5, "γ = 1/3, as theirs have it": THEIR_GAMMA}
THEIRS = 47_491
"""ω of Chinchilla's shapes and its vocabulary of 32,000."""


def conversion(runs: pd.DataFrame, found: list[Rung]) -> Reading:
    """ω and γ of our shapes, the predicted exponents, and what was measured."""
    law = fit(
        runs,
        law="chinchilla",
        columns={"N": "N_total", "D": "D", "L": "loss"},
        objective="huber-log",
        group="run",
    )
    sizes = runs[["N", "N_total"]].drop_duplicates()
    if len(sizes) < 3:
        raise AllometryError("fewer than three sizes: ω cannot be fitted", hint="allow more time")
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
    return Reading(
        section=Section(
            title="Pearce and Song's conversion",
            text=_text(frame, law, grid),
            evidence=(_figure(law, sizes, grid), table),
        ),
        fits={"conversion": frame},
    )


def _window(runs: pd.DataFrame, grid: Rung | None) -> tuple[float, float]:
    """The compute over which the exponent was measured, or all that the runs span."""
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
    """The slope of log N_opt against log C over a window of C, with its interval from the law's resamples."""
    samples = {p: law.samples[p].to_numpy()[:, None] for p in ("A", "B", "alpha", "beta")}
    values = _slopes({p: np.array([[law.parameters[p]]]) for p in samples}, omega, gamma, window)
    return (float(values[0]), *percentile_interval(_slopes(samples, omega, gamma, window), LEVEL))


def _slopes(params: dict[str, Array], omega: float, gamma: float, window: tuple[float, float]) -> Array:
    """Slope between the ends of the window, one for each row of the parameters."""
    n = np.geomspace(10, 1e12, 600)
    compute = np.log(optimal_compute(n, params, omega, gamma))
    ends = [np.array([np.interp(np.log(c), row, np.log(n)) for row in compute]) for c in window]
    return np.asarray((ends[1] - ends[0]) / np.log(window[1] / window[0]))


def _figure(law: FitResult, sizes: pd.DataFrame, grid: Rung | None) -> Any:
    from allometry.figures.several import several

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
