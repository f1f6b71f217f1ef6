"""What a report says, before it is laid out: the studies write this, `report.build` renders it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

from allometry.figures.theme import Figure

Verdict = Literal["agrees", "differs", "cannot tell"]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table with a caption; cells are formatted by the report (numbers to three or four digits)."""

    name: str
    title: str
    caption: str
    frame: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class Section:
    """A question within the study: paragraphs of plain text (`code`, *emphasis* and **strong** only),
    then evidence.
    """

    title: str
    text: str
    evidence: tuple[Figure | Table, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Constant:
    """One row of the table that compares with published values: a quantity, its published value(s), ours with an
    interval, a verdict.
    """

    name: str
    symbol: str
    published: dict[str, float]
    ours: float
    low: float
    high: float
    level: float
    verdict: Verdict
    why: str


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """The answer of a study. Everything in it that came from outside is escaped when it is rendered.

    Read as an entry of a log: `date` (of the last run that it reads), the question, what was `expected`
    before looking, what was seen (`answer` and sections), and what to ask `next`. `chapters` are the studies
    of a collection, in order; a collection's own sections and constants come before them.
    """

    study: str
    question: str
    answer: str
    command: str
    sections: tuple[Section, ...]
    constants: tuple[Constant, ...] = ()
    warnings: tuple[str, ...] = ()
    excluded: pd.DataFrame | None = None
    runs: pd.DataFrame | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    date: str = ""
    expected: str = ""
    next: str = ""
    chapters: tuple[Analysis, ...] = ()
