"""Mirror the store's runs in an experiment tracker: read from the files, never written by training.

What has been sent is written down, so that the same command sends only what is new: further points of runs
that have grown, and the results of runs that have ended. Each tracker's package is imported when it is used.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from allometry.core.errors import AllometryError, missing_extra, unknown
from allometry.core.files import read_json, write_json, writing
from allometry.runs.query import flatten
from allometry.runs.record import FINISHED, FORMAT, RunRecord
from allometry.runs.store import Store

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


Values = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class RunUpdate:
    """The news of a run for a tracker: points (step, values) and, once it has ended, its final values.

    `first` says that the tracker knows nothing of the run; `config` is flat: {"model.n_layer": 2, …}.
    """

    run: str
    first: bool
    config: dict[str, Any]
    points: tuple[tuple[int, Values], ...]
    status: str
    final: Values

    @property
    def step(self) -> int:
        """The last step of the points; 0 if there are none."""
        return self.points[-1][0] if self.points else 0


class TensorBoard:
    """Event files, one folder a run: curves as scalars, the configuration as hyper-parameters, final values
    as `final/…`.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboard.plugins.hparams import summary_v2
            from tensorboard.summary.writer import event_file_writer
        except ImportError as error:
            raise missing_extra("tensorboard", "tensorboard", "writing event files") from error
        self._writer, self._hparams = event_file_writer.EventFileWriter, summary_v2
        self.folder = folder
        self.record = folder / ".allometry.json"
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def send(self, update: RunUpdate) -> None:
        """Write one further event file into the run's folder."""
        with writing(self.folder / update.run):
            writer = self._writer(str(self.folder / update.run))
        try:
            if update.first:
                settings = {key: _plain(value) for key, value in update.config.items()}
                self._add(writer, self._hparams.hparams_pb(settings, trial_id=update.run), 0)
            for step, values in update.points:
                self._add(writer, _scalars(values), step)
            if update.final:
                final = {f"final/{key}": value for key, value in update.final.items()}
                self._add(writer, _scalars(final), int(update.final["S"]))
        finally:
            writer.close()

    def _add(self, writer: Any, summary: Any, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))


def _scalars(values: Mapping[str, float]) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary(value=[Summary.Value(tag=key, simple_value=value) for key, value in values.items()])


def _plain(value: Any) -> str | float | bool:
    """Return a setting in a form that the hyper-parameters of TensorBoard can hold."""
    return value if isinstance(value, bool | int | float | str) else str(value)


class WandB:
    """Runs of a Weights & Biases project, by the run's id; offline, as files that `wandb sync` uploads."""

    def __init__(self, project: str, record: Path, *, offline: bool) -> None:
        try:
            import wandb
        except ImportError as error:
            raise missing_extra("wandb", "wandb", "a mirror at Weights & Biases") from error
        self._wandb, self.project, self.record = wandb, project, record
        self.mode: Literal["offline", "online"] = (
            "offline" if offline or os.environ.get("WANDB_MODE") == "offline" else "online"
        )
        if self.mode == "online" and not wandb.Api().api_key:
            raise AllometryError(
                "Weights & Biases does not know who you are", hint="wandb login, or add --offline"
            )

    def send(self, update: RunUpdate) -> None:
        """Send the run under its own id, continued if it is there already."""
        settings = self._wandb.Settings(silent=True, x_disable_stats=True, console="off", x_disable_meta=True)
        run = self._wandb.init(
            project=self.project, id=_identifier(update.run), name=update.run, config=update.config,
            mode=self.mode, resume="allow", reinit="finish_previous", save_code=False, settings=settings,
        )  # fmt: skip
        for step, values in update.points:
            run.log(values, step=step)
        if update.final:
            run.summary.update({**update.final, "status": update.status})
        run.finish(exit_code=1 if update.status == "failed" else 0)


def _identifier(run: str) -> str:
    """Return a run's id as a tracker accepts it: at most 64 characters, none of / \\ # ? % :."""
    return re.sub(r"[/\\#?%:]", "_", run)[-64:]


class Trackio:
    """Runs of a trackio project on this machine."""

    def __init__(self, project: str, record: Path) -> None:
        try:
            import trackio
        except ImportError as error:
            raise missing_extra("trackio", "trackio", "a mirror in trackio") from error
        self._trackio, self.project, self.record = trackio, project, record

    def send(self, update: RunUpdate) -> None:
        """Send the run under its own name, continued if it is there already."""
        run = self._trackio.init(
            project=self.project, name=update.run, config=update.config, resume="allow", embed=False,
            auto_log_gpu=False, auto_log_cpu=False,
        )  # fmt: skip
        for step, values in update.points:
            run.log(values, step=step)
        if update.final:
            final = {f"final/{key}": value for key, value in update.final.items()}
            run.log(final, step=int(update.final["S"]))
        run.finish()
