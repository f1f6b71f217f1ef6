"""The study of a sweep: its grid trained as any study's runs are, and read by the standard analyses.

Every arm has its own L(N), L(D) and L(N, D), and a registered prediction of its largest size. What an axis does is
read from pairs of runs that differ in that axis alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from scipy.stats import t

from allometry.core.errors import AllometryError
from allometry.core.units import counted
from allometry.figures.fits import power_law, residuals
from allometry.figures.several import several
from allometry.figures.surface import surface
from allometry.figures.theme import Figure
from allometry.laws.fit import fit
from allometry.report.build import Analysis, Constant, Section, Table
from allometry.studies.core.predictions import score
from allometry.studies.core.sections import (
    CHINCHILLA,
    EPOCH,
    KAPLAN,
    LEVEL,
    StudySection,
    TooFewRuns,
    caveats,
    chapter,
    constant,
    estimate,
    one_law,
    percent,
    scope,
    section_or_reason,
    seed_noise,
    usable_runs,
)
from allometry.studies.core.study import Study, register
from allometry.studies.shared.basic_laws import common_horizon, forecast, frontier, prediction, verdict
from allometry.studies.sweep.grid import Grid, arm_of
from allometry.sweeps import Sweep

if TYPE_CHECKING:
    from allometry.studies.core.study import StudyData
    from allometry.train.config import DataConfig, RunConfig

TO_PREDICT = 4
"""Sizes of an arm from which its largest is predicted before it is trained: three to fit and test, and that one."""

UNEQUAL = 0.02
"""Relative difference of N in pairs from which the report speaks of it."""

_LOCAL = "exponents are of these sizes, horizons and this text; published ones are of other ones"


@register
class GridStudy(Study):
    """Trains a grid of the user's, reads L(N), L(D) and L(N, D) of every arm, and what each axis does to the loss.

    It is run by `allometry sweep`, and not by `allometry run`: without a grid it can only read.
    """

    name: ClassVar[str] = "sweep"
    question: str = "How does the loss depend on what this grid varies?"  # type: ignore[misc]
    budget: ClassVar[str] = "10m"
    listed: ClassVar[bool] = False

    def __init__(self, grid: Grid | None = None) -> None:
        self.grid = grid
        if grid is not None and grid.question:
            self.question = grid.question

    def by_run_set(self, compute: float, data: DataConfig) -> dict[str, tuple[RunConfig, ...]]:
        """Return the runs by arm."""
        if self.grid is None:
            raise AllometryError("a sweep needs a grid", hint="allometry sweep --family lstm --n 1e4:1e6:8")
        return self.grid.runs(compute, data)

    def parts(self, compute: float, data: DataConfig) -> dict[str, Sweep]:
        """Return the runs by arm, each a part of its own that is predicted by itself."""
        runs = self.by_run_set(compute, data)
        return {label: Sweep(self.name, self.question, each) for label, each in runs.items()}

    def member(self, name: str) -> Study:
        """Return this study, whichever arm is asked for."""
        return self

    def held_back(self, run: RunConfig, sweep: Sweep) -> bool:
        """Return whether a run is of the largest size of its arm, where there are enough sizes to predict it."""
        sizes = sorted({other.model.counts().N for other in sweep})
        return len(sizes) >= TO_PREDICT and sizes[-1] == run.model.counts().N

    def predict(self, runs: pd.DataFrame, held_back: pd.DataFrame) -> pd.DataFrame:
        """Return the forecast of the laws of an arm, weighted by their back-test on its smaller sizes."""
        return forecast(runs, held_back)

    def analyse(self, study_data: StudyData) -> Analysis:
        """Report fits, effects, figures and verdicts."""
        usable, excluded = usable_runs(study_data)
        arms = in_order(usable, study_data)
        noises = [noise for runs in arms.values() if (noise := seed_noise(runs)[0]) is not None]
        noise = float(np.sqrt(np.mean(np.square(noises)))) if noises else None
        several_arms = len(arms) > 1
        sections: dict[str, StudySection] = {}
        if several_arms:
            sections["effects"] = section_or_reason("What each axis does", lambda: effects(arms))
        for label, runs in arms.items():
            sections |= _laws(label, runs, several_arms, noise, study_data)
        if study_data.prediction is not None:
            made = study_data.prediction
            sections["prediction"] = section_or_reason(
                "Predicted and measured losses", lambda: prediction(study_data.runs, made, study_data.ledger)
            )
        if not several_arms:
            sections["noise"] = seed_noise(usable)[1]
        return chapter(
            self,
            study_data,
            sections,
            answer=answer(study_data, arms, sections, noise),
            next="A wider grid of sizes tells whether the laws hold beyond these: allometry sweep with a larger --n.",
            excluded=excluded,
            warnings=scope(usable, study_data),
        )


def in_order(runs: pd.DataFrame, study_data: StudyData) -> dict[str, pd.DataFrame]:
    """Return the finished runs by arm, in the order of the grid: the first value of an axis is what the others are
    held against.
    """
    place = {run: number for number, run in enumerate(study_data.planned)}
    first = {label: min(map(place.__getitem__, ids)) for label, ids in study_data.parts.items() if ids}
    return {
        label: runs[runs["run"].isin(study_data.parts[label])].reset_index(drop=True)
        for label in sorted(first, key=first.__getitem__)
    }


def _laws(
    label: str, runs: pd.DataFrame, named: bool, noise: float | None, study_data: StudyData
) -> dict[str, StudySection]:
    """Return the laws of one arm that its runs could support; an arm's name stands before each title."""
    of = f"{label}: " if named else ""
    key = f"{label} " if named else ""
    sizes, horizons = runs["N"].nunique(), runs["D"].nunique()
    asked: dict[str, tuple[str, bool, Callable[[], StudySection]]] = {
        "size": (f"{of}L(N), loss against size", sizes > 2, lambda: by_size(runs, of)),
        "data": (f"{of}L(D), loss against tokens", horizons > 2, lambda: by_data(runs, of)),
        "joint": (f"{of}L(N, D), both at once", sizes > 2 and horizons > 2, lambda: joint(runs, of, noise)),
        "frontier": (
            f"{of}L(C) and N_opt(C), what compute buys",
            not named and sizes > 3 and horizons > 3,
            lambda: frontier(runs, study_data.curves),
        ),
    }
    return {
        f"{key}{name}": section_or_reason(title, ask) for name, (title, able, ask) in asked.items() if able
    }


def by_size(runs: pd.DataFrame, of: str) -> StudySection:
    """Report L(N) of one arm at the longest horizon of all its sizes: a power law and, from four sizes on, one above
    a floor.
    """
    table = runs[runs["D"] == common_horizon(runs)]
    straight = one_law(table, "kaplan-n", "N")
    alpha = estimate(straight, "alpha_N")
    text = (
        f"At {table['D'].iloc[0]:,.0f} tokens the loss of {counted(table['N'].nunique(), 'size')} falls as "
        f"N^-{alpha[0]:.3f} [{alpha[1]:.3f}, {alpha[2]:.3f}] (95 %), to within {percent(straight.rms)}."
    )
    fits = {f"{of}L(N)": straight}
    rows = [constant(f"{of}loss against size", "α_N", {KAPLAN: 0.076}, alpha, _LOCAL)]
    if table["N"].nunique() > 3:
        bent = one_law(table, "power-offset", "N")
        floored = estimate(bent, "alpha")
        text += (
            f" With a floor, L = E + A/N^α: α = {floored[0]:.2f} [{floored[1]:.2f}, {floored[2]:.2f}], "
            f"E = {bent.parameters['E']:.2f}, to within {percent(bent.rms)}."
        )
        fits[f"{of}L(N) with a floor"] = bent
    figure = power_law(
        table, straight, x="N", slopes={"Kaplan et al. 2020": -0.076}, name=_file(of, "loss-against-size")
    )
    return StudySection(
        section=Section(title=f"{of}L(N), loss against size", text=text, evidence=(figure,)),
        constants=tuple(rows),
        fits=fits,
        warnings=tuple(w for name, each in fits.items() for w in caveats(each, name)),
    )


def by_data(runs: pd.DataFrame, of: str) -> StudySection:
    """Report L(D) of the largest size of one arm."""
    largest = runs[runs["N"] == runs["N"].max()]
    result = one_law(largest, "kaplan-d", "D")
    alpha = estimate(result, "alpha_D")
    text = (
        f"The largest model ({largest['N'].iloc[0]:,.0f} parameters) falls as D^-{alpha[0]:.3f} "
        f"[{alpha[1]:.3f}, {alpha[2]:.3f}] over {counted(largest['D'].nunique(), 'horizon')}, each with its own "
        "decay of the learning rate."
    )
    figure = power_law(largest, result, x="D", slopes={"Kaplan et al. 2020": -0.095},
                       name=_file(of, "loss-against-tokens"))  # fmt: skip
    return StudySection(
        section=Section(title=f"{of}L(D), loss against tokens", text=text, evidence=(figure,)),
        constants=(
            constant(f"{of}loss against tokens, largest size", "α_D", {KAPLAN: 0.095}, alpha, _LOCAL),
        ),
        fits={f"{of}L(D)": result},
        warnings=caveats(result, f"{of}L(D)"),
    )


def joint(runs: pd.DataFrame, of: str, noise: float | None) -> StudySection:
    """Report L(N, D) of one arm in Kaplan's form and in Chinchilla's."""
    columns = {"N": "N", "D": "D", "L": "loss"}
    kaplan, chinchilla = (
        fit(runs, law=law, columns=columns, objective="huber-log", group="run")
        for law in ("kaplan", "chinchilla")
    )
    fits = {"Kaplan": kaplan, "Chinchilla": chinchilla}
    text = (
        f"Kaplan's form lies {percent(kaplan.rms)} from a run, Chinchilla's {percent(chinchilla.rms)} (root mean "
        f"square of {counted(len(runs), 'run')}); Chinchilla's irreducible loss is {chinchilla.parameters['E']:.2f} "
        "nats per token."
    )
    rows = (
        constant(f"{of}Chinchilla's form, size", "α", {CHINCHILLA: 0.339, EPOCH: 0.348},
                 estimate(chinchilla, "alpha"), _LOCAL),
        constant(f"{of}Chinchilla's form, tokens", "β", {CHINCHILLA: 0.285, EPOCH: 0.366},
                 estimate(chinchilla, "beta"), _LOCAL),
    )  # fmt: skip
    evidence = (
        surface(runs, fits, x="D", colour="N", name=_file(of, "loss-against-size-and-tokens")),
        residuals(runs, fits, x="C", noise=noise, name=_file(of, "residuals")),
    )
    return StudySection(
        section=Section(title=f"{of}L(N, D), both at once", text=text, evidence=evidence),
        constants=rows,
        fits={f"{of}{name}": each for name, each in fits.items()},
        warnings=tuple(w for name, each in fits.items() for w in caveats(each, f"{of}{name}")),
    )


def _file(of: str, name: str) -> str:
    """Return a figure's name, a file's when it is exported."""
    plain = "".join(c if c.isalnum() else "-" for c in of).strip("-")
    return f"{plain}-{name}" if plain else name


def paired(arms: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Return all runs with their axes as columns, their arm, and `rank`: which size of its arm a run has."""
    tables = [
        runs.assign(arm=label, rank=runs["N"].rank(method="dense").astype(int), **arm_of(label))
        for label, runs in arms.items()
        if len(runs)
    ]
    if not tables:
        raise TooFewRuns("no run is finished")
    return pd.concat(tables, ignore_index=True)


def axis_effects(table: pd.DataFrame, axes: list[str]) -> pd.DataFrame:
    """Return what each value of each axis does to the loss against the first value: one row a pair of values.

    Runs are paired by size (its rank in the arm), horizon, seed and all other axes. Horizons of one trunk are not
    independent, so a pair of trunks counts once, by its mean over the horizons; the interval is Student's over
    these pairs. `effect` is the mean relative change of the loss; `size` the mean N over the other's.
    """
    rows = []
    for axis in axes:
        first, *others = dict.fromkeys(table[axis])
        cell = [*(other for other in axes if other != axis), "rank", "D", "seed"]
        base = table[table[axis] == first]
        for value in others:
            both = base.merge(table[table[axis] == value], on=cell, suffixes=("_a", "_b"))
            if not len(both):
                continue
            both["log"] = np.log(both["loss_b"].astype(float) / both["loss_a"].astype(float))
            each = both.groupby([c for c in cell if c != "D"])["log"].mean().to_numpy()
            mean = float(each.mean())
            half = np.nan
            if len(each) > 1:
                half = float(t.ppf(0.5 + LEVEL / 2, len(each) - 1) * each.std(ddof=1) / np.sqrt(len(each)))
            low, high = mean - half, mean + half
            told = "cannot tell" if not (low > 0 or high < 0) else "lower" if mean < 0 else "higher"
            rows.append({
                "axis": axis, "value": value, "against": first, "pairs": len(each),
                "effect": np.expm1(mean), "low": np.expm1(low), "high": np.expm1(high), "loss": told,
                "size": float((both["N_b"] / both["N_a"]).mean()),
            })  # fmt: skip
    if not rows:
        raise TooFewRuns("no two finished runs differ in one axis alone")
    return pd.DataFrame(rows)


def effects(arms: dict[str, pd.DataFrame]) -> StudySection:
    """Report what each axis does to the loss, from pairs of runs that differ in it alone."""
    table = paired(arms)
    axes = list(arm_of(next(iter(arms))))
    found = axis_effects(table, axes)
    horizon = common_horizon(table.assign(N=table["arm"] + table["rank"].astype(str)))
    shown = table[table["D"] == horizon].groupby(["arm", "N"])["loss"].mean().reset_index()
    shown = shown.rename(columns={"arm": "series"})
    figure = several(
        shown, shown, x="N", name="arms", title="Loss against size, by arm",
        caption=f"At {horizon:,.0f} tokens, the longest horizon of all arms; the mean over seeds, joined by lines.",
    )  # fmt: skip
    said = []
    rows: list[dict[str, Any]] = [
        {str(key): value for key, value in row.items()} for row in found.to_dict("records")
    ]
    for row in rows:
        change = f"{percent(abs(row['effect']))} {'lower' if row['effect'] < 0 else 'higher'}"
        bounds = " (one pair: no interval)"
        if np.isfinite(row["low"]):
            bounds = f" [{_signed(row['low'])}, {_signed(row['high'])}]"
        doubt = "" if row["loss"] != "cannot tell" else ", which these runs cannot tell from nothing"
        said.append(
            f"{row['axis']}={row['value']} against {row['against']}: the loss is {change}{bounds}{doubt}"
        )
    note = ""
    worst = max(rows, key=lambda row: abs(row["size"] - 1))
    if abs(worst["size"] - 1) > UNEQUAL:
        note = (
            f" Sizes of a pair differ: {worst['axis']}={worst['value']} has {worst['size']:.2f} times the N of "
            f"{worst['against']} on average, which is part of its effect."
        )
    text = (
        f"{'; '.join(said)}. Runs are paired by size, horizon, seed and every other axis; intervals are 95 %, over "
        f"pairs of trunks.{note}"
    )
    frame = found.assign(**{c: 100 * found[c] for c in ("effect", "low", "high")}).rename(
        columns={"effect": "effect (%)", "low": "low (%)", "high": "high (%)", "size": "N ratio"}
    )
    evidence: tuple[Figure | Table, ...] = (
        figure,
        Table(name="effects", title="Effects", caption="Change of the loss, 95 % intervals.", frame=frame),
    )
    return StudySection(
        section=Section(title="What each axis does", text=text, evidence=evidence),
        constants=tuple(_effect(row) for row in rows if np.isfinite(row["low"])),
        fits={"effects": found, "summary": ". ".join(said) + "."},
    )


def _signed(value: float) -> str:
    return f"{100 * value:+.2g} %"


def _effect(row: dict[str, Any]) -> Constant:
    """Return an effect as a row of the table of constants; its verdict is whether it differs from nothing."""
    return Constant(
        name=f"{row['axis']}={row['value']} against {row['against']}", symbol="ΔL/L", published={"no effect": 0.0},
        ours=row["effect"], low=row["low"], high=row["high"], level=LEVEL,
        verdict="cannot tell" if row["loss"] == "cannot tell" else "differs",
        why=f"over {row['pairs']} pairs of trunks",
    )  # fmt: skip


def answer(
    study_data: StudyData,
    arms: dict[str, pd.DataFrame],
    sections: dict[str, StudySection],
    noise: float | None,
) -> str:
    """Return the whole report in a few sentences."""
    runs = sum(map(len, arms.values()))
    parts = [f"{counted(runs, 'run')}" + (f" in {len(arms)} arms." if len(arms) > 1 else ".")]
    if "effects" in sections:
        parts.append(str(sections["effects"].fits.get("summary", "")))
    for section in sections.values():
        for name, law in section.fits.items():
            if name.endswith("L(N)"):
                value, low, high = estimate(law, "alpha_N")
                parts.append(f"{name} falls as N^-{value:.3f} [{low:.3f}, {high:.3f}].")
    if noise:
        parts.append(f"Seeds differ by {percent(noise)}.")
    if study_data.prediction is not None:
        scored = score(study_data.prediction, study_data.runs)
        parts.append(f"The largest size was predicted first. {verdict(scored[scored['scored']])}")
    return " ".join(part for part in parts if part)
