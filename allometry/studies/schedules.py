"""Schedules: does the shape of the learning rate over time matter?

Runs: one size under many schedules of the learning rate.

Analysis: loss against the summed learning rate, and what each part of a schedule is worth.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from scipy.stats import f, t

from allometry.figures.several import several
from allometry.report.build import Constant, Section, Table
from allometry.studies.core.sections import (
    KAPLAN,
    LEVEL,
    StudySection,
    TooFewRuns,
    chapter,
    constant,
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
    run_set,
    small_model,
    small_run,
    too_little,
    vocabulary,
)
from allometry.train.config import TrainConfig
from allometry.train.config import learning_rate as scheduled_rate

if TYPE_CHECKING:
    from allometry.report.build import Analysis
    from allometry.studies.core.study import StudyData
    from allometry.train.config import DataConfig, RunConfig


@register
class Schedules(Study):
    """Trains one size to one horizon under many schedules: constant with a final decay, cosine, linear and
    constant, with other peaks, floors, warm-ups and lengths of decay.

    If schedules mattered, a law would be one of schedules as much as of sizes. Kaplan et al. 2020 (appendix
    D.6, figure 22) find that any schedule is as good as another if the learning rate summed over all steps is
    large enough, there is a warm-up, and the rate decays at the end.
    """

    name: ClassVar[str] = "schedules"
    question: ClassVar[str] = (
        "Is any learning-rate schedule as good as another if its summed rate is large enough, it warms up "
        "and it decays at the end?"
    )
    expected: ClassVar[str] = (
        "Schedules that warm up and decay to zero at the recipe's peak within 1 % of each other, a few times "
        "the noise between seeds; no decay costs several per cent; half the peak costs about 1 %; no warm-up "
        "costs little at so small a width."
    )
    run_sets: ClassVar[dict[str, float]] = {"schedules": 1.0}

    def analyse(self, study_data: StudyData) -> Analysis:
        """Report loss against summed rate, and what decay, warm-up and shape are worth beside the seeds'
        noise.
        """
        runs, excluded = usable_runs(study_data)
        table, noise, dof = scheduled(runs)
        sections = {
            "summed": section_or_reason(_SUMMED, lambda: _summed(table, noise, dof)),
            "parts": section_or_reason(_PARTS, lambda: _parts(table, noise, dof)),
        }
        return chapter(
            self, study_data, sections, answer=_answer(sections), next=_next(sections), excluded=excluded,
            warnings=scope(runs, study_data),
        )  # fmt: skip


REFERENCE, N_AT_REFERENCE = 1.2e13, 25_000
"""FLOPs at which the model has N_AT_REFERENCE parameters; Kaplan et al. 2020 used one of 3 million."""

SMALLEST = 1536

PEAKS: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
"""Peak rates over the recipe's, of the cosine."""

FLOORS: tuple[float, ...] = (0.1, 0.5)
"""Final rates over the peak, of the cosine."""

SHORT, LONG = 0.0, 0.1
"""Warm-ups that differ from the recipe's: none, and a share of the horizon."""

SEEDS = 3
"""Seeds of the recipe's schedule and of the cosine: what losses differ by for no reason."""

ENOUGH = 1e12
"""FLOPs from which all schedules are affordable; less buys one of each shape."""

FEWEST_UPDATES = 150


@run_set
def schedules(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Return one size, one horizon, and schedules that differ in shape, peak, floor and warm-up: loss against
    the summed learning rate (Kaplan et al. 2020, figure 22).
    """
    wanted = max(SMALLEST, round(N_AT_REFERENCE * (compute / REFERENCE) ** 0.5))
    model = small_model(wanted, n_vocab=vocabulary(data))
    count = len(_variants(compute, 1.0, 1)) + len(_repeats(compute))
    steps = round(compute / (count * model.counts().flops_per_token("attention")) / BATCH_TOKENS)
    if steps < FEWEST_UPDATES:
        raise too_little(compute, "schedules of one size")
    rule = learning_rate(model)
    variants = [*_variants(compute, rule, steps), *_repeats(compute)]
    runs = [small_run(model, tokens=steps * BATCH_TOKENS, data=data, **changes) for changes in variants]
    return tuple({run.id: run for run in runs}.values())


def _repeats(compute: float) -> list[dict[str, Any]]:
    """Return further seeds."""
    repeated = ("wsd", "cosine") if compute >= ENOUGH else ("wsd",)
    return [{"schedule": name, "seed": seed} for name in repeated for seed in range(1, SEEDS)]


def _variants(compute: float, rule: float, steps: int) -> list[dict[str, Any]]:
    """Return what each schedule changes in the recipe's run."""
    shapes: list[dict[str, Any]] = [{"schedule": name} for name in ("wsd", "cosine", "linear", "constant")]
    if compute < ENOUGH:
        return shapes
    long = round(LONG * steps)
    return [
        *shapes,
        *({"schedule": "cosine", "lr": peak * rule} for peak in PEAKS if peak != 1),
        *({"schedule": "cosine", "final_lr": floor} for floor in FLOORS),
        *({"schedule": "wsd", "lr": peak * rule} for peak in (0.25, 0.5, 2.0)),
        *({"schedule": "constant", "lr": peak * rule} for peak in (0.25, 0.5)),
        {"schedule": "wsd", "decay": 0.4},
        {"schedule": "wsd", "decay": 0.05},
        {"schedule": "cosine", "warmup": round(SHORT)},
        {"schedule": "wsd", "warmup": round(SHORT)},
        {"schedule": "cosine", "warmup": long},
    ]


WARM = 20
"""Updates of warm-up from which a schedule is said to have one."""

LARGE_ENOUGH = 0.5
"""Summed rate over that of the recipe's schedule from which it counts as large enough (figure 22 of the paper
is flat over a factor of five, and says no number)."""

_SUMMED, _PARTS = "Loss against the summed learning rate", "What the parts of a schedule are worth"
_SHAPES = {
    "wsd": "constant with a final decay", "cosine": "cosine", "linear": "linear", "constant": "constant",
}  # fmt: skip


def scheduled(runs: pd.DataFrame) -> tuple[pd.DataFrame, float, int]:
    """Return one row a schedule of the size and horizon with the most of them (columns of `Store.frame()` and
    `series`, `summed`, `last`, `decays`, `warms`, `seeds`; the loss is the mean over seeds), the relative
    standard deviation between seeds, and its degrees of freedom.
    """
    keys = ["family", "N", "D", "B"]
    settings = ["schedule", "lr", "warmup", "decay", "final_lr"]
    counts = runs.groupby(keys)["run"].transform("size")
    own = runs[counts == counts.max()]
    rows, squares, dof = [], 0.0, 0
    for _, part in own.groupby(settings, dropna=False):
        logs = np.log(part["loss"].to_numpy(float))
        squares, dof = squares + float(((logs - logs.mean()) ** 2).sum()), dof + len(logs) - 1
        first = part.iloc[0].to_dict()
        rows.append({**first, **_summary(first), "loss": math.exp(logs.mean()), "seeds": len(logs)})
    noise = math.sqrt(squares / dof) if dof else math.nan
    return pd.DataFrame(rows), noise, dof


def _summary(row: dict[str, Any]) -> dict[str, Any]:
    """Return what the rates of a run come to: their sum over all updates, the last over the highest."""
    config = TrainConfig(
        tokens=int(row["D"]), batch_tokens=int(row["B"]), lr=row["lr"], schedule=row["schedule"],
        warmup=int(row["warmup"]), decay=row["decay"], final_lr=row["final_lr"],
    )  # fmt: skip
    rates = [scheduled_rate(config, step) for step in range(1, config.steps + 1)]
    last, warms = rates[-1] / max(rates), int(row["warmup"]) >= WARM
    series = _SHAPES[row["schedule"]] + ("" if warms else ", no warm-up")
    if row["schedule"] in ("cosine", "linear") and row["final_lr"] > 0:
        series += ", with a floor"
    return {"summed": sum(rates), "last": last, "decays": last < 0.05, "warms": warms, "series": series}


def _summed(table: pd.DataFrame, noise: float, dof: int) -> StudySection:
    """Report figure 22, right: the loss of every schedule against its summed rate."""
    if len(table) < 4:
        raise TooFewRuns(f"{len(table)} schedules are too few")
    spread = np.exp(noise) if np.isfinite(noise) else math.nan
    error = spread ** (1 / np.sqrt(table["seeds"]))
    points = table.assign(low=table["loss"] / error, high=table["loss"] * error)
    columns = ["series", "summed", "loss", "low", "high", "lr", "warmup", "decay", "final_lr", "seeds", "run"]
    figure = several(
        points[columns], x="summed", x_title="Learning rate summed over updates",
        name="loss-against-summed-rate", title="Loss against the summed learning rate",
        caption="One point a schedule; bars are one standard deviation between seeds on both sides.",
    )  # fmt: skip
    alike, row = _alike(table, noise, dof)
    best, curve = table.sort_values("loss").iloc[0], _one_curve(table)
    text = (
        f"{len(table)} schedules of one size and horizon. {len(alike)} of them warm up, decay to nearly zero "
        f"and sum to at least {percent(LARGE_ENOUGH)} of the recipe's rates: their losses are within "
        f"{percent(alike['loss'].max() / alike['loss'].min() - 1)} of each other. Seeds differ by "
        f"{percent(noise)} (standard deviation, {dof} degrees of freedom). The lowest loss, "
        f"{best['loss']:.4f}, is of {best['series']} with peak {best['lr']:.2g}. {curve}"
    )
    numbers = Table(
        name="schedules",
        title="Every schedule",
        caption="`last` is the last rate over the highest.",
        frame=table[["series", "lr", "warmup", "decay", "final_lr", "summed", "last", "loss", "seeds"]],
    )
    return StudySection(
        section=Section(title=_SUMMED, text=text, evidence=(figure, numbers)),
        constants=() if row is None else (row,),
        fits={"alike": alike},
    )


def _one_curve(table: pd.DataFrame) -> str:
    """Return how far schedules that warm up and decay lie from one curve of their summed rate."""
    good = table[table["decays"] & table["warms"]]
    if len(good) < 5:
        return ""
    x, y = np.log(good["summed"].to_numpy(float)), np.log(good["loss"].to_numpy(float))
    off = y - np.polyval(np.polyfit(x - x.mean(), y, 2), x - x.mean())
    rms = math.sqrt(float((off**2).sum()) / (len(good) - 3))
    return (
        f"Their losses spread by {percent(float(y.std(ddof=1)))} over a factor of "
        f"{good['summed'].max() / good['summed'].min():.1f} in the summed rate, and lie {percent(rms)} from "
        "one smooth curve of it, whatever their shape."
    )


PAPER_SPREAD = 0.05
"""Nats by which seeds differ in figure 22 of Kaplan et al. 2020: the margin within which schedules are alike there."""


def _alike(table: pd.DataFrame, noise: float, dof: int) -> tuple[pd.DataFrame, Constant | None]:
    """Return the schedules that the claim says are alike, and their spread over the noise between seeds."""
    recipe = table[(table["schedule"] == "wsd") & table["warms"]]
    least = LARGE_ENOUGH * float(recipe["summed"].median()) if len(recipe) else 0.0
    alike = table[table["decays"] & table["warms"] & (table["summed"] >= 0.98 * least)]
    if len(alike) < 3 or dof < 1:
        return alike, None
    logs, weight = np.log(alike["loss"]), alike["seeds"]
    centre = float(np.average(logs, weights=weight))
    ratio = math.sqrt(float((weight * (logs - centre) ** 2).sum()) / (len(alike) - 1)) / noise
    low, high = (math.sqrt(f.ppf(q, len(alike) - 1, dof)) for q in ((1 + LEVEL) / 2, (1 - LEVEL) / 2))
    why = (
        "the paper sees no difference beyond its ± 0.05 nats between seeds: a spread within that contradicts nothing, "
        f"though it is {ratio:.1f} times that of our seeds"
    )
    spread = ratio * noise * math.exp(centre)
    row = constant(
        "spread between good schedules, nats (within ± 0.05)", "σ", {f"{KAPLAN} (figure 22), at most": PAPER_SPREAD},
        (spread, spread / low, spread / high), why, widest=math.inf,
    )  # fmt: skip
    within, beyond = spread / high <= PAPER_SPREAD, spread / low > PAPER_SPREAD
    return alike, replace(
        row, verdict="agrees" if within else "differs" if beyond else "cannot tell", why=why
    )


def _parts(table: pd.DataFrame, noise: float, dof: int) -> StudySection:
    """Report pairs of schedules that differ in one thing only, with the interval that the seeds' noise
    gives.
    """
    rows = [row for row in _pairs(table, noise, dof) if row is not None]
    if not rows:
        raise TooFewRuns("no two schedules differ in one thing only")
    frame = pd.DataFrame(rows)
    said = [f"{r['change']} {r['change of loss (%)']:+.2g} %" for r in rows[:6]]
    text = (
        "Each row compares two schedules that differ in one thing only. A positive number is a higher loss. "
        f"{'; '.join(said)}."
    )
    table_ = Table(
        name="parts-of-a-schedule",
        title="What changing one thing does to the loss",
        caption=f"Intervals {LEVEL:.0%}, from the standard deviation between seeds.",
        frame=frame,
    )
    return StudySection(section=Section(title=_PARTS, text=text, evidence=(table_,)), fits={"pairs": frame})


_CHANGES: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    ("no final decay", {"schedule": "wsd"}, {"schedule": "constant"}),
    ("a cosine for a constant rate and a final decay", {"schedule": "wsd"}, {"schedule": "cosine"}),
    ("a linear fall for a constant rate and a final decay", {"schedule": "wsd"}, {"schedule": "linear"}),
    ("no warm-up", {"schedule": "wsd"}, {"schedule": "wsd", "warmup": 0.0}),
    ("no warm-up before a cosine", {"schedule": "cosine"}, {"schedule": "cosine", "warmup": 0.0}),
    ("a cosine that ends at a tenth", {"schedule": "cosine"}, {"schedule": "cosine", "final_lr": 0.1}),
    ("a cosine that ends at a half", {"schedule": "cosine"}, {"schedule": "cosine", "final_lr": 0.5}),
    ("a decay of two fifths", {"schedule": "wsd"}, {"schedule": "wsd", "decay": 0.4}),
    ("a decay of a twentieth", {"schedule": "wsd"}, {"schedule": "wsd", "decay": 0.05}),
    ("half the peak", {"schedule": "wsd"}, {"schedule": "wsd", "peak": 0.5}),
    ("twice the peak", {"schedule": "wsd"}, {"schedule": "wsd", "peak": 2.0}),
    ("half the peak of a constant rate", {"schedule": "constant"}, {"schedule": "constant", "peak": 0.5}),
)


def _pairs(table: pd.DataFrame, noise: float, dof: int) -> list[dict[str, Any] | None]:
    base = TrainConfig.model_fields
    usual = {name: float(base[name].default) for name in ("warmup", "decay", "final_lr")} | {"peak": 1.0}
    peaks = table[table["schedule"] == "wsd"].sort_values("seeds")["lr"]
    relative = table.assign(peak=table["lr"] / (float(peaks.iloc[-1]) if len(peaks) else math.nan))
    return [
        _pair(what, _find(relative, usual | old), _find(relative, usual | new), noise, dof)
        for what, old, new in _CHANGES
    ]


def _find(table: pd.DataFrame, wanted: dict[str, Any]) -> pd.Series | None:
    """Return the schedule with these settings; the length of a decay matters only where there is one."""
    kept = table[table["schedule"] == wanted["schedule"]]
    for name in ("warmup", "final_lr", "peak", *(("decay",) if wanted["schedule"] == "wsd" else ())):
        kept = kept[np.isclose(kept[name].astype(float), wanted[name], rtol=0.01)]
    return kept.iloc[0] if len(kept) else None


def _pair(
    what: str, old: pd.Series | None, new: pd.Series | None, noise: float, dof: int
) -> dict[str, Any] | None:
    if old is None or new is None:
        return None
    change = math.log(new["loss"] / old["loss"])
    half = math.nan
    if dof:
        half = float(t.ppf((1 + LEVEL) / 2, dof)) * noise * math.sqrt(1 / old["seeds"] + 1 / new["seeds"])
    bounds = {"low (%)": 100 * math.expm1(change - half), "high (%)": 100 * math.expm1(change + half)}
    return {"change": what, "change of loss (%)": 100 * math.expm1(change), **bounds}


def _answer(sections: dict[str, StudySection]) -> str:
    summed, pairs = sections["summed"], sections["parts"].fits.get("pairs")
    if "alike" not in summed.fits:
        return summed.section.text
    alike = summed.fits["alike"]
    parts = []
    if len(alike) > 1:
        span = alike["loss"].max() / alike["loss"].min() - 1
        parts.append(
            f"{len(alike)} schedules that warm up, decay and sum to enough end within {percent(span)} of "
            "each other."
        )
    for row in summed.constants:
        agrees = row.verdict == "agrees"
        parts.append(
            f"That is {row.ours:.1f} times [{row.low:.1f}, {row.high:.1f}] the noise between seeds: "
            + ("no difference between them is seen." if agrees else "small differences, but not none.")
        )
    if pairs is not None:
        decay = pairs[pairs["change"] == "no final decay"]
        parts += [
            f"Leaving the decay out costs {row['change of loss (%)']:.2g} %." for _, row in decay.iterrows()
        ]
    return " ".join(parts)


def _next(sections: dict[str, StudySection]) -> str:
    if any(row.verdict == "differs" for row in sections["summed"].constants):
        return "Which schedule is the best at every size, and does the order change with the horizon?"
    return "Do schedules that are alike here stay alike at ten times the horizon?"
