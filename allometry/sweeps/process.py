"""One worker process of this machine, seen from its parent: orders go in, reports come out, by pipes."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from allometry.env import thread_variables
from allometry.sweeps.pool import Report

WORKER = ("-m", "allometry.sweeps.worker")
"""What Python runs as a worker."""


class Process:
    """One worker process and what is still unread from it."""

    def __init__(self, gpus: str | None = None, program: Sequence[str] = WORKER) -> None:
        """Start a worker.

        `gpus` are those that it sees (CUDA_VISIBLE_DEVICES); None: what this process sees. `program`: what
        Python runs; the process id of this process is its last argument.
        """
        # The worker imports this very package, and nothing from the folder that the user happens to be in.
        paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        own = {} if gpus is None else {"CUDA_VISIBLE_DEVICES": gpus}
        search = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        self.buffer = b""
        self.process = subprocess.Popen(
            [sys.executable, "-P", *program, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **thread_variables(1), **search, **own},
            start_new_session=True,  # ctrl-C reaches the parent alone, which stops the workers in order
        )

    @property
    def output(self) -> int:
        """File descriptor that reports come from."""
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def send(self, order: Mapping[str, Any]) -> None:
        """Write one order; a process that is gone is noticed when it is read."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(order).encode() + b"\n")
            self.process.stdin.flush()

    def read(self) -> list[Report] | None:
        """Reports that have arrived; None when the process has ended."""
        data = os.read(self.output, 1 << 16)
        if not data:
            return None
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> int:
        """Make sure that the process is gone; returns its exit status."""
        self.process.kill()
        status = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        return status
