"""Reading ossification: whether training before makes a model end worse where there are plenty of data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from allometry.errors import AllometryError
from allometry.report.content import Section, Table
from allometry.studies.core.sections import Reading, claim, mean_estimate
from allometry.studies.readings.transfer_figures import slug
from allometry.units import format_count

if TYPE_CHECKING:
    from allometry.report.content import Constant, Figure

PAPER = "Hernandez 2021"
_KEY = ["corpus", "N", "infinite", "limit", "seed"]


def pairs(table: pd.DataFrame) -> pd.DataFrame:
    """Per cent by which a run trained before ends above one from scratch of the same size, data and seed.

    `table` is that of `readings.transfers.arms`; columns corpus, N, D (unique tokens, of all the text those
    that were seen), infinite, seed, percent. AllometryError if there are no pairs.
    """
    sides = [
        table[table["arm"] == arm].assign(limit=lambda t: t["limit"].fillna(0))[
            [*_KEY, "loss", "unique", "D"]
        ]
        for arm in ("before", "scratch")
    ]
    both = sides[0].merge(sides[1][[*_KEY, "loss"]], on=_KEY, suffixes=("", "_scratch"))
    if not len(both):
        raise AllometryError(
            "no run trained before has a partner from scratch on the same data",
            hint="train the missing runs: allometry run elsewhere",
        )
    seen = np.where(both["infinite"], np.minimum(both["D"], both["unique"]), both["unique"])
    excess = 100 * np.log(both["loss"] / both["loss_scratch"])
    return both.assign(D=seen, percent=excess)[["corpus", "N", "D", "infinite", "seed", "percent"]]


def ossification(table: pd.DataFrame) -> Reading:
    """The difference between the arms against the data, and its sign for the smallest size on all of it."""
    found = pairs(table)
    ends = found[found["infinite"]]
    evidence = tuple(_figure(found[found["corpus"] == corpus], corpus) for corpus in found["corpus"].unique())
    rows = tuple(row for corpus in ends["corpus"].unique() if (row := _row(ends, corpus)) is not None)
    summary = _summary(rows, ends)
    by_size = ends.groupby(["corpus", "N"])["percent"].agg(["mean", "std", "size"]).reset_index()
    listed = Table(
        name="on-all-the-text", title="On all the target's text: trained before over from scratch, %",
        caption="Both see the same number of tokens of it. Above zero: training before has made it worse.",
        frame=by_size.rename(columns={"mean": "excess, %", "std": "sd between seeds", "size": "seeds"}),
    )  # fmt: skip
    return Reading(
        section=Section(title="Ossification", text=summary, evidence=(*evidence, listed)),
        constants=rows,
        fits={"summary": summary},
    )


def _row(ends: pd.DataFrame, corpus: str) -> Constant | None:
    """The smallest size with several seeds, on all the text of one target."""
    own = ends[ends["corpus"] == corpus]
    repeated = own.groupby("N")["seed"].nunique()
    sizes = repeated[repeated > 1]
    if not len(sizes):
        return None
    n = sizes.index.min()
    return claim(
        f"ossification on {corpus}, N = {format_count(n)}, %", "ΔL/L",
        mean_estimate(own.loc[own["N"] == n, "percent"]),
        "all of the text, same tokens seen; the paper sees it at 1e6 parameters and 1e8 characters",
        above=True, paper=PAPER,
    )  # fmt: skip


def _summary(rows: tuple[Constant, ...], ends: pd.DataFrame) -> str:
    if not len(ends):
        return "Ossification was not tested: no size was trained on all of a target's text both ways."
    if not rows:
        least, most = ends["percent"].min(), ends["percent"].max()
        return (
            "Ossification cannot be told from noise: no size has several seeds on all the text. Trained "
            f"before over from scratch, {least:+.1f} to {most:+.1f} % of the loss."
        )
    seen = {"agrees": "is seen", "differs": "is not seen", "cannot tell": "cannot be told"}
    return " ".join(
        f"{row.name.removesuffix(', %').replace('ossification', 'Ossification', 1)}: {seen[row.verdict]} "
        f"({row.ours:+.2f} % [{row.low:+.2f}, {row.high:+.2f}] against from scratch)."
        for row in rows
    )


def _figure(found: pd.DataFrame, corpus: str) -> Figure:
    from allometry.figures.several import several

    means = found.groupby(["N", "D"])["percent"].mean().reset_index().sort_values(["N", "D"])
    drawn = means.assign(series=[f"N = {format_count(n)}" for n in means["N"]])
    zero = pd.DataFrame(
        {"series": "no difference", "D": [means["D"].min(), means["D"].max()], "percent": 0.0}
    )
    return several(
        drawn, pd.concat([drawn, zero], ignore_index=True), x="D", y="percent", y_scale="percent",
        x_title="Data of the target (tokens)", y_title="Loss trained before over from scratch",
        name=f"before-over-scratch-{slug(corpus)}", title=f"Trained before over from scratch, {corpus}",
        caption="Below zero training before helps; the last point of each size is all the text.",
    )  # fmt: skip
