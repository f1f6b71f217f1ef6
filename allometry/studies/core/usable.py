"""What every study does with its runs before it reads them: sets aside what cannot be used, with the reason,
measures the noise between seeds, and says what limits its conclusions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from allometry.report.content import Section, Table
from allometry.studies.core.sections import Reading, percent

if TYPE_CHECKING:
    import pandas as pd

    from allometry.studies.core.study import Evidence

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
