"""Numbers as people write them: "1e18", "10M", "3 PF-days", "1h30m", and back.

Counts use the short scale (K = 10^3 … T = 10^12); a PF-day is 10^15 x 86,400 = 8.64e19 FLOPs
(Kaplan et al. 2020, section 1.3).
"""

import math
import re

from allometry.errors import AllometryError

PF_DAY = 8.64e19
"""FLOPs in one petaflop-day."""

_SCALE = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12, "p": 1e15, "e": 1e18}
_FLOP_UNITS = {
    "pf-days": PF_DAY,
    "pf-day": PF_DAY,
    "pfdays": PF_DAY,
    "pfday": PF_DAY,
    "flops": 1.0,
    "flop": 1.0,
}
_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3}
_DURATION = (
    r"(\d+\.?\d*|\.\d+)(ms|milliseconds?|d(?:ays?)?|h(?:(?:ou)?rs?)?|m(?:in(?:ute)?s?)?|s(?:ec(?:ond)?s?)?)"
)
_NUMBER = r"([+-]?(?:\d[\d_,]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"


def parse_number(text: str | float, what: str = "number") -> float:
    """A count or an amount of compute: "1e18", "10M", "1.2B", "12_288", "3 PF-days".

    Raises AllometryError, naming `what`, for anything else; nothing is guessed.
    """
    if isinstance(text, int | float):
        return float(text)
    match = re.fullmatch(_NUMBER + r"\s*([A-Za-z-]*)", text.strip())
    if match:
        value, unit = float(match[1].replace("_", "").replace(",", "")), match[2].lower()
        if unit in _FLOP_UNITS:
            return value * _FLOP_UNITS[unit]
        if unit in _SCALE:
            return value * _SCALE[unit]
    raise AllometryError(
        f"{what}: cannot read {text!r} as a number",
        hint="write it like 1e18, 10M, 1.2B, 250k or '3 PF-days'",
    )


def parse_count(text: str | float, what: str = "count") -> int:
    """A whole positive number of things (tokens, parameters): "10M" is 10,000,000."""
    value = parse_number(text, what)
    if not math.isfinite(value) or value < 1 or value != round(value):
        raise AllometryError(
            f"{what}: {text!r} is not a whole number of at least 1", hint="write it like 10M or 4096"
        )
    return int(value)


def parse_duration(text: str | float, what: str = "duration") -> float:
    """A time in seconds: "10m", "10 minutes", "1h30m", "90 s", "2d"; a bare number counts seconds."""
    if isinstance(text, int | float):
        return float(text)
    compact = text.strip().lower().replace(" ", "")
    if re.fullmatch(_NUMBER, compact):
        return float(compact)
    parts = re.findall(_DURATION, compact)
    if parts and "".join(n + u for n, u in parts) == compact:
        return sum(float(n) * _SECONDS["ms" if u.startswith(("ms", "mil")) else u[0]] for n, u in parts)
    raise AllometryError(
        f"{what}: cannot read {text!r} as a time", hint="write it like 90s, 10m, 1h30m or 2d"
    )


def format_count(value: float) -> str:
    """A count in three digits: 12288 -> "12.3k", 1e9 -> "1.00B"."""
    for limit, suffix in ((1e15, None), (1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value:.2e}" if suffix is None else f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}"


def format_flops(value: float) -> str:
    """Compute in FLOPs, two digits: 1.2e13."""
    return f"{value:.1e}".replace("e+", "e")


def format_duration(seconds: float) -> str:
    """A time with the two units that matter: "45 s", "12 min 05 s", "3 h 20 min"."""
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
    """A time as it is typed, for names: 600 -> "10m", 5400 -> "1h30m"."""
    whole = round(seconds)
    parts = [
        (whole // 86400, "d"),
        (whole % 86400 // 3600, "h"),
        (whole % 3600 // 60, "m"),
        (whole % 60, "s"),
    ]
    return "".join(f"{count}{unit}" for count, unit in parts if count) or "0s"


def format_bytes(count: float) -> str:
    """A size in decimal units: 12.2 MB."""
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= limit:
            return f"{count / limit:.1f} {unit}"
    return f"{count:.0f} B"
