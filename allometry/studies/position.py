"""Position: how much does a token gain from what stands before it?

Runs: models that see contexts of three lengths, on the same tokens.

Analysis: losses by position in the context (Kaplan et al. 2020, appendix D.5).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError
from allometry.figures.several import several
from allometry.figures.theme import Figure
from allometry.laws.fit import fit
from allometry.report.build import Analysis, Section, Table
from allometry.studies.core.sections import (
    KAPLAN,
    LEVEL,
    NotRecorded,
    StudySection,
    TooFewRuns,
    chapter,
    claim,
    constant,
    mean_estimate,
    scope,
    section_or_reason,
    slope_of,
    summary_of,
    undecided,
    usable_runs,
)
from allometry.studies.core.study import (
    BATCH_TOKENS,
    Study,
    register,
    run_set,
    small_model,
    small_run,
    too_little,
    vocabulary,
)
from allometry.studies.shared.basic_laws import common_horizon

if TYPE_CHECKING:
    from allometry.models.base import ModelConfig
    from allometry.studies.core.study import StudyData
    from allometry.train.config import DataConfig, RunConfig


@register
class Position(Study):
    """Reads the loss at each position of the context from a ladder of sizes, and from models of other
    contexts.

    Kaplan et al. 2020, appendix D.5 (figures 20 and 21): the loss falls as a power of the position towards a
    floor that sinks with N; larger models gain more from late positions; a model of a short context is better
    at early positions than one of a long context; and short-range structure is learned first.
    """

    name: ClassVar[str] = "position"
    question: ClassVar[str] = (
        "How does the loss fall along the context, how does that change with N, and what is learned first?"
    )
    expected: ClassVar[str] = (
        "Power laws a + b/T^c with c near 0.5 to 0.6 and a floor a that sinks with N; hardly any gain with N "
        "where only one token is known; models of 8 tokens of context better on early tokens."
    )
    run_sets: ClassVar[dict[str, float]] = {"grid": 0.8, "contexts": 0.2}

    def analyse(self, study_data: StudyData) -> Analysis:
        """Report fits by size, slopes by position, and short contexts against long ones."""
        usable, excluded = usable_runs(study_data)
        positions = joined(study_data.positions, usable)
        ladder, contexts = _split(usable, positions)
        sections = {
            "law": section_or_reason("Loss along the context", lambda: along(ladder)),
            "size": section_or_reason("What size buys at each position", lambda: over_sizes(ladder)),
            "contexts": section_or_reason(
                "Short contexts against long ones", lambda: short_against_long(contexts)
            ),
            "training": section_or_reason("What is learned first", lambda: learned_first(positions, ladder)),
        }
        return chapter(
            self,
            study_data,
            sections,
            answer=summary_of(sections),
            next=_NEXT,
            excluded=excluded,
            warnings=scope(usable, study_data),
        )


N_AT_REFERENCE = 1e5
"""Parameters of the largest model at REFERENCE compute; N and D grow with its square root."""

REFERENCE = 1e13

SMALLEST = 6e3

SIZES, STEP = 3, 3.0
"""Sizes, and the factor in N between them."""

CONTEXTS = (8, 64, 256)
"""Tokens of context: that of the dashed lines in Kaplan et al. 2020, figure 21, the recipe's, and a long
one."""

FEWEST_UPDATES = 100


@run_set
def contexts(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Return every size at every context, at equal tokens."""
    models = _models(compute, vocabulary(data))
    flops = sum(model.counts().flops_per_token("attention") for model in models)
    steps = 2 * math.floor(compute / flops / (2 * BATCH_TOKENS))
    if steps < FEWEST_UPDATES:
        raise too_little(compute, "comparison of contexts")
    tokens = steps * BATCH_TOKENS
    return tuple(
        small_run(model, tokens=tokens, data=data, batch_tokens=BATCH_TOKENS * (1 + (model.n_ctx > 64)))
        for model in models
    )


def _models(compute: float, n_vocab: int) -> list[ModelConfig]:
    """Return the recipe's models of each size, at each context."""
    largest = max(SMALLEST, N_AT_REFERENCE * math.sqrt(compute / REFERENCE))
    targets = [max(1500, round(largest / STEP**k)) for k in reversed(range(SIZES))]
    usual = dict.fromkeys(small_model(n, n_vocab=n_vocab) for n in targets)
    return [model.replace(n_ctx=n_ctx) for model in usual for n_ctx in CONTEXTS]


MARKS = (1, 2, 4, 8, 16, 32, 64)
"""Positions whose losses are followed over N and over training (figure 21 has 1 to 1,024)."""

SHORT = 8
"""The short context of figure 21."""

NEAR = 0.02
"""A position has learned what it will when its loss is within this share of its last."""


_NEXT = (
    "The same at a context of 256 for the whole ladder, with tokens of several bytes: does the floor keep "
    "sinking with N where there is more to be known?"
)


def joined(positions: pd.DataFrame | None, runs: pd.DataFrame) -> pd.DataFrame:
    """Return losses by position with N, D, seed, n_ctx and batch of their runs, and whether the step is the
    last.
    """
    if positions is None or not len(positions):
        return pd.DataFrame(
            columns=["run", "step", "position", "loss", "N", "D", "seed", "n_ctx", "B", "last"]
        )
    table = positions.merge(runs[["run", "N", "D", "seed", "n_ctx", "B"]], on="run")
    return table.assign(last=table["step"] == table.groupby("run")["step"].transform("max"))


def _split(runs: pd.DataFrame, positions: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the ladder of the usual context at the longest horizon of all its sizes, and the runs of those
    horizons that were trained at several contexts; both at their last step.
    """
    last = positions[positions["last"].astype(bool)]
    contexts = last.groupby("D")["n_ctx"].transform("nunique") if len(last) else pd.Series(dtype=float)
    several = last[contexts > 1]
    usual = runs[(runs["n_ctx"] == 64) & ~runs["D"].isin(several["D"].unique())]
    if usual["N"].nunique() < 2:
        usual = runs[runs["n_ctx"] == 64]
    try:
        horizon = common_horizon(usual)
    except AllometryError:
        return last.iloc[:0], several
    chosen = usual.loc[usual["D"] == horizon, "run"]
    return last[last["run"].isin(chosen)], several


def _means(table: pd.DataFrame) -> pd.DataFrame:
    """Return losses by N and position, the mean over seeds."""
    return table.groupby(["N", "position"])["loss"].mean().reset_index()


def along(ladder: pd.DataFrame) -> StudySection:
    """Fit a + b/T^c for every size (figure 20, left)."""
    means = _means(ladder)
    if not len(means):
        raise NotRecorded("no run recorded its loss by position")
    fits = {N: _law(part) for N, part in means.groupby("N")}
    table = pd.DataFrame([_row(N, result) for N, result in fits.items()])
    largest = table.iloc[-1]
    estimate = (largest["c"], largest["c low"], largest["c high"])
    why = "bytes at a context of 64, where the paper's tokens are words or their parts at 1,024"
    summary = (
        f"Along the context the loss of the largest model falls as {largest['a']:.2f} + "
        f"{largest['b']:.2f}/T^{largest['c']:.2f} [{largest['c low']:.2f}, {largest['c high']:.2f}]."
    )
    evidence = (
        _along_figure(means, fits),
        Table(
            name="position-laws",
            title="a + b/T^c by size",
            caption=f"{LEVEL:.0%} intervals from resampled positions, which share their test text: they say "
            "how well the form holds, and not what another text would give.",
            frame=table,
        ),
    )
    return StudySection(
        section=Section(title="Loss along the context", text=summary + _SHAPE, evidence=evidence),
        constants=(
            undecided(
                constant("fall along the context, largest model", "c", {KAPLAN: 0.62}, estimate, why),
                "c falls with the length over which it is fitted, and the paper's contexts are 1,024 tokens",
                "contexts of 1,024 at sizes of 1e6 and more, which is work for a GPU",
            ),
        ),
        fits={"summary": summary},
    )


_SHAPE = (
    " Position T is the token predicted from the T before it. Kaplan et al. fit the same form with c from "
    "0.47 for their smallest model to 0.62 for the largest."
)


def _law(part: pd.DataFrame) -> Any:
    return fit(part, law="position", columns={"T": "position", "L": "loss"}, objective="lsq-log")


def _row(N: Any, result: Any) -> dict[str, float]:
    row: dict[str, float] = {"N": float(N), "rms residual": result.rms}
    for name in ("a", "b", "c"):
        low, high = result.interval(name, LEVEL)
        row |= {name: result.parameters[name], f"{name} low": low, f"{name} high": high}
    return row


def _name(N: float) -> str:
    return f"N = {N:,.0f}"


def _along_figure(means: pd.DataFrame, fits: dict[Any, Any]) -> Figure:

    sizes = sorted(means["N"].unique())
    chosen = sizes if len(sizes) <= 5 else [sizes[round(i * (len(sizes) - 1) / 4)] for i in range(5)]
    shown = means[means["N"].isin(chosen)]
    points = shown.assign(series=[_name(N) for N in shown["N"]])
    grid = pd.DataFrame({"position": np.geomspace(1, means["position"].max(), 60)})
    lines = pd.concat(
        [grid.assign(loss=fits[N].predict(grid), series=_name(N)) for N in chosen], ignore_index=True
    )
    return several(
        points, lines, x="position", y="loss", x_title="position T in the context", name="loss-along-context",
        title="Loss against position in the context",
        caption="Points: held-out loss at each position; lines: a + b/T^c fitted to each size (figure 20, "
        "left).",
    )  # fmt: skip


def over_sizes(ladder: pd.DataFrame) -> StudySection:
    """Report losses at chosen positions against N, and their slopes (figure 21)."""
    means = _means(ladder[ladder["position"].isin(MARKS)])
    if means["N"].nunique() < 3:
        raise TooFewRuns("fewer than three sizes have losses by position")
    slopes = pd.DataFrame([_slope(T, part) for T, part in means.groupby("position")])
    shown = means.assign(series=[f"T = {int(T)}" for T in means["position"]]).sort_values(["position", "N"])
    figure = several(
        shown, shown, x="N", y="loss", name="position-against-size", title="Loss against N at each position",
        caption="Held-out loss at a position, the mean over seeds (figure 21).",
    )  # fmt: skip
    first, last = slopes.iloc[0], slopes.iloc[-1]
    summary = (
        f"From the smallest to the largest model the loss falls as N^{first['slope']:.3f} where one token is "
        f"known and as N^{last['slope']:.3f} where {last['position']:.0f} are."
    )
    gain = (last["slope"] - first["slope"], last["low"] - first["high"], last["high"] - first["low"])
    why = "steeper late than early; the intervals of both slopes are added up"
    table = Table(
        name="position-slopes", title="Slope of log L in log N by position",
        caption=f"{LEVEL:.0%} intervals of straight lines from their residuals.", frame=slopes,
    )  # fmt: skip
    return StudySection(
        section=Section(
            title="What size buys at each position", text=summary + _FIRST, evidence=(figure, table)
        ),
        constants=(claim("slope in N, late less early", "Δ slope", gain, why, above=False),),
        fits={"summary": summary},
    )


_FIRST = (
    " The paper's first token, which has nothing before it, does not improve with N; ours has one byte "
    "before "
    "it, so a table of pairs would do nearly as well as any model."
)


def _slope(position: Any, part: pd.DataFrame) -> dict[str, float]:

    return {"position": float(position), **slope_of(part.set_index("N")["loss"])}


def short_against_long(contexts: pd.DataFrame) -> StudySection:
    """Report models of 8 tokens of context against those of more, at the positions that both have (figure 21,
    dashed).
    """
    early = contexts[contexts["position"] <= SHORT]
    table = early.pivot_table(index=["N", "position"], columns="n_ctx", values="loss").reset_index()
    others = [c for c in table.columns if c not in ("N", "position", SHORT)]
    if SHORT not in table or not others:
        raise TooFewRuns("no models of a short and a long context were trained alike")
    ratios = [_ratios(table, n_ctx) for n_ctx in others]
    usual = ratios[0]
    ours = mean_estimate(usual.groupby("N")["excess"].mean())
    summary = (
        f"On their {SHORT} positions, models of a context of {SHORT} lie {ours[0]:+.1f} % "
        f"[{ours[1]:+.1f}, {ours[2]:+.1f}] from the loss of those with {others[0]:.0f}."
    )
    shown = pd.concat(ratios).groupby(["series", "position"])["excess"].mean().reset_index()
    figure = several(
        shown, shown, x="position", y="excess", y_scale="percent", name="short-against-long",
        x_title="position T in the context", y_title=f"Loss at a context of {SHORT} over a longer one, less "
        "one",
        title="What a short context gains on early tokens",
        caption=f"The mean over {table['N'].nunique()} sizes; all runs saw the same tokens.",
    )  # fmt: skip
    why = f"{table['N'].nunique()} sizes; at equal tokens a short context also has more sequences a batch"
    return StudySection(
        section=Section(title="Short contexts against long ones", text=summary, evidence=(figure,)),
        constants=(claim("short over long context, early tokens, %", "ΔL/L", ours, why, above=False),),
        fits={"summary": summary},
    )


def _ratios(table: pd.DataFrame, n_ctx: Any) -> pd.DataFrame:
    both = table.dropna(subset=[SHORT, n_ctx])
    excess = 100 * (both[SHORT] / both[n_ctx] - 1)
    return both.assign(excess=excess, series=f"against a context of {n_ctx:.0f}")


def learned_first(positions: pd.DataFrame, ladder: pd.DataFrame) -> StudySection:
    """Report losses at chosen positions while the largest model trains (figure 20, right)."""
    if not len(ladder):
        raise NotRecorded("no run recorded its loss by position")
    run = ladder.sort_values("N")["run"].iloc[-1]
    own = positions[(positions["run"] == run) & positions["position"].isin(MARKS)].copy()
    own["tokens"] = own["step"] * own["B"]
    own["series"] = [f"T = {int(T)}" for T in own["position"]]
    table = pd.DataFrame([_settled(T, part) for T, part in own.groupby("position")])
    figure = several(
        own[["series", "tokens", "position", "loss"]], own[["series", "tokens", "loss"]],
        x="tokens", y="loss",
        name="position-during-training", title="Losses at each position while the largest model trains",
        caption="Held-out loss at a position against tokens seen (figure 20, right).",
    )  # fmt: skip
    early, late = table.iloc[0]["tokens"], table.iloc[-1]["tokens"]
    order = "after" if late > early else "no later than"
    summary = (
        f"In training, position {table.iloc[-1]['position']:.0f} comes within {NEAR:.0%} of its last loss "
        f"{order} position 1 does ({late:,.0f} against {early:,.0f} tokens)."
    )
    frame = Table(
        name="settled", title=f"Tokens until a position is within {NEAR:.0%} of its last loss",
        caption="One run; between evaluations the tokens are interpolated in their logarithm.", frame=table,
    )  # fmt: skip
    return StudySection(
        section=Section(title="What is learned first", text=summary, evidence=(figure, frame)),
        fits={"summary": summary},
    )


def _settled(position: Any, part: pd.DataFrame) -> dict[str, float]:
    """Return tokens after which the loss stays within NEAR of its last value."""
    part = part.sort_values("tokens")
    loss, logs = part["loss"].to_numpy(), np.log(part["tokens"].to_numpy(dtype=float))
    excess = loss / loss[-1] - 1 - NEAR
    above = np.flatnonzero(excess > 0)
    if not len(above):
        tokens = part["tokens"].iloc[0]
    else:
        i = above[-1]
        tokens = np.exp(logs[i] + (logs[i + 1] - logs[i]) * excess[i] / (excess[i] - excess[i + 1]))
    return {"position": float(position), "tokens": float(tokens), "last loss": float(loss[-1])}
