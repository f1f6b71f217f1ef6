"""A study's analysis as one HTML file: offline, interactive, light and dark, printable.

The file loads nothing. Its scripts are named by their hashes in a content security policy that forbids
everything else, so that even text which slipped through the escaping could neither run nor call out.
"""

from __future__ import annotations

import os
from pathlib import Path

from markupsafe import Markup

from allometry.figures import theme
from allometry.report import format as fmt
from allometry.report import page
from allometry.report.content import Analysis
from allometry.report.layout import layout
from allometry.version import __version__


def build(analysis: Analysis) -> str:
    """Return the report as HTML text. Raises AllometryError only if a chart cannot be written as Vega-Lite."""
    runtime, style = theme.runtime(), page.asset("style.css")
    script = page.asset("charts.js") + page.asset("report.js")
    return page.template(page.asset("entries.html") + page.asset("template.html")).render(
        layout(analysis),
        command=analysis.command,
        description=analysis.answer,
        themes=page.themes(),
        colours=page.colours(),
        policy=fmt.policy(fmt.digests(runtime, script)),
        runtime=Markup(runtime),
        script=Markup(script),
        style=Markup(style),
        version=__version__,
    )


def write(analysis: Analysis, path: str | os.PathLike[str]) -> Path:
    """Write the report, whole or not at all. Raises AllometryError where the place cannot be written."""
    return theme.write_atomically(Path(path), build(analysis).encode("utf-8", "replace"))
