"""Sections of a study: text, figures and tables with constants beside the published ones, fits and warnings.

A section that the runs cannot support raises AllometryError with the reason (`TooFewRuns`, `NotRecorded`).
`section_or_reason` turns that into a sentence, so that a study answers the rest. `chapter` puts the sections
of a study together and says what would answer those that could not be; `usable_runs`, `scope` and
`seed_noise` say which runs count, what they cover, and how far seeds differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import linregress, t

from allometry.core.errors import AllometryError
from allometry.core.units import counted
from allometry.figures.theme import unchecked
from allometry.laws.fit import fit
from allometry.laws.subgrids import design_range
from allometry.laws.zoo import get
from allometry.report.build import Analysis, Constant, Section, Table, Verdict

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

    from allometry.laws.result import FitResult
    from allometry.studies.core.study import Study, StudyData

LEVEL = 0.95

MARGIN = 1 / 3
"""Margin of equivalence: how far from a published exponent, as a share of it, parts of a design may lie for it to be
called the same. Kaplan et al. 2020 and Chinchilla differ by this much in the exponent of N_opt."""
MARGIN_A = 0.2
"""The same for the exponent of N_opt: ± 0.1 at 0.5, less than half of what parts 0.73 from 0.5."""

KAPLAN = "Kaplan 2020"
CHINCHILLA = "Chinchilla 2022"
EPOCH = "Besiroglu 2024"
PORIAN = "Porian 2024"

TOKENS = "its scale depends on tokens and text (ours are bytes), so only exponents can be compared"


class TooFewRuns(AllometryError):
    """The finished runs do not answer a question of their study.

    Which runs would is known only to `remedy`, which has the study's plan: the hint here is general. `also`
    is what else helps, such as a larger corpus.
    """

    def __init__(self, message: str, *, also: str | None = None) -> None:
        self.also = also
        general = "finish the study's runs; if all are done, run it with a larger --budget"
        super().__init__(message, hint=f"{general}, or {also}" if also else general)


class NotRecorded(TooFewRuns):
    """The finished runs do not hold a measurement that the question is about."""


@dataclass(frozen=True, kw_only=True)
class StudySection:
    """One question asked of the runs: a section of the report, constants for the table, fits by name, and
    warnings. `problem` is why it could not be answered, if it could not."""

    section: Section
    constants: tuple[Constant, ...] = ()
    fits: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    problem: AllometryError | None = None


def section_or_reason(title: str, section: Callable[[], StudySection]) -> StudySection:
    """Return the section, or one that says why the runs do not support it; `chapter` adds what would.

    The error's own hint is left out: a law's is about a table of the user's, not about a study's runs.
    """
    try:
        with unchecked():
            return section()
    except AllometryError as error:
        text = f"This could not be answered from these runs: {error.message}."
        warnings = (Caveat(f"{title}: {error.message}", 1),)
        return StudySection(section=Section(title=title, text=text), warnings=warnings, problem=error)


def remedy(study_data: StudyData, problem: AllometryError | None = None) -> str:
    """Return what would answer a question that the study's runs do not answer, as sentences.

    Runs of the plan that are not finished come first, with the command that trains them. Where all are, only
    a larger plan helps; or, where a measurement is missing, training the runs again.
    """
    planned, statuses = study_data.planned, study_data.runs.set_index("run")["status"]
    ended = [run for run in planned if statuses.get(run) in ("done", "diverged")]
    missing = len(planned) - len(ended)
    command = study_data.command or "the study's command"
    if missing:
        runs = f"{missing} of the {len(planned)} planned runs {'is' if missing == 1 else 'are'} not finished"
        text = f"{runs}; this trains what is missing: {command}."
    elif isinstance(problem, NotRecorded):
        text = (
            "All planned runs have ended, and none holds that measurement: earlier releases did not record "
            f"it. Remove them with allometry runs rm; then this trains them again: {command}."
        )
    else:
        option = "--compute" if "--compute" in command else "--budget"
        lost = sum(statuses.get(run) == "diverged" for run in planned)
        but = f", {lost} of them diverged" if lost else ""
        text = f"All {len(planned)} planned runs have ended{but}: a larger {option} plans more ({command})."
    also = getattr(problem, "also", None)
    return f"{text} Or {also}." if also else text


def _with_remedy(section: StudySection, study_data: StudyData) -> StudySection:
    """Return a section, with what would answer it if it could not be answered."""
    if section.problem is None:
        return section
    text = f"{section.section.text} {remedy(study_data, section.problem)}"
    return replace(section, section=replace(section.section, text=text))


def constant(
    name: str,
    symbol: str,
    published: dict[str, float],
    estimate: tuple[float, float, float],
    why: str,
    *,
    widest: float = 1.0,
    design: tuple[float, float] | None = None,
    margin: float = MARGIN,
) -> Constant:
    """Return a row of the table: agrees if the interval holds a published value, unless it is so wide that it
    says nothing.

    `estimate` is (value, low, high) at LEVEL; `widest` is the width of the interval over the value from which
    nothing can be told. `design` are the lowest and highest estimate over parts of the design
    (`laws.subgrids`). With them a verdict is made from both intervals: "agrees" if, besides, no part of the design is
    farther than `margin` (a share of the published value) from a value that the interval holds, "differs" if no
    published value lies within either.
    """
    ours, low, high = estimate
    inside = [paper for paper, value in published.items() if low <= value <= high]
    verdict: Verdict = "differs"
    if not high - low < widest * abs(ours):
        verdict = "cannot tell"
        if not math.isfinite(high - low):
            why = f"no interval can be given: as many parameters as trunks, or more; {why}"
    elif inside:
        verdict = "agrees"
    if design is not None and verdict != "cannot tell":
        verdict, why = _by_design(verdict, published, inside, design, margin, why)
    if verdict == "agrees" and len(inside) < len(published):
        why = f"the interval holds {' and '.join(inside)}, not the others: {why}"
    low_part, high_part = design or (math.nan, math.nan)
    return Constant(
        name=name, symbol=symbol, published=published, ours=ours, low=low, high=high, level=LEVEL,
        verdict=verdict, why=why, design_low=low_part, design_high=high_part,
    )  # fmt: skip


def _by_design(
    verdict: Verdict,
    published: dict[str, float],
    inside: list[str],
    design: tuple[float, float],
    margin: float,
    why: str,
) -> tuple[Verdict, str]:
    """Return the verdict of the fit's interval, or "cannot tell" where parts of the design speak against it."""
    low, high = design
    if not math.isfinite(high - low):
        return "cannot tell", f"the design is too small for parts of it to be fitted alone; {why}"
    if verdict == "differs":
        held = [paper for paper, value in published.items() if low <= value <= high]
        if not held:
            return verdict, why
        said = f"{' and '.join(held)} lies outside the interval but within what parts of the design give"
        return "cannot tell", f"{said}; {why}"
    near = [
        paper
        for paper in inside
        if max(abs(low - published[paper]), abs(high - published[paper])) <= margin * abs(published[paper])
    ]
    if near:
        return verdict, why
    said = (
        f"parts of the design give {low:.3g} to {high:.3g}, beyond ± {percent(margin)} of the published value"
    )
    return "cannot tell", f"{said}: a slope of the range, not of a law; {why}"


EXPECTED = ("correlation", "scale-not-identified")
"""Warnings that every fit of power laws carries: only exponents are compared here, and never the scales."""


def undecided(row: Constant, because: str, decides: str) -> Constant:
    """Return a row whose runs cannot decide it whatever the interval says: why, and what would, with its cost."""
    return replace(
        row, verdict="cannot tell", why=f"{because}. What would decide: {decides}. Besides: {row.why}"
    )


class Caveat(str):
    """A caveat with its weight: 0 puts a claim in question (as a plain text does, which a study writes for its own
    case), 1 limits it, 2 limits a detail.
    """

    weight: int

    def __new__(cls, text: str, weight: int) -> Caveat:
        """Return the text, which is what a reader sees, with its weight."""
        caveat = super().__new__(cls, text)
        caveat.weight = weight
        return caveat


_WEIGHTS = {
    **dict.fromkeys(("no-spare-points", "checkpoints", "mixed-runs", "lack-of-fit", "floor-above-data"), 0),
    **dict.fromkeys(("bound-hit-in-resamples", "flat-profile", "outliers", "copies", "loss-scale"), 2),
}
"""Weight of a warning of a fit by its name; of all others 1."""


def heaviest_first(warnings: Iterable[str]) -> tuple[str, ...]:
    """Return caveats in the order of their weight, each once; those of one weight in the order given."""
    return tuple(sorted(dict.fromkeys(warnings), key=lambda caveat: getattr(caveat, "weight", 0)))


def caveats(result: FitResult, label: str) -> tuple[str, ...]:
    """Return the fit's own warnings, as sentences under its name."""
    return tuple(
        Caveat(
            f"{label}: {warning.meaning}"
            + (f"; what is known: {warning.identified}" if warning.identified else ""),
            _WEIGHTS.get(warning.name, 1),
        )
        for warning in result.warnings
        if warning.name not in EXPECTED
    )


_MADE_ALIKE = (
    *("family", "shape", "n_layer", "d_model", "n_head", "d_ff", "n_ctx", "reuse", "dropout", "N", "D"),
    *("unique", "limit", "B", "lr", "schedule", "warmup", "decay", "final_lr", "weight_decay", "init"),
    *("init_from", "early_stop", "corpus", "tokenizer"),
)
"""Columns in which runs agree that differ in nothing but their seed."""


def means_over_seeds(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row for runs that differ only in their seed: the geometric mean of the loss, and the rest of the
    first. A size that was repeated counts once, for what a law misses there all its seeds share.
    """
    if "seed" not in runs or runs["seed"].nunique() < 2:
        return runs
    same = runs[[c for c in _MADE_ALIKE if c in runs]].groupby(
        [c for c in _MADE_ALIKE if c in runs], dropna=False
    )
    cell = same.ngroup()
    mean = np.exp(np.log(runs["loss"]).groupby(cell).transform("mean"))
    return runs.assign(loss=mean)[~cell.duplicated()].reset_index(drop=True)


def one_law(runs: pd.DataFrame, law: str, x: str) -> FitResult:
    """Return a power law of the loss in one column, by least squares on log loss, of means over seeds, resampled by
    trunk.
    """
    (symbol,) = get(law).inputs
    return fit(means_over_seeds(runs), law=law, columns={symbol: x, "L": "loss"}, objective="lsq-log")


def design_of(result: FitResult, what: str) -> tuple[float, float]:
    """Return the lowest and highest estimate of a parameter (or of arithmetic of parameters) over parts of the
    design that a law was fitted to.
    """
    return design_range(result).interval(what)


def estimate(result: FitResult, name: str) -> tuple[float, float, float]:
    """Return a parameter with its interval at LEVEL."""
    return (result.parameters[name], *result.interval(name, LEVEL))


def percent(value: float) -> str:
    """Return a share in percent with two digits, whole numbers from ten on."""
    return f"{100 * value:.2g} %" if abs(value) < 0.0995 else f"{100 * value:.0f} %"


def mean_estimate(values: ArrayLike) -> tuple[float, float, float]:
    """Return the mean of independent measurements with Student's interval at LEVEL; AllometryError for fewer
    than two.
    """
    kept = np.asarray(values, dtype=float)
    kept = kept[np.isfinite(kept)]
    if len(kept) < 2:
        raise TooFewRuns(f"{len(kept)} measurements have no interval")
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
    """Return a row for a claim of a paper that a quantity lies above (or below) zero: agrees if the whole
    interval does, differs if the whole interval does not.
    """
    ours, low, high = estimate
    as_claimed, against = (low > 0, high < 0) if above else (high < 0, low > 0)
    verdict: Verdict = "agrees" if as_claimed else "differs" if against else "cannot tell"
    return Constant(
        name=name, symbol=symbol, published={f"{paper}, {'above' if above else 'below'}": 0.0}, ours=ours,
        low=low, high=high, level=LEVEL, verdict=verdict, why=why,
    )  # fmt: skip


def slope_of(means: pd.Series) -> dict[str, float]:
    """Return the slope of log L in log N of losses indexed by N (three or more), with its interval."""
    line = linregress(np.log(means.index.to_numpy(dtype=float)), np.log(means.to_numpy()))
    half = float(t.ppf(0.5 + LEVEL / 2, len(means) - 2) * line.stderr)
    return {"slope": float(line.slope), "low": float(line.slope) - half, "high": float(line.slope) + half}


def summary_of(sections: Mapping[str, StudySection], otherwise: str = "The runs do not answer this.") -> str:
    """Return the summaries of the sections that have one, as one text; `otherwise` where none has."""
    return " ".join(str(s.fits["summary"]) for s in sections.values() if s.fits.get("summary")) or otherwise


def chapter(
    study: Study,
    study_data: StudyData,
    sections: Mapping[str, StudySection],
    *,
    answer: str,
    next: str,
    excluded: pd.DataFrame | None = None,
    warnings: tuple[str, ...] = (),
) -> Analysis:
    """Report the analysis of a study whose analyses come in this order; `warnings` come before their own.

    Each section that could not be answered gets what would answer it (`remedy`).
    """
    kept = [_with_remedy(section, study_data) for section in sections.values()]
    return Analysis(
        study=study.name,
        question=study.question,
        answer=answer,
        command=study_data.command,
        sections=tuple(section.section for section in kept),
        constants=tuple(row for section in kept for row in section.constants),
        warnings=heaviest_first([*warnings, *(w for section in kept for w in section.warnings)]),
        excluded=excluded,
        runs=study_data.runs,
        environment=study_data.environment,
        expected=study.expected,
        next=next,
    )


ENOUGH_UPDATES = 2000
"""Updates below which a run measures when it left its plateau more than its size (`docs/log.md`)."""


def usable_runs(study_data: StudyData) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return finished runs, and what is left out of the fits with the reason; nothing is dropped in
    silence.
    """
    runs = study_data.runs
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
    missing = [run for run in study_data.planned if run not in set(runs["run"])]
    for run in missing:
        excluded.loc[len(runs) + len(excluded), ["run", "reason"]] = [run, "not trained yet"]
    return runs[~out].reset_index(drop=True), excluded


def seed_noise(runs: pd.DataFrame) -> tuple[float | None, StudySection]:
    """Return the relative standard deviation between seeds at each repeated point, and pooled; None without
    repeats.

    Runs are repeats if nothing but the seed differs. Points of one trunk repeat its luck: degrees of freedom are
    trunks less one for each setting, however many horizons they have.
    """
    alike = [c for c in _MADE_ALIKE if c in runs and c not in ("N", "D")]
    settings = runs.assign(log_loss=np.log(runs["loss"]), setting=0)
    if alike:
        settings["setting"] = runs.groupby([*alike, "N"], dropna=False).ngroup()
    grouped = settings.groupby(["setting", "N", "D"])
    table = grouped.agg(
        seeds=("seed", "nunique"), mean=("loss", "mean"), sd=("log_loss", "std")
    ).reset_index()
    table = table[table["seeds"] > 1].rename(columns={"mean": "mean loss", "sd": "relative sd"})
    repeated = settings.merge(table[["setting", "N", "D"]], on=["setting", "N", "D"])
    freedom = int((repeated.groupby(["setting", "N"])["seed"].nunique() - 1).sum()) if len(table) else 0
    table = table.drop(columns="setting")
    title = "Noise between seeds"
    if not len(table):
        text = "No point was trained with several seeds, so the noise of a run is not known."
        return None, StudySection(section=Section(title=title, text=text))
    dof = table["seeds"] - 1
    pooled = float(np.sqrt((dof * table["relative sd"] ** 2).sum() / dof.sum()))
    text = (
        f"Runs that differ only in their seed differ by {percent(pooled)} of the loss (standard deviation, "
        f"pooled over {len(table)} "
        f"{'point' if len(table) == 1 else 'points'} with {counted(freedom, 'degree')} of freedom, for the horizons "
        "of one seed share its trunk). Residuals near this size are noise; larger ones are the law's."
    )
    caption = "Every point with several seeds."
    evidence = (Table(name="seed-noise", title="Repeated points", caption=caption, frame=table),)
    return pooled, StudySection(section=Section(title=title, text=text, evidence=evidence))


def scope(runs: pd.DataFrame, study_data: StudyData) -> tuple[str, ...]:
    """Return what limits every conclusion of this study at this budget."""
    found = []
    fewest = int(runs["S"].min())
    if fewest < ENOUGH_UPDATES:
        share = (runs["S"] < ENOUGH_UPDATES).mean()
        found.append(
            f"{percent(share)} of the runs have fewer than {ENOUGH_UPDATES} updates (the shortest "
            f"{fewest}): such losses are set by when "
            "a model leaves its plateau, and the exponents below are those of a transition. A larger "
            "--budget gives runs of more updates."
        )
    epochs = float((runs["D"] / runs["unique"]).max())
    if epochs > 1.05:
        found.append(f"The longest runs see their text {epochs:.1f} times; the laws assume fresh tokens.")
    missing = len(study_data.planned) - len(runs)
    if missing:
        found.append(
            f"{missing} of {len(study_data.planned)} planned runs are missing from the fits (see excluded "
            f"runs)."
        )
    return tuple(found)
