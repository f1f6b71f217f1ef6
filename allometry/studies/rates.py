"""Rates: is the learning-rate rule that every other study uses the best one, for each family?

Runs: learning rates about the rule of each family, at two sizes: is the rule that every study uses the best?

Analysis: the best learning rate of a family at a size: a parabola of log loss in the log of the rate.

Analysis: the best learning rate of each family and size, and what the recipe's rule costs beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from allometry.core.units import format_count
from allometry.figures.several import several
from allometry.laws.uncertainty import Array, Estimate, percentile_interval
from allometry.report.build import Section, Table
from allometry.studies.core.sections import (
    LEVEL,
    StudySection,
    TooFewRuns,
    chapter,
    percent,
    scope,
    section_or_reason,
    usable_runs,
)
from allometry.studies.core.study import (
    BATCH_TOKENS,
    Study,
    learning_rate,
    register,
    rule_rate,
    run_set,
    small_model,
    small_run,
    too_little,
    vocabulary,
)

if TYPE_CHECKING:
    from allometry.models.base import ModelConfig
    from allometry.report.build import Analysis
    from allometry.studies.core.study import StudyData
    from allometry.train.config import DataConfig, RunConfig


@register
class Rates(Study):
    """Trains each family at two sizes with rates from a quarter of the recipe's to four times it.

    A law of size is a law of tuned models: one rate for all sizes turns their order around. The published
    rules are fitted to models a thousand times larger and disagree by a factor of twenty here, so the recipe
    has its own (`docs/log.md`). This study says what that rule costs in loss, and warns where it costs much.
    """

    name: ClassVar[str] = "rates"
    question: ClassVar[str] = (
        "Is the learning-rate rule of the other studies near the best rate of each family and size, and what "
        "does it cost where it is not?"
    )
    expected: ClassVar[str] = (
        "The best rate of transformers within a factor of 1.5 of the rule and going as one over the width; "
        "LSTMs best at one rate for all widths; a cost below 1 % of the loss. The published rules should be "
        "off by factors of 3 to 10, to both sides."
    )
    run_sets: ClassVar[dict[str, float]] = {"rates": 1.0}

    def analyse(self, study_data: StudyData) -> Analysis:
        """Report a parabola in the log of the rate for each family and size, with the rule's cost."""
        runs, excluded = usable_runs(study_data)
        found = optima(runs)
        sections = {
            "best": section_or_reason(_BEST, lambda: _best(found)),
            "rules": section_or_reason(_RULES, lambda: _published(found)),
        }
        limits = tuple(w for w in scope(runs, study_data) if "updates" in w)
        warnings = (*limits, *_unread(found))
        return chapter(
            self, study_data, sections, answer=_answer(found), next=_next(found), excluded=excluded,
            warnings=warnings,
        )  # fmt: skip


FAMILIES = ("transformer", "lstm", "universal")

FACTORS: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Rates over the rule's. A parabola in the log of the rate is good for about a factor of four."""

FEW_FACTORS: tuple[float, ...] = (0.4, 1.0, 2.5)

REPEATED = 1.0
"""The factor that has a second seed at the smaller size of each family."""

RATIO = 4
"""N of the larger size over N of the smaller."""

REFERENCE, N_AT_REFERENCE = 1.6e13, 14_000
"""FLOPs at which the smaller size has N_AT_REFERENCE parameters."""

SMALLEST = 1536

ENOUGH = 2e12
"""FLOPs from which all factors are affordable; less buys the few."""

FEWEST_UPDATES = 100


@run_set
def rates(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Return each family at two sizes, all at one horizon, with rates from a quarter of the recipe's to four
    times it, in the recipe's own schedule.
    """
    models = _models(compute, vocabulary(data))
    factors = FACTORS if compute >= ENOUGH else FEW_FACTORS
    runs = [(model, factor, 0) for model in models for factor in factors]
    if compute >= ENOUGH:
        runs += [(model, REPEATED, 1) for model in models[::2]]
    tokens = compute / sum(model.counts().flops_per_token("attention") for model, _, _ in runs)
    steps = round(tokens / BATCH_TOKENS)
    if steps < FEWEST_UPDATES:
        raise too_little(compute, "learning rates of every family")

    def run(model: ModelConfig, factor: float, seed: int) -> RunConfig:
        lr = learning_rate(model)
        lr = lr if factor == 1 else float(f"{factor * lr:.4g}")
        return small_run(model, tokens=steps * BATCH_TOKENS, data=data, seed=seed, lr=lr)

    return tuple(run(*each) for each in runs)


def _models(compute: float, n_vocab: int) -> list[ModelConfig]:
    """Return the smaller and larger model of each family, in the order of FAMILIES."""
    small = max(SMALLEST, round(N_AT_REFERENCE * (compute / REFERENCE) ** 0.5))
    return [
        small_model(size, n_vocab=n_vocab, family=family)
        for family in FAMILIES
        for size in (small, RATIO * small)
    ]


NEAR = 1.12
"""Loss over the lowest one up to which a rate belongs to the parabola; beyond it the curve is none."""

ASSUMED_NOISE = 0.005
"""Relative standard deviation of a loss, where neither spare rates nor seeds measure it (`docs/log.md`)."""

DRAWS = 400


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """One family at one size: the parabola's best rate, the rule's rate, and what the rule costs in relative
    loss. `inside`: whether the best rate lies between those tried, or is the lowest or highest of them.
    """

    family: str
    N: float
    d_model: float
    D: float
    rule: float
    points: pd.DataFrame
    coefficients: Array
    best: Estimate
    cost: Estimate
    inside: bool

    @property
    def label(self) -> str:
        """Such as "transformer, N = 13.8k"."""
        return f"{self.family}, N = {format_count(self.N)}"


def optima(runs: pd.DataFrame) -> list[Optimum]:
    """Return the optimum of every family and size that was trained with at least three rates near its
    best.
    """
    table = runs.assign(log_loss=np.log(runs["loss"].astype(float)), x=np.log(runs["lr"].astype(float)))
    groups = [part for _, part in table.groupby(["family", "N", "D", "schedule", "B"], sort=True)]
    groups = [_near(part) for part in groups]
    groups = [part for part in groups if part["lr"].nunique() >= 3]
    noise = _noise(groups)
    return [each for each in (_optimum(part, noise) for part in groups) if each is not None]


def _near(part: pd.DataFrame) -> pd.DataFrame:
    """Return the rates near the best, or the three about it where fewer are near."""
    means = part.groupby("lr")["log_loss"].mean()
    best = int(means.to_numpy().argmin())
    start = min(max(best - 1, 0), max(len(means) - 3, 0))
    kept = set(means.index[means < means.min() + math.log(NEAR)]) | set(means.index[start : start + 3])
    return part[part["lr"].isin(kept)]


def _noise(groups: list[pd.DataFrame]) -> float:
    """Return the relative standard deviation of a loss about its parabola, pooled over all groups."""
    squares, dof = 0.0, 0
    for part in groups:
        x, y = part["x"].to_numpy(float), part["log_loss"].to_numpy(float)
        if len(x) > 3:
            residual = y - np.polyval(np.polyfit(x - x.mean(), y, 2), x - x.mean())
            squares, dof = squares + float((residual**2).sum()), dof + len(x) - 3
    return math.sqrt(squares / dof) if dof >= 3 else ASSUMED_NOISE


def _optimum(part: pd.DataFrame, noise: float) -> Optimum | None:
    """Return the parabola of one family and size with draws of its losses; None where it has no minimum."""
    family, width = str(part["family"].iloc[0]), float(part["d_model"].iloc[0])
    rule = rule_rate(family, width)
    x, y = part["x"].to_numpy(float) - math.log(rule), part["log_loss"].to_numpy(float)
    solve = np.linalg.pinv(np.vander(x, 3))
    wobble = noise * np.random.default_rng(0).standard_normal((DRAWS, len(y)))
    value, samples = solve @ y, (y + wobble) @ solve.T
    if value[0] <= 0:
        return None
    tried = float(x.min()), float(x.max())
    best, cost = _vertex(value[None], *tried)
    bests, costs = _vertex(samples, *tried)
    return Optimum(
        family=family, N=float(part["N"].iloc[0]), d_model=width, D=float(part["D"].iloc[0]), rule=rule,
        points=part, coefficients=value, inside=tried[0] < best[0] < tried[1],
        best=Estimate(value=rule * math.exp(best[0]), samples=rule * np.exp(bests)),
        cost=Estimate(value=float(cost[0]), samples=costs),
    )  # fmt: skip


def _vertex(coefficients: Array, lowest: float, highest: float) -> tuple[Array, Array]:
    """Return the log of the best rate over the rule's, at most at the edge of those tried, and the rule's
    relative cost.

    `coefficients`: (draws, 3), of log loss in the log of the rate over the rule's. NaN for parabolas that
    open down.
    """
    a, b = coefficients[:, 0], coefficients[:, 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        best = np.where(a > 0, np.clip(-b / (2 * a), lowest, highest), np.nan)
    return best, np.exp(-(a * best**2 + b * best)) - 1


COSTLY = 0.01
"""Relative loss from which the rule is said to cost too much."""

_BEST, _RULES = "The best rate of each family and size", "The published rules at these sizes"


def _unread(found: list[Optimum]) -> tuple[str, ...]:
    missing = sorted({"transformer", "lstm", "universal"} - {each.family for each in found})
    return tuple(f"No rate study of the {family} family could be read." for family in missing)


def _best(found: list[Optimum]) -> StudySection:
    """Report every family and size: curve, best rate, cost of the rule; warns where that is more than 1 %."""
    _need(found)
    figure = several(
        _points(found), _parabolas(found), x="rate_over_rule", y="excess", y_scale="percent",
        x_title="Learning rate over the recipe's", y_title="Loss over the lowest of the parabola",
        name="loss-against-rate", title="What a rate costs",
        caption="Points are runs, lines parabolas in the log of the rate through those near the best.",
    )  # fmt: skip
    frame = pd.DataFrame([_row(each) for each in found])
    table = Table(
        name="best-rates",
        title="Best rate, the recipe's rule, and what the rule costs",
        caption=f"Intervals {LEVEL:.0%}; the cost is the relative rise of the loss over the best rate's.",
        frame=frame,
    )
    exponents = _exponents(found)
    worst = max(found, key=lambda each: each.cost.value)
    ratios = [each.best.value / each.rule for each in found]
    text = (
        "All runs of a size have one horizon and the recipe's schedule. The rule costs most for "
        f"{worst.label}: {percent(worst.cost.value)} of the loss, "
        f"{_interval(worst.cost, 100)} %. Best rates are between {min(ratios):.2f} and {max(ratios):.2f} "
        "times the rule's."
    )
    return StudySection(
        section=Section(title=_BEST, text=text, evidence=tuple(e for e in (figure, table, exponents) if e)),
        warnings=tuple(_warnings(found)),
    )


def _warnings(found: list[Optimum]) -> list[str]:
    out = []
    for each in found:
        if each.cost.value > COSTLY:
            out.append(
                f"{each.label}: the rule's rate {each.rule:.3g} costs {percent(each.cost.value)} of the "
                f"loss; {each.best.value:.2g} is better at this horizon."
            )
        if not each.inside:
            out.append(
                f"{each.label}: the best rate is the lowest or highest of those tried: it may lie beyond."
            )
    return out


def _row(each: Optimum) -> dict[str, object]:
    low, high = each.best.interval(LEVEL)
    cost_low, cost_high = each.cost.interval(LEVEL)
    return {
        "family": each.family, "N": each.N, "d_model": each.d_model, "D": each.D, "rule": each.rule,
        "best": each.best.value, "best low": low, "best high": high,
        "best over rule": each.best.value / each.rule,
        "cost of the rule (%)": 100 * each.cost.value, "cost low (%)": 100 * cost_low,
        "cost high (%)": 100 * cost_high, "rates": each.points["lr"].nunique(),
    }  # fmt: skip


def _points(found: list[Optimum]) -> pd.DataFrame:
    parts = []
    for each in found:
        bottom = float(np.polyval(each.coefficients, math.log(each.best.value / each.rule)))
        excess = 100 * np.expm1(each.points["log_loss"].to_numpy(float) - bottom)
        frame = pd.DataFrame({"rate_over_rule": each.points["lr"] / each.rule, "excess": excess})
        columns = {name: each.points[name] for name in ("lr", "loss", "seed", "run") if name in each.points}
        parts.append(frame.assign(series=each.label, **columns))
    return pd.concat(parts, ignore_index=True)


def _parabolas(found: list[Optimum]) -> pd.DataFrame:
    parts = []
    for each in found:
        ratio = each.points["lr"] / each.rule
        grid = np.geomspace(ratio.min(), ratio.max(), 40)
        curve = np.polyval(each.coefficients, np.log(grid))
        bottom = float(np.polyval(each.coefficients, math.log(each.best.value / each.rule)))
        frame = pd.DataFrame({"rate_over_rule": grid, "excess": 100 * np.expm1(curve - bottom)})
        parts.append(frame.assign(series=each.label))
    return pd.concat(parts, ignore_index=True)


def _exponents(found: list[Optimum]) -> Table | None:
    """Return d log best rate / d log width of each family with two sizes beside the rule's, None where none has.

    The rule is our own, so this is a check of the recipe and no comparison with a paper.
    """
    rows = []
    for family in dict.fromkeys(each.family for each in found):
        own = sorted((each for each in found if each.family == family), key=lambda each: each.d_model)
        if len(own) < 2 or not own[-1].d_model > own[0].d_model:
            continue
        span = math.log(own[-1].d_model / own[0].d_model)
        value = math.log(own[-1].best.value / own[0].best.value) / span
        draws = np.log(own[-1].best.samples / own[0].best.samples[::-1]) / span
        low, high = percentile_interval(draws, LEVEL)
        rule = math.log(own[-1].rule / own[0].rule) / span
        rows.append({"family": family, "exponent": value, "low": low, "high": high, "the rule's": rule})
    if not rows:
        return None
    return Table(
        name="best-rate-against-width", title="d log best rate / d log d_model", frame=pd.DataFrame(rows),
        caption=f"Two sizes at one short horizon, {LEVEL:.0%} intervals; the best rate of a longer one is lower.",
    )  # fmt: skip


def _published(found: list[Optimum]) -> StudySection:
    """Report best rates against N, with the recipe's rules and the published ones."""
    _need(found)
    rows = [(each.family, each.N, each.best.value, *each.best.interval(LEVEL)) for each in found]
    points = pd.DataFrame(rows, columns=["series", "N", "lr", "low", "high"])
    lines = _rules(min(each.N for each in found), max(each.N for each in found), found[0].D)
    figure = several(
        points, lines, x="N", y="lr", name="best-rate-against-size", title="Best rate against size",
        caption=(
            "Points: the best rate of each family and size with its 95 % interval. Lines: the recipe's rules "
            "and the published ones, far below the sizes that they were fitted to."
        ),
    )  # fmt: skip
    ends = lines.groupby("series")["lr"].agg(["first", "last"])
    ours = [name for name in ends.index if name.startswith("recipe")]
    spread = ends.drop(index=ours)
    text = (
        f"At N = {format_count(lines['N'].min())} the published rules ask for rates from "
        f"{spread['first'].min():.2g} to {spread['first'].max():.2g}, a factor of "
        f"{spread['first'].max() / spread['first'].min():.0f} apart: Kaplan et al. 2020 (eq. D.1), Porian et "
        "al. 2024 and Step Law (Li et al. 2025, with our horizon as its D). None was fitted below a million "
        "parameters, and each belongs to its own batches."
    )
    return StudySection(section=Section(title=_RULES, text=text, evidence=(figure,)))


def _rules(low: float, high: float, tokens: float) -> pd.DataFrame:
    """Return every rule as a line over sizes: series, N, lr."""
    n = np.geomspace(low / 1.5, high * 1.5, 30)
    rules = {
        "recipe, transformers": [rule_rate("transformer", width) for width in np.sqrt(n / 24)],
        "recipe, LSTMs": [rule_rate("lstm", width) for width in np.sqrt(n / 16)],
        "Kaplan 2020": 0.003239 - 0.0001395 * np.log(n),
        "Porian 2024": 0.0047 * (n / 108e6) ** (-1 / 3),
        "Step Law 2025": 1.79 * n**-0.713 * tokens**0.307,
    }
    return pd.concat(
        [pd.DataFrame({"series": name, "N": n, "lr": lr}) for name, lr in rules.items()], ignore_index=True
    )


def _need(found: list[Optimum]) -> None:
    if not found:
        raise TooFewRuns("no family and size has three rates near a minimum")


def _interval(estimate: Estimate, scale: float = 1.0) -> str:
    low, high = estimate.interval(LEVEL)
    return f"[{scale * low:.2g}, {scale * high:.2g}]"


def _answer(found: list[Optimum]) -> str:
    if not found:
        return "No family and size was trained with three rates near a minimum, so nothing can be said."
    parts = []
    for family in dict.fromkeys(each.family for each in found):
        own = [each for each in found if each.family == family]
        ratios = " and ".join(f"{e.best.value / e.rule:.2f} {_over(e)}" for e in own)
        costs = max(each.cost.value for each in own)
        parts.append(f"{family}: best at {ratios} times the rule, which costs at most {percent(costs)}")
    return "; ".join(parts) + "."


def _over(each: Optimum) -> str:
    low, high = each.best.interval(LEVEL)
    return f"[{low / each.rule:.2f}, {high / each.rule:.2f}]"


def _next(found: list[Optimum]) -> str:
    costly = [each.label for each in found if each.cost.interval(LEVEL)[0] > COSTLY]
    if costly:
        return f"Update the rule for {', '.join(costly)}, and rerun the studies that use it."
    return "Does the best rate fall at longer horizons, as Step Law has it rise with D?"
