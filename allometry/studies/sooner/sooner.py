"""Sooner: which dials make a model generalise in fewer steps, or from less text?

Analysis: effects of dials with intervals, ranked, and their interactions.

A main effect is what going from a dial's low to its high setting does on average over all settings of the
others, in per cent. In resolution IV it is free of interactions of two, which come in groups that cannot be
told apart; what is shown of a group is its sum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError
from allometry.figures.several import effects
from allometry.laws.censored import Censored, censored_fit
from allometry.report.content import Section, Table
from allometry.studies.core.sections import (
    LEVEL,
    StudySection,
    TooFewRuns,
    chapter,
    percent,
    section_or_reason,
    summary_of,
    usable_runs,
)
from allometry.studies.core.study import Study, register, rule_rate
from allometry.studies.shared.equations import RATE_TIMES_WIDTH, equations, times
from allometry.studies.sooner.factors import aliases

if TYPE_CHECKING:
    from collections.abc import Callable

    from allometry.figures.theme import Figure
    from allometry.report.content import Analysis
    from allometry.studies.core.study import StudyData


@register
class Sooner(Study):
    """Turns seven dials at once, in sixteen combinations that tell every main effect from every interaction
    of two (resolution IV), on modular division and on a small set of text.

    One dial at a time would take as many runs for answers that hold at one setting of the others only. The
    outcome is the number of updates until held-out equations are answered (runs that do not get there count
    as later than their end), and on text the best test loss in bits per byte at the same number of bytes.
    """

    name: ClassVar[str] = "sooner"
    question: ClassVar[str] = (
        "Which of weight decay, dropout, learning rate, batch, depth, initialisation, wrong answers and "
        "tokenizer make a model generalise sooner, by how much, and which of them depend on each other?"
    )
    expected: ClassVar[str] = (
        "On division weight decay matters most, several-fold; a higher rate and small weights at the start "
        "help, wrong answers cost, and weight decay and rate act together, since their product decides how "
        "fast weights forget. On text eight passes are too few for dropout to pay, and initialisation by "
        "fan-in "
        "and the rate matter most."
    )
    budget: ClassVar[str] = "15m"
    run_sets: ClassVar[dict[str, float]] = {"grokking_factors": 0.5, "text_factors": 0.5}

    def analyse(self, study_data: StudyData) -> Analysis:
        """Report effects with intervals, ranked, and interactions as far as they can be told apart."""
        runs, excluded = usable_runs(study_data)
        sections = {
            "equations": section_or_reason(_EQUATIONS, lambda: _on_equations(runs, study_data.curves)),
            "text": section_or_reason(_TEXT, lambda: _on_text(runs, study_data.curves)),
        }
        return chapter(
            self, study_data, sections, excluded=excluded,
            answer=summary_of(sections, "These runs are too few to tell the dials apart: see the sections."),
            next="Vary the two largest factors over several settings each, with the others at their best.",
        )  # fmt: skip


LEVELS = (0.95, 0.99)
"""Accuracies that a run on equations is timed to. The first is read first: more runs come to it."""

COUNTED = 1024
"""Held-out equations by which a share of them is known: no odds are better than one in twice as many."""

LARGE = 100
"""Per cent of change above which a table's effects are told as factors."""

_EQUATIONS, _TEXT = "On modular division", "On a small set of text"


def dials(runs: pd.DataFrame, columns: dict[str, str]) -> pd.DataFrame:
    """Return the runs' settings as -1 (the lower, or the first in the alphabet) and +1, a column a dial that
    has two.

    `columns` maps dials to columns. AllometryError if none varies, or one has three settings.
    """
    coded = {}
    for dial, column in columns.items():
        settings = sorted(runs[column].dropna().unique().tolist())
        if len(settings) > 2:
            raise AllometryError(
                f"{dial} has {len(settings)} settings, not two", hint="read a factorial's runs"
            )
        if len(settings) == 2:
            coded[dial] = np.where(runs[column] == settings[1], 1, -1)
    if not coded:
        raise TooFewRuns("no dial was turned in these runs")
    return pd.DataFrame(coded, index=runs.index)


def ranked(coded: pd.DataFrame, time: pd.Series, reached: pd.Series) -> tuple[pd.DataFrame, Censored]:
    """Return effects on `time` (or any positive outcome) as a table for `figures.effects`, largest first, and
    the fit.

    Interactions are fitted by group where the runs are enough for them. Raises AllometryError where runs are
    too few for the main effects.
    """
    mains: dict[str, np.ndarray] = {"1": np.ones(len(coded))} | {
        str(d): coded[d].to_numpy(float) for d in coded
    }
    groups = {" = ".join(f"{a} × {b}" for a, b in group): group[0] for group in aliases(coded)}
    both = mains | {name: (coded[a] * coded[b]).to_numpy(float) for name, (a, b) in groups.items()}
    fitted = None
    if reached.sum() > len(both) + 2:
        fitted = censored_fit(both, time, reached)
    fitted = fitted or censored_fit(mains, time, reached)
    rows = []
    for name in fitted.names[1:]:
        value, low, high = (100 * np.expm1(2 * v) for v in fitted.estimate(name, LEVEL))
        kind = "interaction" if name in groups else "dial"
        rows.append({"dial": name, "kind": kind, "effect": value, "low": low, "high": high})
    table = pd.DataFrame(rows)
    return table.sort_values("effect", key=lambda e: -np.log1p(e / 100).abs(), ignore_index=True), fitted


def _told(table: pd.DataFrame, settings: dict[str, str], worse: str, better: str) -> str:
    """Return the main effects whose intervals leave out zero, in words, and the other dials by name."""
    mains = table[table["kind"] == "dial"]
    clear = mains[(mains["low"] > 0) | (mains["high"] < 0)]
    change = _factor if (mains["effect"] > LARGE).any() else _per_cent
    said = [f"{row.dial} ({settings[str(row.dial)]}) {change(row)}" for row in clear.itertuples()]
    others = [d for d in mains["dial"] if d not in set(clear["dial"])]
    text = f"{worse}: {', '.join(said)}" if said else f"{better} by more than chance would"
    return text + (f"; not clearly: {', '.join(others)}." if others else ".")


def _per_cent(row: Any) -> str:
    return f"{row.effect:+.0f} % [{row.low:+.0f}, {row.high:+.0f}]"


def _factor(row: Any) -> str:
    value, low, high = (1 + each / 100 for each in (row.effect, row.low, row.high))
    return f"× {value:.2g} [{low:.2g}, {high:.2g}]"


def _interactions(table: pd.DataFrame) -> str:
    pairs = table[table["kind"] == "interaction"]
    if not len(pairs):
        return "The runs are too few for interactions."
    clear = pairs[(pairs["low"] > 0) | (pairs["high"] < 0)]
    change = _factor if (table["effect"] > LARGE).any() else _per_cent
    said = [f"{row.dial} ({change(row)})" for row in clear.itertuples()]
    found = f"Beyond chance: {'; '.join(said)}." if said else "None is beyond chance."
    return (
        f"Interactions of two come in {len(pairs)} groups (each a name with equals signs), which these runs "
        f"cannot take apart: a group's effect is the sum of its members'. {found} Effects of three dials at "
        "once are taken to be nothing."
    )


def _settings(runs: pd.DataFrame, columns: dict[str, str]) -> dict[str, str]:
    """Return what a dial was turned from and to, in words."""
    found = {}
    for dial, column in columns.items():
        ends = sorted(runs[column].dropna().unique().tolist())
        found[dial] = f"{_short(ends[0])} to {_short(ends[-1])}"
    return found


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


_ON_EQUATIONS = {
    "weight decay": "weight_decay", "dropout": "dropout", "learning rate": "relative_rate", "batch": "B",
    "depth": "n_layer", "initialisation": "init", "wrong answers": "noise",
}  # fmt: skip

_ON_TEXT = {
    "weight decay": "weight_decay", "dropout": "dropout", "learning rate": "relative_rate", "batch": "B",
    "depth": "n_layer", "initialisation": "init", "tokenizer": "tokenizer",
}  # fmt: skip


def _relative(runs: pd.DataFrame, rule: Callable[[float], float]) -> pd.DataFrame:
    """Return the runs with the learning rate relative to what the rule gives for the width."""
    rate = runs["lr"].astype(float) / runs["d_model"].map(rule)
    return runs.assign(relative_rate=rate.round(1))


def _on_equations(runs: pd.DataFrame, curves: pd.DataFrame) -> StudySection:
    """Return how far every run comes within the same updates, and the updates until it generalises."""
    own = _relative(equations(runs), lambda width: RATE_TIMES_WIDTH / width)
    own = own.assign(answered=_answered(own, curves))
    coded, settings = dials(own, _ON_EQUATIONS), _settings(own, _ON_EQUATIONS)
    odds = (COUNTED * (1 - own["answered"]) + 0.5) / (COUNTED * own["answered"] + 0.5)
    table, fitted = ranked(coded, odds, pd.Series(True, index=own.index))
    told = _told(table, settings, "odds of a wrong answer to a held-out equation", "no dial moves the odds")
    summary = f"On {own['task'].iloc[0]}, {told}"
    timed, figures, said = _timed(own, coded, curves, settings)
    first, share = own.iloc[0], own["answered"]
    reached = f"{percent(share.min())} to {percent(share.max())}"
    text = (
        f"{len(own)} runs of {coded.drop_duplicates().shape[0]} combinations, {percent(first['share'])} of "
        f"the table, {first['N']:,.0f} parameters, at most {own['S'].max():,.0f} updates, in which a larger "
        f"batch sees more equations. Runs come to answer {reached} "
        f"of those held out. {summary} "
        f"{_interactions(table)} The odds of one combination scatter by a factor of "
        f"{np.exp(fitted.sigma):.1f}. {said}"
    )
    title, axis = "Wrong answers within the horizon", "Odds of a wrong answer, high over low"
    figure = _figure(table, "equations", title, axis, settings)
    evidence: tuple[Figure | Table, ...] = (figure, *figures, _runs(timed, _ON_EQUATIONS, "equations"))
    return StudySection(
        section=Section(title=_EQUATIONS, text=text, evidence=evidence),
        fits={"summary": summary, "table": table},
    )


def _answered(runs: pd.DataFrame, curves: pd.DataFrame) -> pd.Series:
    """Return the most of the held-out equations that each run answered at any evaluation, as a share."""
    return runs["run"].map(curves.groupby("run")["accuracy"].max()).astype(float)


def _timed(
    own: pd.DataFrame, coded: pd.DataFrame, curves: pd.DataFrame, settings: dict[str, str]
) -> tuple[pd.DataFrame, list[Figure], str]:
    """Return updates until the held-out equations are answered, to each of LEVELS that enough runs come to:
    the runs with their times to the first, figures, and what is said of the first.
    """
    every = {level: times(own, curves, level) for level in LEVELS}
    shown = every[LEVELS[0]]
    figures, said = [], "too few for effects on the time."
    for level, timed in every.items():
        try:
            table, _ = ranked(coded, timed["time"], timed["understood"])
        except AllometryError:
            continue
        if level == LEVELS[0]:
            told = _told(table, settings, "time to answer as many", "no dial moves the time")
            said = f"the others count as later than their end; {told}"
        title, axis = (
            f"Updates to {percent(level)} of the held-out equations",
            "Updates, high over low",
        )
        figures.append(_figure(table, f"equations-{100 * level:.0f}", title, axis, settings))
    known = int(shown["understood"].sum())
    return (
        shown,
        figures,
        f"{known} runs answer {percent(LEVELS[0])} of them, {said} {_range(shown)}".rstrip(),
    )


def _range(timed: pd.DataFrame) -> str:
    known = timed.loc[timed["understood"], "time"]
    if not len(known):
        return ""
    return (
        f"The quickest combination needs {known.min():,.0f} updates, the slowest that got there "
        f"{known.max():,.0f}."
    )


def _on_text(runs: pd.DataFrame, curves: pd.DataFrame) -> StudySection:
    """Report the best test loss in bits per byte after the same text."""
    own = runs[runs["tokenizer"] != "symbols"].reset_index(drop=True)
    if not len(own):
        raise TooFewRuns("no run on text has finished")
    own = _relative(own, lambda width: rule_rate("transformer", width))
    best = [float(curves.loc[curves["run"] == run, "loss"].min()) for run in own["run"]]
    own = own.assign(best=own["bits_per_byte"].astype(float) * np.array(best) / own["loss"].astype(float))
    coded = dials(own, _ON_TEXT)
    table, fitted = ranked(coded, own["best"], pd.Series(True, index=own.index))
    settings = _settings(own, _ON_TEXT)
    summary = f"On text, {_told(table, settings, 'best loss in bits per byte', 'no dial moves the loss')}"
    text = (
        f"{len(own)} runs of {coded.drop_duplicates().shape[0]} combinations, {own['N'].median():,.0f} "
        "parameters, all on the same number of bytes, of a set that is seen "
        f"{(own['D'] / own['unique']).median():.0f} times; best test losses from {own['best'].min():.3f} to "
        f"{own['best'].max():.3f} bits per byte. {summary} {_interactions(table)} Runs of one combination "
        f"scatter by {percent(fitted.sigma)}. Text has no answers that could be made wrong, so that dial is "
        "turned on equations alone."
    )
    title, axis = "Best test loss on text", "Bits per byte, high over low"
    figure = _figure(table, "text", title, axis, settings)
    return StudySection(
        section=Section(title=_TEXT, text=text, evidence=(figure, _runs(own, _ON_TEXT, "text"))),
        fits={"summary": summary, "table": table},
    )


def _figure(table: pd.DataFrame, name: str, title: str, axis: str, settings: dict[str, str]) -> Figure:

    named = [f"{d} ({settings[d]})" if d in settings else d for d in table["dial"]]
    return effects(
        table.assign(dial=named), name=f"effects-{name}", title=title, x_title=axis,
        caption="Factors, largest first, with 95 % intervals. To the left of 1 is sooner, or better.",
    )  # fmt: skip


def _runs(runs: pd.DataFrame, columns: dict[str, str], name: str) -> Table:
    others = ("seed", "answered", "time", "understood", "memorised", "best", "run")
    kept = [column for column in (*columns.values(), *others) if column in runs]
    return Table(
        name=f"factorial-{name}", title="Every run", frame=runs[kept],
        caption="Settings as they were; `relative_rate` is the learning rate over the rule's.",
    )  # fmt: skip
