"""Figures of effective data transferred."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from allometry.laws.result import FitResult
    from allometry.report.content import Figure


def worth(points: pd.DataFrame, law: FitResult, corpus: str) -> Figure:
    """D_T against D_F by size, with the law (Hernandez et al. 2021, figure 2)."""
    from allometry.figures.several import several

    placed = points[points["use"] == "fitted"].sort_values(["N", "D_F"])
    drawn = placed.assign(series=[_size(n) for n in placed["N"]])
    grid = np.geomspace(placed["D_F"].min(), placed["D_F"].max(), 24)
    lines = [
        pd.DataFrame({"series": _size(n), "D_F": grid, "D_T": law.predict(D_F=grid, N=np.full(24, float(n)))})
        for n in sorted(placed["N"].unique())
    ]
    return several(
        drawn[["series", "D_F", "D_T", "D_E", "times", "N", "low"]], pd.concat(lines, ignore_index=True),
        x="D_F", y="D_T", x_title="D_F: data of the further training (tokens)",
        y_title="D_T: data that the first training is worth (tokens)", name=f"transferred-{slug(corpus)}",
        title=f"Effective data transferred to {corpus}",
        caption="Points: D_E on the from-scratch curve of the same size, less D_F. Lines: k · D_F^α · N^β.",
    )  # fmt: skip


def both_arms(table: pd.DataFrame, corpus: str) -> Figure:
    """Losses of both arms against the data, for the smallest and the largest size."""
    from allometry.figures.several import several

    own = table[(table["corpus"] == corpus) & ~table["infinite"]]
    ends = own[own["N"].isin([own["N"].min(), own["N"].max()])].sort_values(["N", "arm", "unique"])
    names = {"before": "trained before", "scratch": "from scratch"}
    drawn = ends.assign(
        series=[f"{_size(n)}, {names[arm]}" for n, arm in zip(ends["N"], ends["arm"], strict=True)]
    )
    shown = drawn[["series", "unique", "loss", "N", "epochs", "turned"]]
    return several(
        shown, shown, x="unique", name=f"before-and-scratch-{slug(corpus)}",
        title=f"Loss on {corpus} against its data",
        caption="Each point a run stopped at its best test loss. The horizontal distance between two lines "
        "of a size is D_E over D_F.",
    )  # fmt: skip


def _size(n: float) -> str:
    from allometry.units import format_count

    return f"N = {format_count(n)}"


def slug(corpus: str) -> str:
    """A corpus in the name of a figure or table."""
    return "".join(c if c.isalnum() else "-" for c in corpus)
