"""A study's analysis as one HTML file: offline, interactive, light and dark, printable.

The studies write an `Analysis`: what a report says, before it is laid out. It becomes the plain values that the
template shows: ids that are unique on the page, texts that are escaped, tables as cells, charts as specifications.

The file loads nothing. Its scripts are named by their hashes in a content security policy that forbids
everything else, so that even text which slipped through the escaping could neither run nor call out."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from markupsafe import Markup

from allometry.core import __version__
from allometry.figures import theme
from allometry.figures.theme import Figure
from allometry.report import page
from allometry.report import page as fmt
from allometry.report.page import chart_json, table_of

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

    `low` and `high` say how sure the fit is; `design_low` and `design_high` are the lowest and highest estimate over
    parts of the design, nan where none were fitted.
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
    design_low: float = math.nan
    design_high: float = math.nan

    @property
    def design(self) -> str:
        """The estimates over parts of the design, such as "0.046 to 0.107"; "" where none were fitted."""
        if not math.isfinite(self.design_high - self.design_low):
            return ""
        return f"{self.design_low:.3g} to {self.design_high:.3g}".replace("-", "−")


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


WIDTH, HEIGHT, MARGIN = 150, 22, 6


def strip(constant: Constant) -> Markup:
    """Draw an inline SVG: a bar for our interval, a dot for our value, a tick for each published value.

    The axis spans all of them; it is logarithmic where they are positive and span more than a factor of
    thirty. Empty where our value is not finite.
    """
    published = [v for v in constant.published.values() if math.isfinite(v)]
    bounds = [v for v in (constant.low, constant.high) if math.isfinite(v)]
    if not math.isfinite(constant.ours):
        return Markup("")
    values = [constant.ours, *bounds, *published]
    logarithmic = min(values) > 0 and max(values) / min(values) > 30
    scaled = [math.log(v) if logarithmic else v for v in values]
    low, span = min(scaled), (max(scaled) - min(scaled)) or 1.0

    def x(value: float) -> str:
        where = ((math.log(value) if logarithmic else value) - low) / span
        return f"{MARGIN + where * (WIDTH - 2 * MARGIN):.1f}"

    middle = HEIGHT / 2
    parts = [
        Markup('<line class="strip-axis" x1="0" x2="{}" y1="{}" y2="{}"/>').format(WIDTH, middle, middle)
    ]
    if len(bounds) == 2:
        parts.append(
            Markup('<line class="strip-bar" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
                x(bounds[0]), x(bounds[1]), middle, middle
            )
        )
    for paper, value in constant.published.items():
        if math.isfinite(value):
            parts.append(
                Markup(
                    '<line class="strip-paper" x1="{0}" x2="{0}" y1="3" y2="{1}">'
                    "<title>{2}: {3:.4g}</title></line>"
                ).format(x(value), HEIGHT - 3, paper, value)
            )
    parts.append(Markup('<circle class="strip-dot" cx="{}" cy="{}" r="4"/>').format(x(constant.ours), middle))
    return Markup(
        '<svg class="strip" viewBox="0 0 {0} {1}" width="{0}" height="{1}" aria-hidden="true">{2}</svg>'
    ).format(WIDTH, HEIGHT, Markup("").join(parts))


ROWS_SHOWN = 300
"""Rows of a figure's numbers that are shown under it; the CSV has all of them."""

ROWS_SHOWN_IN_CHAPTERS = 40
"""The same where a page has many chapters."""

_MARKS = {"agrees": "✓", "differs": "≠", "cannot tell": "?"}


class Names:
    """Ids and file names, each given out once."""

    def __init__(self, *taken: str) -> None:
        """Reserve the ids `taken`, which the template itself uses."""
        self._count = Counter(taken)

    def unique(self, text: str) -> str:
        """Return the text as an id, with a number if it was given out before."""
        base = fmt.identifier(text)
        self._count[base] += 1
        if self._count[base] == 1:
            return base
        return self.unique(f"{base}-{self._count[base]}")


TAKEN = (
    *("answer", "constants", "warnings", "excluded", "excluded-runs", "runs", "all-runs", "environment"),
    *("again", "main", "theme", "theme-name", "themes", "command", "copy", "next", "seen"),
)
"""Ids that the template uses itself."""


def layout(analysis: Analysis) -> dict[str, Any]:
    """Collect what the template shows of an analysis."""
    names = Names(*TAKEN)
    excluded = _excluded(analysis)
    constants = [(None, list(analysis.constants)), *((c, list(c.constants)) for c in analysis.chapters)]
    chapters = [_chapter(chapter, names) for chapter in analysis.chapters]
    anchors = {id(chapter): shown["id"] for chapter, shown in zip(analysis.chapters, chapters, strict=True)}
    entry = _entry(analysis, names, prefix="", rows=ROWS_SHOWN)
    return {
        **entry,
        "lead": _lead(entry["sections"]),
        "chapters": chapters,
        "groups": [
            {
                "title": chapter.study if chapter else "",
                "anchor": anchors[id(chapter)] if chapter else "",
                "constants": [_constant(c) for c in listed],
            }
            for chapter, listed in constants
            if listed
        ],
        "levels": sorted({c.level for _, listed in constants for c in listed}),
        "excluded": table_of(excluded, "excluded-runs", limit=ROWS_SHOWN),
        "runs": table_of(_filled(analysis.runs), "all-runs", limit=None),
        "environment": list(_flatten(analysis.environment)),
    }


def _entry(analysis: Analysis, names: Names, *, prefix: str, rows: int) -> dict[str, Any]:
    """Collect what every entry of the log has: a date, a question, what was expected, seen, and is asked next."""
    first, rest = fmt.abstract(analysis.answer)
    return {
        "study": analysis.study,
        "question": fmt.formula(analysis.question),
        "date": fmt.date(analysis.date),
        "expected": fmt.inline(analysis.expected),
        "answer": fmt.paragraphs(first),
        "rest": fmt.paragraphs(rest),
        "next": fmt.inline(analysis.next),
        "warnings": [fmt.inline(warning) for warning in analysis.warnings],
        "sections": [_section(s, i, names, prefix, rows) for i, s in enumerate(analysis.sections, start=1)],
    }


def _lead(sections: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Take the first figure out of its section: the page begins with it."""
    for section in sections:
        for item in section["evidence"]:
            if item["kind"] == "figure":
                section["evidence"].remove(item)
                return dict(item)
    return None


def _chapter(chapter: Analysis, names: Names) -> dict[str, Any]:
    shown = {"id": names.unique(chapter.study)}
    constants = [_constant(c) for c in chapter.constants]
    return {
        **shown,
        **_entry(chapter, names, prefix=f"{chapter.study}-", rows=ROWS_SHOWN_IN_CHAPTERS),
        "groups": [{"title": "", "anchor": "", "constants": constants}] if constants else [],
        "levels": sorted({c.level for c in chapter.constants}),
        "excluded": 0 if chapter.excluded is None else len(chapter.excluded),
    }


def _section(section: Section, index: int, names: Names, prefix: str, rows: int) -> dict[str, Any]:
    return {
        "id": names.unique(f"{prefix}s{index}-{section.title}"),
        "title": fmt.formula(section.title),
        "text": fmt.paragraphs(section.text),
        "evidence": [_evidence(item, names.unique(prefix + item.name), rows) for item in section.evidence],
    }


def _evidence(item: Figure | Table, name: str, rows: int) -> dict[str, Any]:
    frame = item.table if isinstance(item, Figure) else item.frame
    limit = rows if isinstance(item, Figure) else ROWS_SHOWN
    shown = {
        "id": name,
        "title": fmt.formula(item.title),
        "caption": fmt.inline(item.caption),
        "table": table_of(frame, name, limit=limit),
    }
    if isinstance(item, Table):
        return {**shown, "kind": "table"}
    return {**shown, "kind": "figure", "spec": chart_json(item)}


def _constant(constant: Constant) -> dict[str, Any]:
    return {
        "name": fmt.formula(constant.name),
        "symbol": fmt.formula(constant.symbol),
        "published": [(paper, fmt.short(value)) for paper, value in constant.published.items()],
        "ours": fmt.interval(constant.ours, constant.low, constant.high),
        "design": constant.design,
        "level": Markup("{} %").format(f"{100 * constant.level:g}"),
        "verdict": constant.verdict,
        "mark": _MARKS.get(constant.verdict, "?"),
        "verdict_class": fmt.identifier(constant.verdict),
        "why": fmt.inline(constant.why),
        "strip": strip(constant),
    }


def _filled(runs: pd.DataFrame | None) -> pd.DataFrame | None:
    """Return the run table without columns that no run fills."""
    return None if runs is None else runs.dropna(axis=1, how="all")


def _excluded(analysis: Analysis) -> pd.DataFrame | None:
    """Return the excluded runs of all chapters; a run left out of several for one reason is one row."""
    frames = [
        chapter.excluded.assign(study=chapter.study)
        for chapter in analysis.chapters
        if chapter.excluded is not None and len(chapter.excluded)
    ]
    if not frames:
        return analysis.excluded
    if analysis.excluded is not None and len(analysis.excluded):
        frames.insert(0, analysis.excluded.assign(study=analysis.study))
    both = pd.concat([frame.dropna(axis=1, how="all") for frame in frames], ignore_index=True)
    studies = both.groupby(["run", "reason"])["study"].agg(lambda names: ", ".join(dict.fromkeys(names)))
    once = both.drop(columns="study").drop_duplicates(["run", "reason"])
    return once.merge(studies.reset_index(), on=["run", "reason"], how="left")


def _flatten(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested settings as (dotted name, text) pairs."""
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flatten(value, f"{name}.")
        elif isinstance(value, list | tuple) and all(not isinstance(v, dict | list) for v in value):
            yield name, ", ".join(map(str, value)) or fmt.MISSING
        else:
            yield name, fmt.MISSING if value is None else str(value)


def build(analysis: Analysis) -> str:
    """Return the report as HTML text. Raises AllometryError only if a chart cannot be written as Vega-Lite."""
    runtime, style = theme.runtime(), page.asset("style.css")
    script = page.asset("charts.js") + page.asset("report.js")
    with theme.unchecked():
        content = layout(analysis)
    return page.template(page.asset("entries.html") + page.asset("template.html")).render(
        content,
        command=analysis.command,
        description=analysis.answer,
        themes=page.themes(),
        colours=page.colours(),
        policy=theme.policy(theme.digests(runtime, script)),
        runtime=Markup(runtime),
        script=Markup(script),
        style=Markup(style),
        version=__version__,
    )


def write(analysis: Analysis, path: str | os.PathLike[str]) -> Path:
    """Write the report, whole or not at all. Raises AllometryError where the place cannot be written."""
    return theme.write_atomically(Path(path), build(analysis).encode("utf-8", "replace"))
