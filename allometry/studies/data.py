"""Data: how does the loss fall with the size of the set, when size and training do not limit it?

Analysis: L(D) of the largest size, early-stopped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pandas as pd

from allometry.core.units import format_count
from allometry.figures.fits import power_law
from allometry.report.build import Constant, Section, Table
from allometry.studies.core.sections import (
    KAPLAN,
    TOKENS,
    StudySection,
    TooFewRuns,
    caveats,
    chapter,
    constant,
    design_of,
    estimate,
    one_law,
    percent,
    section_or_reason,
    usable_runs,
)
from allometry.studies.core.study import Study, register
from allometry.studies.shared.subsets import early_stopped, excess, limits, until_turned

if TYPE_CHECKING:
    from allometry.figures.theme import Figure
    from allometry.laws.result import FitResult
    from allometry.report.build import Analysis
    from allometry.studies.core.study import StudyData


@register
class Data(Study):
    """Trains the largest affordable model on nested subsets of the text, each until its test loss turns.

    This is L(D) as Kaplan et al. 2020 measure it (section 3.3, figure 1, middle), and not the loss after D
    tokens of one pass: small sets are seen many times, and what is left is what the text did not tell.
    """

    name: ClassVar[str] = "data"
    question: ClassVar[str] = (
        "How does the early-stopped test loss fall with the number of training tokens, and is it a power law?"
    )
    expected: ClassVar[str] = (
        "A straight line in log-log over the sets that are learnt by heart, steeper than Kaplan's 0.095 "
        "(bytes of one genre, and models that still learn spelling), and flat where the set is so large that "
        "the horizon limits instead."
    )
    run_sets: ClassVar[dict[str, float]] = {"subsets": 1.0}

    def analyse(self, study_data: StudyData) -> Analysis:
        """Report L(D) of the largest size, as a power law and above a floor."""
        runs, excluded = usable_runs(study_data)
        sections = {
            "law": section_or_reason(_LAW, lambda: _law(_largest(runs, study_data.curves))),
            "sets": section_or_reason(_SETS, lambda: _sets(_largest(runs, study_data.curves))),
        }
        return chapter(
            self, study_data, sections, answer=_answer(sections), next=_next(sections), excluded=excluded
        )


LIMITED = 0.01
"""Loss over that on all the text, minus one, from which data are said to limit a run."""

_LAW, _SETS = "L(D): loss against the size of the set", "Every set"


def _largest(runs: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Return the early-stopped runs of the largest size that has at least three subsets, with its excess
    loss.
    """
    table = early_stopped(runs, curves)
    table = table.assign(excess=excess(table))
    sets = table[~table["infinite"]].groupby("N")["unique"].nunique()
    if not (sets >= 3).any():
        raise TooFewRuns("no size was trained on three subsets of the text")
    return table[table["N"] == float(sets[sets >= 3].index.max())].reset_index(drop=True)


def _law(table: pd.DataFrame) -> StudySection:
    """Report the power law over the sets that limit the loss, and a law with a floor over all."""
    limited = table[(table["excess"] > LIMITED) & ~table["infinite"]]
    drawn = table[~table["infinite"]]
    named = {"Kaplan et al. 2020": -0.095}
    evidence: list[Figure | Table] = []
    fits: dict[str, FitResult] = {}
    if limited["unique"].nunique() >= 3:
        straight = one_law(limited, "kaplan-d", "unique")
        fits["L(D)"] = straight
        evidence.append(
            power_law(
                limited,
                straight,
                x="unique",
                slopes=named,
                name="loss-against-data",
                title="Early-stopped loss against the size of the set",
            )
        )
    if table["unique"].nunique() >= 4:
        bent = one_law(table, "power-offset", "unique")
        fits["L(D) with a floor"] = bent
        evidence.append(
            power_law(
                table,
                bent,
                x="unique",
                name="loss-against-data-floor",
                title="All sets, with a floor",
            )
        )
    if not fits:
        raise TooFewRuns(
            f"only {limited['unique'].nunique()} sets limit the loss by more than {percent(LIMITED)}, and "
            f"{drawn['unique'].nunique()} were trained"
        )
    return StudySection(
        section=Section(title=_LAW, text=_text(table, limited, fits), evidence=tuple(evidence)),
        constants=until_turned(table, _constants(fits)),
        fits=fits,
        warnings=(*limits(table), *(w for name, each in fits.items() for w in caveats(each, name))),
    )


def _constants(fits: dict[str, FitResult]) -> list[Constant]:
    why = (
        "the largest model here still learns spelling, which more text of one genre teaches fast, and its "
        f"horizon limits what large sets can show; {TOKENS}"
    )
    rows = []
    if "L(D)" in fits:
        rows.append(
            constant(
                "loss against data, early-stopped",
                "α_D",
                {KAPLAN: 0.095, "Shehper 2024 (L(N, D))": 0.122},
                estimate(fits["L(D)"], "alpha_D"),
                why,
                design=design_of(fits["L(D)"], "alpha_D"),
            )
        )
    return rows


def _text(table: pd.DataFrame, limited: pd.DataFrame, fits: dict[str, FitResult]) -> str:
    parts = [
        f"The largest size, {format_count(table['N'].iloc[0])} parameters with dropout 10 %, on "
        f"{table.loc[~table['infinite'], 'unique'].nunique()} nested sets and on all the text. Sets are "
        "blocks spread over the corpus, so that small ones have its mixture, and a run stops when three "
        "evaluations in a row are no better; the loss is the best one. The rate is constant throughout, on "
        "all the text too: a final decay would lower every loss, but not at one and the same time."
    ]
    straight, bent = fits.get("L(D)"), fits.get("L(D) with a floor")
    if straight is not None:
        alpha = estimate(straight, "alpha_D")
        parts.append(
            f"Over the {limited['unique'].nunique()} sets that raise the loss by more than "
            f"{percent(LIMITED)} it falls as D^-{alpha[0]:.3f} [{alpha[1]:.3f}, {alpha[2]:.3f}] (95 %), and "
            f"a run lies {percent(straight.rms)} from that line."
        )
    if bent is not None:
        floor = estimate(bent, "E")
        parts.append(
            f"With a floor, and all the text as the largest set, a run lies {percent(bent.rms)} from the "
            f"law; the floor, {floor[0]:.2f} nats [{floor[1]:.2f}, {floor[2]:.2f}], is where this size and "
            "horizon limit instead of data."
        )
    return " ".join(parts)


def _sets(table: pd.DataFrame) -> StudySection:
    """Return how long each set was trained on, and what was left of it."""
    ordered = table.sort_values(["infinite", "unique"])
    frame = pd.DataFrame(
        {
            "D": ordered["unique"],
            "all the text": ordered["infinite"],
            "seed": ordered["seed"],
            "loss": ordered["loss"],
            "over all the text (%)": 100 * ordered["excess"],
            "training loss there": ordered["train_at_stop"],
            "updates": ordered["stop"],
            "epochs": ordered["epochs"],
            "turned": ordered["turned"],
        }
    )
    shown = Table(
        name="sets",
        title="Every set",
        caption="`turned`: the test loss was seen to rise again, by at least two evaluations.",
        frame=frame,
    )
    small = ordered.iloc[0]
    text = (
        f"The smallest set, {format_count(small['unique'])} tokens, was seen {small['epochs']:.0f} times "
        f"before its best test loss, {small['loss']:.3f}, with a training loss of "
        f"{small['train_at_stop']:.3f} there."
    )
    return StudySection(section=Section(title=_SETS, text=text, evidence=(shown,)))


def _answer(sections: dict[str, StudySection]) -> str:
    fits = sections["law"].fits
    if not fits:
        return sections["law"].section.text
    straight = fits.get("L(D)")
    if straight is None:
        return (
            "Too few sets are small enough to limit the loss at this horizon, so a power law of data cannot "
            f"be told. Above a floor, a run lies {percent(fits['L(D) with a floor'].rms)} from the law."
        )
    value, low, high = estimate(straight, "alpha_D")
    bent = fits.get("L(D) with a floor")
    other = f"; with a floor, over all sets, within {percent(bent.rms)}" if bent is not None else ""
    return (
        f"The early-stopped loss falls as D^-{value:.3f} (95 % interval {low:.3f} to {high:.3f}; Kaplan et "
        f"al.: 0.095) over the sets that limit it, to within {percent(straight.rms)}{other}."
    )


def _next(sections: dict[str, StudySection]) -> str:
    fits = sections["law"].fits
    if "L(D)" not in fits or any("had not turned" in text for text in sections["law"].warnings):
        return "Train until every set has turned: how much of this exponent is the horizon's?"
    return "Does the exponent stay when the text is of many genres, and when small sets are regularised more?"
