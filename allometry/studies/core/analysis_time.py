"""How long a study's predictions, fits and report take on this machine: part of what a budget must hold.

Kept with the timings of shapes in the cache folder, so that the next plan knows.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from allometry.core.env import cache_dir, cpu_model
from allometry.core.files import read_json, write_json
from allometry.version import __version__

_ONCE = 10.0
"""Seconds that a study's analysis is taken to need before it was ever timed here: what does not grow, …"""

_EACH = 0.2
"""… and what each run adds."""


def analysis_seconds(study: str, runs: int) -> float:
    """Return the seconds that predictions, fits and report of a study of so many runs are expected to take here."""
    stored = read_json(_path(study)) or {}
    seconds, of = stored.get("seconds"), stored.get("runs")
    if not isinstance(seconds, int | float) or not isinstance(of, int) or of < 1:
        return _ONCE + _EACH * runs
    return float(seconds) + _EACH * (runs - of) if runs > of else float(seconds)


def keep_analysis_seconds(study: str, runs: int, seconds: float) -> None:
    """Remember how long it took."""
    write_json(_path(study), {"study": study, "runs": runs, "seconds": round(seconds, 1)})


def _path(study: str) -> Path:
    key = hashlib.sha256(f"{study} {cpu_model()} {__version__}".encode()).hexdigest()[:16]
    return cache_dir("timings") / f"analysis-{key}.json"
