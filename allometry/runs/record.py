"""One run as it lies on disk, read without torch: its configuration, counts, curve, results and status.

A run directory holds (losses in nats per token):

    config.json   {"format": 1, "id": …, "config": RunConfig as JSON, "counts": Counts as JSON}
    env.json      what `allometry.env.snapshot` says
    curve.jsonl   one object a line: step, tokens, lr, train_loss, grad_norm, loss (test), loss_<corpus>, …,
                  and by_position, a list of losses by position in the context (see `runs.positions`)
    result.json   written last: {"format": 1, "status": "done" | "diverged", "step", "tokens", "loss",
                  "train_loss", "bits_per_byte", "unique", "seconds", "started", "finished", "engine",
                  "loss_<corpus>", …}; the two times are UTC, "2026-01-31T23:59:59Z"
    text.json     which text it was trained on (see `runs.texts`)
    error.txt     why it failed; the next attempt removes it

and, where its data ask for them, probes.json and .jsonl (`runs.probes`) and novelty.json (`runs.novelty`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from allometry.errors import AllometryError
from allometry.runs.files import read_json, read_lines
from allometry.runs.texts import Text, recorded

FORMAT = 1
"""Newest version of the run format that this release reads."""

Status = Literal["done", "diverged", "failed", "partial"]
FINISHED: tuple[Status, ...] = ("done", "diverged")

COLUMNS = (
    *("run", "status", "family", "shape", "n_layer", "d_model", "N", "N_head", "N_total", "D", "unique"),
    *("C", "C_head", "C_attention", "B", "S", "lr", "schedule", "seed", "corpus", "tokenizer", "loss"),
    *("train_loss", "bits_per_byte", "seconds", "engine"),
    *("n_head", "d_ff", "n_ctx", "reuse", "dropout", "limit", "early_stop", "init_from"),
    *("warmup", "decay", "final_lr", "weight_decay", "init"),
    "finished",
)
"""Columns of the run table; further distributions add `loss_<corpus>`. `finished` is UTC in ISO 8601."""

_MODEL_SETTINGS = ("n_head", "d_ff", "n_ctx", "reuse", "dropout", "init")
_TRAIN_SETTINGS = ("early_stop", "init_from", "warmup", "decay", "final_lr", "weight_decay")

_ANSWERS = ("accuracy", "train_accuracy", "memorised", "generalised")
"""What runs on questions add: accuracies at the end, and the steps at which each first came to 99 %."""

CURVE_COLUMNS = ("run", "step", "tokens", "C", "lr", "train_loss", "grad_norm", "loss")
"""Columns of the long table of curves; further distributions add `loss_<corpus>`."""

BY_POSITION = "by_position"
"""Key of a curve's row that holds a list, and so is no column of that table."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What one run recorded as it went: a row a step, and notes about lines that could not be read."""

    run: str
    frame: pd.DataFrame
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.frame)

    def losses(self) -> pd.DataFrame:
        """Only the rows that carry a test loss."""
        return self.frame[self.frame["loss"].notna()].reset_index(drop=True)


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run: who it is (`id`, `config`), what it costs (`counts`), how it ended (`status`, `result`).

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
        """The machine and versions that made the run; empty if unknown."""
        return read_json(self.path / "env.json") or {}

    @cached_property
    def text(self) -> Text | None:
        """Which text it was trained on (`runs.texts`); None if it is not recorded."""
        return recorded(self.path)

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
        """The run as a row of the run table: COLUMNS, `loss_<corpus>` and, for questions with answers, the
        accuracies and the steps at which they came to 99 %; unknown values are NaN.
        """
        model, data, train = (self.config.get(part, {}) for part in ("model", "data", "train"))
        batch = train.get("batch_tokens", math.nan)
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
            "finished": self.result.get("finished"),
        }
        further = {
            key: value for key, value in self.result.items() if key.startswith("loss_") or key in _ANSWERS
        }
        return {key: row[key] for key in COLUMNS} | further


def sizes(counts: Mapping[str, int], tokens: float) -> dict[str, float]:
    """N and C under each convention, from the recorded components (the same sums as `models.counts.Counts`).

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
    """The short name of the shape, which is the second part of every run's id."""
    parts = run.split("-")
    return parts[1] if model and len(parts) > 2 else None


def read_run(path: Path) -> RunRecord:
    """The record of the run in a directory.

    A damaged result counts as no result, and is noted: the run then is partial and the same command finishes
    it. Raises AllometryError if the directory holds no run, its config.json is damaged, or a newer release
    wrote it.
    """
    stored = read_json(path / "config.json")
    if stored is None:
        raise AllometryError(f"{path} holds no run: it has no config.json", hint="allometry runs list")
    check_format(stored, path / "config.json")
    notes: list[str] = []
    try:
        result = read_json(path / "result.json") or {}
    except AllometryError as error:
        result, notes = {}, [f"{error.message}: the run counts as unfinished"]
    check_format(result, path / "result.json")
    error_text = _read_text(path / "error.txt")
    config = stored.get("config", stored)
    return RunRecord(
        id=stored.get("id", path.name),
        path=path,
        status=_status(result, error_text),
        config=config,
        counts=stored.get("counts") or result.get("counts") or {},
        result=result,
        error=error_text,
        notes=tuple(notes),
    )


def _status(result: Mapping[str, Any], error: str | None) -> Status:
    if result:
        return "diverged" if result.get("status") == "diverged" else "done"
    return "failed" if error is not None else "partial"


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def check_format(stored: Mapping[str, Any], path: Path) -> None:
    """Refuse a file that a newer release wrote, rather than guess what it means."""
    version = stored.get("format", FORMAT)
    if not isinstance(version, int) or version > FORMAT:
        raise AllometryError(
            f"{path} has format {version}; this release reads formats up to {FORMAT}",
            hint="pip install --upgrade allometry",
        )


def read_curve(record: RunRecord) -> Curve:
    """The curve of a run; a step recorded twice (before and after a resume) counts once, the last time."""
    rows, notes = read_lines(record.path / "curve.jsonl")
    frame = pd.DataFrame([{key: row[key] for key in row if key != BY_POSITION} for row in rows])
    for column in CURVE_COLUMNS[1:]:
        if column not in frame:
            frame[column] = math.nan
    frame = frame.drop_duplicates("step", keep="last").sort_values("step", ignore_index=True)
    flops = record.counts.get("flops_blocks")
    frame["C"] = 3.0 * flops * frame["tokens"] if flops else math.nan
    frame.insert(0, "run", record.id)
    return Curve(run=record.id, frame=frame[_ordered(frame.columns)], notes=tuple(notes))


def _ordered(columns: Iterable[str]) -> list[str]:
    """The known columns in their order, then the losses on further distributions, then all else."""
    rest = sorted(set(columns) - set(CURVE_COLUMNS), key=lambda name: (not name.startswith("loss_"), name))
    return [*CURVE_COLUMNS, *rest]
