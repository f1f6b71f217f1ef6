"""Sooner: which dials make a model generalise in fewer steps, or from less text?

The runs are fractional factorial designs of two levels (Box and Hunter 1961), on equations and on text: many
factors in few runs, with what is mixed up with what said beforehand. A factor is -1 or +1. Further factors are
products of an odd number of base columns, so that no main effect is mixed up with a two-factor interaction
(resolution IV); interactions are mixed up with each other in groups.

The analysis ranks the effects of dials, with intervals, and their interactions. A main effect is what going from a
dial's low to its high setting does on average over all settings of the others, in per cent. It is free of
interactions of two, which come in groups that cannot be told apart; what is shown of a group is its sum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, product
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError
from allometry.data.tokens import manifest_of
from allometry.figures.several import effects
from allometry.laws.power_lines import Censored, censored_fit
from allometry.models.transformer import TransformerConfig
from allometry.report.build import Section, Table
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
from allometry.studies.core.study import (
    CONTEXT,
    Study,
    heads,
    learning_rate,
    register,
    rule_rate,
    run_set,
    small_run,
    too_little,
    vocabulary,
)
from allometry.studies.shared.equations import (
    DIVISION,
    RATE_TIMES_WIDTH,
    WIDTH,
    equations,
    equations_run,
    times,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from allometry.figures.theme import Figure
    from allometry.report.build import Analysis
    from allometry.studies.core.study import StudyData
    from allometry.train.config import DataConfig, RunConfig

_GENERATORS = {3: ((0, 1, 2),), 4: ((0, 1, 2), (1, 2, 3), (0, 2, 3), (0, 1, 3))}
"""Base columns whose products make the further factors, by the number of base columns."""


def fractional(factors: Sequence[str]) -> pd.DataFrame:
    """Return the runs: a row each, a column of -1 and +1 for each factor; 8 runs for 4 factors, 16 for up to
    8.

    Up to three factors get the full design. AllometryError for more than eight.
    """
    if not 0 < len(factors) <= 8:
        raise AllometryError(f"{len(factors)} factors: designs are for 1 to 8", hint="leave some out")
    base = len(factors) if len(factors) < 4 else 3 if len(factors) == 4 else 4
    full = np.array(list(product((-1, 1), repeat=base)))
    further = [full[:, list(columns)].prod(axis=1) for columns in _GENERATORS.get(base, ())]
    table = np.column_stack([full, *further])[:, : len(factors)]
    return pd.DataFrame(table, columns=list(factors))


def aliases(levels: pd.DataFrame) -> list[tuple[tuple[str, str], ...]]:
    """Return two-factor interactions in groups that these runs cannot tell apart (equal columns, up to sign).

    Interactions that equal a main effect or are constant are left out: see `confounded`.
    """
    groups: dict[tuple[int, ...], list[tuple[str, str]]] = {}
    taken = {_direction(levels[name].to_numpy()) for name in levels}
    for a, b in combinations(levels.columns, 2):
        column = (levels[a] * levels[b]).to_numpy()
        key = _direction(column)
        if key not in taken and len(np.unique(column)) > 1:
            groups.setdefault(key, []).append((a, b))
    return [tuple(pairs) for pairs in groups.values()]


def confounded(levels: pd.DataFrame) -> list[tuple[str, tuple[str, str]]]:
    """Return the main effects that these runs cannot tell from a two-factor interaction: none in resolution
    IV.
    """
    mains = {_direction(levels[name].to_numpy()): str(name) for name in levels}
    pairs = combinations(levels.columns, 2)
    found = [(mains.get(_direction((levels[a] * levels[b]).to_numpy())), (a, b)) for a, b in pairs]
    return [(name, pair) for name, pair in found if name is not None]


def _direction(column: np.ndarray) -> tuple[int, ...]:
    """Return the column with its sign chosen so that it begins with +1."""
    return tuple(int(v) for v in column * column[0])


SEEDS, FEW_SEEDS = 2, 1
"""Replicates of every combination: their scatter is the noise that effects are held against."""

ENOUGH = 1e12
"""FLOPs from which combinations are replicated."""

FEWEST_UPDATES = 12

ON_EQUATIONS: dict[str, tuple[float | str, float | str]] = {
    "weight decay": (0.1, 1.0),
    "dropout": (0.0, 0.1),
    "learning rate": (0.5, 1.5),
    "batch": (64, 256),
    "depth": (1, 4),
    "initialisation": ("fan_in", "gpt2"),
    "wrong answers": (0.0, 0.05),
}
"""Low and high setting of each dial; the learning rate as a multiple of the rule's, the batch in equations,
the depth at equal N (width 64 or 32). Most combinations do not generalise within an hour's horizon (7 of 32
runs; with decays of 0.3 and 3 at twice these rates, 3 of 32), so how far they come is read too."""

ON_TEXT: dict[str, tuple[float | str, float | str]] = {
    "weight decay": (0.1, 1.0),
    "dropout": (0.0, 0.1),
    "learning rate": (0.7, 1.4),
    "batch": (256, 1024),
    "depth": (2, 8),
    "initialisation": ("fan_in", "gpt2"),
    "tokenizer": ("bytes", "bpe:512"),
}
"""The same for text; the batch in tokens, the depth at equal N. Text has no answers to get wrong."""

SHARE = 0.6
"""Of the table: with half of it and 5 % wrong answers some combinations would take too long to be seen."""

PASSES = 8
"""Passes over the set of text: enough for regularisation to matter, few enough that it is no memory test."""

BLOCK = 1024

EVAL_BYTES = 32_768
"""Held-out text of an evaluation, at most: the same for both tokenizers."""

EVALS_PER_OCTAVE = 3

_WIDTHS = ((1e14, 32), (1e13, 16), (0.0, 8))
"""Compute from which the deep shape has a width; the shallow one has twice that, and a quarter of its
depth."""


def coded(dials: dict[str, tuple[float | str, float | str]]) -> pd.DataFrame:
    """Return the combinations of a set of dials, a row each, as -1 and +1: 16 for seven dials, resolution
    IV.
    """
    return fractional(tuple(dials))


@run_set
def grokking_factors(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Return seven dials on modular division, each combination until it generalises or its horizon ends.
    `data` is not read: the text is equations.
    """
    seeds = SEEDS if compute >= ENOUGH else FEW_SEEDS
    updates = _updates(
        compute, [_equations_run(row, 1, seed) for row in _rows(ON_EQUATIONS) for seed in range(seeds)]
    )
    if updates < FEWEST_UPDATES:
        raise too_little(compute, "factorial on equations")
    return tuple(_equations_run(row, updates, seed) for row in _rows(ON_EQUATIONS) for seed in range(seeds))


def _rows(dials: dict[str, tuple[float | str, float | str]]) -> list[dict[str, float | str]]:
    """Return the combinations, as settings."""
    return [
        {str(name): dials[str(name)][int(level > 0)] for name, level in row.items()}
        for row in coded(dials).to_dict("records")
    ]


def _updates(compute: float, runs: list[RunConfig]) -> int:
    """Return updates of every run that `compute` pays for."""
    flops = [run.model.counts().flops_per_token("attention") * run.train.batch_tokens for run in runs]
    return math.floor(compute / sum(flops))


def _equations_run(row: dict[str, float | str], updates: int, seed: int) -> RunConfig:

    deep = row["depth"] != 1
    width = WIDTH // 2 if deep else WIDTH
    return equations_run(
        DIVISION, SHARE, steps=updates, width=width, depth=int(row["depth"]),
        decay=float(row["weight decay"]), seed=seed, rate=float(row["learning rate"]),
        equations=int(row["batch"]),
        dropout=float(row["dropout"]), init=str(row["initialisation"]), noise=float(row["wrong answers"]),
    )  # fmt: skip


@run_set
def text_factors(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Return seven dials on one small set of text, every combination for the same text and PASSES passes, at
    a constant rate; the best test loss counts, in bits per byte.
    """
    seeds = SEEDS if compute >= ENOUGH else FEW_SEEDS
    rows = _rows(ON_TEXT)
    flops = seeds * sum(_per_byte(row, compute, data) for row in rows)
    seen = compute / flops
    if seen < FEWEST_UPDATES * float(max(ON_TEXT["batch"])):
        raise too_little(compute, "factorial on text")
    return tuple(_text_run(row, compute, data, seen, seed) for row in rows for seed in range(seeds))


def _per_byte(row: dict[str, float | str], compute: float, data: DataConfig) -> float:
    model = _shape(row, compute, data)
    return model.counts().flops_per_token("attention") / _bytes_per_token(row, data)


def _bytes_per_token(row: dict[str, float | str], data: DataConfig) -> float:

    return manifest_of(data.corpus, str(row["tokenizer"])).bytes_per_token


def _shape(row: dict[str, float | str], compute: float, data: DataConfig) -> TransformerConfig:
    narrow = next(width for least, width in _WIDTHS if compute >= least)
    depth = int(row["depth"])
    width = narrow if depth == max(ON_TEXT["depth"]) else 2 * narrow
    n_vocab = vocabulary(data.replace(tokenizer=str(row["tokenizer"])))
    return TransformerConfig.model_validate(
        {
            "n_layer": depth, "d_model": width, "n_head": heads(width), "d_ff": 4 * width, "n_ctx": CONTEXT,
            "n_vocab": n_vocab, "dropout": float(row["dropout"]), "init": str(row["initialisation"]),
        }
    )  # fmt: skip


def _text_run(
    row: dict[str, float | str], compute: float, data: DataConfig, seen: float, seed: int
) -> RunConfig:
    """Return one combination that sees `seen` bytes of text, of which a PASSES-th are different."""
    model = _shape(row, compute, data)
    batch, tokens = int(row["batch"]), seen / _bytes_per_token(row, data)
    limit = min(round(tokens / PASSES), manifest_of(data.corpus, str(row["tokenizer"])).train_tokens)
    run = small_run(
        model,
        tokens=batch * max(1, round(tokens / batch)),
        data=data.replace(tokenizer=str(row["tokenizer"]), limit=limit, spread=BLOCK),
        seed=seed,
        batch_tokens=batch,
        lr=float(f"{float(row['learning rate']) * learning_rate(model):.3g}"),
        schedule="constant",
        weight_decay=float(row["weight decay"]),
        evals_per_octave=EVALS_PER_OCTAVE,
    )
    held_out = round(min(EVAL_BYTES, seen / 16) / _bytes_per_token(row, data) / model.n_ctx) * model.n_ctx
    return run.replace(data={**run.data.model_dump(), "eval_tokens": held_out})


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
