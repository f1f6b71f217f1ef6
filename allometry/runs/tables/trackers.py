"""Read what trackers, training programs and schedulers leave behind: charts of Weights & Biases, scalars of
TensorBoard, plain-text logs (nanoGPT, nanochat, modded-nanogpt, LitGPT, llm.c, Megatron and
others that print steps and losses), and their words for how runs ended.
"""

from __future__ import annotations

import ast
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
    if all(readings(name) for name in others):
        size = any(alias in NAMES["N"] or alias == "n" for alias in read_heading(names[0]).names)
        per, name = "value of another quantity", "D" if size else "N"
    else:
        per, name = "run", "run"
    return (
        f"this looks like a wide table with one column a {per} ({shown}): a fit needs one row a run and a "
        f"column for each "
        f"quantity. In pandas: frame.melt({names[0]!r}, var_name={name!r}, value_name='loss')"
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
    ("LitGPT", re.compile(rf"^Epoch \d+ \| iter \d+ step (\d+) \| loss train: {_N}, val: {_N}"),
     ("step", "train_loss", "val_loss")),
    ("LitGPT", re.compile(rf"^Epoch \d+ \| iter \d+ step (\d+) \| loss train: {_N},"), ("step", "train_loss")),
    ("build-nanogpt", re.compile(rf"^(\d+) val {_N}$"), ("step", "val_loss")),
    ("build-nanogpt", re.compile(rf"^(\d+) train {_N}$"), ("step", "train_loss")),
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
    ("N", re.compile(rf"(?i)^\W*total parameters:? *{_N}")),
    ("tokens_per_step", re.compile(rf"(?i)^\W*tokens per iteration will be: *{_N}")),
    ("tokens_per_step", re.compile(rf"(?i)^\W*total batch size:? *{_N}(?: *=>.*)?$")),
)


_COUNTERS = tuple(
    re.compile(rf"(?i)(?<![\w.])(?:global[_ ]?)?{word}(?:s|_num)?[\s:=#]{{1,12}}(\d{{1,12}})\b(?!\.\d)")
    for word in ("step", "iteration", "iter")
)
_HELD_OUT = r"(?:valid(?:ation)?|val|eval(?:uation)?|test|dev)"
_PLACES = (
    ("val_loss", re.compile(
        rf"(?i)(?<![a-z])(?:{_HELD_OUT}[\w/ .-]{{0,24}}?(?:loss|cross[_ -]?entropy(?:loss)?)|loss[ /_]{_HELD_OUT})"
        rf"[\s:=]{{1,6}}{_N}(?![\w%])")),
    ("train_loss", re.compile(
        rf"(?i)(?<![a-z/_])(?:(?:train(?:ing)?|lm)[/ _-])?(?:(?:cross[_ -]?entropy)?loss|cross[_ -]?entropy)"
        rf"(?: train)?[\s:=]{{1,6}}{_N}(?![\w%])")),
    ("tokens", re.compile(
        rf"(?i)(?<![a-z])(?:total[_ ]tokens|tokens[_ ]seen|consumed[_ ]tokens)[\s:=]{{1,6}}{_N}(?![\w%/])")),
)  # fmt: skip
"""Losses and tokens in the lines of programs that are not named above: "step: 10  loss: 3.1", "val loss 3.2"."""

_DICTIONARY = re.compile(r"\{'[^{}\n]{1,2000}\}\s*$")
_LEAST_LINES = 3


def read_log(text: str, notices: list[str]) -> pd.DataFrame | None:
    """Return the losses in a training program's log, one row a step; None for text that is no log of training.

    The number of parameters and the tokens of a step are taken where the log says them; tokens follow from
    steps then. A log whose steps begin again holds several runs, told apart by the column `run`; one that goes
    back less far was resumed, and what is said last of a step counts.
    """
    lines = [line[-3000:].rsplit("\r", 1)[-1].strip() for line in text.splitlines()]
    for read in (_known_lines, _dictionaries, _other_lines):
        runs = read(lines)
        if runs:
            return _log_frame(runs, notices)
    return None


class _Log:
    """The rows of one run in a log, by step, the facts that the log states, and who wrote it."""

    def __init__(self, program: str = "training") -> None:
        self.rows: dict[float, dict[str, Any]] = {}
        self.facts: dict[str, float] = {}
        self.program = program
        self.last = 0.0
        self.again = False

    def add(self, step: float, values: dict[str, Any]) -> None:
        """Add what a line says of a step; what is said later of the same step counts."""
        self.again = self.again or step < self.last
        self.last = step
        self.rows.setdefault(step, {}).update(values)

    def begins_again(self, step: float) -> bool:
        """Return whether a step goes back to where the log began: another run."""
        return len(self.rows) >= _LEAST_LINES and step <= min(self.rows) and step < self.last


def _known_lines(lines: list[str]) -> list[_Log]:
    """Return the runs in a log of a program whose lines are known."""
    runs = [_Log()]
    stated: dict[str, float] = {}
    for entry in lines:
        for program, pattern, names in _LINES:
            match = pattern.search(entry)
            if match:
                values = [_value(cell) for cell in match.groups()[1:]]
                if all(value is not None for value in values):
                    step = int(match[1])
                    if runs[-1].begins_again(step):
                        runs.append(_Log())
                    if not runs[-1].rows:
                        runs[-1].program, runs[-1].facts, stated = program, stated or _facts(runs), {}
                    runs[-1].facts = {**runs[-1].facts, **{k: v for k, v in stated.items()
                                                           if k not in runs[-1].facts}}  # fmt: skip
                    runs[-1].add(step, {"step": step, **dict(zip(names[1:], values, strict=True))})
                break
        else:
            stated |= {name: value for name, value in _stated(entry).items() if name not in stated}
    return runs if runs[0].rows else []


def _facts(runs: list[_Log]) -> dict[str, float]:
    """Return what the log said before, for a run of which it says nothing: it may be the same program."""
    return dict(runs[-2].facts) if len(runs) > 1 else {}


def _stated(entry: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, pattern in _FACTS:
        match = pattern.search(entry)
        value = _value(match[1]) if match else None
        if value is not None:
            found.setdefault(name, value)
    return found


def _dictionaries(lines: list[str]) -> list[_Log]:
    """Return the runs in a log that holds dictionaries of Python with a loss, as Hugging Face's trainer prints."""
    runs: list[list[dict[str, Any]]] = [[]]
    for entry in lines:
        match = _DICTIONARY.search(entry)
        if not match:
            continue
        try:
            row = ast.literal_eval(match[0])
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        if not isinstance(row, dict) or not any(str(key).endswith("loss") for key in row):
            continue
        at, first, last = (
            _position(each) for each in (row, *(runs[-1][:1] or [{}]), *(runs[-1][-1:] or [{}]))
        )
        if at is not None and first is not None and last is not None and at <= first and at < last:
            runs.append([])
        runs[-1].append({str(key): value for key, value in row.items()})
    logs = []
    for rows in runs:
        log = _Log("a Hugging Face trainer")
        log.rows = dict(enumerate(rows))
        logs.append(log)
    return logs if sum(map(len, runs)) >= _LEAST_LINES else []


def _position(row: dict[str, Any]) -> Any:
    """Return where in training a dictionary of a trainer was printed; None if it does not say."""
    return next((row[name] for name in ("step", "epoch") if isinstance(row.get(name), int | float)), None)


def _other_lines(lines: list[str]) -> list[_Log]:
    """Return the runs in a log of another program: lines with a step and a loss, or a loss after its step."""
    runs, stated, step, counted_lines = [_Log()], dict[str, float](), None, 0
    for entry in lines:
        counter = next((match for each in _COUNTERS if (match := each.search(entry))), None)
        step = int(counter[1]) if counter else step
        found = {name: at for name, pattern in _PLACES for at in [pattern.search(entry)] if at}
        if step is None or not found:
            stated |= _stated(entry)
            continue
        held_out = found.get("val_loss")
        if held_out and "train_loss" in found and found["train_loss"].end() == held_out.end():
            del found["train_loss"]
        values = {name: _value(match[1]) for name, match in found.items()}
        values = {name: value for name, value in values.items() if value is not None}
        if not values:
            continue
        if runs[-1].begins_again(step):
            runs.append(_Log())
        if not runs[-1].rows:
            runs[-1].facts, stated = stated or _facts(runs), {}
        counted_lines += 1
        runs[-1].add(step, {"step": step, **values})
    losses = sum(any(name.endswith("loss") for name in row) for run in runs for row in run.rows.values())
    return runs if counted_lines >= _LEAST_LINES and losses >= _LEAST_LINES else []


def _log_frame(runs: list[_Log], notices: list[str]) -> pd.DataFrame:
    """Return the runs of a log as a table, with what was read into the notices."""
    parts = []
    for number, run in enumerate(runs, 1):
        part = pd.DataFrame([run.rows[at] for at in sorted(run.rows)])
        if "N" in run.facts:
            part["params"] = run.facts["N"]
        per_step = run.facts.get("tokens_per_step")
        if per_step is not None and "step" in part:
            part["tokens_per_step"] = per_step
            if "tokens" not in part:
                part["tokens"] = part["step"] * per_step
        parts.append(part.assign(run=f"run {number}") if len(runs) > 1 else part)
    said = f"read as a log of {runs[0].program}: {counted(sum(map(len, parts)), 'step')}"
    if len(runs) > 1:
        said += f" of {len(runs)} runs, as its steps begin again (column run)"
    sizes = list(dict.fromkeys(f"{run.facts['N']:.4g}" for run in runs if "N" in run.facts))
    if sizes:
        said += f", {' and '.join(sizes[:4])} parameters as it counts them"
    each = list(
        dict.fromkeys(f"{r.facts['tokens_per_step']:.10g}" for r in runs if "tokens_per_step" in r.facts)
    )
    if each:
        said += f", tokens are steps times {' and '.join(each[:4])}"
    if any(run.again for run in runs):
        said += "; what is said twice of a step counts as said last"
    notices.append(said)
    return pd.concat(parts, ignore_index=True)


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


TRUTHS = {
    **dict.fromkeys(("failed", "crashed", "diverged", "killed", "errored", "cancelled", "canceled", "pruned",
                     "preempted", "aborted", "interrupted", "is_failed", "has_failed", "is_diverged",
                     "has_diverged", "early_stopped_by_nan", "oom", "is_running", "running"), False),
    **dict.fromkeys(("finished", "completed", "is_finished", "is_complete", "is_completed", "done", "success",
                     "succeeded", "is_done"), True),
}  # fmt: skip
"""Names of columns that say yes or no of how a run ended -> the answer of a run that reached its end."""


def ended_otherwise(frame: pd.DataFrame) -> list[tuple[str, str, pd.Series]]:
    """Return the columns of truths that say that runs did not reach their end: name, the answer, which rows.

    A column that would leave out most rows is taken to mean something else.
    """
    found = []
    for i, name in enumerate(frame.columns):
        wanted = next((TRUTHS[alias] for alias in _status_names(name) if alias in TRUTHS), None)
        if wanted is None:
            continue
        answers = frame.iloc[:, i].map(_truth)
        known = answers.map(lambda answer: answer is not None)
        other = known & (answers != wanted)
        if known.sum() * 2 > len(frame) and other.any() and 2 * other.sum() < len(frame):
            found.append((str(name), str(not wanted), other))
    return found


def _truth(cell: Any) -> bool | None:
    """Return a truth value as tables hold it: True, "true", 1, "yes"; None for anything else."""
    text = str(cell).strip().lower()
    return {"true": True, "1": True, "1.0": True, "yes": True,
            "false": False, "0": False, "0.0": False, "no": False}.get(text)  # fmt: skip


def _status_names(name: object) -> tuple[str, ...]:
    """Return the names that a column of a run's end may go by: of "sys/state" also "state"."""
    parts = [part for part in re.split(r"[/.:|]", str(name)[:400]) if plain(part)]
    return (plain(name), plain(parts[-1])) if len(parts) > 1 else (plain(name),)


def _word(text: str) -> str:
    """Return a status as one word: "CANCELLED by 1000" and "CANCELLED+" are cancelled."""
    return re.sub(r"_by_.*$", "", plain(text))


def status_column(columns: list[str]) -> str | None:
    """Return the column that says how runs ended."""
    found: dict[str, str] = {}
    for position in (1, 0):  # a name of its own goes before the end of a longer one
        for name in reversed(columns):
            names = _status_names(name)
            found |= {names[position]: name} if position < len(names) else {}
    return next((found[name] for name in COLUMNS if name in found), None)
