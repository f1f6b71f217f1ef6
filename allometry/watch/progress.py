"""How far a sweep is: runs by state, the share of the work that is done, and when it will be finished."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from allometry.watch.reader import Reader, Underway

TRUST = 5.0
"""Seconds of observed work that the plan's own estimate of the speed is worth."""

WINDOW = 900.0
"""Seconds of the past from which the speed is told."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A sweep at one moment. `share` of its training FLOPs are spent; `eta` is in seconds, None where it
    cannot be told: nothing is running, or nothing was observed yet.
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
