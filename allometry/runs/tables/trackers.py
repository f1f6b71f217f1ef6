"""Exports of experiment trackers, told by their shape: charts of Weights & Biases, scalars of TensorBoard."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from allometry.core.errors import AllometryError
from allometry.runs.tables.headings import EVALUATION, LOSS, NAMES, STEPS, TRAINING, plain, read_heading

_BOUNDS = ("__MIN", "__MAX")
_EVENTS = "events.out.tfevents*"


def from_chart(frame: pd.DataFrame, notices: list[str]) -> pd.DataFrame:
    """Return the CSV of a Weights & Biases chart as curves; any other table as it is.

    Such a table has an x column, then one column "run - metric" a run, each perhaps with __MIN and __MAX. The
    result has the columns run, x under its own name (`step` for steps), and one a metric; bounds are dropped.
    """
    names = [str(name) for name in frame.columns]
    series = [name for name in names[1:] if not name.endswith(_BOUNDS)]
    if not series or not all(" - " in name for name in names[1:]):
        return frame
    parts = {name: _split(name, series) for name in series}
    x = names[0]
    axis = "step" if plain(x) in STEPS else x
    grouped = all(run.startswith("Group: ") for run, _ in parts.values())
    said = f"read as a Weights & Biases chart: one curve a run against {x!r}"
    notices.append(said + (", each the mean of a group of runs" if grouped else ""))
    curves = []
    for position, name in enumerate(names):
        if name in parts:
            run, metric = parts[name]
            metric = f"{metric} (measured)" if metric in (axis, "run") else metric
            curve = pd.DataFrame({
                "run": run.removeprefix("Group: "), axis: frame.iloc[:, 0], metric: frame.iloc[:, position],
            })  # fmt: skip
            curves.append(curve[curve[metric].map(lambda cell: not pd.isna(cell) and cell != "")])
    long = pd.concat(curves, ignore_index=True)
    return long.groupby(["run", axis], as_index=False, sort=False).first()


def _split(name: str, series: list[str]) -> tuple[str, str]:
    """Return run and metric of a chart's column; what follows the name of another column belongs to the
    metric."""
    run, _, metric = name.rpartition(" - ")
    if run in series and " - " in run:
        run, _, before = run.rpartition(" - ")
        metric = f"{before} - {metric}"
    return run, metric


def is_tensorboard(frame: pd.DataFrame) -> bool:
    """Return whether a table is a scalar that TensorBoard wrote: wall time, step, value."""
    return [str(c).lower() for c in frame.columns] == ["wall time", "step", "value"]


def tensorboard_run(frame: pd.DataFrame, source: Path, notices: list[str]) -> pd.DataFrame:
    """Return a TensorBoard scalar as a curve (run, step, tag); its file is called run-RUN-tag-TAG.csv."""
    renamed = frame.rename(columns=str.lower)
    match = re.fullmatch(r"run-(.+)-tag-(.+)", source.stem)
    if match:
        run, tag = match[1], match[2]
        notices.append(f"read as the TensorBoard scalar {tag!r} of the run {run!r}")
    else:
        run, tag = source.stem.removeprefix("run-"), "loss"
        notices.append(
            "read as a TensorBoard scalar: the value is taken for the loss, the file's name for the run"
        )
    return renamed.rename(columns={"value": tag})[["step", tag]].assign(run=run)


def wide_notice(frame: pd.DataFrame) -> str | None:
    """Return how to reshape a table that has one column a model, if it looks like one; None otherwise."""
    names = [str(name) for name in frame.columns]
    known = [name for name in names if any(_is_known(alias) for alias in read_heading(name).names)]
    others = [name for name in names if name not in known]
    numeric = [n for n in others if pd.api.types.is_numeric_dtype(frame[n])]
    if len(known) != 1 or names[0] != known[0] or len(numeric) < 2 or len(numeric) != len(others):
        return None
    shown = ", ".join(map(repr, others[:3])) + (", …" if len(others) > 3 else "")
    return (
        f"this looks like a wide table with one column a run ({shown}): a fit needs one row a run and a "
        f"column for each "
        f"quantity. In pandas: frame.melt({names[0]!r}, var_name='run', value_name='loss')"
    )


def _is_known(alias: str) -> bool:
    if len(alias) == 1:  # S, M and L may be models
        return alias in "ndc"
    return (
        alias in STEPS or alias in {*EVALUATION, *LOSS, *TRAINING} or any(alias in v for v in NAMES.values())
    )


def event_files(source: Path) -> list[Path]:
    """Return the TensorBoard event files at or under a path."""
    if source.is_file():
        return [source] if "tfevents" in source.name else []
    return sorted(source.rglob(_EVENTS)) if source.is_dir() else []


def from_events(source: Path, notices: list[str]) -> pd.DataFrame:
    """Return TensorBoard event files as curves: columns run (folder), step and one a scalar tag.

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
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
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
