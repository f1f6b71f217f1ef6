"""The pieces of a page: numbers and markup of its text, templates, charts as JSON, tables and scripts."""

from __future__ import annotations

import json
import math
import re
from datetime import datetime, timedelta
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from allometry.figures import theme

if TYPE_CHECKING:
    from jinja2 import Template

    from allometry.figures.theme import Figure


MISSING = "–"


def number(value: Any) -> str:
    """Format a table cell as plain text: whole numbers in full, others in four digits, very large or small as
    1.234e12.
    """
    if value is None or value is pd.NaT:
        return MISSING
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"):
        return "yes" if value else "no"
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, int):
        return f"{value:,}" if abs(value) < 10**12 else _scientific(value)
    if isinstance(value, float):
        return _real(value)
    return (
        json.dumps(value, default=str, ensure_ascii=False) if isinstance(value, list | dict) else str(value)
    )


def short(value: float) -> str:
    """Format a published number as it was printed: four digits at most, no zeros added."""
    return _scientific(value) if abs(value) >= 1e6 or 0 < abs(value) < 1e-3 else _minus(f"{value:.4g}")


def _real(value: float) -> str:
    if not math.isfinite(value):
        return MISSING if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6 or size < 1e-3:
        return _scientific(value)
    if value == round(value):
        return _minus(f"{value:,.0f}")
    return _minus(f"{value:,.{max(0, 3 - math.floor(math.log10(size)))}f}")


def _scientific(value: float) -> str:
    mantissa, exponent = f"{value:.3e}".split("e")
    return _minus(f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}")


def _minus(text: str) -> str:
    return text.replace("-", "−")


def interval(value: float, low: float, high: float) -> str:
    """Format a number with its interval and no more digits than that supports: "0.081 [0.074, 0.089]"."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return number(float(value))
    size = max(abs(value), abs(low), abs(high))
    if size >= 1e6 or size < 1e-3:
        return f"{_scientific(_round3(value))} [{_scientific(_round3(low))}, {_scientific(_round3(high))}]"
    places = _places((high - low) / 2)
    return _minus(f"{value:,.{places}f} [{low:,.{places}f}, {high:,.{places}f}]")


def _places(half_width: float) -> int:
    """Return the decimals that show one digit of half an interval, or two where that digit is 1 or 2."""
    places = math.ceil(-math.log10(half_width))
    if half_width * 10**places < 3:
        places += 1
    return min(max(places, 0), 12)


def _round3(value: float) -> float:
    return float(f"{value:.2e}")


def date(text: str) -> str:
    """Format an ISO date and time for a reader, to the minute; text of any other form is left as it is."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    zone = " UTC" if moment.utcoffset() == timedelta(0) else ""
    return f"{moment.day} {moment:%B %Y, %H:%M}{zone}"


def identifier(text: str) -> str:
    """Turn a text into an HTML id or a file name: lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "untitled"


def paragraphs(text: str) -> Markup:
    """Turn plain text into HTML paragraphs (separated by empty lines), with `code`, *emphasis* and **strong**."""
    blocks = re.split(r"\n\s*\n", text.strip())
    return Markup("\n").join(Markup("<p>{}</p>").format(inline(block)) for block in blocks if block.strip())


def inline(text: str) -> Markup:
    """Turn one line of text into HTML with `code`, *emphasis* and **strong**; all else is escaped."""
    pieces = re.split(r"`([^`]+)`", text)
    return Markup("").join(
        Markup("<code>{}</code>").format(piece) if i % 2 else _emphasis(piece)
        for i, piece in enumerate(pieces)
    )


def _emphasis(text: str) -> Markup:
    safe = str(escape(text))
    safe = re.sub(r"\*\*(?=\S)(.+?)(?<=\S)\*\*", r"<strong>\1</strong>", safe, flags=re.DOTALL)
    safe = re.sub(r"(?<![\w*])\*(?=[^\s*])(.+?)(?<=[^\s*])\*(?![\w*])", r"<em>\1</em>", safe, flags=re.DOTALL)
    return Markup(_typeset(safe))


_POWER = re.compile(
    r"(?<=[A-Za-zΑ-ω)\]])\^(?:\(([^()\s]+)\)|([-−+]?(?:\d+(?:\.\d+)?|[A-Za-zΑ-ω](?:_[A-Za-z]{1,6})?)))"
)
"""A power as analyses write it, in text that is escaped: N^-0.073, C^a, L^(1/3)."""

_INDEX = re.compile(r"(?<![\w.])([A-Za-zΑ-ω])_([A-Za-z]{1,6}|\d)(?!\w)")
"""A letter with an index: α_N, N_opt, d_model."""


def _typeset(safe: str) -> str:
    """Set powers and indices of escaped text as they are printed."""
    raised = _POWER.sub(lambda match: f"<sup>{(match[1] or match[2]).replace('-', '−')}</sup>", safe)
    return _INDEX.sub(r"\1<sub>\2</sub>", raised)


def formula(text: str) -> Markup:
    """Turn a symbol or a heading into HTML with its powers and indices set; all else is escaped.

    >>> formula("N_opt ∝ C^-0.5")
    Markup('N<sub>opt</sub> ∝ C<sup>−0.5</sup>')
    """
    return Markup(_typeset(str(escape(text))))


ABSTRACT = 80
"""Words of an answer that a page begins with; the rest is folded away."""


def abstract(text: str, words: int = ABSTRACT) -> tuple[str, str]:
    """Divide a text after the last sentence that ends within so many words: what stands first, and the rest.

    >>> abstract("One two. Three four. Five.", words=4)
    ('One two. Three four.', 'Five.')
    """
    ends = [match.end() for match in re.finditer(r"[.?!](?=\s+[^\sa-z]|\s*$)", text)]
    fits = [end for end in ends if len(text[:end].split()) <= words]
    cut = fits[-1] if fits else (ends[0] if ends else len(text))
    return text[:cut], text[cut:].strip()


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
            list(zip(map(number, row), map(_sort_key, row), numeric, strict=True))
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
