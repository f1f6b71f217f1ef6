"""What a reading of runs is, and the few things that every reading does: a row beside the published constant,
the caveats of a fit, numbers as text.

A reading that the runs cannot support raises AllometryError with the reason; `attempt` turns that into a
sentence, so that a study answers the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from allometry.errors import AllometryError
from allometry.laws.fit import fit
from allometry.report.content import Constant, Section, Verdict

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

    from allometry.laws.result import FitResult

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
    from allometry.laws.zoo import get

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
