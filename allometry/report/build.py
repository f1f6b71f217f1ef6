"""A study's analysis as one HTML file: offline, interactive, light and dark, printable.

The file loads nothing. Its scripts are named by their hashes in a content security policy that forbids
everything else, so that even text which slipped through the escaping could neither run nor call out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from markupsafe import Markup

from allometry.figures import theme
from allometry.report import format as fmt
from allometry.report import page
from allometry.report.constants import strip
from allometry.report.content import Analysis, Figure, Section, Table
from allometry.version import __version__

ROWS_SHOWN = 300
"""Rows of a figure's numbers that are shown under it; the CSV has all of them."""


def build(analysis: Analysis) -> str:
    """The report as HTML text. Raises AllometryError only if a chart cannot be written as Vega-Lite."""
    names = _unique_names(analysis)
    runtime, script, style = (
        page.runtime(),
        page.asset("charts.js") + page.asset("report.js"),
        page.asset("style.css"),
    )
    return page.template(page.asset("template.html")).render(
        analysis=analysis,
        answer=fmt.inline(analysis.answer),
        warnings=[fmt.inline(warning) for warning in analysis.warnings],
        sections=[_section(section, i, names) for i, section in enumerate(analysis.sections, start=1)],
        constants=[_constant(c, analysis) for c in analysis.constants],
        levels=sorted({c.level for c in analysis.constants}),
        excluded=page.table_of(analysis.excluded, "excluded-runs", limit=ROWS_SHOWN),
        runs=page.table_of(analysis.runs, "all-runs", limit=None),
        environment=list(_flatten(analysis.environment)),
        themes=page.themes(),
        colours=page.colours(),
        policy=page.policy(page.digests(runtime, script)),
        runtime=Markup(runtime),
        script=Markup(script),
        style=Markup(style),
        version=__version__,
    )


def write(analysis: Analysis, path: str | os.PathLike[str]) -> Path:
    """Write the report, whole or not at all. Raises AllometryError where the place cannot be written."""
    return theme.write_atomically(Path(path), build(analysis).encode("utf-8", "replace"))


def _section(section: Section, index: int, names: dict[tuple[int, int], str]) -> dict[str, Any]:
    return {
        "id": f"s{index}-{fmt.identifier(section.title)}",
        "title": section.title,
        "text": fmt.paragraphs(section.text),
        "evidence": [_evidence(item, names[index, place]) for place, item in enumerate(section.evidence)],
    }


def _evidence(item: Figure | Table, name: str) -> dict[str, Any]:
    frame = item.table if isinstance(item, Figure) else item.frame
    table = page.table_of(frame, name, limit=ROWS_SHOWN)
    common = {"id": name, "title": item.title, "caption": fmt.inline(item.caption), "table": table}
    if isinstance(item, Table):
        return {**common, "kind": "table"}
    return {**common, "kind": "figure", "spec": page.chart_json(item)}


def _constant(constant: Any, analysis: Analysis) -> dict[str, Any]:
    return {
        "name": constant.name,
        "symbol": constant.symbol,
        "published": [(paper, fmt.short(value)) for paper, value in constant.published.items()],
        "ours": fmt.interval(constant.ours, constant.low, constant.high),
        "verdict": constant.verdict,
        "mark": {"agrees": "✓", "differs": "≠", "cannot tell": "?"}.get(constant.verdict, "?"),
        "verdict_class": fmt.identifier(constant.verdict),
        "why": fmt.inline(constant.why),
        "strip": strip(constant),
    }


def _unique_names(analysis: Analysis) -> dict[tuple[int, int], str]:
    """A file name and HTML id for each figure and table, by the number of its section and its place
    there.
    """
    taken: dict[str, int] = {"excluded-runs": 1, "all-runs": 1}
    names = {}
    for index, section in enumerate(analysis.sections, start=1):
        for place, item in enumerate(section.evidence):
            base = fmt.identifier(item.name)
            taken[base] = taken.get(base, 0) + 1
            names[index, place] = base if taken[base] == 1 else f"{base}-{taken[base]}"
    return names


def _flatten(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as (dotted name, text) pairs."""
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flatten(value, f"{name}.")
        elif isinstance(value, list | tuple) and all(not isinstance(v, dict | list) for v in value):
            yield name, ", ".join(map(str, value)) or fmt.MISSING
        else:
            yield name, fmt.MISSING if value is None else str(value)
