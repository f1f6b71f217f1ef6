"""Elsewhere: what a model trained on one text is worth on another, as it is and after further training.

Analysis: generalisation to other distributions: the loss there against the loss here along size, data
and training time, and what training here is worth there.

Analysis: ossification: whether training before makes a model end worse where there are plenty of
data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from allometry.core.files import slug
from allometry.core.units import format_count
from allometry.figures.several import several
from allometry.report.build import Section, Table
from allometry.studies.core.sections import (
    LEVEL,
    StudySection,
    TooFewRuns,
    chapter,
    claim,
    mean_estimate,
    scope,
    section_or_reason,
    summary_of,
    usable_runs,
)
from allometry.studies.core.study import Study, register
from allometry.studies.other_texts.effective_data import arms, transferred
from allometry.studies.other_texts.transfer_test import (
    AT_HAND,
    by_size,
    during,
    elsewhere,
    kappa,
    loss_to_loss,
    missing,
)
from allometry.studies.other_texts.transfers import LANGUAGE, SHIPPED, TARGETS

if TYPE_CHECKING:
    from allometry.figures.theme import Figure
    from allometry.report.build import Analysis, Constant
    from allometry.studies.core.study import StudyData


@register
class Elsewhere(Study):
    """Tests models on texts that they were not trained on, and then trains them on a little of such a text.

    Kaplan et al. 2020 (section 3.2.2, figure 8) find the loss elsewhere to follow the loss here at a nearly
    constant offset. Hernandez et al. 2021 measure what the first training is worth in data of the second:
    D_T = k D_F^alpha N^beta, the data that a model from scratch would need besides to end at the same loss.
    """

    name: ClassVar[str] = "elsewhere"
    question: ClassVar[str] = (
        "What does it look like to generalise well on other distributions: how does the loss there follow "
        "the loss here, and what is training here worth in data from there?"
    )
    expected: ClassVar[str] = (
        "Prose in nearly the proportion of the loss here, whether by size, data or time; code and lists off "
        "that line, since most of what makes them hard is never seen here. Transfer grows with N faster than "
        "with the data there (beta 0.38 and alpha 0.18 from text to code), and the smallest models, trained "
        "before, end worse than from scratch where data are plenty."
    )
    budget: ClassVar[str] = "15m"
    run_sets: ClassVar[dict[str, float]] = {"distributions": 0.4, "transfers": 0.6}

    def analyse(self, study_data: StudyData) -> Analysis:
        """Report loss-to-loss lines along size, data and time; effective data transferred; ossification."""
        usable, excluded = usable_runs(study_data)
        own = tested(usable)
        ladder = _ladder(own)

        @cache
        def table() -> pd.DataFrame:
            return arms(usable, study_data.curves)

        sections = {
            "sizes": section_or_reason("Losses elsewhere against size", lambda: by_size(ladder)),
            "loss": section_or_reason("Losses elsewhere against the loss here", lambda: loss_to_loss(ladder)),
            "during": section_or_reason(
                "During training and after it", lambda: during(ladder, study_data.curves)
            ),
            "axes": section_or_reason(_AXES, lambda: along(own, ladder, study_data.curves)),
        }
        for corpus in targets(usable) or ("another text",):
            sections[corpus] = section_or_reason(
                f"Transfer to {corpus}", partial(_transferred, table, corpus)
            )
        sections["ossification"] = section_or_reason("Ossification", lambda: ossification(table()))
        return chapter(
            self, study_data, sections, next=_next(sections), excluded=excluded,
            answer=summary_of(sections),
            warnings=(*missing(own), *missing_targets(usable), *_scope(own, usable, study_data)),
        )  # fmt: skip


PAST = 2
"""Warm-ups after which a training curve is read."""

TURNED = 0.5
"""Per cent above its lowest by which a loss elsewhere must end to have turned."""

_AXES = "Along size, data and time"


def tested(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that start from their own weights and were tested elsewhere; AllometryError if there
    are none.
    """
    names = elsewhere(runs)
    known = runs[[f"loss_{name}" for name in names]].notna().any(axis=1) if names else runs["run"].isna()
    return runs[known & runs["init_from"].isna()].reset_index(drop=True)


def _ladder(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of the horizon at which there are most sizes."""
    if not len(runs):
        return runs
    sizes = runs.groupby("D")["N"].nunique().sort_index()
    return runs[runs["D"] == sizes[::-1].idxmax()].reset_index(drop=True)


def targets(runs: pd.DataFrame) -> tuple[str, ...]:
    """Return the texts on which runs were trained that start from others."""
    return tuple(dict.fromkeys(runs.loc[runs["init_from"].notna(), "corpus"]))


def missing_targets(runs: pd.DataFrame) -> tuple[str, ...]:
    """Return warnings for targets that could not be had, another language among them, with the commands that
    fetch them; none where the study was too small to ask for more than what is shipped.
    """
    found = set(targets(runs))
    if not found or found | set(elsewhere(runs)) <= {*AT_HAND, *SHIPPED}:
        return ()
    lost = [name for name in TARGETS if name not in found | set(runs["corpus"])]
    warnings = [
        f"Nothing was transferred to {name}, which could not be had when the study was planned: "
        f"`allometry data prepare {name}` fetches it."
        for name in lost
    ]
    if LANGUAGE not in found:
        warnings.append(
            "No target is in another language: with a network, "
            f"`allometry data prepare {LANGUAGE}` fetches one, and the study then takes it too."
        )
    return tuple(warnings)


def _scope(own: pd.DataFrame, usable: pd.DataFrame, study_data: StudyData) -> tuple[str, ...]:
    """Return the caveats of the runs that were trained once; those trained further repeat their text on
    purpose.
    """
    if not len(own):
        return ()
    others = set(usable["run"]) - set(own["run"])
    return scope(
        own, replace(study_data, planned=tuple(run for run in study_data.planned if run not in others))
    )


def _transferred(table: Callable[[], pd.DataFrame], corpus: str) -> StudySection:
    return transferred(table(), corpus)


def along(runs: pd.DataFrame, ladder: pd.DataFrame, curves: pd.DataFrame) -> StudySection:
    """Report the exponent of the loss elsewhere in the loss here, when the loss here falls by size, by data
    or by training; where they differ, the loss here does not decide the loss there.

    AllometryError if no run was tested elsewhere, or at fewer than three sizes.
    """
    names = elsewhere(ladder) if len(ladder) else []
    if not names or ladder["N"].nunique() < 3:
        raise TooFewRuns("fewer than three sizes were tested elsewhere")
    rest = runs[~runs["run"].isin(ladder["run"])]
    past = curves.merge(ladder[["run", "warmup"]], on="run")
    past = past[past["loss"].notna() & (past["step"] >= PAST * past["warmup"])]
    rows = [row for name in names for row in _axes(name, ladder, rest, past)]
    table = pd.DataFrame(rows)
    told = pd.DataFrame([_why(name, table[table["distribution"] == name], past, ladder) for name in names])
    lines = Table(
        name="lines-elsewhere", title="Which distributions leave the line",
        caption=f"An exponent apart from 1, or exponents along size, data and time whose {LEVEL:.0%} "
        "intervals do not meet, or a loss that ends above its lowest.", frame=told,
    )  # fmt: skip
    summary = _told(told, table)
    return StudySection(
        section=Section(title=_AXES, text=summary, evidence=(_figure(table), lines)),
        fits={"summary": summary},
    )


def _axes(
    name: str, ladder: pd.DataFrame, rest: pd.DataFrame, curves: pd.DataFrame
) -> list[dict[str, object]]:
    """Return exponents of one distribution along each way to a lower loss here."""
    column = f"loss_{name}"
    means = ladder.groupby("N")[["loss", column]].mean()
    ratio = float(means[column].iloc[-1] / means["loss"].iloc[-1])
    found = {"by size": kappa(means["loss"], means[column])[:3]}
    if column in rest:
        found["by data"] = _within(rest[rest["seed"] == rest["seed"].min()], "N", column, fewest=2)
    if column in curves:
        found["by training"] = _within(curves, "run", column, fewest=3)
    return [
        {"series": way, "distribution": name, "ratio": ratio, "kappa": k, "low": low, "high": high}
        for way, (k, low, high) in found.items()
        if np.isfinite(k)
    ]


def _within(runs: pd.DataFrame, group: str, column: str, *, fewest: int) -> tuple[float, float, float]:
    """Return the mean over groups of the slope of log loss there in log loss here; NaN for fewer than two
    groups.
    """
    slopes = [
        np.polyfit(np.log(part["loss"]), np.log(part[column]), 1)[0]
        for _, part in runs.dropna(subset=["loss", column]).groupby(group)
        if part["loss"].nunique() >= fewest
    ]
    return mean_estimate(slopes) if len(slopes) > 1 else (np.nan, np.nan, np.nan)


def _why(name: str, rows: pd.DataFrame, curves: pd.DataFrame, ladder: pd.DataFrame) -> dict[str, object]:
    """Return whether a distribution leaves the line, and what the losses say about the reason."""
    size = rows[rows["series"] == "by size"].iloc[0]
    turned = _turned(name, curves, ladder)
    reasons = []
    if turned > TURNED:
        reasons.append(f"the loss there rises {turned:.1f} % after its minimum")
    if size["high"] < 1:
        reasons.append("gains less than in proportion: what makes it hard is seldom seen here")
    if size["low"] > 1:
        reasons.append("gains more than in proportion: what larger models learn here is common there")
    if rows["low"].max() > rows["high"].min():
        reasons.append("size, data and time follow different lines")
    kappas = {f"κ {row['series']}": row["kappa"] for _, row in rows.iterrows()}
    return {"distribution": name, "times the loss here": size["ratio"], **kappas, "rise, %": turned,
            "leaves the line": "; ".join(reasons) or "no"}  # fmt: skip


def _turned(name: str, curves: pd.DataFrame, ladder: pd.DataFrame) -> float:
    """Return the per cent by which the largest model's loss there ends above its lowest; NaN without a curve."""
    largest = ladder.sort_values("N")["run"].iloc[-1]
    column = f"loss_{name}"
    curve = curves[curves["run"] == largest].sort_values("step")
    known = curve[column].dropna() if column in curve else curve["loss"].iloc[:0]
    return 100 * float(known.iloc[-1] / known.min() - 1) if len(known) else float("nan")


def _told(told: pd.DataFrame, table: pd.DataFrame) -> str:
    leaving = told[told["leaves the line"] != "no"]
    text = f"{len(leaving)} of {len(told)} distributions leave the line"
    text += f": {', '.join(leaving['distribution'])}." if len(leaving) else "."
    size = table[table["series"] == "by size"]
    if len(size) >= 5:
        rho, chance = _rank_correlation(size["ratio"], size["kappa"])
        text += (
            f" The further a text (the larger the loss there over here), the "
            f"{'less' if rho < 0 else 'more'} it gains: rank correlation of distance and "
            f"exponent {rho:+.2f} (p = {chance:.2g}, {len(size)} texts)."
        )
    return text


def _rank_correlation(x: pd.Series, y: pd.Series) -> tuple[float, float]:
    """Return Spearman's rank correlation, and the share of random orders (2,000, with a fixed seed) that are
    as extreme.
    """
    a, b = x.rank().to_numpy(), y.rank().to_numpy()
    rho = float(np.corrcoef(a, b)[0, 1])
    rng = np.random.default_rng(0)
    drawn = np.array([np.corrcoef(a, rng.permutation(b))[0, 1] for _ in range(2000)])
    return rho, float((np.sum(np.abs(drawn) >= abs(rho) - 1e-9) + 1) / (len(drawn) + 1))


def _figure(table: pd.DataFrame) -> Figure:
    """Draw exponents against distance."""
    ends = [table["ratio"].min() / 1.05, table["ratio"].max() * 1.05]
    line = pd.DataFrame({"series": "in proportion", "ratio": ends, "kappa": 1.0})
    return several(
        table, line, x="ratio", y="kappa", y_scale="plain",
        x_title="Loss there over loss here, largest model",
        y_title="Exponent κ of the loss there in the loss here", name="exponents-elsewhere",
        title="How much of a gain here arrives elsewhere",
        caption=f"Each distribution at its distance, with {LEVEL:.0%} intervals; by size over finished "
        "models, by data over horizons of one size, by training along curves.",
    )  # fmt: skip


def _next(sections: dict[str, StudySection]) -> str:
    points = [r.fits["points"] for r in sections.values() if "points" in r.fits]
    if any((p["use"] == "better than from scratch on the largest set").sum() > len(p) / 3 for p in points):
        return "Larger from-scratch sets, so that the best transfers have a place on the curve."
    return (
        "How the exponents move when a few per cent of the target are mixed into the first training, and "
        "whether a smaller rate in the further training moves them."
    )


PAPER = "Hernandez 2021"
_KEY = ["corpus", "N", "infinite", "limit", "seed"]


def pairs(table: pd.DataFrame) -> pd.DataFrame:
    """Return the per cent by which a run trained before ends above one from scratch of the same size, data and
    seed.

    `table` is that of `effective_data.arms`; columns corpus, N, D (unique tokens, of all the text those
    that were seen), infinite, seed, percent. AllometryError if there are no pairs.
    """
    sides = [
        table[table["arm"] == arm].assign(limit=lambda t: t["limit"].fillna(0))[
            [*_KEY, "loss", "unique", "D"]
        ]
        for arm in ("before", "scratch")
    ]
    both = sides[0].merge(sides[1][[*_KEY, "loss"]], on=_KEY, suffixes=("", "_scratch"))
    if not len(both):
        raise TooFewRuns("no run trained before has a partner from scratch on the same data")
    seen = np.where(both["infinite"], np.minimum(both["D"], both["unique"]), both["unique"])
    excess = 100 * np.log(both["loss"] / both["loss_scratch"])
    return both.assign(D=seen, percent=excess)[["corpus", "N", "D", "infinite", "seed", "percent"]]


def ossification(table: pd.DataFrame) -> StudySection:
    """Report the difference between the arms against the data, and its sign for the smallest size on all of
    it.
    """
    found = pairs(table)
    ends = found[found["infinite"]]
    evidence = tuple(
        _ossification_figure(found[found["corpus"] == corpus], corpus) for corpus in found["corpus"].unique()
    )
    rows = tuple(row for corpus in ends["corpus"].unique() if (row := _row(ends, corpus)) is not None)
    summary = _summary(rows, ends)
    by_size = ends.groupby(["corpus", "N"])["percent"].agg(["mean", "std", "size"]).reset_index()
    listed = Table(
        name="on-all-the-text", title="On all the target's text: trained before over from scratch, %",
        caption="Both see the same number of tokens of it. Above zero: training before has made it worse.",
        frame=by_size.rename(columns={"mean": "excess, %", "std": "sd between seeds", "size": "seeds"}),
    )  # fmt: skip
    return StudySection(
        section=Section(title="Ossification", text=summary, evidence=(*evidence, listed)),
        constants=rows,
        fits={"summary": summary},
    )


def _row(ends: pd.DataFrame, corpus: str) -> Constant | None:
    """Return the smallest size with several seeds, on all the text of one target."""
    own = ends[ends["corpus"] == corpus]
    repeated = own.groupby("N")["seed"].nunique()
    sizes = repeated[repeated > 1]
    if not len(sizes):
        return None
    n = sizes.index.min()
    return claim(
        f"ossification on {corpus}, N = {format_count(n)}, %", "ΔL/L",
        mean_estimate(own.loc[own["N"] == n, "percent"]),
        "all of the text, same tokens seen; the paper sees it at 1e6 parameters and 1e8 characters",
        above=True, paper=PAPER,
    )  # fmt: skip


def _summary(rows: tuple[Constant, ...], ends: pd.DataFrame) -> str:
    if not len(ends):
        return "Ossification was not tested: no size was trained on all of a target's text both ways."
    if not rows:
        least, most = ends["percent"].min(), ends["percent"].max()
        return (
            "Ossification cannot be told from noise: no size has several seeds on all the text. Trained "
            f"before over from scratch, {least:+.1f} to {most:+.1f} % of the loss."
        )
    seen = {"agrees": "is seen", "differs": "is not seen", "cannot tell": "cannot be told"}
    return " ".join(
        f"{row.name.removesuffix(', %').replace('ossification', 'Ossification', 1)}: {seen[row.verdict]} "
        f"({row.ours:+.2f} % [{row.low:+.2f}, {row.high:+.2f}] against from scratch)."
        for row in rows
    )


def _ossification_figure(found: pd.DataFrame, corpus: str) -> Figure:

    means = found.groupby(["N", "D"])["percent"].mean().reset_index().sort_values(["N", "D"])
    drawn = means.assign(series=[f"N = {format_count(n)}" for n in means["N"]])
    zero = pd.DataFrame(
        {"series": "no difference", "D": [means["D"].min(), means["D"].max()], "percent": 0.0}
    )
    return several(
        drawn, pd.concat([drawn, zero], ignore_index=True), x="D", y="percent", y_scale="percent",
        x_title="Data of the target (tokens)", y_title="Loss trained before over from scratch",
        name=f"before-over-scratch-{slug(corpus, '-')}", title=f"Trained before over from scratch, {corpus}",
        caption="Below zero training before helps; the last point of each size is all the text.",
    )  # fmt: skip
