"""A worker process: it imports torch once, then trains the runs that its parent names, one after the other.

Started as `python -m allometry.sweeps.worker PARENT`. Orders arrive on standard input and reports leave on
standard output, one JSON object a line. The worker ends when its parent does, however that ends.

Orders: {"do": "train", "config", "directory", "branch_at", "source", "threads", …}, {"do": "measure",
"config", "device"}, {"do": "stop"}. Reports: {"is": "ready"}, {"is": "branched"}, {"is": "progress", …},
{"is": "done", "result"}, {"is": "measured", …}, {"is": "failed", "error", "hint", "full"}, {"is": "stopped"}.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import queue
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from allometry.train.loop import Progress

_PR_SET_PDEATHSIG = 1


class Stopped(KeyboardInterrupt):
    """The parent asked for a stop: training ends as it does on ctrl-C, with its checkpoint kept."""


class Worker:
    """The loop of a worker process."""

    def __init__(self, orders: TextIO, reports: TextIO) -> None:
        self.orders: queue.Queue[dict[str, Any]] = queue.Queue()
        self.stopping = threading.Event()
        self._reports = reports
        threading.Thread(target=self._listen, args=(orders,), daemon=True).start()

    def _listen(self, orders: TextIO) -> None:
        for line in orders:
            order = json.loads(line)
            if order["do"] == "stop":
                self.stopping.set()
            self.orders.put(order)
        os._exit(1)  # the parent is gone: nobody is left to report to

    def report(self, kind: str, **fields: Any) -> None:
        """Send one report to the parent; if it is gone, so is the worker, and no run counts as failed."""
        try:
            self._reports.write(json.dumps({"is": kind, **fields}) + "\n")
            self._reports.flush()
        except OSError:
            os._exit(1)

    def run(self) -> None:
        """Serve orders until told to stop."""
        import torch

        torch.set_num_threads(1)
        self.report("ready")
        while True:
            order = self.orders.get()
            if order["do"] == "stop":
                self.report("stopped")
                return
            self._serve(order)

    def _serve(self, order: dict[str, Any]) -> None:
        try:
            if order["do"] == "train":
                self.report("done", result=self._train(order))
            else:
                self.report("measured", **_measure(order))
        except Stopped:
            return  # the order to stop is still in the queue, and is answered there
        except BaseException as error:
            self._fail(order, error)

    def _train(self, order: dict[str, Any]) -> dict[str, Any]:
        from allometry.train.config import RunConfig
        from allometry.train.loop import train

        directory = Path(order["directory"])
        (directory / "error.txt").unlink(missing_ok=True)
        if order["source"] is not None:
            self._branch(directory, *order["source"])
        return train(
            RunConfig.model_validate(order["config"]),
            directory,
            threads=order["threads"],
            device=order["device"],
            branch_at=tuple(order["branch_at"]),
            on_progress=self._progress,
            checkpoint_every=order["checkpoint_every"],
        )

    def _branch(self, directory: Path, source: str, step: int) -> None:
        """Start from another run's trunk; if its branch point is damaged, from the beginning."""
        from allometry.errors import AllometryError
        from allometry.runs.files import is_full
        from allometry.train.checkpoint import branch

        try:
            branch(Path(source), step, directory)
        except AllometryError as error:
            if is_full(error):
                raise
        self.report("branched")

    def _progress(self, at: Progress) -> None:
        if self.stopping.is_set():
            raise Stopped
        loss = at.train_loss if at.loss is None else at.loss
        self.report("progress", step=at.step, loss=loss, train_loss=at.train_loss, pace=at.tokens_per_second)

    def _fail(self, order: dict[str, Any], error: BaseException) -> None:
        """Keep the failure with the run, and report it in a sentence."""
        from allometry.errors import AllometryError
        from allometry.runs.files import is_full

        known = isinstance(error, AllometryError)
        message = error.message if isinstance(error, AllometryError) else f"{type(error).__name__}: {error}"
        hint = error.hint if isinstance(error, AllometryError) else None
        if order["do"] == "train" and not (Path(order["directory"]) / "error.txt").exists():
            text = str(error) if known else "".join(traceback.format_exception(error))
            with contextlib.suppress(OSError, AllometryError):
                keep_failure(Path(order["directory"]), text)
        self.report("failed", error=message, hint=hint, full=is_full(error))


def keep_failure(directory: Path, text: str) -> None:
    """Write down in a run's directory why it failed."""
    from allometry.runs.files import write_text

    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / "error.txt", text.rstrip() + "\n")


def _measure(order: dict[str, Any]) -> dict[str, Any]:
    from allometry.sweeps.measure import measure
    from allometry.train.config import RunConfig

    return measure(RunConfig.model_validate(order["config"]), device=order["device"])


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, also when the parent is killed (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)


def main() -> None:
    """Entry point of the process: nothing but reports may reach the pipe, so prints go to standard error."""
    die_with(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    reports = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    Worker(sys.stdin, reports).run()


if __name__ == "__main__":
    main()
