"""Reading architectures against each other: pairs of runs of equal N, equal data and equal seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from allometry.errors import AllometryError
from allometry.report.content import Analysis, Figure, Section, Table
from allometry.studies.core.chapter import chapter
from allometry.studies.core.sections import LEVEL, Reading, attempt, claim, mean_estimate
from allometry.studies.core.usable import scope, seed_noise, usable_runs
from allometry.studies.readings.pairs import LIKE, by_position

if TYPE_CHECKING:
    from allometry.studies.core.study import Evidence, Study

_PAIRED = ("series", "N", "seed", "n_ctx", "loss", "loss of the transformer", "log ratio", "run")


def analyse(study: Study, evidence: Evidence) -> Analysis:
    """The report's content from the finished runs."""
    usable, excluded = usable_runs(evidence)
    runs = named(usable)
    usual = runs[runs["n_ctx"] == runs["n_ctx"].min()] if len(runs) else runs
    positions = _final(evidence.positions, runs)
    readings = {
        "lstm": attempt("LSTM against transformer, by size", lambda: lstm_by_size(usual)),
        "places": attempt("LSTM against transformer, by position", lambda: by_position(positions)),
        "universal": attempt("Re-using the blocks", lambda: universal(usual)),
        "noise": _noise(usual),
    }
    found = [r.fits["summary"] for r in readings.values() if "summary" in r.fits]
    return chapter(
        study,
        evidence,
        readings,
        answer=" ".join(found) or "The runs do not answer this.",
        next=_NEXT,
        excluded=excluded,
        warnings=scope(usable, evidence),
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
        f"Over {pairs['N'].nunique()} sizes an LSTM of two layers ends {ratio[0]:+.1f} % "
        f"[{ratio[1]:+.1f}, {ratio[2]:+.1f}] from the transformer's loss at the same N."
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
    why = (
        "two distinct blocks applied 2 and 4 times, at the transformer's rates, which need not be their "
        "best; the paper does not say which layers it shared"
    )
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
