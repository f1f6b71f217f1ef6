"""What L(N, S_min) says at fixed steps, at fixed compute and at fixed loss (Kaplan et al. 2020, figures 11,
19).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from allometry.errors import AllometryError
from allometry.laws.critical_batch import targets_from_curves
from allometry.report.content import Figure, Section, Table
from allometry.studies.core.sections import Reading
from allometry.studies.readings.steps import STARTS

if TYPE_CHECKING:
    from allometry.studies.readings.critical import Critical
    from allometry.studies.readings.steps import TimeLaw


def fixed_amounts(law: TimeLaw, points: pd.DataFrame) -> Reading:
    """Loss against N at fixed steps, and at fixed compute (figure 11 of Kaplan et al. 2020)."""
    from allometry.figures.isoflop import isoflop

    steps = _at_fixed(points, "S", [s for s in np.sort(points["S"].unique()) if s >= STARTS[1]])
    late = points[points["S"] >= law.start / 2]
    low, high = (float(late["C"].quantile(q)) for q in (0.2, 0.9))
    compute = _at_fixed(late, "C", list(np.geomspace(low, high, 6)))
    figures = tuple(
        isoflop(
            table, _drawn(law, table, what), x="N", budget=what, name=f"loss-at-fixed-{word}",
            title=f"Loss against size at fixed {word}",
            caption=f"{len(table)} points on trunks at equal {word}; lines: L(N, S_min) with the batch's "
            "correction "
            "undone.",
        )
        for what, word, table in (("C", "compute", compute), ("S", "steps", steps))
        if len(table)
    )  # fmt: skip
    if not figures:
        raise AllometryError("no steps or compute are common to three sizes", hint="allow more time")
    text = (
        "At fixed compute there is a best size; at fixed steps a larger model is always better, because it "
        "learns "
        "faster from the same batches. The law's lines part from the points at few steps, as in the paper, "
        "where "
        "learning curves are no power law yet."
    )
    return Reading(section=Section(title="At fixed compute and at fixed steps", text=text, evidence=figures))


def _at_fixed(points: pd.DataFrame, column: str, values: list[float]) -> pd.DataFrame:
    """Loss of each trunk interpolated (in logarithms) at values of a column; those that three sizes reach."""
    rows = []
    for (n, run), curve in points.sort_values(column).groupby(["N", "run"]):
        x, y = np.log(curve[column].to_numpy(float)), np.log(curve["loss"].to_numpy(float))
        known = [v for v in values if x[0] - 1e-9 <= np.log(v) <= x[-1] + 1e-9]
        batch = curve["B"].iloc[0]
        flops = (curve["C"] / curve["S"]).iloc[0]
        rows += [(v, n, run, float(np.exp(np.interp(np.log(v), x, y))), batch, flops) for v in known]
    table = pd.DataFrame(rows, columns=[column, "N", "run", "loss", "B", "per_step"])
    sizes = table.groupby(column)["N"].transform("nunique")
    return table[sizes >= 3].reset_index(drop=True)


def _drawn(law: TimeLaw, table: pd.DataFrame, column: str) -> pd.DataFrame:
    """The law's lines through the sizes of each value of a column."""
    parts = []
    for value, part in table.groupby(column):
        grid = np.geomspace(part["N"].min(), part["N"].max(), 40)
        ratio = float((part["per_step"] / part["N"]).mean())
        S = np.full(40, float(str(value))) if column == "S" else float(str(value)) / (ratio * grid)
        batch = float(part["B"].iloc[0])
        parts.append(pd.DataFrame({column: value, "N": grid, "loss": law.at_steps(grid, S, batch)}))
    return pd.concat(parts, ignore_index=True)


def efficiency(critical: Critical, points: pd.DataFrame) -> Reading:
    """Steps and tokens to reach fixed losses, by size (figure 19 of Kaplan et al. 2020)."""
    from allometry.figures.isoflop import isoflop

    reached = arrivals(points, critical)
    if reached["N"].nunique() < 3:
        raise AllometryError("fewer than three sizes reach a common loss", hint="allow more time")
    steps, tokens = critical.steps, "E_min" if critical.law else "D"
    named = reached.rename(columns={"loss": "loss_level"})
    middle = named.groupby(["loss_level", "N"], as_index=False)[list({steps, tokens})].mean()
    figures: list[Figure | Table] = [
        isoflop(
            named, middle, x="N", y=column, budget="loss_level",
            name=f"{word}-to-reach-a-loss", title=f"{word.capitalize()} to reach a loss, by size",
            caption=f"{len(reached)} points: where trunks first reach each loss, corrected to the best batch "
            "where "
            "B_crit is known.",
        )
        for column, word in ((steps, "steps"), (tokens, "tokens"))
    ]  # fmt: skip
    gain, span, level = _gain(reached, tokens)
    text = (
        f"At a loss of {level:.2f} the largest model that passes it needs {gain:.1f} times fewer tokens than "
        "the "
        f"smallest, {span:.0f} times its size. Kaplan et al. see about 100 times over six orders of "
        "magnitude of N."
    )
    return Reading(section=Section(title="Larger models learn from fewer tokens", text=text,
                                   evidence=tuple(figures)), fits={"arrivals": reached})  # fmt: skip


def arrivals(points: pd.DataFrame, critical: Critical, count: int = 6) -> pd.DataFrame:
    """Where each trunk first reaches losses, adjusted by B_crit: columns N, loss, S, D, B, C, S_min, …"""
    low = points.groupby("N")["loss"].min()
    levels = np.geomspace(0.97 * low.max(), 1.01 * low.min(), count)
    parts = []
    for (n, _), curve in points.rename(columns={"S": "step"}).groupby(["N", "run"]):
        lowest = curve["loss"].min()
        own = [float(x) for x in levels if lowest <= x < curve["loss"].max()]
        if own:
            found = targets_from_curves(curve, own)
            parts.append(found.assign(N=float(str(n)), C=(curve["C"] / curve["step"]).iloc[0] * found["S"]))
    if not parts:
        raise AllometryError("no trunk passes any of the losses", hint="allow more time")
    table = pd.concat(parts, ignore_index=True).rename(columns={"E": "D"})
    return critical.adjusted(table)


def _gain(reached: pd.DataFrame, tokens: str) -> tuple[float, float, float]:
    """Tokens of the smallest over those of the largest size at the loss that most sizes reach; their ratio
    of N.
    """
    counts = reached.groupby("loss")["N"].nunique()
    level = float(counts.index[int(counts.to_numpy().argmax())])
    at = reached[reached["loss"] == level].groupby("N")[tokens].mean()
    return float(at.iloc[0] / at.iloc[-1]), float(at.index[-1] / at.index[0]), level
