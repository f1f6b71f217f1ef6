"""The reading of the quickstart study: every basic law on one grid, and the answer in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from allometry.report.content import Analysis, Section, Table
from allometry.studies.frontier_reading import frontier
from allometry.studies.prediction_reading import prediction, verdict
from allometry.studies.readings import (
    Reading,
    attempt,
    by_data,
    by_size,
    joint,
    percent,
)
from allometry.studies.registration import score

if TYPE_CHECKING:
    import pandas as pd

    from allometry.studies.base import Evidence, Study

ENOUGH_UPDATES = 2000
"""Updates below which a run measures when it left its plateau more than its size (`docs/log.md`)."""


def analyse(study: Study, evidence: Evidence) -> Analysis:
    """The report's content from the finished runs; what cannot be answered says why."""
    usable, excluded = usable_runs(evidence)
    noise, noise_table = seed_noise(usable)
    readings = {
        "size": attempt("L(N): loss against size", lambda: by_size(usable)),
        "data": attempt("L(D): loss against tokens", lambda: by_data(usable)),
        "joint": attempt("L(N, D): both at once", lambda: joint(usable, noise)),
        "frontier": attempt(
            "L(C) and N_opt(C): what compute buys", lambda: frontier(usable, evidence.curves)
        ),
        "noise": noise_table,
    }
    registered = evidence.prediction
    if registered is not None:
        made = registered
        readings["prediction"] = attempt(
            "The prediction, and what came", lambda: prediction(evidence.runs, made, evidence.ledger)
        )
    order = ("frontier", "size", "data", "joint", "prediction", "noise")
    kept = [readings[name] for name in order if name in readings]
    return Analysis(
        study=study.name,
        question=study.question,
        answer=answer(evidence, usable, readings, noise),
        command=evidence.command,
        sections=tuple(reading.section for reading in kept),
        constants=tuple(row for reading in kept for row in reading.constants),
        warnings=(*scope(usable, evidence), *(w for reading in kept for w in reading.warnings)),
        excluded=excluded,
        runs=evidence.runs,
        environment=evidence.environment,
    )


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


def answer(evidence: Evidence, runs: pd.DataFrame, readings: dict[str, Reading], noise: float | None) -> str:
    """The whole report in a few sentences."""
    sizes, span = runs["N"].nunique(), runs["N"].max() / runs["N"].min()
    parts = [f"{len(runs)} runs of {sizes} sizes, a factor of {span:.0f} apart in N."]
    line = readings["size"].fits.get("L(N)")
    bent = readings["size"].fits.get("L(N) with a floor")
    if line is not None and bent is not None:
        low, high = line.interval("alpha_N")
        parts.append(
            f"At one horizon the loss falls as N^-{line.parameters['alpha_N']:.3f} (95 % interval "
            f"{low:.3f} to {high:.3f}; "
            f"Kaplan et al.: 0.076), to within {percent(line.rms)}, or {percent(bent.rms)} with a floor."
        )
    joint_fits = readings["joint"].fits
    if joint_fits:
        noisy = f" ({percent(noise)} between seeds)" if noise else ""
        within = " and ".join(f"{label} to within {percent(fit.rms)}" for label, fit in joint_fits.items())
        parts.append(f"One law of N and D describes all runs: {within}{noisy}.")
    slices = readings["frontier"].fits.get("N_opt(C)")
    if slices is not None:
        low, high = slices.a.interval()
        parts.append(
            f"The best size at a given compute grows as C^{slices.a.value:.2f} ({low:.2f} to {high:.2f})."
        )
    if evidence.prediction is not None:
        scored = score(evidence.prediction, evidence.runs)
        parts.append(
            "The two largest models were predicted before they were trained. "
            + verdict(scored[scored["scored"]])
        )
    return " ".join(parts)
