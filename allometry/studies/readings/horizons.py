"""How the exponent of L(N) moves with the horizon, and where it goes as D → ∞.

Kaplan et al. 2020 read L(N) off models near convergence; ours are not, so the limit is extrapolated through
L(N, D).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from allometry.errors import AllometryError
from allometry.laws.fit import fit
from allometry.report.content import Section, Table
from allometry.studies.core.sections import KAPLAN, TOKENS, Reading, constant, estimate, one_law, percent
from allometry.studies.readings.laws import horizons_in_common

if TYPE_CHECKING:
    from allometry.laws.result import FitResult


def horizons(runs: pd.DataFrame) -> Reading:
    """How α_N moves with the horizon, and where it goes as D → ∞ through L(N, D)."""
    from allometry.figures.several import several

    rows = [_at_horizon(runs, d) for d in horizons_in_common(runs)]
    if len(rows) < 2:
        raise AllometryError("only one horizon is common to all sizes", hint="allow more time")
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
    return Reading(
        section=Section(
            title="At which horizon: α_N as the models converge",
            text=_horizon_text(table, at_limit, straight, fits),
            evidence=(figure, Table(name="horizons", title="α_N by horizon", frame=table, caption=_BOTH)),
        ),
        constants=(
            constant("loss against size as D → ∞ (Kaplan's L(N, D))", "α_N", {KAPLAN: 0.076}, at_limit,
                     f"an extrapolation of Kaplan's form, which has no floor; {TOKENS}"),
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
    """Kaplan's and Chinchilla's L(N, D) through all runs."""
    columns = {"N": "N", "D": "D", "L": "loss"}
    return {
        name: fit(runs, law=law, columns=columns, objective="huber-log", group="run")
        for name, law in (("Kaplan", "kaplan"), ("Chinchilla", "chinchilla"))
    }


def converged(runs: pd.DataFrame, joint: FitResult) -> pd.DataFrame:
    """Each size's loss as D → ∞: its longest run less the law's term in D there. Columns run, N, loss."""
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
