"""Numbers as people write them: "1e18", "10M", "0.2bn", "10 million tokens", "3 PF-days", "1h30m", and back.

Counts use the short scale (K = 10^3 … T = 10^12); a PF-day is 10^15 x 86,400 = 8.64e19 FLOPs
(Kaplan et al. 2020, section 1.3). Ambiguous numbers are refused.
"""

import math
import re
from typing import Literal

from allometry.core.errors import AllometryError

PF_DAY = 8.64e19
"""FLOPs in one petaflop-day."""

Decimal = Literal[".", ","]
"""The mark before the decimals."""

LONGEST = 80
"""Characters of the longest text that is tried as a number or a time."""

_SCALES: dict[float, tuple[str, ...]] = {
    1.0: ("",),
    1e3: ("k", "thousand"),
    1e6: ("m", "mn", "mio", "million", "millions"),
    1e9: ("g", "b", "bn", "mrd", "billion", "billions"),
    1e12: ("t", "tn", "trillion", "trillions"),
    1e15: ("p", "quadrillion", "quadrillions"),
}
_NOUNS = ("param", "params", "parameter", "parameters", "token", "tokens", "tok", "toks", "step", "steps")
_UNITS = {
    **{word: scale for scale, words in _SCALES.items() for word in words},
    **{f"{letter}t": scale for letter, scale in (("k", 1e3), ("m", 1e6), ("b", 1e9), ("t", 1e12))},
    **{f"{p}flop{s}": 10.0 ** (3 * i) for i, p in enumerate(("", *"kmgtpezy")) for s in ("", "s")},
    **dict.fromkeys(
        ("pf-day", "pf-days", "pfday", "pfdays", "pflop/s-day", "pflop/s-days", "petaflop/s-day",
         "petaflop/s-days", "petaflop-day", "petaflop-days"), PF_DAY),
}  # fmt: skip
"""What may follow a number, in lower case -> the factor it means ("BT" counts billions of tokens)."""

_SECONDS = {
    86400.0: ("d", "day", "days"),
    3600.0: ("h", "hr", "hrs", "hour", "hours"),
    60.0: ("m", "min", "mins", "minute", "minutes"),
    1.0: ("s", "sec", "secs", "second", "seconds"),
    1e-3: ("ms", "msec", "millisecond", "milliseconds"),
}
_TIMES = {word: seconds for seconds, words in _SECONDS.items() for word in words}

_SPACES = " \u00a0\u2009\u202f"
_NUMBER = re.compile(
    rf"""[~≈]?\s*([+-]?)([.,]?\d[\d.,_'’{_SPACES}]*)       # sign and digits
         (?:[eE]([+-]?\d+)|[x×*·]\s*10\s*(?:\^|\*\*)\s*([+-]?\d+))?  # power of ten
         \s*([^\d\s~≈+.,][^\d]*)?""",
    re.VERBOSE,
)
_POWER = re.compile(r"([~≈]?\s*)10\s*(?:\^|\*\*)\s*([+-]?\d+)(.*)")
_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹"
_LOWERED = str.maketrans(f"{_SUPERSCRIPTS}⁻−", "0123456789--")
_RAISED = str.maketrans("0123456789-−.", f"{_SUPERSCRIPTS}⁻⁻·")


def raised(formula: str) -> str:
    """Return a formula with numbers as exponents in superscript letters, for plain text.

    >>> raised("L ∝ C^-0.09")
    'L ∝ C⁻⁰·⁰⁹'
    """
    return re.sub(r"\^([-−]?\d+(?:\.\d+)?)", lambda power: power[1].translate(_RAISED), formula)


def readings(text: str) -> dict[Decimal, float]:
    """Return what a text means as a number if "." is the decimal mark, and if "," is.

    The two values are equal where the text has neither mark. A mark is left out where the text is no number
    with it: a thousands separator (the other mark, a space, an apostrophe) stands between groups of three
    digits, so "1,5" is a number only with a decimal comma and "1,234,567" only with a decimal point.
    "1,234" is a number with either.
    """
    if len(text) > LONGEST:
        return {}
    plain = text.strip()
    if any(mark in plain for mark in _SUPERSCRIPTS):
        plain = re.sub(rf"(?<=10)(?=[⁻{_SUPERSCRIPTS}])", "^", plain)
    plain = plain.translate(_LOWERED)
    power = _POWER.fullmatch(plain)
    match = _NUMBER.fullmatch(f"{power[1]}1e{power[2]}{power[3]}" if power else plain)
    factor = _factor(match[5] or "") if match else None
    if match is None or factor is None:
        return {}
    found: dict[Decimal, float] = {}
    for mark in (".", ","):
        digits = _digits(match[2].strip(_SPACES), mark)
        if digits is not None:
            tens = round(
                math.log10(factor)
            )  # powers of ten are added to the text's own exponent, to round once
            rest = 1.0 if 10.0**tens == factor else factor
            exponent = int(match[3] or match[4] or 0) + (tens if rest == 1.0 else 0)
            found[mark] = float(f"{match[1]}{digits}e{exponent}") * rest
    return found


def _factor(unit: str) -> float | None:
    """Return the factor of a unit: of "M", "million tokens", "B params", "PF-days"; None for others."""
    words = unit.lower().split()
    if words and words[-1] in _NOUNS:
        words.pop()
    if len(words) > 1:
        return None
    word = words[0] if words else ""
    noun = next((n for n in _NOUNS if len(word) == len(n) + 1 and word.endswith(n)), "")
    return _UNITS.get(word.removesuffix(noun))


def _digits(text: str, decimal: Decimal) -> str | None:
    """Return the digits with a decimal point and no separators; None if `decimal` cannot be the mark."""
    whole, _, fraction = re.sub(r"(?<=\d)_(?=\d)", "", text).partition(decimal)
    if fraction and not fraction.isdecimal():
        return None
    if whole and not whole.isdecimal():
        other = "," if decimal == "." else r"\."
        if not re.fullmatch(rf"[1-9]\d{{0,2}}(?:([{other}'’{_SPACES}])\d{{3}})(?:\1\d{{3}})*", whole):
            return None
        whole = re.sub(r"\D", "", whole)
    return f"{whole or 0}.{fraction or 0}" if whole or fraction else None


def parse_number(text: str | float, what: str = "number") -> float:
    """Return a count or an amount of compute: "1e18", "10M", "1.2 billion", "12_288", "3 PF-days".

    Raises AllometryError, naming `what`, for anything else, and for what could be read in two ways ("1,234").
    """
    if isinstance(text, int | float):
        return float(text)
    found = readings(text)
    if "." in found and (found["."] == found.get(",", found["."]) or "," not in text):
        return found["."]
    shown = repr(text if len(text) <= 40 else f"{text[:40]}…")
    if "." in found:
        raise AllometryError(
            f"{what}: {shown} may be {found['.']:.10g} or {found[',']:.10g}",
            hint="write it without a comma between the digits",
        )
    if "," in found:
        raise AllometryError(
            f"{what}: {shown} has a decimal comma", hint=f"write it with a point: {found[',']:.10g}"
        )
    raise AllometryError(
        f"{what}: cannot read {shown} as a number", hint="write it like 1e18, 10M, 1.2B, 250k or '3 PF-days'"
    )


def parse_count(text: str | float, what: str = "count") -> int:
    """Return a whole positive number of things (tokens, parameters): "10M" is 10,000,000."""
    value = parse_number(text, what)
    if not math.isfinite(value) or value < 1 or value != round(value):
        raise AllometryError(
            f"{what}: {text!r} is not a whole number of at least 1", hint="write it like 10M or 4096"
        )
    return int(value)


def parse_duration(text: str | float, what: str = "duration") -> float:
    """Return a time in seconds: "10m", "10 min", "1h30m", "90s", "2 days"; a bare number counts seconds."""
    if isinstance(text, int | float):
        return float(text)
    compact = re.sub(r"\s+", "", text[: LONGEST + 1]).lower()
    if len(text) <= LONGEST:
        if re.fullmatch(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?", compact):
            return float(compact)
        parts = re.findall(r"(\d+(?:\.\d+)?)([a-z]+)", compact)
        if parts and "".join(n + u for n, u in parts) == compact and all(u in _TIMES for _, u in parts):
            return sum(float(n) * _TIMES[u] for n, u in parts)
    raise AllometryError(
        f"{what}: cannot read {text if len(text) <= 40 else text[:40] + '…'!r} as a time",
        hint="write it like 90s, 10m, 1h30m or 2d",
    )


def counted(count: int, noun: str) -> str:
    """Return a number of things: "1 row", "2 rows", "12,000 rows"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def format_count(value: float) -> str:
    """Format a count in three digits: 12288 -> "12.3k", 1e9 -> "1.00B"."""
    for limit, suffix in ((1e15, None), (1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value:.2e}" if suffix is None else f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}"


def format_flops(value: float) -> str:
    """Format compute in FLOPs, two digits: 1.2e13."""
    return f"{value:.1e}".replace("e+", "e")


def format_duration(seconds: float) -> str:
    """Format a time with its two largest units: "45 s", "12 min 05 s", "3 h 20 min"."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def compact_duration(seconds: float) -> str:
    """Format a time as it is typed, for names: 600 -> "10m", 5400 -> "1h30m"."""
    whole = round(seconds)
    parts = [
        (whole // 86400, "d"),
        (whole % 86400 // 3600, "h"),
        (whole % 3600 // 60, "m"),
        (whole % 60, "s"),
    ]
    return "".join(f"{count}{unit}" for count, unit in parts if count) or "0s"


def format_bytes(count: float) -> str:
    """Format a size in decimal units: 12.2 MB."""
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= limit:
            return f"{count / limit:.1f} {unit}"
    return f"{count:.0f} B"
