"""From readings to a study's entry in the log: sections, constants, warnings and what was left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from allometry.report.content import Analysis

if TYPE_CHECKING:
    import pandas as pd

    from allometry.studies.core.sections import Reading
    from allometry.studies.core.study import Evidence, Study


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
