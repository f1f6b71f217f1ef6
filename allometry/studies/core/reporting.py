"""What a store holds of a study: its data, its analysis, its report. Trains nothing and needs no
torch.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allometry.core.env import snapshot
from allometry.core.errors import AllometryError, unknown
from allometry.core.files import refuse_links
from allometry.core.units import format_duration
from allometry.runs.store import Store
from allometry.studies.core import plan as planning
from allometry.studies.core.collection import dated
from allometry.studies.core.predictions import ledger, registered
from allometry.studies.core.study import Study, StudyData, study
from allometry.studies.core.texts import changed_since, require_own_text

if TYPE_CHECKING:
    import pandas as pd

    from allometry.report.content import Analysis
    from allometry.studies.core.plan import StudyPlan

STUDIES = "studies"
REPORT = "report.html"


def folder_of(store: Store, key: str) -> Path:
    """Return the folder of a study in a store, which may not be there yet. AllometryError if it is a link."""
    folder = store.path / STUDIES / key
    refuse_links(folder, store.path)
    return folder


def runs_of(store: Store, ids: list[str]) -> pd.DataFrame:
    """Return the rows of the run table of these runs."""
    frame = store.frame()
    return frame[frame["run"].isin(ids)].reset_index(drop=True)


def read(
    question: Study, plan: StudyPlan, store: Store, key: str, command: str, prediction: dict[str, Any] | None
) -> Analysis:
    """Report the analysis of a study's runs as they stand in the store; needs no torch and trains nothing."""
    evidence = evidence_of(plan, store, key, command, prediction)
    return dated(question.analyse(evidence), evidence.runs)


def _with_changes(analysis: Analysis, folder: Path) -> Analysis:
    """Return the analysis, with a first warning if the corpus has been written since the study was planned."""
    changed = changed_since(folder)
    return analysis if changed is None else replace(analysis, warnings=(changed, *analysis.warnings))


def evidence_of(
    plan: StudyPlan, store: Store, key: str, command: str, prediction: dict[str, Any] | None = None
) -> StudyData:
    """Return what a study reads of its store. AllometryError if none of its runs is finished."""
    ids = list(plan.sweep.ids)
    require_own_text(store, folder_of(store, key), ids, command)
    runs = runs_of(store, ids)
    if not (runs["status"] == "done").any():
        raise AllometryError(
            f"the study {key!r} has no finished run in {store.path}", hint=f"train it first: {command}"
        )
    begun = [run for run in ids if run in set(runs["run"])]
    environment = {
        **snapshot(),
        "budget": format_duration(plan.budget),
        "planned seconds": round(plan.seconds),
    }
    return StudyData(
        runs=runs,
        curves=store.curves(begun),
        positions=store.positions(begun),
        probes=store.probes(begun),
        novelty=store.novelty(begun),
        parts=plan.parts,
        planned=tuple(ids),
        prediction=prediction or registered(folder_of(store, key)),
        command=command,
        environment=environment,
        ledger=ledger(store.path / STUDIES, store.frame()),
    )


def report(
    store_path: Path, name: str | None, output: Path | None, save: Path | None = None
) -> tuple[Analysis, Path]:
    """Write the report of a study in the store again, from its runs alone; with `save`, its results too.

    `name` is the study's name in the store or the beginning of it; without it, the study that was planned
    last. See `studies.results` for what is saved.
    """
    store = Store(store_path)
    key = _find(store, name)
    folder = folder_of(store, key)
    plan = planning.load(folder)
    if plan is None:
        raise AllometryError(f"{folder} holds no plan", hint="allometry run quickstart")
    member = store.studies().get(key)
    evidence = evidence_of(plan, store, key, member.command if member else "")
    if save is not None:
        from allometry.studies.core import results

        analysis, path = results.save(plan.study, evidence, save, changed_since(folder))
        return analysis, write_report(analysis, folder, output) if output else path
    analysis = _with_changes(dated(study(plan.study).analyse(evidence), evidence.runs), folder)
    return analysis, write_report(analysis, folder, output)


def _find(store: Store, name: str | None) -> str:
    """Return the key of a study in the store: the given name or beginning, else the newest."""
    plans = sorted(store.path.glob(f"{STUDIES}/*/{planning.FILE}"), key=lambda p: p.stat().st_mtime)
    keys = [path.parent.name for path in plans]
    if not keys:
        raise AllometryError(f"{store.path} holds no study", hint="allometry run quickstart")
    if name is None:
        return keys[-1]
    found = [key for key in keys if key == name] or [key for key in keys if key.startswith(name)]
    if not found:
        raise unknown("study in this store", name, keys)
    return found[-1]


def write_report(analysis: Analysis, folder: Path, output: Path | None = None) -> Path:
    """Return the report as one HTML file, and the registered numbers beside it as JSON."""
    from allometry.report.build import write

    return write(analysis, output or folder / REPORT)
