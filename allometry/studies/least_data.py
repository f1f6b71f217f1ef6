"""Least data: how little text, or how small a part of a table, does a model need to generalise?

The analysis has D*(N) on text; the data-constrained law of Muennighoff et al. 2023 (arXiv 2305.16264): what
repeats, and parameters beyond what the data deserve, are worth; and grokking: how long after its examples a
model understands a table, from what share of it on, and what weight decay and size do to that (Power et al. 2022,
arXiv 2201.02177)."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError
from allometry.core.units import format_count
from allometry.figures.several import several
from allometry.laws.fit import fit
from allometry.laws.power_lines import censored_fit
from allometry.report.build import Constant, Section, Table
from allometry.studies.core.sections import (
    KAPLAN,
    LEVEL,
    StudySection,
    TooFewRuns,
    caveats,
    chapter,
    constant,
    estimate,
    percent,
    section_or_reason,
    usable_runs,
)
from allometry.studies.core.study import Study, register
from allometry.studies.shared.equations import division, equations, fit_time, usual
from allometry.studies.shared.repeats import LeastSet, excess, least_data, noise_of, repeated

if TYPE_CHECKING:
    from allometry.figures.theme import Figure
    from allometry.laws.result import FitResult
    from allometry.report.build import Analysis
    from allometry.studies.core.study import StudyData

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


@register
class LeastData(Study):
    """Trains sizes on nested sets of text for up to hundreds of passes, and small models on parts of the
    table of modular division and of the permutations of five things.

    On text the question is what repetition costs (Kaplan et al. 2020, section 4; Muennighoff et al. 2023,
    arXiv 2305.16264): D*(N), the set from which a model loses less than 1, 2 or 5 % to a model on fresh text,
    early-stopped and not. On equations generalisation is all or nothing, and may come long after the examples
    are known by heart (Power et al. 2022, arXiv 2201.02177): what share of the table it takes, and how long.
    """

    name: ClassVar[str] = "least_data"
    question: ClassVar[str] = (
        "How few data are enough for a model of a given size to generalise, and what do weight decay and "
        "patience change about that?"
    )
    expected: ClassVar[str] = (
        "Early-stopped, D* grows more slowly than N (Kaplan: N^0.74); at a fixed horizon it is larger and "
        "steeper, because large models learn small sets by heart sooner. Repeats are worth less than the "
        "15 of "
        "Muennighoff et al. Division needs a third or so of its table; with weight decay it is "
        "understood soon "
        "after it is memorised, and without at least ten times as late, if within the horizon at all."
    )
    budget: ClassVar[str] = "15m"
    run_sets: ClassVar[dict[str, float]] = {"epochs": 0.6, "grokking": 0.4}

    def analyse(self, study_data: StudyData) -> Analysis:
        """Report D*(N), the data-constrained law, and times and shares of grokking."""
        runs, excluded = usable_runs(study_data)

        @cache
        def text() -> pd.DataFrame:
            return repeated(runs, study_data.curves)

        @cache
        def tables() -> pd.DataFrame:
            return equations(runs)

        sections = {
            "cost": section_or_reason(_COST, lambda: _cost(text())),
            "sets": section_or_reason(_SETS, lambda: _enough(text())),
            "repeats": section_or_reason(
                "What repeats are worth", lambda: constrained(text(), study_data.curves)
            ),
            "after": section_or_reason(
                "Understanding after memorising", lambda: after_memorising(tables(), study_data.curves)
            ),
            "share": section_or_reason("The critical share of a table", lambda: critical_share(tables())),
            "decay": section_or_reason("Weight decay and size", lambda: decay_and_size(tables())),
        }
        return chapter(
            self, study_data, sections, answer=_answer(sections), next=_next(sections), excluded=excluded
        )


TOLERANCES = (0.01, 0.02, 0.05)

STOPPINGS = {"best": "stopped at the best test loss", "loss": "not stopped"}

_SETS, _COST = "How much text is enough", "What a small set costs"


def _cost(table: pd.DataFrame) -> StudySection:
    """Report excess loss of every size on every set, with and without early stopping."""
    figures: list[Figure | Table] = []
    worst = {}
    for column, what in STOPPINGS.items():
        frame = excess(table, column)
        long = (100 * frame).reset_index().melt(id_vars="N", var_name="U", value_name="excess")
        long = long.dropna().astype({"U": float}).sort_values(["N", "U"])
        long = long.assign(series=[f"N = {format_count(n)}" for n in long["N"]])
        worst[column] = float(long["excess"].max())
        figures.append(
            several(
                long, long, x="U", y="excess", y_scale="percent", x_title="Unique tokens in the set",
                y_title="Test loss over that on all the text, less one", name=f"excess-{column}",
                title=f"What a small set costs, {what}",
                caption=f"Each size on each set, {what}; all runs see as many tokens. Without dropout.",
            )
        )  # fmt: skip
    noise = noise_of(table)
    text = (
        f"{table['N'].nunique()} sizes at a constant rate, each to {format_count(table['D'].max())} "
        f"tokens on "
        f"nested sets and on all the text, which stands for infinite data. Stopped at the best test "
        f"loss, the "
        f"smallest set costs up to {worst['best']:.0f} %; not stopped, up to {worst['loss']:.0f} %. Seeds "
        f"differ by {percent(noise)}."
    )
    passes = float((table.loc[table["infinite"], "D"] / table.loc[table["infinite"], "U"]).max())
    warnings = (
        (f"All the text is seen {passes:.1f} times: it does not stand for infinite data.",)
        if passes > 1.05
        else ()
    )
    return StudySection(
        section=Section(title=_COST, text=text, evidence=tuple(figures)),
        fits={"worst": worst, "noise": noise},
        warnings=warnings,
    )


def _enough(table: pd.DataFrame) -> StudySection:
    """Report D*(N) for each tolerance, early-stopped and not, and the exponents."""
    found = {
        (column, tolerance): least_data(table, column, tolerance)
        for column in STOPPINGS
        for tolerance in TOLERANCES
    }
    rows = pd.concat(
        [each.table.assign(stopped=STOPPINGS[c], tolerance=100 * t) for (c, t), each in found.items()],
        ignore_index=True,
    )
    shown = Table(
        name="least-data", title="D*(N)",
        frame=rows[["stopped", "tolerance", "N", "D", "low", "high", "note"]],
        caption="The set of unique tokens from which a size loses no more than the tolerance (per cent) "
        "to all "
        "the text; 95 % intervals from the noise between seeds.",
    )  # fmt: skip
    drawn = rows.dropna(subset=["D"])
    if not len(drawn):
        raise TooFewRuns("no size crosses a tolerance between two of its sets")
    drawn = drawn.assign(
        series=[f"{t:.0f} %, {s}" for t, s in zip(drawn["tolerance"], drawn["stopped"], strict=True)]
    )
    figure = several(
        drawn, drawn.drop(columns=["low", "high"]), x="N", y="D", y_title="D*: unique tokens that are enough",
        name="least-data-against-size", title="The least data against size",
        caption="Points with 95 % intervals. Kaplan et al. 2020 find D proportional to N^0.74 for 2 %.",
    )  # fmt: skip
    return StudySection(
        section=Section(title=_SETS, text=_exponents(found), evidence=(figure, shown)),
        constants=_constants(found),
        fits={"least": found},
    )


def _exponents(found: dict[tuple[str, float], LeastSet]) -> str:
    parts = []
    for (column, tolerance), each in found.items():
        low, high = each.interval(0.9)
        sizes = int(each.table["D"].notna().sum())
        said = f"{STOPPINGS[column]}, {percent(tolerance)} of the loss: "
        if np.isfinite(low) and np.isfinite(each.exponent):
            said += f"D* ∝ N^{each.exponent:.2f} [{low:.2f}, {high:.2f}] (90 %) over {sizes} sizes"
        else:
            said += f"{sizes} sizes have a D* within the sets, too few for an exponent"
        parts.append(said)
    return "; ".join(parts) + "."


def _constants(found: dict[tuple[str, float], LeastSet]) -> tuple[Constant, ...]:
    rows = []
    why = (
        "one horizon for all sizes, bytes, no dropout; a power of N is free of units, but the sizes span "
        "little"
    )
    for column, what in STOPPINGS.items():
        each = found[column, 0.02]
        low, high = each.interval(0.95)
        if np.isfinite(low) and np.isfinite(each.exponent):
            estimate = (each.exponent, low, high)
            rows.append(constant(f"least data for 2 %, {what}", "D* ∝ N^x", {KAPLAN: 0.74}, estimate, why))
    return tuple(rows)


def _answer(sections: dict[str, StudySection]) -> str:
    parts = []
    least = sections["sets"].fits.get("least")
    if least is not None:
        for column, what in STOPPINGS.items():
            each = least[column, 0.02]
            low, high = each.interval(0.9)
            if np.isfinite(low):
                parts.append(
                    f"To lose no more than 2 %, {what}, data must grow as N^{each.exponent:.2f} (90 % "
                    f"interval "
                    f"{low:.2f} to {high:.2f}; Kaplan et al.: 0.74)."
                )
    for name in ("repeats", "after", "share", "decay"):
        summary = sections[name].fits.get("summary")
        if summary:
            parts.append(str(summary))
    return " ".join(parts) or "These runs are too few to say how much data is enough: see the sections."


def _next(sections: dict[str, StudySection]) -> str:
    if "least" not in sections["sets"].fits:
        return "How does D* grow? That needs three sizes that cross a tolerance between two of their sets: see above."
    return (
        "Does D*(N) keep its exponent when every size is trained to its own best horizon, and when small "
        "sets "
        "are regularised as strongly as they can bear?"
    )


MUENNIGHOFF = "Muennighoff 2023"
PUBLISHED = {"R_D": 15.387756, "R_N": 5.309743}

LATER = 8
"""Points of a curve count from its horizon over LATER on: before, a model is in its plateau."""

WIDEST = 10.0
"""High over low end of an interval from which a number of repeats is said not to be identified."""

_TITLE = "What repeats are worth"


def constrained(table: pd.DataFrame, curves: pd.DataFrame) -> StudySection:
    """Report the law fitted to points along the curves until their best test loss: it knows no loss that
    rises.

    Raises AllometryError for fewer than three sizes or sets.
    """
    points = along(table, curves)
    sizes, sets = points["N"].nunique(), points["U"].nunique()
    if sizes < 3 or sets < 4:
        raise TooFewRuns(f"{sizes} sizes on {sets} sets do not determine seven parameters")
    law = fit(points, law="muennighoff", columns={"D": "tokens", "L": "loss"}, group="run", bootstrap=120)
    rows, told = _worth(law)
    text = (
        f"{len(points)} points of {points['run'].nunique()} runs at constant rates, up to the best test "
        f"loss of "
        f"each: the law has no term for losses that rise. Most repeats: {points['R'].max():.0f}. A point "
        f"lies "
        f"{percent(law.rms)} from the law. {told}"
    )
    return StudySection(
        section=Section(title=_TITLE, text=text, evidence=(_figure(points, law),)),
        constants=rows,
        fits={"law": law, "summary": told},
        warnings=caveats(law, "the data-constrained law"),
    )


def along(table: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Return points of the usual runs' curves between a share of the horizon and the best test loss: run, N,
    U, R, tokens, loss.
    """
    own = table[table["usual"]][["run", "N", "U", "D", "best_step"]]
    points = curves[["run", "step", "tokens", "loss"]].dropna().merge(own, on="run")
    kept = (points["tokens"] >= points["D"] / LATER) & (points["step"] <= points["best_step"])
    points = points[kept].reset_index(drop=True)
    return points.assign(R=np.maximum(points["tokens"] / points["U"] - 1, 0.0))


def _worth(law: FitResult) -> tuple[tuple[Constant, ...], str]:
    """Return the two constants, and a sentence on whether they are identified."""
    names = {"R_D": "repeats of data that are worth having", "R_N": "the same for parameters in excess"}
    rows, said = [], []
    for name, what in names.items():
        value, low, high = estimate(law, name)
        known = np.isfinite(high) and low > 0 and high / low < WIDEST
        why = "models on bytes at a constant rate, far from convergence" + (
            "" if known else "; not identified"
        )
        symbol = name.replace("_", "_") + "*"
        rows.append(
            constant(what, symbol, {MUENNIGHOFF: PUBLISHED[name]}, (value, low, high), why, widest=4.0)
        )
        said.append(
            f"{symbol} = {value:.3g} [{low:.3g}, {high:.3g}]"
            if known
            else f"{symbol} is not identified ([{low:.2g}, {high:.2g}])"
        )
    return tuple(
        rows
    ), f"Of the data-constrained law (Muennighoff et al.: 15.4 and 5.3), {' and '.join(said)}."


def _figure(points: pd.DataFrame, law: FitResult) -> Figure:
    """Draw the largest size's points against tokens, a line of the law for each set."""
    largest = points[points["N"] == points["N"].max()].sort_values(["U", "tokens"])
    names = [f"U = {format_count(u)}" for u in largest["U"]]
    drawn = largest.assign(series=names)
    predicted = law.law.predict(
        law.parameters, N=drawn["N"].to_numpy(), D=drawn["tokens"].to_numpy(), U=drawn["U"].to_numpy()
    )
    lines = drawn[["series", "tokens"]].assign(loss=predicted)
    return several(
        drawn[["series", "tokens", "loss", "U", "R", "run"]], lines, x="tokens", y="loss", name="repeats",
        title="Loss while sets are repeated, and the law",
        caption="The largest size on each set, until its best test loss; lines: the data-constrained law.",
    )  # fmt: skip
