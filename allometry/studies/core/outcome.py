"""What came out of a study or a sweep, as frames and figures: what a notebook shows and goes on with."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from allometry.core.errors import AllometryError
from allometry.figures.theme import Figure
from allometry.report.build import Table
from allometry.runs.store import Store
from allometry.studies.core import plan as planning
from allometry.studies.core.collection import dated
from allometry.studies.core.predictions import score
from allometry.studies.core.results import REPORT, evidence_of, find, folder_of
from allometry.studies.core.study import study

if TYPE_CHECKING:
    from allometry.report.build import Analysis

_COLUMNS = ["study", "name", "symbol", "value", "low", "high", "level", "verdict"]


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """The outcome of a study or a sweep.

    `runs` and `curves` are tables with the columns of `Store.frame()` and `Store.curves()`; in a sweep of several
    arms `runs` has a column `arm`. `constants` are quantities with their intervals, `tables` and `figures` those of
    the report by name, `predictions` what was written down before it was trained, scored.
    """

    key: str
    question: str
    answer: str
    runs: pd.DataFrame
    curves: pd.DataFrame
    constants: pd.DataFrame
    predictions: pd.DataFrame
    figures: dict[str, Figure]
    tables: dict[str, pd.DataFrame]
    warnings: tuple[str, ...]
    report: Path

    def _repr_html_(self) -> str:
        """Return the question, the answer and the constants, for a notebook."""
        shown = (
            self.constants.to_html(index=False, float_format="{:.4g}".format) if len(self.constants) else ""
        )
        parts = [f"<p><b>{escape(self.question)}</b></p><p>{escape(self.answer)}</p>{shown}"]
        parts += [f"<p>warning: {escape(warning)}</p>" for warning in self.warnings]
        return "".join(parts) + f"<p>report: {escape(str(self.report))}</p>"


def load(store: Store | Path | str = "runs", study: str | None = None) -> StudyResult:
    """Read what came out of a study or a sweep, from the runs in a store; nothing is trained.

    Parameters
    ----------
    store
        A `Store`, or the folder or URL of one.
    study
        Its name in the store, or the beginning of it (default: the one that was planned last).

    Returns
    -------
    StudyResult
        Runs, curves, constants with intervals, figures and the answer.

    Raises
    ------
    AllometryError
        If the store holds no such study, or none of its runs is finished.

    Examples
    --------
    >>> import allometry
    >>> allometry.load("no-such-store")
    Traceback (most recent call last):
        ...
    allometry.core.errors.AllometryError: there is no run store at no-such-store
      hint: ...
    """
    opened = store if isinstance(store, Store) else Store(store)
    return outcome(opened, find(opened, study))


def outcome(store: Store, key: str) -> StudyResult:
    """Return the outcome of the study with this name in the store."""
    folder = folder_of(store, key)
    plan = planning.load(folder)
    if plan is None:
        raise AllometryError(f"{folder} holds no plan", hint="allometry run quickstart")
    member = store.studies().get(key)
    data = evidence_of(plan, store, key, member.command if member else "")
    analysis = dated(study(plan.study).analyse(data), data.runs)
    runs = data.runs
    if len(plan.parts) > 1:
        arms = {run: label for label, ids in plan.parts.items() for run in ids}
        runs = runs.assign(arm=runs["run"].map(arms))
    entries = [analysis, *analysis.chapters]
    evidence = [item for entry in entries for section in entry.sections for item in section.evidence]
    return StudyResult(
        key=key,
        question=plan.sweep.question,
        answer=analysis.answer,
        runs=runs,
        curves=data.curves,
        constants=_constants(entries),
        predictions=score(data.prediction, data.runs) if data.prediction is not None else pd.DataFrame(),
        figures={item.name: item for item in evidence if isinstance(item, Figure)},
        tables={item.name: item.frame for item in evidence if isinstance(item, Table)},
        warnings=tuple(dict.fromkeys(w for entry in entries for w in entry.warnings)),
        report=folder / REPORT,
    )


def _constants(entries: list[Analysis]) -> pd.DataFrame:
    rows = [
        {
            "study": entry.study, "name": c.name, "symbol": c.symbol, "value": c.ours, "low": c.low,
            "high": c.high, "level": c.level, "verdict": c.verdict,
        }
        for entry in entries
        for c in entry.constants
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=_COLUMNS)
