"""The store as it stands, asked again and again (only what has changed is read), and how far its sweep is."""

from __future__ import annotations

import json
import math
import re
import statistics
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
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


TRUST = 5.0
"""Seconds of observed work that the plan's own estimate of the speed is worth."""

WINDOW = 900.0
"""Seconds of the past from which the speed is estimated."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A sweep at one moment. `share` of its training FLOPs are spent; `eta` is in seconds, None where it
    is not known: nothing is running, or nothing was observed yet.
    """

    planned: int
    done: int
    diverged: int
    failed: int
    running: tuple[Underway, ...]
    stopped: tuple[Underway, ...]
    waiting: int
    share: float
    eta: float | None

    @property
    def finished(self) -> int:
        """Runs that have a result."""
        return self.done + self.diverged


@dataclass
class Clock:
    """Tells the speed of a sweep by looking at it: seconds of observation against FLOPs left."""

    seen: deque[tuple[float, float]] = field(default_factory=deque)

    def eta(self, now: float, left: float, prior: float | None) -> float | None:
        """Return the seconds until nothing is left, from the last quarter of an hour and the plan's speed
        (`prior`, in FLOPs per second, if it had one); None if neither says anything.
        """
        if self.seen and left > self.seen[-1][1]:
            self.seen.clear()  # more was planned, or runs were removed
        self.seen.append((now, left))
        while now - self.seen[0][0] > WINDOW:
            self.seen.popleft()
        spent, took = self.seen[0][1] - left, now - self.seen[0][0]
        if prior:  # how much longer predicted work has taken
            return left / prior * (took + TRUST) / (spent / prior + TRUST)
        return left * took / spent if spent > 0 else None


def progress(
    reader: Reader, runs: Sequence[str], work: Mapping[str, float], seconds: float, clock: Clock, now: float
) -> Progress:
    """Return how far `runs` are, by what the store holds of them at the moment.

    `work` has the FLOPs of each (see `work_of`), `seconds` is the time that was planned for all, 0 if it is
    not known; `now` a time in seconds.
    """
    states = {run: reader.rows[run]["status"] for run in runs if run in reader.rows}
    count = Counter(states.values())
    underway = reader.underway(runs)
    total = math.fsum(work.values())
    left = _left(work, states, underway)
    running = tuple(run for run in underway if run.running)
    eta = clock.eta(now, left, total / seconds if seconds else None)
    return Progress(
        planned=len(runs),
        done=count["done"],
        diverged=count["diverged"],
        failed=count["failed"],
        running=running,
        stopped=tuple(run for run in underway if not run.running and states[run.run] == "partial"),
        waiting=len(runs) - len(states),
        share=1 - left / total if total > 0 else 0.0,
        eta=eta if running else None,
    )


def _left(work: Mapping[str, float], states: Mapping[str, str], underway: Sequence[Underway]) -> float:
    """Return the FLOPs still to be spent. What failed is not expected to be tried again."""
    share = {run.run: 1 - run.step / run.steps for run in underway}
    return math.fsum(
        work[run] * share.get(run, 1.0)
        for run in work
        if states.get(run, "waiting") in ("waiting", "partial")
    )


def work_of(reader: Reader, runs: Sequence[str], plan: Mapping[str, Any]) -> dict[str, float]:
    """Return training FLOPs of each run. Of runs that share a trunk, all but the longest cost their decay alone."""
    configs = _configs(runs, plan)
    rate = _rates(reader, configs)
    trunk = {run: _trunk(config) for run, config in configs.items()}
    longest: dict[str, int] = {}
    for run, config in configs.items():
        longest[trunk[run]] = max(longest.get(trunk[run], 0), config["train"]["tokens"])
    work = {}
    for run, config in configs.items():
        train = config["train"]
        branches = _branches(train) and train["tokens"] < longest[trunk[run]]
        work[run] = rate[run] * train["tokens"] * (train.get("decay", 1.0) if branches else 1.0)
    typical = statistics.median(work.values()) if work else 1.0
    return {run: work.get(run, typical) for run in runs}


def _configs(runs: Sequence[str], plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return the planned configurations by run: both are written down in the same order."""
    planned = plan.get("runs", [])
    return dict(zip(runs, planned, strict=True)) if len(planned) == len(runs) else {}


def _branches(train: Mapping[str, Any]) -> bool:
    return train.get("schedule") == "wsd" and train.get("early_stop") is None


def _trunk(config: Mapping[str, Any]) -> str:
    """Return what runs that differ in their horizon alone have in common."""
    train = {key: value for key, value in config["train"].items() if key != "tokens"}
    return json.dumps({**config, "train": train}, sort_keys=True)


def _rates(reader: Reader, configs: Mapping[str, Any]) -> dict[str, float]:
    """Return the FLOPs a token of each run: as recorded for its shape, else 72 n_layer d_model^2, a transformer's."""
    frame = reader.frame
    known = frame[(frame["D"] > 0) & (frame["C_attention"] > 0)]
    measured = dict(
        zip(
            zip(known["family"], known["n_layer"], known["d_model"], strict=True),
            known["C_attention"] / known["D"],
            strict=True,
        )
    )
    rates = {}
    for run, config in configs.items():
        model = config["model"]
        shape = (model.get("family"), model.get("n_layer"), model.get("d_model"))
        guess = 72.0 * (model.get("n_layer") or 1) * (model.get("d_model") or 1) ** 2
        rates[run] = float(measured.get(shape, guess))
    return rates
