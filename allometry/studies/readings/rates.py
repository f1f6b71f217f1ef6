"""The reading of the rates study: the best learning rate of each family and size, and what the recipe's rule
costs beside it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from allometry.errors import AllometryError
from allometry.laws.estimate import Estimate, percentile_interval
from allometry.report.content import Constant, Section, Table
from allometry.studies.core.chapter import chapter
from allometry.studies.core.recipe import rule_rate
from allometry.studies.core.sections import LEVEL, Reading, attempt, constant, percent
from allometry.studies.core.usable import scope, usable_runs
from allometry.studies.readings.best_rate import Optimum, optima
from allometry.units import format_count

if TYPE_CHECKING:
    from allometry.report.content import Analysis
    from allometry.studies.core.study import Evidence, Study

COSTLY = 0.01
"""Relative loss from which the rule is said to cost too much."""

_BEST, _RULES = "The best rate of each family and size", "The published rules at these sizes"


def analyse(study: Study, evidence: Evidence) -> Analysis:
    """The report's content from the finished runs; what cannot be answered says why."""
    runs, excluded = usable_runs(evidence)
    found = optima(runs)
    readings = {
        "best": attempt(_BEST, lambda: _best(found)),
        "rules": attempt(_RULES, lambda: _published(found)),
    }
    limits = tuple(w for w in scope(runs, evidence) if "updates" in w)
    warnings = (*limits, *_unread(found))
    return chapter(
        study, evidence, readings, answer=_answer(found), next=_next(found), excluded=excluded,
        warnings=warnings,
    )  # fmt: skip


def _unread(found: list[Optimum]) -> tuple[str, ...]:
    missing = sorted({"transformer", "lstm", "universal"} - {each.family for each in found})
    return tuple(f"No rate study of the {family} family could be read." for family in missing)


def _best(found: list[Optimum]) -> Reading:
    """Every family and size: curve, best rate, cost of the rule; warns where that is more than 1 %."""
    from allometry.figures.several import several

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
    worst = max(found, key=lambda each: each.cost.value)
    ratios = [each.best.value / each.rule for each in found]
    text = (
        "All runs of a size have one horizon and the recipe's schedule. The rule costs most for "
        f"{worst.label}: {percent(worst.cost.value)} of the loss, "
        f"{_interval(worst.cost, 100)} %. Best rates are between {min(ratios):.2f} and {max(ratios):.2f} "
        "times the rule's."
    )
    return Reading(
        section=Section(title=_BEST, text=text, evidence=(figure, table)),
        constants=_exponents(found),
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


def _exponents(found: list[Optimum]) -> tuple[Constant, ...]:
    """d log best rate / d log width of each family with two sizes, beside the rule's."""
    rows = []
    for family in dict.fromkeys(each.family for each in found):
        own = sorted((each for each in found if each.family == family), key=lambda each: each.d_model)
        if len(own) < 2 or not own[-1].d_model > own[0].d_model:
            continue
        span = math.log(own[-1].d_model / own[0].d_model)
        value = math.log(own[-1].best.value / own[0].best.value) / span
        draws = np.log(own[-1].best.samples / own[0].best.samples[::-1]) / span
        rule = math.log(own[-1].rule / own[0].rule) / span
        why = "two sizes at one short horizon; the best rate of a longer one is lower"
        rows.append(
            constant(
                f"best rate against width, {family}",
                "d log lr / d log d_model",
                {"our rule": rule},
                (value, *percentile_interval(draws, LEVEL)),
                why,
                widest=math.inf,
            )
        )
    return tuple(rows)


def _published(found: list[Optimum]) -> Reading:
    """Best rates against N, with the recipe's rules and the published ones."""
    from allometry.figures.several import several

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
    return Reading(section=Section(title=_RULES, text=text, evidence=(figure,)))


def _rules(low: float, high: float, tokens: float) -> pd.DataFrame:
    """Every rule as a line over sizes: series, N, lr."""
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
        raise AllometryError(
            "no family and size has three rates near a minimum", hint="train the rates: allometry run rates"
        )


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
        return f"Mend the rule for {', '.join(costly)}, and train what rests on it again."
    return "Does the best rate fall at longer horizons, as Step Law has it rise with D?"
