"""Reading architectures against each other: pairs of runs of equal N, equal data and equal seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from allometry.errors import AllometryError
from allometry.report.content import Analysis, Figure, Section, Table
from allometry.studies.readings.base import LEVEL, Reading, attempt, claim, mean_estimate
from allometry.studies.readings.runs import scope, seed_noise, usable_runs

if TYPE_CHECKING:
    from allometry.studies.base import Evidence, Study

EARLY = 4
"""Positions up to here are early: four bytes, less than a word."""

LATE = 0.75
"""Positions from this share of the context on are late."""

LIKE = 1.25
"""Factor in N within which an LSTM and a transformer are a pair; what is left of it is taken out."""

_PAIRED = ("series", "N", "seed", "n_ctx", "loss", "loss of the transformer", "log ratio", "run")


def analyse(study: Study, evidence: Evidence) -> Analysis:
    """The report's content from the finished runs."""
    usable, excluded = usable_runs(evidence)
    runs = named(usable)
    usual = runs[runs["n_ctx"] == runs["n_ctx"].min()] if len(runs) else runs
    positions = _final(evidence.positions, runs)
    readings = {
        "lstm": attempt("LSTM against transformer, by size", lambda: lstm_by_size(usual)),
        "places": attempt("LSTM against transformer, by position", lambda: by_position(runs, positions)),
        "universal": attempt("Re-using the blocks", lambda: universal(usual)),
        "noise": _noise(usual),
    }
    found = [r.fits["summary"] for r in readings.values() if "summary" in r.fits]
    return Analysis(
        study=study.name,
        question=study.question,
        expected=study.expected,
        answer=" ".join(found) or "The runs do not answer this.",
        next=_NEXT,
        command=evidence.command,
        sections=tuple(reading.section for reading in readings.values()),
        constants=tuple(row for reading in readings.values() for row in reading.constants),
        warnings=(*scope(usable, evidence), *(w for r in readings.values() for w in r.warnings)),
        excluded=excluded,
        runs=evidence.runs,
        environment=evidence.environment,
    )


_NEXT = (
    "The same pairs at contexts of 256 and more for every size, and each family at its own best batch and "
    "rate: here all have the transformer's batch, and the LSTM a rate rule measured at two sizes."
)


def _noise(runs: pd.DataFrame) -> Reading:
    transformers = runs[runs["family"] == "transformer"]
    return seed_noise(transformers)[1]


def named(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with a `series` that tells families, LSTM depths and reuses apart, and `N_reuse`, the
    parameters counted as often as they are used (figure 17, left)."""
    reuse = runs["reuse"].fillna(1).astype(int)
    layers = runs["n_layer"].fillna(0).astype(int)
    series = [
        {"lstm": f"LSTM, {depth} layer{'s' * (depth > 1)}", "universal": f"blocks used {times} times"}.get(
            family, "transformer"
        )
        for family, depth, times in zip(runs["family"], layers, reuse, strict=True)
    ]
    return runs.assign(series=series, N_reuse=runs["C"] / (6 * runs["D"]))


def _final(positions: pd.DataFrame | None, runs: pd.DataFrame) -> pd.DataFrame:
    """Losses by position at the end of each run, with the run's series, N, seed and context."""
    if positions is None or not len(positions):
        return pd.DataFrame(columns=["run", "position", "loss", "series", "N", "seed", "n_ctx"])
    last = positions["step"] == positions.groupby("run")["step"].transform("max")
    return positions[last].merge(runs[["run", "series", "N", "seed", "n_ctx", "D"]], on="run")


def at_size(transformers: pd.DataFrame, N: pd.Series, column: str = "N") -> np.ndarray:
    """The transformer's loss at other sizes, log-linear between its own (seeds averaged); NaN outside."""
    means = transformers.groupby(column)["loss"].mean()
    if len(means) < 2:
        raise AllometryError(
            "fewer than two sizes of the transformer are done", hint="finish the study's runs"
        )
    logs = np.log(N.to_numpy(dtype=float))
    known = np.log(means.index.to_numpy(dtype=float))
    margin = np.log(LIKE)
    inside = (logs >= known[0] - margin) & (logs <= known[-1] + margin)
    values = np.interp(logs, known, np.log(means.to_numpy()))
    return np.where(inside, np.exp(values), np.nan)


def against(runs: pd.DataFrame, series: str, column: str = "N") -> pd.DataFrame:
    """The runs of a series beside the transformer's loss at the same `column`: log ratio of the losses."""
    own = runs[runs["series"] == series]
    if not len(own):
        raise AllometryError(f"no run of {series!r} is done", hint="finish the study's runs")
    other = at_size(runs[runs["series"] == "transformer"], own[column], column)
    table = own.assign(**{"loss of the transformer": other})
    table["log ratio"] = np.log(table["loss"] / table["loss of the transformer"])
    return table[table["log ratio"].notna()].reset_index(drop=True)


def _ladder_figure(runs: pd.DataFrame, x: str, what: str, name: str, families: tuple[str, ...]) -> Figure:
    from allometry.figures.several import several

    shown = runs[runs["family"].isin(families)]
    means = shown.groupby(["series", x], as_index=False, sort=True).agg(
        loss=("loss", "mean"), n=("run", "size"), low=("loss", "min"), high=("loss", "max")
    )
    order = sorted(means["series"].unique(), key=lambda s: (s != "transformer", s))
    means = means.sort_values("series", key=lambda s: s.map(order.index), kind="stable")
    return several(
        means, means[["series", x, "loss"]], x=x, y="loss", x_title=what, name=name,
        title=f"Loss against {what}",
        caption="Points are means over seeds, bars reach from the lowest to the highest; all runs saw the "
        "same number of tokens.",
    )  # fmt: skip


def lstm_by_size(runs: pd.DataFrame) -> Reading:
    """Losses of LSTMs and transformers against N (Kaplan et al. 2020, figure 7, left)."""
    pairs = against(runs, "LSTM, 2 layers")
    ratio = mean_estimate(100 * np.expm1(pairs["log ratio"]))
    figure = _ladder_figure(
        runs, "N", "parameters N (non-embedding)", "lstm-against-size", ("transformer", "lstm")
    )
    summary = (
        f"Over {pairs['N'].nunique()} sizes an LSTM of two layers has {ratio[0]:+.1f} % "
        f"[{ratio[1]:+.1f}, {ratio[2]:+.1f}] of the transformer's loss at the same N."
    )
    slopes = _slopes(runs, [s for s in runs["series"].unique() if s.startswith("LSTM") or s == "transformer"])
    text = f"{summary} Each pair saw the same tokens; the transformer's loss is read between its own sizes."
    row = claim(
        "LSTM over transformer at equal N, %", "ΔL/L", ratio,
        "the paper's LSTMs have contexts of 1,024 tokens and up to 3e8 parameters", above=True,
    )  # fmt: skip
    return Reading(
        section=Section(title="LSTM against transformer, by size", text=text, evidence=(figure, slopes)),
        constants=(row,),
        fits={"summary": summary},
    )


def _slopes(runs: pd.DataFrame, series: list[str]) -> Table:
    """The slope of log L in log N of each series, with the interval of a straight line."""
    rows = []
    for name in series:
        means = runs[runs["series"] == name].groupby("N")["loss"].mean()
        row = {"series": name, "sizes": len(means)}
        if len(means) > 2:
            row |= slope_of(means)
        rows.append(row)
    caption = f"Straight lines of log L in log N at one horizon; {LEVEL:.0%} intervals from their residuals."
    return Table(name="slopes", title="Slopes against size", caption=caption, frame=pd.DataFrame(rows))


def slope_of(means: pd.Series) -> dict[str, float]:
    """The slope of log L in log N of losses indexed by N (three or more), with its interval."""
    from scipy.stats import linregress, t

    line = linregress(np.log(means.index.to_numpy(dtype=float)), np.log(means.to_numpy()))
    half = float(t.ppf(0.5 + LEVEL / 2, len(means) - 2) * line.stderr)
    return {"slope": float(line.slope), "low": float(line.slope) - half, "high": float(line.slope) + half}


def by_position(runs: pd.DataFrame, positions: pd.DataFrame) -> Reading:
    """Losses by position of matched pairs (figure 7, right): is the LSTM worse late, and not early?"""
    if not len(positions):
        raise AllometryError("no run recorded its loss by position", hint="train the study again")
    table = ratios_by_position(positions)
    ends = pd.DataFrame([_ends(pair, part) for pair, part in table.groupby("pair", sort=False)])
    early, late = mean_estimate(ends["early"]), mean_estimate(ends["late"])
    growth = mean_estimate(ends["late"] - ends["early"])
    summary = (
        f"At positions 1 to {EARLY} the LSTM has {early[0]:+.1f} % [{early[1]:+.1f}, {early[2]:+.1f}] of the "
        f"transformer's loss, in the last quarter of the context {late[0]:+.1f} % [{late[1]:+.1f}, "
        f"{late[2]:+.1f}]."
    )
    why = (
        f"{len(ends)} pairs of equal N and seed; 64 bytes of context are a dozen words, and early is "
        "under one"
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
            "tokens, while transformers improve through all of it.",
            evidence=(*figures, Table(name="pairs-by-position", title="Every pair, early and late",
                                      caption="Per cent of the transformer's loss.", frame=ends)),
        ),
        constants=rows,
        fits={"summary": summary},
    )  # fmt: skip


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


def universal(runs: pd.DataFrame) -> Reading:
    """Re-used blocks at equal N and at equal compute (Kaplan et al. 2020, figure 17)."""
    names = sorted(s for s in runs["series"].unique() if s.startswith("blocks used"))
    if not names:
        raise AllometryError("no Universal Transformer is done", hint="finish the study's runs")
    equal_n = pd.concat([against(runs, name) for name in names])
    equal_c = pd.concat([against(runs, name, "N_reuse") for name in names])
    better = mean_estimate(100 * np.expm1(equal_n["log ratio"]))
    worse = mean_estimate(100 * np.expm1(equal_c["log ratio"]))
    summary = (
        f"Re-using blocks changes the loss by {better[0]:+.1f} % [{better[1]:+.1f}, {better[2]:+.1f}] at "
        "equal "
        f"N, and by {worse[0]:+.1f} % [{worse[1]:+.1f}, {worse[2]:+.1f}] at equal parameters counted with "
        "re-use, which is equal compute."
    )
    why = "two distinct blocks applied 2 and 4 times; the paper does not say which layers it shared"
    families = ("transformer", "universal")
    figures = (
        _ladder_figure(runs, "N_reuse", "parameters, including reuse", "reuse-against-compute", families),
        _ladder_figure(runs, "N", "parameters N (non-embedding)", "reuse-against-size", families),
    )
    frame = pd.concat([equal_n.assign(at="equal N"), equal_c.assign(at="equal compute")])
    table = Table(
        name="reuse-pairs", title="Every pair", caption="log ratio: ln of loss over the transformer's loss.",
        frame=frame[["at", *_PAIRED]].reset_index(drop=True),
    )  # fmt: skip
    return Reading(
        section=Section(title="Re-using the blocks", text=summary, evidence=(*figures, table)),
        constants=(
            claim("Universal over plain at equal N, %", "ΔL/L", better, why, above=False),
            claim("Universal over plain at equal compute, %", "ΔL/L", worse, why, above=True),
        ),
        fits={"summary": summary},
    )
