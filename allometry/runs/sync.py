"""A mirror of the store's runs in an experiment tracker: read from the files, never written by training.

What has been sent is written down, so that the same command sends only what is new: further points of runs
that have grown, and the results of runs that have ended.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from allometry.core.errors import AllometryError, unknown
from allometry.core.files import read_json, write_json
from allometry.runs.diff import flatten
from allometry.runs.record import FINISHED, FORMAT, RunRecord
from allometry.runs.store import Store
from allometry.runs.sync_targets import RunUpdate, TensorBoard, Trackio, Values, WandB

PROJECT = "allometry"
"""Name of the project where none is given."""


class Tracker(Protocol):
    """An experiment tracker to which runs are mirrored."""

    record: Path
    """The file that records what has been sent."""

    def send(self, update: RunUpdate) -> None:
        """Send what is new of one run."""


@dataclass(frozen=True, kw_only=True)
class Synced:
    """How many runs were sent for the first time, were continued, and had nothing new."""

    new: int
    continued: int
    unchanged: int


def tracker(target: str, store: Store, *, offline: bool = False) -> Tracker:
    """Return the tracker that "tensorboard:FOLDER", "wandb[:PROJECT]" or "trackio[:PROJECT]" names.

    `offline` (Weights & Biases only) writes files that `wandb sync` uploads. Raises AllometryError for
    anything else, or a package that is not installed.
    """
    kind, _, where = target.partition(":")
    if offline and kind != "wandb":
        raise AllometryError("--offline is for wandb: the others write to this machine", hint="leave it out")
    if kind == "tensorboard":
        if not where:
            raise AllometryError("tensorboard needs a folder", hint="--to tensorboard:FOLDER")
        return TensorBoard(Path(where).expanduser())
    makers: dict[str, Callable[[], Tracker]] = {
        "wandb": lambda: WandB(where or PROJECT, _record(store, target, offline), offline=offline),
        "trackio": lambda: Trackio(where or PROJECT, _record(store, target)),
    }
    if kind not in makers:
        raise unknown("tracker", kind, ["tensorboard", *makers])
    return makers[kind]()


def _record(store: Store, target: str, offline: bool = False) -> Path:
    """Return the file in which the store records what has been sent to a target without a folder of its own."""
    name = hashlib.sha256(f"{target} {offline}".encode()).hexdigest()[:12]
    return store.path / f".sync-{name}.json"


def sync(
    store: Store, to: Tracker, where: str = "", *, on_run: Callable[[str], None] | None = None
) -> Synced:
    """Send to a tracker what it has not seen of the runs that satisfy `where`.

    Interrupted, it goes on where it stopped. Raises AllometryError for a record of what was sent that is
    damaged, and what the tracker cannot take.
    """
    sent = dict((read_json(to.record) or {}).get("runs", {}))
    table = store.frame(where)
    new = continued = 0
    try:
        for run, step, status in zip(table["run"], table["S"], table["status"], strict=True):
            state = [int(step), str(status)]
            before = sent.get(run)
            if before == state:
                continue
            to.send(run_update(store.get(run), before))
            sent[run] = state
            new, continued = new + (before is None), continued + (before is not None)
            if on_run is not None:
                on_run(run)
    finally:
        if new or continued:
            write_json(to.record, {"format": FORMAT, "runs": sent})
    return Synced(new=new, continued=continued, unchanged=len(table) - new - continued)


def run_update(record: RunRecord, before: list[Any] | None) -> RunUpdate:
    """Return what is new of a run of which step and status `before` have been sent (None: nothing has)."""
    seen = before[0] if before else 0
    ended = record.status in FINISHED and (before is None or before[1] not in FINISHED)
    return RunUpdate(
        run=record.id,
        first=before is None,
        config={**flatten(record.config), **{f"counts.{key}": value for key, value in record.counts.items()}},
        points=tuple((step, values) for step, values in _points(record) if step > seen),
        status=record.status,
        final=_final(record) if ended else {},
    )


def _points(record: RunRecord) -> Iterator[tuple[int, Values]]:
    """Yield step and finite values of each row of a curve."""
    frame = record.curve.frame.drop(columns="run").select_dtypes("number")
    for row in frame.to_dict("records"):
        step = int(row.pop("step"))
        yield step, {str(key): float(value) for key, value in row.items() if math.isfinite(value)}


def _final(record: RunRecord) -> Values:
    """Return the numbers of a run's row in the run table."""
    numbers = {
        key: float(value)
        for key, value in record.row().items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return {key: value for key, value in numbers.items() if math.isfinite(value)}
