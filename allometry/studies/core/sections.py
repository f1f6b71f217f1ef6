"""What a reading of runs is, and the few things that every reading does: a row beside the published constant,
the caveats of a fit, numbers as text.

A reading that the runs cannot support raises AllometryError with the reason; `attempt` turns that into a
sentence, so that a study answers the rest.

From readings to a study's entry in the log: sections, constants, warnings and what was left out.

What every study does with its runs before it reads them: sets aside what cannot be used, with the reason,
measures the noise between seeds, and says what limits its conclusions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from allometry.errors import AllometryError
from allometry.laws.fit import fit
from allometry.laws.zoo import get
from allometry.report.content import Analysis, Constant, Section, Table, Verdict

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

    from allometry.laws.result import FitResult
    from allometry.studies.core.study import Evidence, Study

LEVEL = 0.95
KAPLAN = "Kaplan 2020"
CHINCHILLA = "Chinchilla 2022"
EPOCH = "Besiroglu 2024"
PORIAN = "Porian 2024"

TOKENS = "its scale depends on tokens and text (ours are bytes), so only exponents can be compared"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One question asked of the runs: a section of the report, constants for the table, fits by name, and
    warnings."""

    section: Section
    constants: tuple[Constant, ...] = ()
    fits: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def attempt(title: str, reading: Callable[[], Reading]) -> Reading:
    """The reading, or a section that says why the runs do not support it."""
    try:
        return reading()
    except AllometryError as error:
        text = f"This could not be answered from these runs: {error.message}. {_sentence(error.cli_hint)}"
        return Reading(section=Section(title=title, text=text), warnings=(f"{title}: {error.message}",))


def _sentence(text: str | None) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def constant(
    name: str,
    symbol: str,
    published: dict[str, float],
    estimate: tuple[float, float, float],
    why: str,
    *,
    widest: float = 1.0,
) -> Constant:
    """A row of the table: agrees if the interval holds a published value, unless it is so wide that it says
    nothing.

    `estimate` is (value, low, high) at LEVEL; `widest` is the width of the interval over the value from which
    nothing can be told.
    """
    ours, low, high = estimate
    verdict: Verdict = "differs"
    if not high - low < widest * abs(ours):
        verdict = "cannot tell"
    elif any(low <= value <= high for value in published.values()):
        verdict = "agrees"
    inside = [paper for paper, value in published.items() if low <= value <= high]
    if verdict == "agrees" and len(inside) < len(published):
        why = f"the interval holds {' and '.join(inside)}, not the others: {why}"
    return Constant(
        name=name, symbol=symbol, published=published, ours=ours, low=low, high=high, level=LEVEL,
        verdict=verdict, why=why,
    )  # fmt: skip


EXPECTED = ("correlation", "scale-not-identified")
"""Warnings that every fit of power laws carries: only exponents are compared here, and never the scales."""


def caveats(result: FitResult, label: str) -> tuple[str, ...]:
    """The fit's own warnings, as sentences under its name."""
    return tuple(
        f"{label}: {warning.meaning}"
        + (f"; what is known: {warning.identified}" if warning.identified else "")
        for warning in result.warnings
        if warning.name not in EXPECTED
    )


def one_law(runs: pd.DataFrame, law: str, x: str) -> FitResult:
    """A power law of the loss in one column, by least squares on log loss, resampled by run."""
    (symbol,) = get(law).inputs
    return fit(runs, law=law, columns={symbol: x, "L": "loss"}, objective="lsq-log", group="run")


def estimate(result: FitResult, name: str) -> tuple[float, float, float]:
    """A parameter with its interval at LEVEL."""
    return (result.parameters[name], *result.interval(name, LEVEL))


def percent(value: float) -> str:
    """A share in percent with two digits, whole numbers from ten on."""
    return f"{100 * value:.2g} %" if abs(value) < 0.0995 else f"{100 * value:.0f} %"


def mean_estimate(values: ArrayLike) -> tuple[float, float, float]:
    """The mean of independent measurements with Student's interval at LEVEL; AllometryError for fewer than
    two."""
    from scipy.stats import t

    kept = np.asarray(values, dtype=float)
    kept = kept[np.isfinite(kept)]
    if len(kept) < 2:
        raise AllometryError(f"{len(kept)} measurements have no interval", hint="finish the study's runs")
    half = float(t.ppf(0.5 + LEVEL / 2, len(kept) - 1) * kept.std(ddof=1) / np.sqrt(len(kept)))
    return float(kept.mean()), float(kept.mean()) - half, float(kept.mean()) + half


def claim(
    name: str,
    symbol: str,
    estimate: tuple[float, float, float],
    why: str,
    *,
    above: bool,
    paper: str = KAPLAN,
) -> Constant:
    """A row for a claim of a paper that a quantity lies above (or below) zero: agrees if the whole interval
    does, differs if the whole interval does not."""
    ours, low, high = estimate
    as_claimed, against = (low > 0, high < 0) if above else (high < 0, low > 0)
    verdict: Verdict = "agrees" if as_claimed else "differs" if against else "cannot tell"
    return Constant(
        name=name, symbol=symbol, published={f"{paper}, {'above' if above else 'below'}": 0.0}, ours=ours,
        low=low, high=high, level=LEVEL, verdict=verdict, why=why,
    )  # fmt: skip


def slope_of(means: pd.Series) -> dict[str, float]:
    """The slope of log L in log N of losses indexed by N (three or more), with its interval."""
    from scipy.stats import linregress, t

    line = linregress(np.log(means.index.to_numpy(dtype=float)), np.log(means.to_numpy()))
    half = float(t.ppf(0.5 + LEVEL / 2, len(means) - 2) * line.stderr)
    return {"slope": float(line.slope), "low": float(line.slope) - half, "high": float(line.slope) + half}


def chapter(
    study: Study,
    evidence: Evidence,
    readings: Mapping[str, Reading],
    *,
    answer: str,
    next: str,
    excluded: pd.DataFrame | None = None,
    warnings: tuple[str, ...] = (),
) -> Analysis:
    """The analysis of a study whose readings come in this order; `warnings` come before their own."""
    kept = list(readings.values())
    return Analysis(
        study=study.name,
        question=study.question,
        answer=answer,
        command=evidence.command,
        sections=tuple(reading.section for reading in kept),
        constants=tuple(row for reading in kept for row in reading.constants),
        warnings=(*warnings, *(w for reading in kept for w in reading.warnings)),
        excluded=excluded,
        runs=evidence.runs,
        environment=evidence.environment,
        expected=study.expected,
        next=next,
    )


ENOUGH_UPDATES = 2000
"""Updates below which a run measures when it left its plateau more than its size (`docs/log.md`)."""


def usable_runs(evidence: Evidence) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Finished runs, and what is left out of the fits with the reason; nothing is dropped in silence."""
    runs = evidence.runs
    reasons = (
        runs["status"]
        .map({"diverged": "diverged", "failed": "failed", "partial": "not finished"})
        .astype(object)
    )
    reasons = reasons.where(runs["status"] != "done", None)
    finite = np.isfinite(runs["loss"].astype(float))
    reasons[(runs["status"] == "done") & ~finite] = "no finite loss"
    out = reasons.notna()
    excluded = runs.loc[out, ["run", "N", "D", "seed", "loss"]].assign(reason=reasons[out])
    missing = [run for run in evidence.planned if run not in set(runs["run"])]
    for run in missing:
        excluded.loc[len(runs) + len(excluded), ["run", "reason"]] = [run, "not trained yet"]
    return runs[~out].reset_index(drop=True), excluded


def seed_noise(runs: pd.DataFrame) -> tuple[float | None, Reading]:
    """Relative standard deviation between seeds at each repeated point, and pooled; None without repeats."""
    grouped = runs.assign(log_loss=np.log(runs["loss"])).groupby(["N", "D"])
    table = grouped.agg(
        seeds=("seed", "nunique"), mean=("loss", "mean"), sd=("log_loss", "std")
    ).reset_index()
    table = table[table["seeds"] > 1].rename(columns={"mean": "mean loss", "sd": "relative sd"})
    title = "Noise between seeds"
    if not len(table):
        text = "No point was trained with several seeds, so the noise of a run is not known."
        return None, Reading(section=Section(title=title, text=text))
    freedom = table["seeds"] - 1
    pooled = float(np.sqrt((freedom * table["relative sd"] ** 2).sum() / freedom.sum()))
    text = (
        f"Runs that differ only in their seed differ by {percent(pooled)} of the loss (standard deviation, "
        f"pooled over {len(table)} "
        f"points with {int(freedom.sum())} degrees of freedom). Residuals near this size are noise; larger "
        f"ones are the law's."
    )
    caption = "Every point with several seeds."
    evidence = (Table(name="seed-noise", title="Repeated points", caption=caption, frame=table),)
    return pooled, Reading(section=Section(title=title, text=text, evidence=evidence))


def scope(runs: pd.DataFrame, evidence: Evidence) -> tuple[str, ...]:
    """What limits every conclusion of this study at this budget."""
    found = []
    fewest = int(runs["S"].min())
    if fewest < ENOUGH_UPDATES:
        share = (runs["S"] < ENOUGH_UPDATES).mean()
        found.append(
            f"{percent(share)} of the runs have fewer than {ENOUGH_UPDATES} updates (the shortest "
            f"{fewest}): such losses are set by when "
            "a model leaves its plateau, and the exponents below are those of a transition. Allow more "
            "time for laws."
        )
    epochs = float((runs["D"] / runs["unique"]).max())
    if epochs > 1.05:
        found.append(f"The longest runs see their text {epochs:.1f} times; the laws assume fresh tokens.")
    missing = len(evidence.planned) - len(runs)
    if missing:
        found.append(
            f"{missing} of {len(evidence.planned)} planned runs are missing from the fits (see excluded "
            f"runs)."
        )
    return tuple(found)
