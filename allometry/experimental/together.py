"""Train one run on several devices, as child processes of this one: torchrun's launcher and what it starts.

Whoever starts them hears how far they are, can ask them to write a checkpoint and end, and learns whether
they ended, failed, or were killed. If this process ends, so do they. Run on cores; never measured on GPUs.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from allometry.core.env import thread_variables
from allometry.core.errors import AllometryError
from allometry.core.files import read_json
from allometry.train.config import RunConfig

Report = dict[str, Any]

_TICK = 0.2
"""Seconds between two looks whether to stop."""

_TAIL = 2000
"""Characters of standard error that an unexplained end is explained by."""


class Killed(Exception):
    """One of the processes was killed from outside, by `signal`: the run can continue from its checkpoint."""

    def __init__(self, signal: str) -> None:
        super().__init__(signal)
        self.signal = signal


class MultiProcess:
    """The processes that train one run; a context manager, which ends them all."""

    def __init__(
        self,
        config: RunConfig,
        directory: Path,
        *,
        device: str,
        branch_at: Sequence[int],
        checkpoint_every: float,
        cache: Path | None,
    ) -> None:
        """Start `config.devices` processes for the run in `directory`, which is named by the run's id; the other
        arguments are those of `allometry.train.loop.train`.
        """
        assert directory.name == config.id
        self.directory = directory
        self._folder = tempfile.TemporaryDirectory(prefix="allometry-together-")
        file = Path(self._folder.name) / "config.json"
        file.write_text(config.model_dump_json(), encoding="utf-8")
        self._errors = (Path(self._folder.name) / "errors.txt").open("wb+")
        own = ["--report", "--device", device, "--checkpoint-every", str(checkpoint_every)]
        own += [f"--branch-at={step}" for step in branch_at]
        own += [] if cache is None else ["--cache", str(cache)]
        self._process = _launch(file, directory.parent, config.devices, own, self._errors)
        self._buffer = b""
        self._failure: Report | None = None
        self._signals: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._drain()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()
        self._folder.cleanup()

    def result(self, on_report: Callable[[Report | None], None]) -> dict[str, Any]:
        """Wait for the end, and return the contents of result.json.

        `on_report` is called with every report of progress and, in between, with None; a KeyboardInterrupt
        from there is raised once the processes have written a checkpoint and ended. Raises Killed, and
        AllometryError if training failed.
        """
        try:
            while (reports := self._read()) is not None:
                for report in reports:
                    on_report(report)
                if not reports:
                    on_report(None)
        except KeyboardInterrupt:
            self._process.send_signal(signal.SIGTERM)  # torchrun passes it on
            self._drain()
            raise
        code = self._process.wait()
        result = read_json(self.directory / "result.json")
        if code == 0 and result is not None:
            return result
        raise self._why(code)

    def _read(self) -> list[Report] | None:
        """Return the reports of progress that arrive within a moment; None once every process has ended."""
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(_TICK):
                return []
        data = os.read(self._process.stdout.fileno(), 1 << 16)
        if not data:
            return None
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        return [report for line in lines if (report := self._heard(line))]

    def _heard(self, line: bytes) -> Report | None:
        """Return the report in a line if it is of progress; remember how a process ended; ignore other output."""
        if not line.startswith(b'{"is"'):
            return None
        with contextlib.suppress(ValueError):  # interleaved lines of two processes
            report: Report = json.loads(line)
            if report["is"] == "progress":
                return report
            if report["is"] == "failed":
                self._failure = self._failure or report
            elif report["is"] == "ended":
                self._signals = report["signals"]
        return None

    def _drain(self) -> None:
        """Read reports until every process has ended."""
        while self._read() is not None:
            pass

    def _why(self, code: int) -> Exception:
        """Return the error that ended the run. A killed process makes the others fail, so it explains them."""
        if code < 0 or self._signals:
            name = self._signals[0] if self._signals else signal.Signals(-code).name
            (self.directory / "error.txt").unlink(missing_ok=True)
            return Killed(name)
        if self._failure is not None:
            error = AllometryError(self._failure["error"], hint=self._failure["hint"])
            if self._failure["full"]:
                error.__cause__ = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return error
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip()[-_TAIL:]
        return AllometryError(f"torchrun ended with status {code}: {said}", hint="see the run's log.txt")


def _launch(
    config: Path, store: Path, devices: int, options: list[str], errors: Any
) -> subprocess.Popen[bytes]:
    from allometry.experimental.torchrun import launch_arguments

    # The processes import this package, and nothing from the user's current folder.
    search = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))
    launcher = [sys.executable, "-P", "-m", "allometry.experimental.launcher", str(os.getpid())]
    return subprocess.Popen(
        [*launcher, *launch_arguments(config, store, devices, options)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        env={**os.environ, **thread_variables(1), "PYTHONPATH": search, "PYTHONSAFEPATH": "1"},
    )
