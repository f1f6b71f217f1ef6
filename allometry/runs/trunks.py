"""Which runs share a trunk: the part of training that they have in common, with its seed and its data.

Runs to several horizons are branches of one constant-rate trunk, and so are runs that differ in nothing but
their horizon although each was trained from the beginning. They share the initial weights, the order of the data,
and every update up to the branch, so their losses lie together above or below a law. A table of 72 runs of 11
trunks says as much of the noise between runs as 11 runs do.

A store records the trunk of each run. For tables that were written before, it is worked out from the settings
that they hold.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

TRUNK = "trunk"
"""Column of the run table with the name of a run's trunk; a run that shares none has its own id."""

SHARED_SCHEDULES = ("wsd", "constant")
"""Schedules whose rates do not depend on the horizon before the final decay."""

_ONLY_MEASURED = {
    "train": ("tokens", "evals_per_octave", "noise_batches"),
    "data": ("eval_on", "eval_tokens", "novelty"),
}
"""Settings that change no update up to the branch."""

_BY_DEFAULT: tuple[Any, ...] = (None, 0, "", "all", [], ())
"""Defaults of settings that were added later; a configuration may have them, or leave them out."""

_OURS = ("run", "family", "shape", "schedule", "seed", "B", "lr")
"""Columns without which a table does not say enough for its trunks to be worked out."""

_SETTINGS = (
    *("family", "shape", "n_layer", "d_model", "N", "N_total", "n_head", "d_ff", "n_ctx", "reuse", "dropout"),
    *("B", "lr", "schedule", "warmup", "decay", "final_lr", "weight_decay", "init", "init_from"),
    *("early_stop", "limit", "corpus", "tokenizer", "seed"),
)
"""Columns of the run table that runs of one trunk have in common."""


def trunk_of(run: str, config: Mapping[str, Any]) -> str:
    """Return the name of the trunk of a run from its configuration (plain JSON): its own id if it shares none.

    What is planted, and probes, depend on the horizon from the first update on.
    """
    train, data = config.get("train", {}), config.get("data", {})
    planted = data.get("plant") is not None or data.get("probe") is not None
    if train.get("schedule") not in SHARED_SCHEDULES or planted:
        return run
    parts = {
        part: _set({k: v for k, v in config.get(part, {}).items() if k not in _ONLY_MEASURED.get(part, ())})
        for part in ("model", "data", "train")
    }
    model = parts["model"].get("family", "run")
    return _named(str(model), train.get("seed", 0), parts)


def _set(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value not in _BY_DEFAULT}


def _named(family: str, seed: Any, settings: Any) -> str:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:8]
    return f"{family}-s{seed}-{digest}"


def trunks(frame: pd.DataFrame) -> pd.Series | None:
    """Return the trunk of each row of a run table (n,), or None where the table does not say.

    It is the column `trunk`. Rows without one, as in tables of earlier releases, share a trunk with the rows that
    agree in all settings but the horizon; this needs the columns of `Store.frame()`. A row of another schedule, or
    without a known one, has its own.
    """
    recorded = frame[TRUNK] if TRUNK in frame.columns else None
    if recorded is not None and recorded.notna().all():
        return recorded.astype(object)
    if not set(_OURS) <= set(frame.columns):
        return recorded.where(recorded.notna(), _own(frame)) if recorded is not None else None
    known = [name for name in _SETTINGS if name in frame.columns]
    found = _own(frame)
    shares = frame["schedule"].isin(SHARED_SCHEDULES)
    same = frame.loc[shares, known].astype(object).where(frame.loc[shares, known].notna(), None)
    for label, values in zip(same.index, same.itertuples(index=False, name=None), strict=True):
        settings = dict(zip(known, values, strict=True))
        found[label] = _named(str(settings["family"]), settings["seed"], _set(settings))
    return found if recorded is None else recorded.astype(object).where(recorded.notna(), found)


def _own(frame: pd.DataFrame) -> pd.Series:
    """Return the name of each row's run, or its number."""
    names = frame["run"] if "run" in frame.columns else pd.Series(range(len(frame)), frame.index)
    return names.astype(str).astype(object)


def with_trunks(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a run table with the column `trunk` (see `trunks`): each run is its own where nothing is known."""
    found = trunks(frame)
    return frame.assign(**{TRUNK: _own(frame) if found is None else found})
