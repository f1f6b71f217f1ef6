"""The trackers that runs can be mirrored to. Each package is imported when it is used."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from allometry.core.errors import AllometryError, missing_extra
from allometry.core.files import writing

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
