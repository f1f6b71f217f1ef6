"""The cores of this machine as a pool of persistent single-thread worker processes."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from allometry.env import cores, cpu_model, thread_variables
from allometry.errors import AllometryError
from allometry.sweeps.pool import Report

if TYPE_CHECKING:
    from allometry.runs.store import Store
    from allometry.sweeps.sweep import Sweep


class _Process:
    """One worker process and what is still unread from it."""

    def __init__(self, device: str) -> None:
        # The worker imports this very package, and nothing from the folder that the user happens to be in.
        paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        search = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        self.device = device
        self.buffer = b""
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "allometry.sweeps.worker", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **thread_variables(1), **search},
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


class LocalPool:
    """As many workers as cores, each with one thread, alive until the pool is closed; a dead one is replaced.

    Use it as a context manager, from one thread (the kernel ends the workers when the thread that started
    them ends). Starting takes no time: the workers load torch while the caller goes on.
    """

    shared = False

    def __init__(
        self, workers: int | None = None, *, device: str = "cpu", device_memory: float | None = None
    ) -> None:
        """`workers` defaults to the cores this process may use; on an accelerator to one. `device_memory` is
        what each may take (bytes), where that is known."""
        self.device, self.device_memory = device, device_memory
        self.paces: dict[str, float] = {}
        self.workers = workers or (cores() if device == "cpu" else 1)
        if self.workers < 1:
            raise AllometryError(
                f"{self.workers} workers cannot train anything", hint="use --workers 1 or more"
            )
        self._processes = [_Process(device) for _ in range(self.workers)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def slots(self) -> dict[int, float]:
        """The workers, all alike."""
        return dict.fromkeys(range(self.workers), 1.0)

    @property
    def kinds(self) -> dict[str, int]:
        """This machine's processor."""
        return {cpu_model(): self.workers}

    def kind(self, slot: int) -> str:
        """This machine's processor."""
        return cpu_model()

    def node(self, slot: int) -> str:
        """This machine."""
        return "here"

    def width(self, devices: int) -> int:
        """A worker for each device: the first starts their processes, the others wait."""
        return devices

    def settle(self, sweep: Sweep, store: Store) -> dict[str, str]:
        """Nothing to do: the workers see what this process sees."""
        return {}

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the workers."""
        return tuple(process.process.pid for process in self._processes)

    def send(self, worker: int, order: Mapping[str, Any]) -> None:
        """Give an order to a worker (see `allometry.sweeps.worker`); it queues behind earlier ones."""
        self._processes[worker].send({"device": self.device, **order})

    def reports(self, timeout: float) -> Iterator[tuple[int, Report]]:
        """What the workers have to say, waiting at most `timeout` seconds for the first to speak.

        A worker that died reports {"is": "died", "signal": name or None} and has been replaced already.
        """
        with selectors.DefaultSelector() as selector:
            for number, process in enumerate(self._processes):
                selector.register(process.output, selectors.EVENT_READ, number)
            speaking = [key.data for key, _ in selector.select(timeout)]
        for number in speaking:
            reports = self._processes[number].read()
            if reports is None:
                yield number, {"is": "died", "signal": self._replace(number)}
            else:
                for report in reports:
                    yield number, report

    def _replace(self, number: int) -> str | None:
        process = self._processes[number].process
        try:
            status = process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            status = self._processes[number].close()
        self._processes[number].close()
        self._processes[number] = _Process(self.device)
        return signal.Signals(-status).name if status < 0 else None

    def stop(self, grace: float = 2.0) -> None:
        """Ask all workers to write their checkpoints and end; those still there after `grace` seconds are
        killed.
        """
        for process in self._processes:
            process.send({"do": "stop"})
        until = time.monotonic() + grace
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.process.wait(timeout=max(0.0, until - time.monotonic()))
        self.close()

    def close(self) -> None:
        """End the workers at once."""
        for process in self._processes:
            process.close()
        self._processes = []
