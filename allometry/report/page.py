"""What the report and the live page are both made of: templates, charts as JSON, tables, scripts and their
policy."""

from __future__ import annotations

import json
import math
import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from allometry.figures import theme
from allometry.report import format as fmt

if TYPE_CHECKING:
    from jinja2 import Template

    from allometry.figures.theme import Figure


@cache
def template(source: str) -> Template:
    """Make a template from its text, with the macros for tables; all that is put into it is escaped."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(asset("tables.html") + source)


def colours() -> Markup:
    """Return the style sheet's variables: the palettes of light and dark."""
    light, dark = theme.palette("light"), theme.palette("dark")
    pairs = {name: (light[name], dark[name]) for name in ("paper", "ink", "muted", "grid", "accent")}
    for place, name in enumerate(("ours", "theirs", "good")):
        pairs[name] = (light["category"][place], dark["category"][place])
    lines = "".join(f"  --{name}: light-dark({a}, {b});\n" for name, (a, b) in pairs.items())
    return Markup(":root {\n  color-scheme: light dark;\n" + lines + "}\n")


def themes() -> Markup:
    """Return the charts' configuration in light and dark, as JSON."""
    return theme.script_json({"light": theme.config("light"), "dark": theme.config("dark")})


def chart_json(figure: Figure) -> Markup:
    """Return a figure's chart as Vega-Lite JSON without a theme, described for those who cannot see it."""
    spec = _renumbered(_rounded(theme.specification(figure)))
    spec["description"] = f"{figure.title}. {figure.caption}"
    return theme.script_json(spec)


def _rounded(value: Any) -> Any:
    """Round a specification to six digits per number: more than a screen can show, in half the size.

    All of it, since colours are looked up by exact values: those in the data and those in a scale's
    domain must agree.
    """
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


_GIVEN = re.compile(r'"name": ?"((?:view|param)_\d+)"')


def _renumbered(spec: dict[str, Any]) -> dict[str, Any]:
    """Number the names that Altair counts through a whole process from 1, so that the same figure is the same
    text whenever it is drawn.
    """
    outside = json.dumps({key: value for key, value in spec.items() if key != "datasets"})
    new: dict[str, str] = {}
    for old in _GIVEN.findall(outside):
        kind = old.split("_")[0]
        new.setdefault(old, f"{kind}_n{sum(name.startswith(kind) for name in new) + 1}")
    if not new:
        return spec
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, new)) + r")\b")
    renamed: dict[str, Any] = json.loads(pattern.sub(lambda match: new[match[1]], outside))
    return {**renamed, "datasets": spec["datasets"]} if "datasets" in spec else renamed


def table_of(frame: pd.DataFrame | None, name: str, limit: int | None) -> dict[str, Any] | None:
    """Prepare a frame for the template: headers, cells as text with what they sort by, and the whole as CSV."""
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
        "csv": theme.script_json(frame.to_csv(index=False, float_format="%.10g")),
    }


def _sort_key(value: Any) -> str | None:
    """Return what a cell sorts by where that is not its text."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return None
    return f"{value:.10g}"


@cache
def asset(name: str, package: str = "allometry.report") -> str:
    """Return the text of a template, style sheet or script of a package."""
    return files(package).joinpath(name).read_text(encoding="utf-8")
