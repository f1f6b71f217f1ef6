"""Reading LSTMs against transformers by the position in the context, in pairs of equal N and seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from allometry.errors import AllometryError
from allometry.report.content import Section, Table
from allometry.studies.core.sections import Reading, claim, mean_estimate

if TYPE_CHECKING:
    from allometry.report.content import Figure

EARLY = 4
"""Positions up to here are early: four bytes, less than a word."""

LATE = 0.75
"""Positions from this share of the context on are late."""

LIKE = 1.25
"""Factor in N within which an LSTM and a transformer are a pair."""


def by_position(positions: pd.DataFrame) -> Reading:
    """Losses by position of matched pairs (figure 7, right): is the LSTM worse late, and not early?"""
    if not len(positions):
        raise AllometryError("no run recorded its loss by position", hint="train the study again")
    table = ratios_by_position(positions)
    ends = pd.DataFrame([_ends(pair, part) for pair, part in table.groupby("pair", sort=False)])
    usual = ends[ends["n_ctx"] == ends["n_ctx"].min()]
    early, late = mean_estimate(usual["early"]), mean_estimate(usual["late"])
    growth = mean_estimate(usual["late"] - usual["early"])
    summary = (
        f"At positions 1 to {EARLY} the LSTM is {early[0]:+.1f} % [{early[1]:+.1f}, {early[2]:+.1f}] from "
        f"the transformer's loss, in the last quarter of the context {late[0]:+.1f} % [{late[1]:+.1f}, "
        f"{late[2]:+.1f}]."
    )
    why = (
        f"{len(usual)} pairs of equal N and seed at a context of {usual['n_ctx'].iloc[0]:.0f} bytes, a dozen "
        "words, of which early is less than one; at these horizons LSTMs still learn faster"
    )
    rows = (
        claim("LSTM over transformer late in the context, %", "ΔL/L", late, why, above=True),
        claim("the same, late less early, %", "ΔΔL/L", growth, why, above=True),
    )
    figures = (_places_figure(positions), _ratio_figure(table))
    return Reading(
        section=Section(
            title="LSTM against transformer, by position",
            text=f"{summary} Kaplan et al. find LSTMs as good early in the context and flat after about 100 "
            f"tokens, while transformers improve through all of it. {_longer(ends, positions)}",
            evidence=(*figures, Table(name="pairs-by-position", title="Every pair, early and late",
                                      caption="Per cent of the transformer's loss.", frame=ends)),
        ),
        constants=rows,
        fits={"summary": summary},
    )  # fmt: skip


def _longer(ends: pd.DataFrame, positions: pd.DataFrame) -> str:
    """What the pair with a longer context shows; a transformer that does not use it yet is said to."""
    long = ends[ends["n_ctx"] > ends["n_ctx"].min()]
    if not len(long):
        return ""
    first = long.iloc[0]
    own = positions[(positions["series"] == "transformer") & (positions["n_ctx"] == first["n_ctx"])]
    half = own["position"] > EARLY
    late = own["position"] >= LATE * first["n_ctx"]
    gain = 1 - own.loc[late, "loss"].mean() / own.loc[half & ~late, "loss"].mean()
    plateau = (
        " This transformer has not begun to use its context: it is as good after five bytes as after two "
        "hundred."
        if gain < 0.01
        else ""
    )
    return (
        f"The pair with a context of {first['n_ctx']:.0f} is not among them: there the LSTM has "
        f"{first['early']:+.1f} % early and {first['late']:+.1f} % late.{plateau}"
    )


def ratios_by_position(positions: pd.DataFrame) -> pd.DataFrame:
    """For each LSTM of two layers and the transformer of the nearest N, same seed and context: the log ratio
    of their losses at each position. Raises AllometryError if there is no pair."""
    lstm = positions[positions["series"] == "LSTM, 2 layers"]
    other = positions[positions["series"] == "transformer"]
    parts = []
    for run, own in lstm.groupby("run"):
        first = own.iloc[0]
        N, seed, n_ctx = float(first["N"]), int(first["seed"]), int(first["n_ctx"])
        near = other[(other["seed"] == seed) & (other["n_ctx"] == n_ctx)]
        near = near[(near["N"] / N).between(1 / LIKE, LIKE)]
        if not len(near):
            continue
        partner = near.loc[(np.log(near["N"] / N)).abs().idxmin(), "run"]
        both = own.merge(near[near["run"] == partner], on="position", suffixes=("", "_t"))
        both["excess"] = 100 * np.expm1(np.log(both["loss"] / both["loss_t"]))
        parts.append(both.assign(pair=f"{run} / {partner}", n_ctx=n_ctx, N=N))
    if not parts:
        raise AllometryError(
            "no LSTM has a transformer of its size beside it", hint="finish the study's runs"
        )
    columns = ["pair", "N", "seed", "n_ctx", "position", "loss", "loss_t", "excess"]
    return pd.concat(parts, ignore_index=True)[columns]


def _ends(pair: object, part: pd.DataFrame) -> dict[str, object]:
    first = part.iloc[0]
    late = part["position"] >= LATE * first["n_ctx"]
    return {
        "pair": pair, "N": first["N"], "seed": first["seed"], "n_ctx": first["n_ctx"],
        "early": part.loc[part["position"] <= EARLY, "excess"].mean(),
        "late": part.loc[late, "excess"].mean(),
    }  # fmt: skip


def _places_figure(positions: pd.DataFrame) -> Figure:
    from allometry.figures.several import several

    two = positions[positions["series"].isin(["LSTM, 2 layers", "transformer"])]
    sizes = two.groupby("series")["N"].max()
    rows = two[two["N"] == two["series"].map(sizes)]
    longest = two[two["n_ctx"] == two["n_ctx"].max()]
    shown = (
        rows
        if two["n_ctx"].nunique() == 1
        else pd.concat([rows[rows["n_ctx"] < longest["n_ctx"].max()], longest])
    )
    named_ = shown.assign(
        series=shown["series"] + ", N = " + shown["N"].map("{:,.0f}".format) + ", context "
        + shown["n_ctx"].astype(int).astype(str)
    )  # fmt: skip
    means = named_.groupby(["series", "position"], sort=False)["loss"].mean().reset_index()
    return several(
        None, means, x="position", y="loss", x_title="position in the context (bytes)",
        name="loss-by-position", title="Loss against position in the context",
        caption="Held-out loss of the token predicted from that many before it: the largest pair at the "
        "usual context, and the pair with a longer one.",
    )  # fmt: skip


def _ratio_figure(table: pd.DataFrame) -> Figure:
    from allometry.figures.several import several

    usual = table[table["n_ctx"] == table["n_ctx"].min()]
    grouped = usual.groupby("position")["excess"]
    count = grouped.size().iloc[0]
    bands = grouped.agg(excess="mean", spread="std").reset_index().assign(series="mean over pairs")
    half = 2 * bands["spread"] / np.sqrt(count)
    longer = table[table["n_ctx"] > table["n_ctx"].min()].assign(series="the pair with a longer context")
    lines = pd.concat([bands.assign(low=bands["excess"] - half, high=bands["excess"] + half), longer])
    return several(
        None, lines[["series", "position", "excess", "low", "high"]], x="position", y="excess",
        y_scale="percent", x_title="position in the context (bytes)",
        y_title="LSTM over transformer, less one",
        name="lstm-excess-by-position", title="Where in the context the LSTM falls behind",
        caption=f"Two layers, {count} pairs of equal N and seed; the band is two standard errors of their "
        "mean.",
    )  # fmt: skip
