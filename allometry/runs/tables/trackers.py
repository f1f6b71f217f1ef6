"""Read what trackers, training programs and schedulers leave behind: charts of Weights & Biases, scalars of
TensorBoard, plain-text logs (nanoGPT, nanochat, modded-nanogpt, llm.c, Megatron), and their words for how runs ended.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd

from allometry.core.errors import AllometryError
from allometry.core.units import counted, readings
from allometry.runs.tables.columns import EVALUATION, LOSS, NAMES, STEPS, TRAINING, plain, read_heading

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


_N = r"([\d.,]+(?:[eE][+-]?\d+)?[kKMBT]?)"
_LINES: tuple[tuple[str, re.Pattern[str], tuple[str, ...]], ...] = (
    ("nanoGPT", re.compile(rf"^step (\d+): train loss {_N}, val loss {_N}"),
     ("step", "train_loss", "val_loss")),
    ("nanoGPT", re.compile(rf"^iter (\d+): loss {_N}, time"), ("step", "train_loss")),
    ("nanochat", re.compile(rf"^Step (\d+) \| Validation bpb: {_N}"), ("step", "val_bpb")),
    ("nanochat", re.compile(rf"^step (\d+)/\d+ .*?\| (?:train )?loss: {_N} \|"), ("step", "train_loss")),
    ("modded-nanogpt", re.compile(rf"^step:(\d+)/\d+ val_loss:{_N}"), ("step", "val_loss")),
    ("modded-nanogpt", re.compile(rf"^step:(\d+)/\d+ train_loss:{_N}"), ("step", "train_loss")),
    ("llm.c", re.compile(rf"^s:(\d+) tel:{_N}"), ("step", "val_loss")),
    ("llm.c", re.compile(rf"^s:(\d+) trl:{_N}"), ("step", "train_loss")),
    ("Megatron", re.compile(rf"validation loss at iteration (\d+).*? lm loss value: {_N}"),
     ("step", "val_loss")),
    ("Megatron", re.compile(rf"\biteration +(\d+)/ *\d+ \|.*? lm loss: {_N} \|"), ("step", "train_loss")),
)  # fmt: skip
_FACTS = (
    ("N", re.compile(rf"(?i)^\W*(?:total )?number of (?:trainable )?parameters:? *{_N}")),
    ("N", re.compile(rf"^\W*num_parameters: {_N}")),
    ("tokens_per_step", re.compile(rf"(?i)^\W*tokens per iteration will be: *{_N}")),
    ("tokens_per_step", re.compile(rf"(?i)^\W*total batch size:? *{_N}(?: *=>.*)?$")),
)


def read_log(text: str, notices: list[str]) -> pd.DataFrame | None:
    """Return the losses in a training program's log, one row a step; None for text that is no known log.

    The number of parameters and the tokens of a step are taken where the log says them; tokens follow from
    steps then.
    """
    rows: dict[int, dict[str, Any]] = {}
    facts: dict[str, float] = {}
    programs: list[str] = []
    for line in text.splitlines():
        entry = line[:1000].strip()
        for program, pattern, names in _LINES:
            match = pattern.search(entry)
            if match:
                values = [_value(cell) for cell in match.groups()[1:]]
                if all(value is not None for value in values):
                    rows.setdefault(int(match[1]), {"step": int(match[1])}).update(
                        zip(names[1:], values, strict=True)
                    )
                    programs.append(program)
                break
        else:
            for name, pattern in _FACTS:
                match = pattern.search(entry)
                value = _value(match[1]) if match else None
                if value is not None:
                    facts.setdefault(name, value)
    if not rows:
        return None
    frame = pd.DataFrame([rows[step] for step in sorted(rows)])
    said = f"read as a log of {programs[0]}: {counted(len(frame), 'step')}"
    if "N" in facts:
        frame["params"] = facts["N"]
        said += f", {facts['N']:.4g} parameters as it counts them"
    if "tokens_per_step" in facts:
        frame["tokens_per_step"] = facts["tokens_per_step"]
        frame["tokens"] = frame["step"] * facts["tokens_per_step"]
        said += f", tokens are steps times {facts['tokens_per_step']:.10g}"
    notices.append(said)
    return frame


def _value(text: str) -> float | None:
    """Return a number as programs print it: commas separate thousands."""
    return readings(text.rstrip(".,")).get(".")


COLUMNS = (
    "status",
    "state",
    "run_state",
    "run_status",
    "job_state",
    "job_status",
    "trial_status",
    "trial_state",
)
"""Names of the column that says how a run ended."""

DONE = {
    "done", "finished", "complete", "completed", "success", "successful", "succeeded", "ok", "passed",
    "published",
    "inactive", "closed", "ended", "finish",
}  # fmt: skip
"""Words for a run that reached its end: W&B, MLflow, SLURM, Ray Tune, Neptune, ClearML, Kubernetes,
Optuna."""

NOT_DONE = {
    "partial", "failed", "fail", "failure", "error", "errored", "crashed", "crash", "killed", "diverged",
    "nan",
    "running", "active", "pending", "queued", "scheduled", "waiting", "created", "preempted", "preempting",
    "timeout",
    "timed_out", "out_of_memory", "oom", "cancelled", "canceled", "cancelling", "canceling", "node_fail",
    "boot_fail",
    "deadline", "suspended", "requeued", "requeue", "requeue_hold", "completing", "configuring", "stopped",
    "stopping",
    "aborted", "interrupted", "paused", "pruned", "lost", "unknown", "in_progress", "inprogress",
    "initializing",
    "starting", "started", "incomplete", "unfinished", "evicted", "unhealthy", "revoked", "resuming",
    "claimed",
}  # fmt: skip
"""Words for a run that did not, or not yet."""


def finished(column: pd.Series) -> tuple[list[bool], str | None]:
    """Return for each row whether its run counts as finished, and a sentence on words that are not known.

    Blank cells and unknown words count as finished. A column of which fewer than half of the words are known
    is about something else, and leaves nothing out.
    """
    words = [_word(cell) if isinstance(cell, str) else "" for cell in column]
    present = {word for word in words if word}
    done = DONE | ({"terminated"} if not present & DONE else set())  # Ray Tune's word for the end
    known = present & (done | NOT_DONE | {"terminated"})
    if not known or 2 * len(known) < len(present):
        return [True] * len(words), None
    strange = sorted(present - known)
    said = None
    if strange:
        words_shown = ", ".join(map(repr, strange[:4]))
        said = f"column {str(column.name)!r}: {words_shown} was not understood: kept as finished"
    return [not word or word in done or word in strange for word in words], said


def _word(text: str) -> str:
    """Return a status as one word: "CANCELLED by 1000" and "CANCELLED+" are cancelled."""
    return re.sub(r"_by_.*$", "", plain(text))


def status_column(columns: list[str]) -> str | None:
    """Return the column that says how runs ended."""
    found = {plain(name): name for name in reversed(columns)}
    return next((found[name] for name in COLUMNS if name in found), None)
