"""Train a run in a process that kills itself at an event: after a step, or in the middle of a write."""

import multiprocessing
import os
import signal
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

from allometry.train import loop
from allometry.train.config import RunConfig

Moment = Literal["never", "step", "checkpoint", "row"]
EVERY = 10
"""Steps between two checkpoints."""

PRELOADED = (
    "allometry.train.loop",
    "allometry.train.checkpoint",
    "allometry.train.engines.fast",
    "allometry.train.engines.reference",
    "allometry.models.modules.transformer",
)


def attempt(config: RunConfig, directory: Path, moment: Moment = "never", step: int = 0) -> int:
    """Train in another process, which kills itself at the first such moment after `step`; return its status.

    "step": when the step is done; "checkpoint": when the next checkpoint is on the disk, under its temporary
    name only; "row": when half of the next row of the curve is written.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED])  # imports torch once for all processes
    process = context.Process(target=_train, args=(config, directory, moment, step, dict(os.environ)))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _train(
    config: RunConfig, directory: Path, moment: Moment, step: int, environment: dict[str, str]
) -> None:
    import sys

    os.environ.update(environment)
    at = {"step": 0}
    on_progress = partial(_on_progress, at=at, moment=moment, step=step)
    if moment in ("checkpoint", "row"):
        sys.addaudithook(partial(_on_event, at=at, moment=moment, step=step))
    loop.PROGRESS_SECONDS = 0.0  # every step is reported
    # the clock of the loop counts steps, so that no checkpoint depends on how quick this machine is
    counting = {**vars(loop.time), "perf_counter": lambda: float(at["step"])}
    loop.time = SimpleNamespace(**counting)  # type: ignore[assignment]
    loop.train(config, directory, checkpoint_every=EVERY, on_progress=on_progress)


def _on_progress(progress: loop.Progress, *, at: dict[str, int], moment: Moment, step: int) -> None:
    at["step"] = progress.step
    if moment == "step" and progress.step == step:
        os.kill(os.getpid(), signal.SIGKILL)


def _on_event(
    name: str, arguments: tuple[object, ...], *, at: dict[str, int], moment: Moment, step: int
) -> None:
    """Hear what Python reports before it does it (sys.addaudithook)."""
    if at["step"] < step:
        return
    if moment == "checkpoint" and name == "os.rename" and "step-" in str(arguments[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    if moment == "row" and name == "open" and str(arguments[0]).endswith("curve.jsonl"):
        at["step"] = -1  # what follows opens the same file
        with open(str(arguments[0]), "a") as file:
            file.write('{"step": ')
        os.kill(os.getpid(), signal.SIGKILL)
