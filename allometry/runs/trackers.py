"""Exports of experiment trackers: the shapes in which Weights & Biases and TensorBoard write runs and
curves."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from allometry.errors import AllometryError

_WIDE = re.compile(r"^(?P<run>.+) - (?P<metric>[^-]+?)(?P<bound>__MIN|__MAX)?$")
_EVENTS = "events.out.tfevents*"


def from_wandb(frame: pd.DataFrame, notices: list[str]) -> pd.DataFrame:
    """A Weights & Biases export as a plain table; any other table is returned as it is.

    A chart's CSV (a step column, then "run - metric" columns) becomes a long table (run, step, metric);
    `summary` and `config` columns that hold dictionaries are spread into columns, `config` first, without
    overwriting.
    """
    wide = [c for c in frame.columns if _WIDE.match(str(c))]
    if (
        len(wide) >= 1
        and len(wide) == frame.shape[1] - 1
        and str(frame.columns[0]).lower() in ("step", "_step", "tokens")
    ):
        notices.append("read as a Weights & Biases chart: one curve a run")
        return _long(frame, wide)
    out = frame
    for name in ("config", "summary"):
        if name in out and out[name].map(_is_mapping).all():
            spread = pd.json_normalize([_mapping(v) for v in out[name]]).set_index(out.index)
            spread = spread.rename(columns=lambda c: re.sub(r"\.value$", "", str(c)))
            fresh = [c for c in spread if c not in out and not str(c).startswith("_wandb")]
            notices.append(f"the column {name!r} was spread into {len(fresh)} columns")
            out = out.drop(columns=name).join(spread[fresh])
    return out


def _long(frame: pd.DataFrame, wide: list[str]) -> pd.DataFrame:
    step, parts = str(frame.columns[0]), []
    for column in wide:
        match = _WIDE.match(column)
        assert match
        if not match["bound"]:
            part = pd.DataFrame({"run": match["run"], "step": frame[step], match["metric"]: frame[column]})
            parts.append(part.dropna())
    long = pd.concat(parts, ignore_index=True)
    return long.groupby(["run", "step"], as_index=False, sort=False).first()


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, str) and value.strip().startswith("{"))


def _mapping(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    try:
        found = json.loads(value)
    except json.JSONDecodeError:
        try:
            found = ast.literal_eval(value)  # literals only: the export writes Python dictionaries
        except (ValueError, SyntaxError):
            raise AllometryError(
                f"cannot read the dictionary {value[:60]!r}",
                hint="export the runs as JSON, or as plain columns",
            ) from None
    return found if isinstance(found, dict) else {}


def is_tensorboard(frame: pd.DataFrame) -> bool:
    """Whether a CSV is a scalar that TensorBoard wrote: wall time, step, value."""
    return [str(c).lower() for c in frame.columns] == ["wall time", "step", "value"]


def tensorboard_run(frame: pd.DataFrame, source: Path, notices: list[str]) -> pd.DataFrame:
    """A TensorBoard scalar as a curve (run, step, loss); only the file's name says which run and tag."""
    notices.append(
        "read as a TensorBoard scalar: the value is taken for the loss, the file's name for the run"
    )
    renamed = frame.rename(columns=str.lower).rename(columns={"value": "loss"})
    return renamed[["step", "loss"]].assign(run=source.stem.removeprefix("run-"))


def event_files(source: Path) -> list[Path]:
    """TensorBoard event files at or under a path."""
    if source.is_file():
        return [source] if "tfevents" in source.name else []
    return sorted(source.rglob(_EVENTS)) if source.is_dir() else []


def from_events(source: Path, notices: list[str]) -> pd.DataFrame:
    """TensorBoard event files as curves: columns run (folder), step and one a scalar tag.

    Raises AllometryError where the package `tensorboard` is not installed, or no scalar is found.
    """
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        raise AllometryError(
            f"reading TensorBoard events ({source}) needs the package 'tensorboard', which is not installed",
            hint="pip install tensorboard, or export the scalars as CSV from its page",
        ) from None
    parts = []
    for folder in sorted({path.parent for path in event_files(source)}):
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
        events.Reload()
        name = folder.relative_to(source).as_posix() if source.is_dir() and folder != source else folder.name
        for tag in events.Tags()["scalars"]:
            scalars = events.Scalars(tag)
            steps, values = [s.step for s in scalars], [s.value for s in scalars]
            parts.append(pd.DataFrame({"run": name, "step": steps, tag: values}))
    if not parts:
        raise AllometryError(
            f"the event files in {source} hold no scalars", hint="name the folder of the runs"
        )
    notices.append(f"read {len(parts)} scalars from TensorBoard event files")
    return pd.concat(parts).groupby(["run", "step"], as_index=False, sort=False).first()
