"""One run as stored on disk, read without torch: its configuration, counts, curve, results and status.

A run directory holds (losses in nats per token):

    config.json   {"format": 1, "id": …, "config": RunConfig as JSON, "counts": Counts as JSON}
    env.json      what `allometry.core.env.snapshot` says, and as "arithmetic" the device and PyTorch's settings
    curve.jsonl   one object a line: step, tokens, lr, train_loss, grad_norm, loss (test), loss_<corpus>, …,
                  and by_position, a list of losses by position in the context (see `runs.measurements`)
    result.json   written last: {"format": 1, "status": "done" | "diverged", "step", "tokens", "loss",
                  "train_loss", "bits_per_byte", "unique", "seconds", "started", "finished", "engine",
                  "loss_<corpus>", …}; the two times are UTC, "2026-01-31T23:59:59Z"
    text.json     which text it was trained on: {"format": 1, "sets": {"CORPUS | TOKENIZER":
                  {"tokens": SHA-256, "identity": …}}, "parent": digest of the text of the run whose weights
                  it starts from, or null}
    error.txt     why it failed; the next attempt removes it

and, where its data ask for them, probes.json and .jsonl (`runs.measurements`) and novelty.json (`runs.measurements`).

A run may come from somebody else. So what is read is checked: a configuration that is damaged is an
AllometryError, everything else that is damaged is left out, and noted. A run's id is the name of its folder.

That id is the hash of the configuration, which names a corpus and does not hold it. The text behind a name such as
"files:my.txt" can change, so each run records the SHA-256 of the token ids that it reads. A store shows the runs of
one text. Those of another lie in `.texts/DIGEST/`, whole, and come back when that text does.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from allometry.core.errors import AllometryError, printable
from allometry.core.files import (
    left_out,
    read_bytes,
    read_json,
    read_lines,
    refuse_links,
    write_json,
    writing,
)
from allometry.runs.place import is_file_name
from allometry.runs.trunks import TRUNK, trunk_of

FORMAT = 1
"""Newest version of the run format that this release reads."""

Status = Literal["done", "diverged", "failed", "partial"]
FINISHED: tuple[Status, ...] = ("done", "diverged")

COLUMNS = (
    *("run", "status", "family", "shape", "n_layer", "d_model", "N", "N_head", "N_total", "D", "unique"),
    *("C", "C_head", "C_attention", "B", "S", "lr", "schedule", "seed", "corpus", "tokenizer", "loss"),
    *("train_loss", "bits_per_byte", "seconds", "engine"),
    *("n_head", "d_ff", "n_ctx", "reuse", "dropout", "limit", "early_stop", "init_from"),
    *("warmup", "decay", "final_lr", "weight_decay", "init", TRUNK),
    "finished",
)
"""Columns of the run table; further distributions add `loss_<corpus>`. `finished` is UTC in ISO 8601."""

TEXT_COLUMNS = (
    *("run", "status", "family", "shape", "schedule", "corpus", "tokenizer", "engine", "init_from", "init"),
    *(TRUNK, "finished"),
)
"""Columns of the run table that hold text; the others hold numbers."""

_MODEL_SETTINGS = ("n_head", "d_ff", "n_ctx", "reuse", "dropout", "init")
_TRAIN_SETTINGS = ("early_stop", "init_from", "warmup", "decay", "final_lr", "weight_decay")

_ANSWERS = ("accuracy", "train_accuracy", "memorised", "generalised")
"""What runs on questions add: accuracies at the end, and the steps at which each first came to 99 %."""

CURVE_COLUMNS = ("run", "step", "tokens", "C", "lr", "train_loss", "grad_norm", "loss")
"""Columns of the long table of curves; further distributions add `loss_<corpus>`."""

_COUNTS = (
    *("embedding", "position", "blocks", "other", "head"),
    *("flops_blocks", "flops_attention", "flops_head"),
)

_MOST = 2**63
"""Whole numbers from here on are no counts: tables could not hold them."""

_MANY = 1000
"""Entries of a result or a row of a curve, and columns of a curve, that are read at most."""

_LONGEST = 65_536
"""Bytes of error.txt that are read at most."""

_SEPARATORS = {"/", "\\", ":"}
"""Characters that divide a path on some system: none of them may be in a run's name."""

BY_POSITION = "by_position"
"""Key of a curve's row that holds a list, and so is no column of that table."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The recorded curve of one run: a row a step, and notes about lines that could not be read."""

    run: str
    frame: pd.DataFrame
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.frame)

    def losses(self) -> pd.DataFrame:
        """Return only the rows that carry a test loss."""
        return self.frame[self.frame["loss"].notna()].reset_index(drop=True)


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run: its identity (`id`, `config`), its size (`counts`), and its outcome (`status`, `result`).

    `config` is the resolved configuration as plain JSON; `counts` the components of `Counts`, empty if the
    run was stopped before they were written; `result` is empty until the run is finished; `notes` says what
    could not be read.
    """

    id: str
    path: Path
    status: Status
    config: Mapping[str, Any]
    counts: Mapping[str, int]
    result: Mapping[str, Any]
    error: str | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def environment(self) -> Mapping[str, Any]:
        """The machine and versions that made the run; empty if unknown, {"unreadable": why} if damaged."""
        try:
            return read_json(self.path / "env.json") or {}
        except AllometryError as error:
            return {"unreadable": error.message}

    @cached_property
    def text(self) -> Text | None:
        """The text that it was trained on (`Text`); None if it is not recorded."""
        return recorded_text(self.path)

    @cached_property
    def curve(self) -> Curve:
        """The training curve with the columns CURVE_COLUMNS; C is Kaplan's 6ND."""
        return read_curve(self)

    @property
    def step(self) -> int:
        """The last step on record."""
        if "step" in self.result:
            return int(self.result["step"])
        steps = self.curve.frame["step"]
        return int(steps.iloc[-1]) if len(steps) else 0

    def row(self) -> dict[str, Any]:
        """Return the run as a row of the run table: COLUMNS, `loss_<corpus>` and, for questions with answers,
        the accuracies and the steps at which they reached 99 %; unknown values are NaN.
        """
        model, data, train = (self.config.get(part, {}) for part in ("model", "data", "train"))
        batch = math.nan if train.get("batch_tokens") is None else train["batch_tokens"]
        tokens = self.result.get("tokens", self.step * batch)
        row: dict[str, Any] = {
            "run": self.id,
            "status": self.status,
            "family": model.get("family"),
            "shape": self.result.get("shape") or _shape(self.id, model),
            "n_layer": model.get("n_layer", math.nan),
            "d_model": model.get("d_model", math.nan),
            **sizes(self.counts, tokens),
            "D": tokens,
            "unique": self.result.get("unique", math.nan),
            "B": batch,
            "S": self.step,
            "corpus": data.get("corpus"),
            "tokenizer": data.get("tokenizer"),
            **{key: train.get(key) for key in ("lr", "schedule", "seed")},
            **{
                key: self.result.get(key, math.nan)
                for key in ("loss", "train_loss", "bits_per_byte", "seconds")
            },
            "engine": self.result.get("engine") or self.config.get("engine"),
            "limit": data.get("limit"),
            **{key: model.get(key) for key in _MODEL_SETTINGS},
            **{key: train.get(key) for key in _TRAIN_SETTINGS},
            TRUNK: trunk_of(self.id, self.config),
            "finished": self.result.get("finished"),
        }
        further = {
            key: value for key, value in self.result.items() if key.startswith("loss_") or key in _ANSWERS
        }
        row = {key: row[key] for key in COLUMNS} | further
        return {
            printable(key): printable(value) if isinstance(value, str) else value
            for key, value in row.items()
        }


def sizes(counts: Mapping[str, int], tokens: float) -> dict[str, float]:
    """Return N and C under each convention, from the recorded components (the same sums as `models.base.Counts`).

    N: Kaplan's (blocks), `N_head` Porian's (with the output matrix), `N_total` Chinchilla's (everything). C
    = 6ND with blocks only, `C_head` with the output matrix, `C_attention` with the output matrix and the
    context term.
    """
    if not counts:
        return dict.fromkeys(("N", "N_head", "N_total", "C", "C_head", "C_attention"), math.nan)
    head, attention = counts["flops_head"], counts["flops_attention"]
    return {
        "N": counts["blocks"],
        "N_head": counts["blocks"] + head // 2,
        "N_total": sum(counts[key] for key in ("embedding", "position", "blocks", "other", "head")),
        "C": 3.0 * counts["flops_blocks"] * tokens,
        "C_head": 3.0 * (counts["flops_blocks"] + head) * tokens,
        "C_attention": 3.0 * (counts["flops_blocks"] + head + attention) * tokens,
    }


def _shape(run: str, model: Mapping[str, Any]) -> str | None:
    """Return the short name of the shape, which is the second part of every run's id."""
    parts = run.split("-")
    return parts[1] if model and len(parts) > 2 else None


def is_run_name(name: str) -> bool:
    """Return whether a folder of that name can be a run: one name, not hidden, safe to print."""
    hidden = name.startswith(".")
    return bool(name) and not hidden and not _SEPARATORS & set(name) and printable(name) == name


def holds_run(path: Path | str) -> bool:
    """Return whether a folder holds a run: a configuration, or at least the reason why there is none."""
    return any(os.path.lexists(f"{path}/{name}") for name in ("config.json", "error.txt"))


def read_run(path: Path) -> RunRecord:
    """Return the record of the run in a directory.

    A damaged result counts as no result, and is noted: the run then is partial and the same command finishes
    it. A run that failed before its configuration was written has none. Raises AllometryError if the
    directory holds no run, its config.json is damaged, or a newer release wrote it.
    """
    stored = read_json(path / "config.json")
    error_text, notes = _read_text(path / "error.txt")
    if stored is None and error_text is None:
        raise AllometryError(f"{path} holds no run: it has no config.json", hint="allometry runs list")
    stored = stored or {"config": {}}
    check_format(stored, path / "config.json")
    config = stored.get("config", stored)
    if problem := config_problem(config):
        raise AllometryError(f"{path / 'config.json'} is damaged: {problem}", hint="train the run again")
    name = stored.get("id", path.name)
    if name != path.name:
        notes.append(f"this folder holds the run {str(name)[:200]!r} under another name")
    result, problems = _result(path)
    counts, miscounted = _counts(stored.get("counts") or result.get("counts") or {}, path)
    return RunRecord(
        id=path.name,
        path=path,
        status=_status(result, error_text),
        config=config,
        counts=counts,
        result=result,
        error=error_text,
        notes=(*notes, *problems, *miscounted),
    )


def _result(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the result in a run's directory, empty without a whole one, and notes."""
    file = path / "result.json"
    try:
        result = read_json(file) or {}
    except AllometryError as error:
        return {}, [f"{error.message}: the run counts as unfinished"]
    check_format(result, file)
    numbers = ["step", "tokens", "unique", "loss", "train_loss", "bits_per_byte", "seconds", *_ANSWERS]
    numbers += [key for key in result if key.startswith("loss_")]
    texts = ("status", "shape", "engine", "started", "finished")
    problem = _problem(result, numbers, texts)
    if result and not problem:
        if result.get("status", "done") not in FINISHED:
            problem = "its status is neither done nor diverged"
        elif not all(_is_whole(result[key]) for key in ("step", "tokens") if key in result):
            problem = "its steps are no whole number"
        elif len(result) > _MANY:
            problem = f"it has more than {_MANY:,} entries"
        elif not _are_texts(result.get("notes", [])):
            problem = "its notes are no list of texts"
    if problem:
        return {}, [f"{file} is damaged: {problem}: the run counts as unfinished"]
    return result, []


def _counts(counts: Any, path: Path) -> tuple[dict[str, int], list[str]]:
    """Return the components of the counts, none where one is missing or wrong, and notes."""
    if not counts:
        return {}, []
    if isinstance(counts, dict):
        wrong = [key for key in _COUNTS if not (_is_whole(counts.get(key)))]
        if not wrong:
            return {key: value for key, value in counts.items() if _is_whole(value)}, []
        said = f"the count {wrong[0]!r} is missing or no whole number"
    else:
        said = "the counts are no object"
    return {}, [f"{path / 'config.json'} is damaged: {said}: N and C are unknown"]


def config_problem(config: Any) -> str | None:
    """Return what is wrong with a configuration, as far as a run table needs it, or None."""
    if not isinstance(config, dict):
        return "the configuration is no object"
    for part in ("model", "data", "train"):
        if not isinstance(config.get(part, {}), dict):
            return f"{part!r} is no object"
    model, data, train = (config.get(part, {}) for part in ("model", "data", "train"))
    numbers = ("n_layer", "d_model", *(key for key in _MODEL_SETTINGS if key != "init"))
    return (
        _problem(config, (), ("engine",))
        or _problem(model, numbers, ("family", "init"))
        or _problem(data, ("limit",), ("corpus", "tokenizer"))
        or _problem(
            train,
            ("batch_tokens", "tokens", "lr", "seed", *(k for k in _TRAIN_SETTINGS if k != "init_from")),
            ("schedule", "init_from"),
        )
    )


def _problem(part: Mapping[str, Any], numbers: Iterable[str], texts: Iterable[str]) -> str | None:
    """Return which of the named entries has the wrong type, or None. None of them need be there."""
    for key in numbers:
        if part.get(key) is not None and not is_number(part[key]):
            return f"{key!r} is no number"
    for key in texts:
        if part.get(key) is not None and not isinstance(part[key], str):
            return f"{key!r} is no text"
    return None


def is_number(value: Any) -> bool:
    """Return whether a value from a JSON file is a number that a table can hold."""
    return isinstance(value, float) or (type(value) is int and abs(value) < _MOST)


def _is_whole(value: Any) -> bool:
    return is_number(value) and value == value and 0 <= value < _MOST and value == int(value)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _status(result: Mapping[str, Any], error: str | None) -> Status:
    if result:
        return "diverged" if result.get("status") == "diverged" else "done"
    return "failed" if error is not None else "partial"


def _read_text(path: Path) -> tuple[str | None, list[str]]:
    """Return the text of a log that is safe to print, None without one, and notes."""
    try:
        data = read_bytes(path)
    except AllometryError as error:
        return None, [error.message]
    if data is None:
        return None, []
    text = printable(data[:_LONGEST].decode("utf-8", "replace"), lines=True)
    return text, [f"{path.name}: only its first {_LONGEST:,} bytes are shown"] if data[_LONGEST:] else []


def check_format(stored: Mapping[str, Any], path: Path, reads: int = FORMAT) -> None:
    """Refuse a file of a format above the one that this release `reads`: its meaning may have changed."""
    version = stored.get("format", FORMAT)
    if type(version) is not int:
        raise AllometryError(f"{path} is damaged: its format is no number", hint="restore it from a copy")
    if version > reads:
        raise AllometryError(
            f"{path} has format {version}; this release reads formats up to {reads}",
            hint="pip install --upgrade allometry",
        )


def read_curve(record: RunRecord) -> Curve:
    """Return the curve of a run; of a step recorded twice (before and after a resume) the last row counts.

    A line with something else than numbers is left out, and noted.
    """
    rows, notes = curve_rows(record.path)
    frame = pd.DataFrame([{key: row[key] for key in row if key != BY_POSITION} for row in rows])
    if len(frame.columns) > _MANY:
        notes.append(f"curve.jsonl: {len(frame.columns)} columns; only those of every run are read")
        frame = frame[[name for name in frame.columns if name in CURVE_COLUMNS]]
    for column in CURVE_COLUMNS[1:]:
        if column not in frame:
            frame[column] = math.nan
    frame = frame.drop_duplicates("step", keep="last").sort_values("step", ignore_index=True)
    flops = record.counts.get("flops_blocks")
    frame["C"] = 3.0 * flops * frame["tokens"] if flops else math.nan
    frame = frame.drop(columns="run", errors="ignore")
    frame.insert(0, "run", record.id)
    return Curve(run=record.id, frame=frame[_ordered(frame.columns)], notes=tuple(notes))


def curve_rows(directory: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the rows of a run's curve.jsonl as recorded, checked, and notes on what is damaged.

    Every row has a whole number `step`; all else is a number or missing, but for BY_POSITION, a list of them.
    """
    path = directory / "curve.jsonl"
    try:
        rows, notes = read_lines(path)
    except AllometryError as error:
        return [], [error.message]
    bad = [number for number, row in enumerate(rows, start=1) if not is_curve_row(row)]
    if bad:
        rows = [row for row in rows if is_curve_row(row)]
        notes += left_out(path, bad, len(rows) + len(bad) + 1)
    return rows, notes


def is_curve_row(row: Any) -> bool:
    """Return whether a row of a curve is as `curve_rows` promises."""
    if not isinstance(row, dict) or not _is_whole(row.get("step")) or len(row) > _MANY:
        return False
    by_position = row.get(BY_POSITION)
    if by_position is not None and not is_numbers(by_position):
        return False
    return all(value is None or key == BY_POSITION or is_number(value) for key, value in row.items())


def is_numbers(value: Any) -> bool:
    """Return whether a value from a JSON file is a list of numbers."""
    return isinstance(value, list) and all(map(is_number, value))


def _ordered(columns: Iterable[str]) -> list[str]:
    """Return the known columns in their order, then the losses on further distributions, then all others."""
    rest = sorted(set(columns) - set(CURVE_COLUMNS), key=lambda name: (not name.startswith("loss_"), name))
    return [*CURVE_COLUMNS, *rest]


TEXT_FILE = "text.json"
ASIDE = ".texts"
STUDIES = "studies"

_TEXT_FORMAT = 1


@dataclass(frozen=True)
class Text:
    """What a run reads: the token sets by "CORPUS | TOKENIZER", each with "tokens" (SHA-256 of its ids) and
    "identity" (what it was made from), and the digest of the text of the run that it starts from.
    """

    sets: Mapping[str, Mapping[str, str]]
    parent: str | None = None

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that are equal for equal token ids."""
        tokens = {name: each["tokens"] for name, each in self.sets.items()}
        canonical = json.dumps([tokens, self.parent], sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def recorded_text(directory: Path) -> Text | None:
    """Return the text that a run's directory records; None if it records none, as runs of older releases, or
    none that can be read (`is_text_damaged`).
    """
    try:
        stored = read_json(directory / TEXT_FILE)
    except AllometryError:
        return None
    sets = (stored or {}).get("sets")
    if stored is None or not isinstance(sets, dict) or not all(map(_whole, sets.values())):
        return None
    parent = stored.get("parent")
    return Text(sets, parent if isinstance(parent, str) else None)


def is_text_damaged(directory: Path) -> bool:
    """Return whether a directory has a `text.json` that cannot be read."""
    return os.path.lexists(directory / TEXT_FILE) and recorded_text(directory) is None


def _whole(entry: Any) -> bool:
    return isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("tokens", "identity"))


def record_text(directory: Path, text: Text) -> None:
    """Write the text that a run reads into its directory."""
    write_json(
        directory / TEXT_FILE, {"format": _TEXT_FORMAT, "sets": dict(text.sets), "parent": text.parent}
    )


def exchange_text(store: Path, name: str, before: str, now: str) -> bool:
    """Put `name`, a run or "studies/KEY", of the text `before` aside; restore that of the text `now`.

    Both are digests. Returns whether something came back. The caller must have the store for itself.
    What lies there without a record of that text stays. AllometryError, and nothing moved, where a name or a
    link would lead out of the store.
    """
    here, there = store / name, store / ASIDE / before / name
    back = store / ASIDE / now / name
    for path in (here, there, back):
        if not path.is_relative_to(store) or not is_file_name(path.relative_to(store).as_posix()):
            raise AllometryError(f"{name!r} cannot be a run or a study of a store")
        refuse_links(path, store)
    with writing(there):
        if here.exists():
            there.parent.mkdir(parents=True, exist_ok=True)
            here.rename(_unused(there))
        if not back.is_dir() or (found := recorded_text(back)) is None or found.digest != now:
            return False
        back.rename(here)
    return True


def _unused(path: Path) -> Path:
    """Return the path, or the first of PATH.2, PATH.3, … that does not exist."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}.{number}")
    return free
