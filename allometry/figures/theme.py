"""How every chart looks, in light and in dark, and how it leaves the notebook: HTML, SVG, PNG, PDF or JSON.

A chart carries no colours of its own: marks have named styles and scales have named ranges, and the
theme says what they look like. So one specification serves both modes, and the report changes the mode
while it is being read. Categories use the palette of Okabe and Ito (2008), ordered quantities a cut of
viridis: both stay apart for colour-blind eyes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import altair as alt
from altair.utils import schemapi
from markupsafe import Markup

from allometry.core.env import cache_dir, package_version
from allometry.core.errors import AllometryError
from allometry.core.files import write_bytes

if TYPE_CHECKING:
    import pandas as pd

Mode = Literal["light", "dark"]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A chart with the numbers under it. `name` is a slug (file name on export), `caption` says what to
    see.
    """

    name: str
    title: str
    caption: str
    chart: alt.TopLevelMixin
    table: pd.DataFrame

    def _repr_html_(self) -> str:
        """Return the chart as SVG, which needs no network, over its caption, for a notebook. `chart` is
        interactive.
        """
        return f"<figure>{svg(self.chart)}<figcaption>{escape(self.caption)}</figcaption></figure>"


WIDTH = 640
"""Width in pixels of a chart that is drawn outside the report (inside it, a chart fills its column)."""

SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'Liberation Sans', sans-serif"

_PALETTES: dict[Mode, dict[str, Any]] = {
    "light": {
        "paper": "#ffffff",
        "ink": "#1b1f24",
        "muted": "#59626d",
        "grid": "#dfe3e8",
        "accent": "#0b62a8",
        "category": ["#0b62a8", "#d55e00", "#007f5c", "#b3548a", "#b57a00", "#3a94cf", "#6b6b6b"],
        "ramp": {"scheme": "viridis", "extent": [0.0, 0.86]},
    },
    "dark": {
        "paper": "#14171b",
        "ink": "#e7eaee",
        "muted": "#a3acb7",
        "grid": "#2f353d",
        "accent": "#6fb4ec",
        "category": ["#6fb4ec", "#f08c4e", "#3cc79a", "#e39ac4", "#f0bd4c", "#a9d8f7", "#b4b4b4"],
        "ramp": {"scheme": "viridis", "extent": [0.22, 1.0]},
    },
}


def palette(mode: Mode) -> dict[str, Any]:
    """Return the colours of a mode: paper, ink, muted, grid, accent, category (a list) and ramp (a Vega scheme)."""
    if mode not in _PALETTES:
        raise AllometryError(f"unknown mode {mode!r}", hint="a chart is 'light' or 'dark'")
    return _PALETTES[mode]


def config(mode: Mode = "light") -> dict[str, Any]:
    """Return the Vega-Lite configuration of a mode, with the named styles that the charts of this package use."""
    colours = palette(mode)
    ink, muted, grid = colours["ink"], colours["muted"], colours["grid"]
    return {
        "background": colours["paper"],
        "font": SANS,
        "padding": 4,
        "view": {"stroke": None, "continuousHeight": 340, "continuousWidth": WIDTH},
        "axis": _axis(ink, muted, grid),
        "legend": _legend(ink, muted),
        "title": {"color": ink, "fontSize": 14, "anchor": "start"},
        "range": {
            "category": colours["category"],
            "ordinal": colours["ramp"],
            "ramp": colours["ramp"],
            "heatmap": colours["ramp"],
        },
        "mark": {"color": ink},
        "line": {"color": colours["category"][0], "strokeWidth": 2},
        "point": {"color": ink, "filled": True, "size": 50, "opacity": 0.9},
        "area": {"color": colours["category"][0]},
        "rule": {"color": ink},
        "text": {"color": ink, "fontSize": 12},
        "style": _styles(colours),
    }


def _axis(ink: str, muted: str, grid: str) -> dict[str, Any]:
    return {
        "domainColor": muted,
        "tickColor": muted,
        "gridColor": grid,
        "labelColor": muted,
        "titleColor": ink,
        "labelFontSize": 12,
        "titleFontSize": 13,
        "titleFontWeight": 500,
        "titlePadding": 10,
        "labelPadding": 5,
    }


def _legend(ink: str, muted: str) -> dict[str, Any]:
    return {
        "labelColor": ink,
        "titleColor": muted,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": 500,
        "labelLimit": 420,
        "symbolStrokeWidth": 2,
        "symbolSize": 80,
        "rowPadding": 4,
        "gradientLength": 160,
        "layout": {"top": {"direction": "vertical", "anchor": "start", "margin": 4}},
    }


def _styles(colours: dict[str, Any]) -> dict[str, Any]:
    ink, muted = colours["ink"], colours["muted"]
    return {
        "measured": {"color": ink, "stroke": colours["paper"], "strokeWidth": 0.8},
        "errorbar": {"color": ink, "strokeWidth": 1.2},
        "band": {"color": colours["category"][0], "fillOpacity": 0.16},
        "noise": {"color": muted, "fillOpacity": 0.18},
        "guide": {"color": muted, "strokeWidth": 1.3, "strokeDash": [4, 4]},
        "optimum": {"color": colours["category"][1], "stroke": colours["paper"], "strokeWidth": 1},
        "optimumbar": {"color": colours["category"][1], "strokeWidth": 2},
    }


def enable(mode: Mode = "light") -> None:
    """Use this theme for every Altair chart that is shown in the running notebook."""
    settings = config(mode)
    alt.theme.register("allometry", enable=True)(lambda: alt.theme.ThemeConfig(config=settings))  # type: ignore[typeddict-item]


@contextmanager
def unchecked() -> Iterator[None]:
    """Draw charts without comparing every part of each with the schema of Vega-Lite.

    The comparison takes about an eighth of a report's time. Figures of this package are compared in its tests.
    """
    with schemapi.debug_mode(False):
        yield


def specification(chart: alt.TopLevelMixin | Figure, *, width: int | None = None) -> dict[str, Any]:
    """Return the chart's Vega-Lite specification as plain JSON, without a theme.

    With `width` (pixels), a chart that would fill its container gets that width: what is not a page has
    no container. A chart that is not part of a figure is compared with the schema, since it may be anybody's.
    """
    drawn: Any = getattr(chart, "chart", chart)
    with alt.theme.enable("none"), alt.data_transformers.enable("default", max_rows=None):
        content: dict[str, Any] = drawn.to_dict(validate=drawn is chart)
    content.pop("config", None)
    if width is not None and content.get("width") == "container":
        content["width"] = width
    return content


def svg(chart: alt.TopLevelMixin | Figure, *, mode: Mode = "light", width: int = WIDTH) -> str:
    """Return the chart as SVG text."""
    import vl_convert

    return str(
        vl_convert.vegalite_to_svg(
            specification(chart, width=width), vl_version=vegalite(), config=config(mode)
        )
    )


def save(
    chart: alt.TopLevelMixin | Figure,
    path: str | os.PathLike[str],
    *,
    mode: Mode = "light",
    width: int = WIDTH,
) -> Path:
    """Write a chart as its suffix says: .html (interactive, offline), .svg, .png (twice the pixels),
    .pdf or .json.

    No browser and no network are needed. Raises AllometryError for any other suffix or a place that
    cannot be written.
    """
    target = Path(path)
    kind = target.suffix.lower()
    if kind not in _WRITERS:
        raise AllometryError(
            f"{target}: cannot save a chart as {kind or 'a file without suffix'!r}",
            hint=f"end the name in one of {', '.join(_WRITERS)}",
        )
    return write_atomically(target, _WRITERS[kind](specification(chart, width=width), config(mode)))


def write_atomically(path: Path, content: bytes) -> Path:
    """Write a whole file or none, and the folders that it is in. AllometryError where that is impossible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
    except (OSError, AllometryError) as error:
        reason = getattr(error.__cause__ or error, "strerror", None) or error
        raise AllometryError(
            f"cannot write {path}: {reason}", hint="choose another place with -o FILE"
        ) from error
    return path


_GLOBALS = "window.vegaEmbed = vegaEmbed;"
"""What the bundle leaves on the page: one function."""


@cache
def runtime() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script: once for all charts of a page.

    Bundling takes seconds, so the script is kept in the cache folder, under the versions that it was
    made by.
    """
    kept: Path | None = None
    with suppress(AllometryError):  # no cache folder: it only saves time
        version = package_version("vl-convert-python")
        kept = cache_dir("report") / f"vega-{version}-{vegalite()}.js"
        if kept.is_file() and kept.stat().st_size > 100_000:
            return kept.read_text(encoding="utf-8")
    import vl_convert

    script = str(vl_convert.javascript_bundle(_GLOBALS, vl_version=vegalite()))
    script = script.replace("</script", r"<\/script")
    if kept is not None:
        with suppress(AllometryError):
            write_atomically(kept, script.encode())
    return script


@cache
def vegalite() -> str:
    """Return the Vega-Lite version that the installed Altair writes, as vl-convert names it, such as "6.4"."""
    return ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])


_DRAW = """
const spec = JSON.parse(document.getElementById("spec").textContent);
const actions = { export: true, source: false, compiled: false, editor: false };
vegaEmbed("#chart", spec, { mode: "vega-lite", ast: true, actions });
"""

_PAGE = """<!DOCTYPE html>
<html>
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>Chart</title>
</head>
<body>
<div id="chart"></div>
<script type="application/json" id="spec">{spec}</script>
<script>{runtime}</script>
<script>{draw}</script>
</body>
</html>
"""


def _html(spec: dict[str, Any], settings: dict[str, Any]) -> bytes:
    """Return a page that draws the chart: no text of the data ends its script, no other script runs."""
    return _PAGE.format(
        policy=policy(digests(runtime(), _DRAW)),
        spec=script_json({**spec, "config": settings}),
        runtime=runtime(),
        draw=_DRAW,
    ).encode("utf-8", "replace")


def _svg(spec: dict[str, Any], settings: dict[str, Any]) -> bytes:
    import vl_convert

    return str(vl_convert.vegalite_to_svg(spec, vl_version=vegalite(), config=settings)).encode()


def _png(spec: dict[str, Any], settings: dict[str, Any]) -> bytes:
    import vl_convert

    return bytes(vl_convert.vegalite_to_png(spec, vl_version=vegalite(), config=settings, scale=2))


def _pdf(spec: dict[str, Any], settings: dict[str, Any]) -> bytes:
    import vl_convert

    return bytes(vl_convert.vegalite_to_pdf(spec, vl_version=vegalite(), config=settings))


def _json(spec: dict[str, Any], settings: dict[str, Any]) -> bytes:
    return json.dumps({**spec, "config": settings}, indent=1).encode()


_WRITERS = {".html": _html, ".svg": _svg, ".png": _png, ".pdf": _pdf, ".json": _json}


def script_json(value: Any) -> Markup:
    """Return JSON that is safe inside a <script> element: nothing in it can close the element or open a
    comment.

    The characters < > & and the line separators U+2028 and U+2029 are written as escapes; NaN becomes null.
    """
    text = json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"), default=str, allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


def policy(scripts: str, **sources: str) -> str:
    """Return a content security policy under which only `scripts` run, and nothing is loaded or sent but what
    `sources` allow (directive, with underscores, and value).
    """
    further = "".join(f"{name.replace('_', '-')} {value}; " for name, value in sources.items())
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data: blob:; "
        f"{further}base-uri 'none'; form-action 'none'"
    )


def digests(*scripts: str) -> str:
    """Return scripts as a policy names them: by their hashes."""
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    return " ".join(f"'sha256-{digest}'" for digest in hashes)
