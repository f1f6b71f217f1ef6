"""Grokking: how long after its examples a model understands a table, from what share of it on, and what
weight decay and size do to that (Power et al. 2022, arXiv 2201.02177)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError
from allometry.figures.several import several
from allometry.laws.censored import censored_fit
from allometry.report.content import Section, Table
from allometry.studies.core.sections import LEVEL, StudySection, TooFewRuns
from allometry.studies.shared.equations import division, fit_time, usual

if TYPE_CHECKING:
    from allometry.figures.theme import Figure

_AFTER, _SHARE, _DECAY = (
    "Understanding after memorising", "The critical share of a table", "Weight decay and size",
)  # fmt: skip

_COLUMNS = ["task", "share", "equations", "N", "weight_decay", "seed", "memorised", "time", "understood"]


def after_memorising(table: pd.DataFrame, curves: pd.DataFrame) -> StudySection:
    """Return how much later held-out equations are answered than trained ones, with weight decay and without.

    Raises AllometryError if no run on division knew its examples.
    """
    own = division(table)
    centre = usual(own, "weight_decay")
    centre = centre[centre["memorised"].notna()]
    if not len(centre):
        raise TooFewRuns("no run on division knew its examples by heart")
    centre = centre.assign(ratio=centre["time"] / centre["memorised"])
    without, with_decay = centre[centre["weight_decay"] == 0], centre[centre["weight_decay"] >= 0.99]
    said = [_told(without, "Without weight decay"), _told(with_decay, "With weight decay 1 or more")]
    share = centre["share"].iloc[0]
    text = (
        f"{centre['task'].iloc[0]}, {share:.0%} of the table, {centre['N'].iloc[0]:,.0f} parameters. "
        + " ".join(s for s in said if s)
        + " Power et al. train a model eight times as large and find three orders of magnitude between the "
        "two without weight decay."
    )
    shown = Table(
        name="after-memorising", title="Every run of the centre", frame=centre[[*_COLUMNS, "ratio"]],
        caption="`memorised`: the update at which 99 % of the training equations were answered, `time`: "
        "of the "
        "held-out ones, or where the run ended if they never were (`understood` is then false).",
    )  # fmt: skip
    evidence: list[Figure | Table] = [_accuracies(centre, curves), shown]
    return StudySection(
        section=Section(title=_AFTER, text=text, evidence=tuple(evidence)),
        fits={"centre": centre, "summary": " ".join(s for s in said if s)},
    )


def _told(runs: pd.DataFrame, what: str) -> str:
    """Return how many times as late as the training equations the held-out ones were answered."""
    if not len(runs):
        return ""
    ratio = float(runs["ratio"].median())
    never = int((~runs["understood"]).sum())
    first = (
        f"{what}, 99 % of the training equations are answered after {runs['memorised'].median():,.0f} updates"
    )
    if never:
        return (
            f"{first} and the held-out ones not within {runs['time'].max():,.0f} in {never} of "
            f"{len(runs)} runs: "
            f"at least {ratio:.0f} times as late."
        )
    return f"{first} and of the held-out ones {ratio:.2g} times as late."


def _accuracies(centre: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Draw accuracy on both splits while training, without weight decay and with the most frequent one."""
    chosen = centre.sort_values("seed").drop_duplicates("weight_decay").sort_values("weight_decay")
    ends = chosen[chosen["weight_decay"].isin([chosen["weight_decay"].min(), 1.0])]
    parts = []
    for run in ends.itertuples():
        curve = curves[(curves["run"] == run.run) & curves["accuracy"].notna()]
        for column, what in (("train_accuracy", "training"), ("accuracy", "held out")):
            name = f"weight decay {run.weight_decay:g}, {what}"
            parts.append(
                pd.DataFrame({"series": name, "step": curve["step"], "answered": 100 * curve[column]})
            )
    return several(
        None, pd.concat(parts), x="step", y="answered", y_scale="plain", y_title="Equations answered (%)",
        name="accuracy-while-training", title="Memorising and understanding",
        caption="Share of the training and of the held-out equations that are answered, one seed each.",
    )  # fmt: skip


def critical_share(table: pd.DataFrame) -> StudySection:
    """Report time to generalise against the share of the table that is trained on, for division and
    permutations.

    Raises AllometryError where no task was trained on two shares.
    """
    parts, said = [], []
    for task, runs in table[table["noise"] == 0].groupby("task"):
        line = usual(runs, "share")
        if line["share"].nunique() < 2:
            continue
        parts.append(line)
        said.append(_bracket(str(task), line))
    if not parts:
        raise TooFewRuns("no task was trained on two shares of its table")
    drawn = pd.concat(parts, ignore_index=True)
    series = [
        f"{task}{'' if known else ', not within the horizon'}"
        for task, known in zip(drawn["task"], drawn["understood"], strict=True)
    ]
    figure = several(
        drawn.assign(series=series)[["series", *_COLUMNS]], None, x="share", y="time",
        x_title="Share of the table that is trained on", y_title="Updates until 99 % of the rest is answered",
        name="time-against-share",
        title="Time to generalise against the share",
        caption="Weight decay 1. Runs that did not generalise stand at their last update: their time is "
        "longer.",
    )  # fmt: skip
    text = (
        " ".join(said)
        + " The critical share is that of a horizon: below it a model may still understand, later than these "
        "runs last. Power et al. find times that grow without a jump."
    )
    return StudySection(
        section=Section(title=_SHARE, text=text, evidence=(figure,)), fits={"summary": " ".join(said)}
    )


def _bracket(task: str, line: pd.DataFrame) -> str:
    """Say between which shares the critical one lies, and where the regression puts it."""
    by_share = line.groupby("share")["understood"].mean()
    horizon = float(line.loc[~line["understood"], "time"].max()) if (by_share < 1).any() else float("nan")
    if (by_share == 1).all():
        return f"{task}: understood from every share down to {by_share.index.min():.0%}."
    if (by_share == 0).all():
        return (
            f"{task}: not understood from any share up to {by_share.index.max():.0%} within "
            f"{horizon:,.0f} updates."
        )
    short = by_share.index[by_share < 0.5]
    beyond = by_share.index[by_share.index > short.max()] if len(short) else by_share.index
    between = f"above {short.max():.0%}" if len(short) else f"below {beyond.min():.0%}"
    if len(short) and len(beyond):
        between = f"between {short.max():.0%} and {beyond.min():.0%}"
    above = line[line["share"].isin(beyond)]
    late = int((~above["understood"]).sum())
    but = f" (although {late} of the {len(above)} runs from there on were later)" if late else ""
    place = _placed(line, horizon)
    return f"{task}: within {horizon:,.0f} updates the critical share lies {between}{but}{place}."


def _placed(line: pd.DataFrame, horizon: float) -> str:
    """Return the share whose median time is the horizon, with its interval; empty where it cannot be
    fitted.
    """
    try:
        fitted, _ = fit_time(line, "power")
    except AllometryError:
        return ""
    draws = np.random.default_rng(0).multivariate_normal(fitted.coefficients, fitted.covariance, 2000)
    constant, slope = draws[:, fitted.names.index("1")], draws[:, fitted.names.index("share")]
    shares = np.exp((np.log(horizon) - constant) / slope)[slope < 0]
    low, middle, high = np.quantile(shares, [0.025, 0.5, 0.975])
    return f" (by a power law of the share at {middle:.0%}, 95 % interval {low:.0%} to {high:.0%})"


def decay_and_size(table: pd.DataFrame) -> StudySection:
    """Report time to generalise against weight decay and against N, each along its line through the centre.

    Raises AllometryError where neither line has enough runs that generalised.
    """
    own = division(table)
    lines = {"weight_decay": usual(own, "weight_decay"), "N": usual(own, "d_model")}
    figures: list[Figure | Table] = []
    said = []
    for column, line in lines.items():
        positive = line[line[column] > 0]
        if positive[column].nunique() < 2:
            continue
        titles = {"weight_decay": "weight decay", "N": "parameters N"}
        state = np.where(positive["understood"], "understood", "not within the horizon")
        figures.append(
            several(
                positive.assign(series=state)[["series", *_COLUMNS]], None, x=column, y="time",
                x_title=titles[column].capitalize() if column != "N" else None,
                y_title="Updates until 99 % of the rest is answered", name=f"time-against-{column}",
                title=f"Time to generalise against {titles[column]}", caption="Half of the table, two seeds.",
            )
        )  # fmt: skip
        said.append(_power(positive, column, titles[column]))
    said = [s for s in said if s]
    if not figures:
        raise TooFewRuns("one weight decay and one size say nothing of either")
    text = " ".join(said) or "Too few of these runs generalised for a power of either."
    return StudySection(
        section=Section(title=_DECAY, text=text, evidence=tuple(figures)), fits={"summary": " ".join(said)}
    )


def _power(line: pd.DataFrame, column: str, what: str) -> str:
    logs = np.log(line[column].to_numpy(float))
    try:
        fitted = censored_fit(
            {"1": np.ones(len(line)), "x": logs - logs.mean()}, line["time"], line["understood"]
        )
    except AllometryError:
        return ""
    value, low, high = fitted.estimate("x", LEVEL)
    return f"The time goes as the power {value:+.2f} [{low:+.2f}, {high:+.2f}] of {what}."
