"""The cores or GPUs of this machine as a pool of persistent worker processes of one thread each; and the choice of the
pool that the user asks for.

GPUs are found as PyTorch sees them, without loading it here, and only where there is a sign of any. Tasks go to a
worker, and messages come back, through pipes."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Self

from allometry.core.env import cores, cpu_model, package_version, thread_variables
from allometry.core.errors import AllometryError
from allometry.sweeps.pool import Message, Pool, Task, make_tokens
from allometry.sweeps.ray import RayPool

if TYPE_CHECKING:
    from allometry.runs.store import Store
    from allometry.sweeps import Sweep

_SIGNS = ("/dev/nvidia[0-9]*", "/proc/driver/nvidia/gpus/*", "/dev/kfd", "/dev/dxg")
"""Files that systems with GPUs have: NVIDIA's driver, AMD's, and Windows' under Linux."""

_ASK = """
import json, torch
devices = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
print(json.dumps([[each.name, each.total_memory] for each in devices]))
"""

_PATIENCE = 60.0


@dataclass(frozen=True)
class Gpu:
    """One GPU: what it is called, and bytes of memory. `visible` is its entry in CUDA_VISIBLE_DEVICES."""

    name: str
    memory: float
    visible: str


def gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that workers of this machine can use; none, quickly, where there is no sign of any."""
    return ask_for_gpus() if any(map(glob, _SIGNS)) else ()


@cache
def ask_for_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that PyTorch sees, in a process of its own: none if it was built without CUDA."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-W", "ignore", "-c", _ASK],
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=True,
        )
        found = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return ()
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = chosen.split(",") if chosen else [str(number) for number in range(len(found))]
    return tuple(Gpu(name, memory, names[number].strip()) for number, (name, memory) in enumerate(found))


def device_for(wanted: str) -> str:
    """Return what the option --device asks for, as "cuda" or "cpu": with "auto" the GPUs if there are any.

    AllometryError, with the remedy, if GPUs are asked for and PyTorch sees none.
    """
    if wanted == "auto":
        return "cuda" if gpus() else "cpu"
    if wanted == "cuda" and not ask_for_gpus():
        raise AllometryError(
            f"--device cuda: PyTorch sees no GPU here{_why()}",
            hint="--device cpu trains on the cores; for GPUs nvidia-smi must list them and PyTorch be built "
            "for CUDA: pip install torch --index-url https://download.pytorch.org/whl/cu128",
        )
    return wanted


def _why() -> str:

    version = package_version("torch") or "not installed"
    if version.endswith("+cpu"):
        return f" (it is torch {version}, built for CPUs only)"
    return f" (torch {version})" if any(map(glob, _SIGNS)) else ", and the system shows none"


class LocalPool:
    """As many workers as cores, or one for each GPU, each with one thread, alive until the pool is closed; a
    dead one is replaced.

    Use it as a context manager, from one thread (the kernel ends the workers when the thread that started
    them ends). Starting takes no time: the workers load torch while the caller goes on.
    """

    shared = False

    def __init__(
        self,
        workers: int | None = None,
        *,
        device: str = "cpu",
        device_memory: float | None = None,
        per_gpu: int = 1,
        pack: int | None = None,
    ) -> None:
        """`workers` defaults to the cores this process may use; with `device` "cuda" to `per_gpu` for each
        GPU. `device_memory` is what each may take (bytes), where that is known. `pack`: see `Pool`.
        """
        self.device, self.pack, self.lends = device, pack, device == "cpu"
        self.paces: dict[str, float] = {}
        self._gpus = ask_for_gpus() if device == "cuda" else ()
        self.workers = workers or (cores() if device == "cpu" else per_gpu * max(len(self._gpus), 1))
        if self.workers < 1:
            raise AllometryError(
                f"{self.workers} workers cannot train anything", hint="use --workers 1 or more"
            )
        sharing = -(-self.workers // max(len(self._gpus), 1))
        memory = min((gpu.memory for gpu in self._gpus), default=None)
        self.device_memory = memory / sharing if memory and device_memory is None else device_memory
        self._processes = [self._start(number) for number in range(self.workers)]

    def _start(self, number: int) -> Process:
        gpu = self._gpu(number)
        return Process(gpu.visible if gpu else None)

    def _gpu(self, number: int) -> Gpu | None:
        """The GPU of a worker: they take turns, so that none is idle while others are shared."""
        return self._gpus[number % len(self._gpus)] if self._gpus else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def slots(self) -> dict[int, float]:
        """The workers, each with the speed of its kind."""
        return {number: self.paces.get(self.kind(number), 1.0) for number in range(self.workers)}

    @property
    def kinds(self) -> dict[str, int]:
        """This machine's processor, or its GPUs."""
        return dict(Counter(map(self.kind, range(self.workers))).most_common())

    def kind(self, slot: int) -> str:
        """Return this machine's processor, or the GPU of that worker."""
        gpu = self._gpu(slot)
        return gpu.name if gpu else cpu_model()

    def node(self, slot: int) -> str:
        """Return this machine."""
        return "here"

    def width(self, devices: int) -> int:
        """Return a worker for each device: the first starts their processes, the others wait."""
        return devices

    def settle(self, sweep: Sweep, store: Store) -> dict[str, str]:
        """Make token sets here, once, and named: a corpus that changes later changes no run of the sweep.
        One that cannot be had is left to the runs that read it, which fail and say why.
        """
        return make_tokens(sweep)[0]

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the workers."""
        return tuple(process.process.pid for process in self._processes)

    def send(self, worker: int, task: Task) -> None:
        """Send a task to a worker (see `allometry.sweeps.worker`); it queues behind earlier ones."""
        own = {"device": self.device}
        if self._gpus:
            own["gpus"] = ",".join(
                self._gpus[slot % len(self._gpus)].visible for slot in task.get("slots", ())
            )
        self._processes[worker].send({**own, **task})

    def messages(self, timeout: float) -> Iterator[tuple[int, Message]]:
        """Yield the workers' messages, waiting at most `timeout` seconds for the first.

        A worker that died sends {"is": "died", "signal": name or None} and has been replaced already.
        """
        with selectors.DefaultSelector() as selector:
            for number, process in enumerate(self._processes):
                selector.register(process.output, selectors.EVENT_READ, number)
            speaking = [key.data for key, _ in selector.select(timeout)]
        for number in speaking:
            messages = self._processes[number].read()
            if messages is None:
                yield number, {"is": "died", "signal": self._replace(number)}
            else:
                for message in messages:
                    yield number, message

    def _replace(self, number: int) -> str | None:
        process = self._processes[number].process
        try:
            status = process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            status = self._processes[number].close()
        self._processes[number].close()
        self._processes[number] = self._start(number)
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
        paths = [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")]
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
        """Return the file descriptor that messages come from."""
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def send(self, task: Task) -> None:
        """Write one task; a process that is gone is noticed when it is read."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(task).encode() + b"\n")
            self.process.stdin.flush()

    def read(self) -> list[Message] | None:
        """Return the messages that have arrived; None when the process has ended."""
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


def open_pool(
    on: str | None = None,
    workers: int | None = None,
    *,
    device: str | None = None,
    per_gpu: int = 1,
    pack: int | None = None,
) -> Pool:
    """Open the pool that a name stands for: None or "local", "ray" (a cluster of this machine, or the one that
    RAY_ADDRESS names), or "ray://host:port".

    `device` is "cuda", "cpu" or "auto", which is the GPUs if there are any; without, this machine's cores, or
    a cluster's GPUs if it has any. `per_gpu` workers share each GPU; `pack` is how many runs may be trained
    as a pack (`Pool`). Raises AllometryError for other names, for a cluster that cannot be used, and for GPUs
    that are not there.
    """
    if on is None or on == "local":
        where = device_for(device or "cpu")
        if per_gpu != 1 and where == "cpu":
            raise AllometryError(
                "--per-gpu is about GPUs, and here runs are trained on cores",
                hint="leave it out, or use a cluster: --on ray --per-gpu 4",
            )
        return LocalPool(workers, device=where, per_gpu=per_gpu, pack=pack)
    if on == "ray" or on.startswith("ray://"):
        return RayPool(on, workers=workers, device=device, per_gpu=per_gpu, pack=pack)
    raise AllometryError(f"cannot run on {on!r}", hint="say --on local, --on ray or --on ray://HOST:10001")
