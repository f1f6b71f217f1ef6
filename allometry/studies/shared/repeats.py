"""Sizes trained on nested sets of text for many passes, and never stopped: what repetition costs.

Analysis: runs on repeated text: what a set of U tokens costs a model of N parameters over fresh text, stopped
at the best test loss or not stopped at all, and the set D* from which it costs less than a given share of the
loss.

Analysis: double descent: where a test loss that had begun to rise falls again, along training, size or data
(Nakkiran et al. 2019, arXiv 1912.02292).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from allometry.core.units import format_count
from allometry.data.tokens import manifest_of
from allometry.figures.several import several
from allometry.report.build import Section, Table
from allometry.studies.core.sections import StudySection, TooFewRuns, percent
from allometry.studies.core.study import (
    BATCH_TOKENS,
    learning_rate,
    run_set,
    small_model,
    small_run,
    too_little,
)

if TYPE_CHECKING:
    from allometry.figures.theme import Figure
    from allometry.laws.uncertainty import Array
    from allometry.models.base import ModelConfig
    from allometry.train.config import DataConfig, RunConfig

SIZES, FEW_SIZES = 5, 4
SPAN, FEW_SPAN = 45, 16
"""N of the largest model over N of the smallest."""

HALVINGS, FEW_HALVINGS = (2, 3, 4, 5, 6, 8), (3, 5, 7)
"""Sets are about the horizon over 2^k, so that they are seen 2^k times: up to four passes are as good as
fresh text (Muennighoff et al. 2023), and a hundred are enough for a set to be learnt by heart."""

BLOCK = 1024
"""Tokens of the blocks that sets are made of, spread over the corpus."""

SMALLEST_SET = 1024

RATE = 0.5
"""Of the recipe's rate: at a constant one half of it ends lower."""

EVALS_PER_OCTAVE = 3

EVAL_TOKENS = 32_768

SMALLEST = 1536
"""N of the smallest model at any compute, two layers of width 8."""

REFERENCE, N_AT_REFERENCE = 6e13, 200_000
"""FLOPs at which the largest model has N_AT_REFERENCE parameters."""

ENOUGH = 3e12
"""FLOPs from which all sizes, sets and regularisers are affordable; less buys the few."""

FEWEST_UPDATES = 100

SEEDS = 3
"""Seeds of the middle size on all the text and on one set: what a loss may differ by for no reason."""

DECAYS, DROPOUTS = (0.0, 1.0), (0.1, 0.3)
"""Weight decays beside the recipe's 0.1, and dropouts beside none, of one size on one set and on all text."""


@run_set
def epochs(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Return every size on all the text and on subsets of it, at a constant rate to one horizon, without
    dropout: losses with and without early stopping are read from the same curves. One size is regularised,
    too.
    """
    text = manifest_of(data.corpus, data.tokenizer)
    plenty = compute >= ENOUGH
    models = _ladder(compute, text.n_vocab)
    halvings = HALVINGS if plenty else FEW_HALVINGS
    horizon = BATCH_TOKENS * round(_horizon(compute, models, len(halvings), plenty) / BATCH_TOKENS)
    if len(models) < FEW_SIZES or horizon < FEWEST_UPDATES * BATCH_TOKENS:
        raise too_little(compute, "sizes on repeated text")
    limits = _limits(horizon, text.train_tokens, halvings)
    runs = [_run(model, horizon, data, limit) for model in models for limit in (None, *limits)]
    if plenty and limits:
        repeated = (None, limits[len(limits) // 2])
        middle, large = models[len(models) // 2], models[-2]
        runs += [_run(middle, horizon, data, limit, seed) for seed in range(1, SEEDS) for limit in repeated]
        runs += [_run(large, horizon, data, repeated[1], decay=decay) for decay in DECAYS]
        dropped = [large.replace(dropout=dropout) for dropout in DROPOUTS]
        runs += [_run(model, horizon, data, repeated[1]) for model in dropped]
    return tuple(runs)


def _run(
    model: ModelConfig,
    horizon: int,
    data: DataConfig,
    limit: int | None,
    seed: int = 0,
    *,
    decay: float | None = None,
) -> RunConfig:

    run = small_run(
        model,
        tokens=horizon,
        data=data.replace(limit=limit, spread=BLOCK if limit else 0),
        seed=seed,
        lr=round(RATE * learning_rate(model), 6),
        schedule="constant",
        evals_per_octave=EVALS_PER_OCTAVE,
        **({} if decay is None else {"weight_decay": decay}),
    )
    return run.replace(data={**run.data.model_dump(), "eval_tokens": EVAL_TOKENS})


def _limits(horizon: int, available: int, halvings: tuple[int, ...]) -> list[int]:
    """Return tokens of the sets: the text over powers of two, so that sets of all budgets are nested."""
    power = 0
    while available / 2**power > horizon:
        power += 1
    sets = [round(available / 2 ** (power + k)) for k in halvings]
    return [limit for limit in sets if limit >= SMALLEST_SET]


def _ladder(compute: float, n_vocab: int) -> list[ModelConfig]:
    """Return sizes in equal steps of log N; the largest grows with the square root of the compute."""
    count, span = (SIZES, SPAN) if compute >= ENOUGH else (FEW_SIZES, FEW_SPAN)
    largest = max(SMALLEST * span, N_AT_REFERENCE * (compute / REFERENCE) ** 0.5)
    targets = [round(largest / span ** (1 - i / (count - 1))) for i in range(count)]
    return list(dict.fromkeys(small_model(n, n_vocab=n_vocab) for n in targets))


def _horizon(compute: float, models: list[ModelConfig], sets: int, plenty: bool) -> float:
    """Return the horizon (tokens) with which all runs together cost `compute`."""
    flops = [model.counts().flops_per_token("attention") for model in models]
    extra = 2 * (SEEDS - 1) * flops[len(flops) // 2] + (len(DECAYS) + len(DROPOUTS)) * flops[-2]
    return compute / ((sets + 1) * sum(flops) + (extra if plenty else 0))


def largest_size(run: RunConfig, runs: tuple[RunConfig, ...]) -> bool:
    """Return whether a run is of the largest size among runs on text, which is predicted before it is
    trained.
    """
    if run.data.loss_on != "all":
        return False
    largest = max(other.model.counts().N for other in runs if other.data.loss_on == "all")
    return largest == run.model.counts().N


USUAL_DECAY = 0.1
"""Weight decay of the recipe."""

NOISE = 0.005
"""Relative noise between seeds that is assumed where none was measured (`docs/log.md`)."""

RESAMPLES = 400


def repeated(runs: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Return runs on text at a constant rate that were not stopped: `loss` at their end, `best` test loss and
    its update `best_step`, `gap` (test less training loss at the end), `U` (tokens of the set), `infinite`
    (all the text), `R` (repeats), and `usual` (no dropout, the recipe's weight decay).

    Raises AllometryError if there are none.
    """
    wanted = (runs["tokenizer"] != "symbols") & (runs["schedule"] == "constant") & runs["early_stop"].isna()
    table = runs[wanted].reset_index(drop=True)
    if not len(table):
        raise TooFewRuns("no run on repeated text has finished")
    ends = [_end(curves[curves["run"] == run]) for run in table["run"]]
    table[["best", "best_step", "gap"]] = pd.DataFrame(ends, index=table.index)
    usual = (table["dropout"].astype(float) == 0) & np.isclose(table["weight_decay"], USUAL_DECAY)
    return table.assign(
        U=table["unique"], infinite=table["limit"].isna(), usual=usual,
        R=np.maximum(table["D"] / table["unique"] - 1, 0.0),
    )  # fmt: skip


def _end(curve: pd.DataFrame) -> tuple[float, float, float]:
    known = curve[np.isfinite(curve["loss"].astype(float))].sort_values("step")
    if not len(known):
        return float("nan"), float("nan"), float("nan")
    best, last = known.iloc[int(known["loss"].to_numpy(float).argmin())], known.iloc[-1]
    return float(best["loss"]), float(best["step"]), float(last["loss"] - last["train_loss"])


def noise_of(table: pd.DataFrame) -> float:
    """Return the relative standard deviation between seeds, pooled over sizes and sets; NOISE where none is
    repeated.
    """
    groups = table[table["usual"]].assign(log=np.log(table["loss"])).groupby(["N", "U"])["log"]
    spread, count = groups.var(), groups.count()
    known = count > 1
    if not known.any():
        return NOISE
    dof = count[known] - 1
    return float(np.sqrt((spread[known] * dof).sum() / dof.sum()))


@dataclass(frozen=True, kw_only=True, eq=False)
class LeastSet:
    """D*(N) at one tolerance: a row a size with N, `D`, its interval `low` and `high`, and `note` where the
    sets do not reach it; the exponent of N with draws of it.
    """

    tolerance: float
    table: pd.DataFrame
    exponent: float
    draws: Array

    def interval(self, level: float) -> tuple[float, float]:
        """Return the exponent's interval; NaN where fewer than three sizes have a D*."""
        kept = self.draws[np.isfinite(self.draws)]
        if len(kept) < RESAMPLES / 4:
            return float("nan"), float("nan")
        low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)


def excess(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return `column` ("loss" or "best") of each size and set over that of the size on all the text, less
    one: mean over seeds, a row a size (index N), a column a set (U rising). Raises AllometryError without
    partners.
    """
    own = table[table["usual"]]
    on_all = own[own["infinite"]].groupby("N")[column].mean()
    sets = own[~own["infinite"]].pivot_table(index="N", columns="U", values=column)
    both = sets.index.intersection(on_all.index)
    if not len(both) or not sets.shape[1]:
        raise TooFewRuns("no size was trained on sets and on all the text")
    return sets.loc[both].div(on_all.loc[both], axis=0) - 1


def least_data(table: pd.DataFrame, column: str, tolerance: float, seed: int = 0) -> LeastSet:
    """Find D* by interpolation in logarithms, with intervals from the noise between seeds: losses are redrawn,
    those on all the text too. An end of an interval that lies outside the sets is NaN, and `note` says so.
    The exponent is the slope of log D* over log N of the sizes that have one.
    """
    frame = excess(table, column)
    noise = noise_of(table)
    rng = np.random.default_rng(seed)
    n, u = frame.index.to_numpy(float), frame.columns.to_numpy(float)
    values = frame.to_numpy(float)
    shape = (RESAMPLES, *values.shape)
    on_all = noise * rng.standard_normal((RESAMPLES, len(n), 1))
    drawn = (1 + values) * np.exp(noise * rng.standard_normal(shape) - on_all) - 1
    found = [crossing(u, row, tolerance) for row in values]
    draws = np.array([[crossing(u, row, tolerance) for row in each] for each in drawn])
    inside = np.where(np.isfinite(draws) & (draws > 0), draws, np.nan)
    rows = []
    for i, size in enumerate(n):
        usable = 0 < found[i] < np.inf and np.isfinite(inside[:, i]).mean() > 0.5
        # draws beyond the sets count as beyond: leaving them out would end every interval at the largest set
        low, high = np.quantile(draws[:, i], [0.025, 0.975], method="inverted_cdf")
        note = _note(found[i], low, high, usable)
        low, high = (end if usable and 0 < end < np.inf else np.nan for end in (low, high))
        rows.append({"N": size, "D": found[i] if usable else np.nan, "low": low, "high": high, "note": note})
    answered = pd.DataFrame(rows)
    known_sizes = answered["D"].notna().to_numpy()
    return LeastSet(
        tolerance=tolerance, table=answered,
        exponent=_slope(n, answered["D"].to_numpy(float)),
        draws=np.array([_slope(n[known_sizes], row[known_sizes]) for row in inside]),
    )  # fmt: skip


def _note(found: float, low: float, high: float, usable: bool) -> str:
    """Say which side of the sets a D* lies on, or an end of its interval."""
    if not usable:
        return "below the smallest set" if found == 0 else "above the largest set"
    ends = {"from below the smallest set": low == 0, "to above the largest set": high == np.inf}
    beyond = [what for what, is_so in ends.items() if is_so]
    return f"interval {' '.join(beyond)}" if beyond else ""


LEAST_SHARE = 0.25
"""An excess below this share of the tolerance counts as so much: its logarithm is of noise, or there is none."""


def crossing(u: Array, excess: Array, tolerance: float) -> float:
    """Return the set above which the excess stays below the tolerance; 0 where it always does, infinity where
    the largest set still costs more.

    Between two sets the excess is taken for a power of U: it falls by a factor with each doubling, and a
    straight line in U's logarithm alone would put the set up to a tenth too high.
    """
    known = np.isfinite(excess)
    x, y = np.log(u[known]), excess[known]
    above = np.flatnonzero(y > tolerance)
    if not len(above):
        return 0.0
    last = int(above[-1])
    if last == len(y) - 1:
        return float("inf")
    first, second = np.log(np.maximum(y[last : last + 2] / tolerance, LEAST_SHARE))
    return float(np.exp(x[last] + first / (first - second) * (x[last + 1] - x[last])))


def _slope(n: Array, d: Array) -> float:
    """Return d log D / d log N; NaN for fewer than three sizes."""
    known = np.isfinite(d) & (d > 0)
    if known.sum() < 3:
        return float("nan")
    return float(np.polyfit(np.log(n[known]), np.log(d[known]), 1)[0])


CLEAR = 4.0
"""Standard deviations of a run's noise by which a loss must have risen, and then fallen, to count."""

CLEAR_IN_TABLES = 0.1
"""Share of the peak by which the loss on equations must: it is that of few answers, and rises by nats."""

_TITLE = "Double descent"


@dataclass(frozen=True, kw_only=True)
class Descent:
    """A peak of a test loss between two lower values: where it is, and by what share of it the loss rose
    before and fell after.
    """

    at: float
    rise: float
    fall: float


def second_descent(x: Array, y: Array, least: float) -> Descent | None:
    """Return the peak of y along rising x with the largest rise before and fall after it, if both are at
    least the share `least` of it.
    """
    known = np.isfinite(x) & np.isfinite(y) & (y > 0)
    order = np.argsort(x[known])
    x, y = x[known][order], y[known][order]
    if len(y) < 3:
        return None
    rise = 1 - np.minimum.accumulate(y) / y
    fall = 1 - np.minimum.accumulate(y[::-1])[::-1] / y
    place = int(np.argmax(np.minimum(rise, fall)))
    if min(rise[place], fall[place]) < least:
        return None
    return Descent(at=float(x[place]), rise=float(rise[place]), fall=float(fall[place]))


def descents(text: pd.DataFrame | None, tables: pd.DataFrame | None, curves: pd.DataFrame) -> StudySection:
    """Report every line of losses along training, size and data, and which of them descend twice.

    `text` as from `repeats.repeated`, `tables` as from `equations.equations`; either may be None. Raises
    AllometryError where there is no line of three.
    """
    parts = []
    if text is not None:
        parts += _on_text(text, curves)
    if tables is not None:
        runs = tables[["run", "task", "share", "weight_decay", "N"]]
        names = [
            f"{r.task}, {r.share:.0%}, weight decay {r.weight_decay:g}, N = {format_count(float(str(r.N)))}"
            for r in runs.itertuples()
        ]
        parts += _along("training, equations", runs["run"], names, curves, CLEAR_IN_TABLES)
    if not parts:
        raise TooFewRuns("no loss was followed along three sizes, sets or steps")
    table = pd.DataFrame(parts)
    said = [_counted(str(kind), rows) for kind, rows in table.groupby("along", sort=False)]
    shown = Table(
        name="descents", title="Second descents", frame=table[table["twice"]].drop(columns="twice"),
        caption="Where the loss peaks, and by what share of the peak (per cent) it rose before and fell "
        "after.",
    )  # fmt: skip
    evidence: list[Figure | Table] = []
    if text is not None:
        evidence.append(_by_size(text))
    evidence.append(shown)
    text_said = (
        f"{' '.join(said)} A line descends twice if the loss rises and then falls by more than {CLEAR:.0f} "
        f"standard deviations of a run (on equations: {percent(CLEAR_IN_TABLES)} of the peak)."
    )
    return StudySection(
        section=Section(title=_TITLE, text=text_said, evidence=tuple(evidence)),
        fits={"table": table, "summary": " ".join(said)},
    )


def _on_text(text: pd.DataFrame, curves: pd.DataFrame) -> list[dict[str, object]]:
    own = text[text["usual"] & ~text["infinite"]]
    least = CLEAR * noise_of(text)
    names = [f"N = {format_count(n)}, U = {format_count(u)}" for n, u in zip(own["N"], own["U"], strict=True)]
    found = _along("training, text", own["run"], names, curves, least)
    mean = own.groupby(["N", "U"])["loss"].mean().reset_index()
    for along, across in (("N", "U"), ("U", "N")):
        kind = "size, text" if along == "N" else "data, text"
        for fixed, line in mean.groupby(across):
            if len(line) >= 3:
                descent = second_descent(line[along].to_numpy(float), line["loss"].to_numpy(float), least)
                found.append(_row(kind, f"{across} = {format_count(float(fixed))}", descent))  # type: ignore[arg-type]
    return found


def _along(
    kind: str, runs: pd.Series, names: list[str], curves: pd.DataFrame, least: float
) -> list[dict[str, object]]:
    """Return a row for each run's test loss along its training."""
    found = []
    by_run = dict(tuple(curves.groupby("run")))
    for run, name in zip(runs, names, strict=True):
        curve = by_run.get(run)
        if curve is not None and len(curve) >= 3:
            descent = second_descent(curve["step"].to_numpy(float), curve["loss"].to_numpy(float), least)
            found.append(_row(kind, name, descent))
    return found


def _row(kind: str, name: str, descent: Descent | None) -> dict[str, object]:
    seen = (descent.at, 100 * descent.rise, 100 * descent.fall) if descent else (np.nan,) * 3
    return {
        "along": kind, "line": name, "twice": descent is not None, "peak at": seen[0], "rise": seen[1],
        "fall": seen[2],
    }  # fmt: skip


def _counted(kind: str, rows: pd.DataFrame) -> str:
    """Return how many lines of a kind descend twice, and where they peak."""
    twice = rows[rows["twice"]]
    if not len(twice):
        return f"Along {kind}: none of {len(rows)} lines descends twice within the range."
    low, high = twice["peak at"].min(), twice["peak at"].max()
    where = (
        f"at {format_count(low)}" if low == high else f"between {format_count(low)} and {format_count(high)}"
    )
    return f"Along {kind}: {len(twice)} of {len(rows)} lines descend twice, with peaks {where}."


def _by_size(text: pd.DataFrame) -> Figure:
    """Draw final loss against N, a line a set: where a model-wise descent would be seen."""
    own = text[text["usual"]].groupby(["U", "N"])["loss"].mean().reset_index().sort_values(["U", "N"])
    own = own.assign(series=[f"U = {format_count(u)}" for u in own["U"]])
    return several(
        own, own, x="N", y="loss", name="final-loss-against-size", title="Final test loss against size",
        caption="Not stopped, at one horizon; a line for each set.",
    )  # fmt: skip
