"""The store as it stands, asked again and again: only what has changed is read."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from allometry.core.errors import AllometryError
from allometry.core.files import read_json
from allometry.runs.index import Index, read_index
from allometry.runs.record import FINISHED, config_problem, curve_rows, is_number, read_run
from allometry.runs.store import Store, run_table

AGAIN = 60.0
"""Seconds after which runs that were finished are looked at again: they seldom change."""

ACTIVE = 90.0
"""Seconds since the last sign of life within which an unfinished run counts as running: checkpoints are
written more often."""

_CHECKPOINT = re.compile(r"step-(\d+)\.safetensors")


Point = tuple[str, int, float, float, float]
"""Run, step, tokens, C, loss."""


@dataclass(frozen=True, kw_only=True)
class Underway:
    """An unfinished run: the last step on record, the step it goes to, and whether it is being trained."""

    run: str
    step: int
    steps: int
    running: bool
    loss: float | None


class Reader:
    """What the page knows of a store. `refresh` looks for changes; the rest answers from what it found.

    `frame` is the run table, `version` counts how often it has changed.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.frame = run_table([])
        self.version = 0
        self._index: Index = Index()
        self._looked: float | None = None
        self._curves: dict[str, tuple[list[int], list[Point]]] = {}
        self._unplanned: Mapping[str, Any] = {}
        self._plans: dict[str, tuple[int, dict[str, Any]]] = {}
        self._seen: dict[str, tuple[object, float]] = {}

    def refresh(self) -> None:
        """Bring `frame` up to date."""
        self.store.pull()
        now, before = time.monotonic(), self._index
        trust = self._looked is not None and now - self._looked < AGAIN
        self._index = read_index(self.store.path, None if self._looked is None else before, trust=trust)
        self._looked = self._looked if trust else now
        if self._index.rows != before.rows:
            self.version += 1
            self.frame = run_table(self._index.rows.values())

    @property
    def rows(self) -> Mapping[str, Mapping[str, Any]]:
        """The rows of `frame` by run."""
        return self._index.rows

    @property
    def notes(self) -> list[str]:
        """What could not be read."""
        return self._index.notes

    def stamp(self, run: str) -> list[int]:
        """Return numbers that change when the files of a run do; empty for one that was never started."""
        entry = self._index.entries.get(run)
        return entry["stamp"] if entry else []

    def curves(self, runs: Iterable[str]) -> pd.DataFrame:
        """Test losses of the named runs while they trained: columns run, step, tokens, C (Kaplan's), loss."""
        points = [point for run in runs for point in self._curve(run)]
        return pd.DataFrame(points, columns=["run", "step", "tokens", "C", "loss"])

    def _curve(self, run: str) -> list[Point]:
        """Read the points of one curve; a step recorded twice counts once, the last time."""
        stamp = self.stamp(run)
        known = self._curves.get(run)
        if known is None or known[0] != stamp:
            row = self.rows.get(run, {"C": math.nan, "D": math.nan})
            rate = row["C"] / row["D"] if row["D"] else math.nan
            lines, _ = curve_rows(self.store.directory(run))
            last = {line["step"]: line for line in lines if line.get("loss") is not None}
            tokens = {step: math.nan if (t := last[step].get("tokens")) is None else t for step in last}
            points = [
                (run, step, tokens[step], rate * tokens[step], last[step]["loss"]) for step in sorted(last)
            ]
            known = self._curves[run] = stamp, points
        return known[1]

    def plan(self, study: str) -> Mapping[str, Any]:
        """Return what was planned for a study, as it was written down; empty if nothing was, or it is damaged."""
        path = self.store.path / "studies" / study / "plan.json"
        try:
            changed = path.lstat().st_mtime_ns
        except OSError:
            return self._unplanned
        known = self._plans.get(study)
        if known is None or known[0] != changed:
            known = self._plans[study] = changed, _read_plan(path)
        return known[1]

    def underway(self, runs: Iterable[str]) -> list[Underway]:
        """Return those of the named runs that have begun and not ended, in order."""
        rows = self.rows
        unfinished = (run for run in runs if run in rows and rows[run]["status"] not in FINISHED)
        return [self._underway(run, rows[run]) for run in unfinished]

    def _underway(self, run: str, row: Mapping[str, Any]) -> Underway:
        files = self.store.checkpoints(run)
        saved = [int(match[1]) for name in files if (match := _CHECKPOINT.fullmatch(name))]
        train: Mapping[str, Any] = {}
        with suppress(AllometryError):  # removed or damaged meanwhile
            train = read_run(self.store.directory(run)).config.get("train", {})
        steps = max(1, round((train.get("tokens") or 0) / (train.get("batch_tokens") or 1)))
        points = self._curve(run)
        return Underway(
            run=run,
            step=min(max([int(row["S"]), *saved]), steps),
            steps=steps,
            running=row["status"] == "partial"
            and self._alive(run, (tuple(self.stamp(run)), tuple(sorted(files)))),
            loss=float(points[-1][-1]) if points else None,
        )

    def _alive(self, run: str, sign: tuple[tuple[int, ...], tuple[str, ...]]) -> bool:
        """Return whether a run has shown a sign of life lately: by its files' times, then by changes."""
        now = time.time()
        known = self._seen.get(run)
        if known is None:
            self._seen[run] = sign, max([0.0, *(when / 1e9 for when in sign[0][::2])])
        elif known[0] != sign:
            self._seen[run] = sign, now
        return now - self._seen[run][1] < ACTIVE


def _read_plan(path: Path) -> dict[str, Any]:
    """Return a plan of which every entry has the type that the page counts on; {} for any other."""
    with suppress(AllometryError):
        plan = read_json(path) or {}
        runs = plan.get("runs", [])
        if (
            is_number(plan.get("seconds") or 0.0)
            and isinstance(runs, list)
            and not any(map(config_problem, runs))
            and all(is_number(run.get("train", {}).get("tokens")) and "model" in run for run in runs)
        ):
            return plan
    return {}
