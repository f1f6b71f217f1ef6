"""The trackers that runs can be mirrored to. Each package is imported when it is used."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from allometry.errors import AllometryError, missing_extra
from allometry.runs.files import writing
from allometry.runs.sync import Parcel


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

    def send(self, parcel: Parcel) -> None:
        """Write one further event file into the run's folder."""
        with writing(self.folder / parcel.run):
            writer = self._writer(str(self.folder / parcel.run))
        try:
            if parcel.first:
                settings = {key: _plain(value) for key, value in parcel.config.items()}
                self._add(writer, self._hparams.hparams_pb(settings, trial_id=parcel.run), 0)
            for step, values in parcel.points:
                self._add(writer, _scalars(values), step)
            if parcel.final:
                final = {f"final/{key}": value for key, value in parcel.final.items()}
                self._add(writer, _scalars(final), int(parcel.final["S"]))
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

    def send(self, parcel: Parcel) -> None:
        """Send the run under its own id, continued if it is there already."""
        settings = self._wandb.Settings(silent=True, x_disable_stats=True, console="off", x_disable_meta=True)
        run = self._wandb.init(
            project=self.project, id=_identifier(parcel.run), name=parcel.run, config=parcel.config,
            mode=self.mode, resume="allow", reinit="finish_previous", save_code=False, settings=settings,
        )  # fmt: skip
        for step, values in parcel.points:
            run.log(values, step=step)
        if parcel.final:
            run.summary.update({**parcel.final, "status": parcel.status})
        run.finish(exit_code=1 if parcel.status == "failed" else 0)


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

    def send(self, parcel: Parcel) -> None:
        """Send the run under its own name, continued if it is there already."""
        run = self._trackio.init(
            project=self.project, name=parcel.run, config=parcel.config, resume="allow", embed=False,
            auto_log_gpu=False, auto_log_cpu=False,
        )  # fmt: skip
        for step, values in parcel.points:
            run.log(values, step=step)
        if parcel.final:
            final = {f"final/{key}": value for key, value in parcel.final.items()}
            run.log(final, step=int(parcel.final["S"]))
        run.finish()
