"""A study's analysis as one HTML file: offline, interactive, light and dark, printable.

The file loads nothing. Its scripts are named by their hashes in a content security policy that forbids
everything else, so that even text which slipped through the escaping could neither run nor call out.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
import vl_convert
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from allometry.env import cache_dir, package_version
from allometry.errors import AllometryError
from allometry.figures import theme
from allometry.report import format as fmt
from allometry.report.constants import strip
from allometry.report.content import Analysis, Figure, Section, Table
from allometry.version import __version__

ROWS_SHOWN = 300
"""Rows of a figure's numbers that are shown under it; the CSV has all of them."""


def build(analysis: Analysis) -> str:
    """The report as HTML text. Raises AllometryError only if a chart cannot be written as Vega-Lite."""
    names = _unique_names(analysis)
    runtime, script, style = _runtime(), _asset("report.js"), _asset("style.css")
    return _template().render(
        analysis=analysis,
        answer=fmt.inline(analysis.answer),
        warnings=[fmt.inline(warning) for warning in analysis.warnings],
        sections=[_section(section, i, names) for i, section in enumerate(analysis.sections, start=1)],
        constants=[_constant(c, analysis) for c in analysis.constants],
        levels=sorted({c.level for c in analysis.constants}),
        excluded=_table_of(analysis.excluded, "excluded-runs"),
        runs=_table_of(analysis.runs, "all-runs", limit=None),
        environment=list(_flatten(analysis.environment)),
        themes=fmt.script_json({"light": theme.config("light"), "dark": theme.config("dark")}),
        palettes=(theme.palette("light"), theme.palette("dark")),
        policy=_policy(runtime, script),
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
    table = _table_of(frame, name, limit=ROWS_SHOWN)
    common = {"id": name, "title": item.title, "caption": fmt.inline(item.caption), "table": table}
    if isinstance(item, Table):
        return {**common, "kind": "table"}
    spec = _rounded(theme.specification(item))
    spec["description"] = f"{item.title}. {item.caption}"
    return {**common, "kind": "figure", "spec": fmt.script_json(spec)}


def _rounded(value: Any) -> Any:
    """A specification with six digits to a number: more than a screen can show, in half the size.

    All of it, since colours are looked up by exact values: those in the data and those in a scale's
    domain must agree.
    """
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def _table_of(frame: pd.DataFrame | None, name: str, limit: int | None = ROWS_SHOWN) -> dict[str, Any] | None:
    """A frame for the template: headers, cells as text with what they sort by, and the whole as CSV."""
    if frame is None or frame.empty:
        return None
    shown = frame if limit is None else frame.head(limit)
    numeric = [pd.api.types.is_numeric_dtype(frame[column]) for column in frame]
    columns = [shown[column].tolist() for column in shown]
    return {
        "name": name,
        "headers": [
            (str(column), is_number) for column, is_number in zip(frame.columns, numeric, strict=True)
        ],
        "rows": [
            list(zip(map(fmt.number, row), map(_sort_key, row), numeric, strict=True))
            for row in zip(*columns, strict=True)
        ],
        "left_out": len(frame) - len(shown),
        "total": len(frame),
        "csv": fmt.script_json(frame.to_csv(index=False)),
    }


def _sort_key(value: Any) -> str | None:
    """What a cell sorts by where that is not its text."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return None
    return repr(value)


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


def _policy(*scripts: str) -> str:
    """A content security policy under which only these scripts run, and nothing is loaded or sent."""
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


_GLOBALS = "window.vegaEmbed = vegaEmbed;"
"""What the bundle leaves on the page: one function."""


@cache
def _runtime() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script: once for all charts of a page.

    Bundling takes seconds, so the script is kept in the cache folder, under the versions that it was
    made by.
    """
    kept: Path | None = None
    with suppress(AllometryError):  # no cache folder: it only saves time
        version = package_version("vl-convert-python")
        kept = cache_dir("report") / f"vega-{version}-{theme.vegalite()}.js"
        if kept.is_file() and kept.stat().st_size > 100_000:
            return kept.read_text(encoding="utf-8")
    script = str(vl_convert.javascript_bundle(_GLOBALS, vl_version=theme.vegalite()))
    script = script.replace("</script", r"<\/script")
    if kept is not None:
        with suppress(AllometryError):
            theme.write_atomically(kept, script.encode())
    return script


@cache
def _asset(name: str) -> str:
    return files("allometry.report").joinpath(name).read_text(encoding="utf-8")


def _template() -> Any:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_asset("template.html"))
