"""The processes that train one run: usually only this one, else those that torchrun has started.

All of them follow the same loop and hold the same position. The one that leads writes the run's directory;
the others write to a temporary one that nobody reads. Whatever depends on a clock is decided by the leader.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Self

from allometry.train import checkpoint
from allometry.train.checkpoint import Position
from allometry.train.engines.select import engine

if TYPE_CHECKING:
    from allometry.train.config import RunConfig
    from allometry.train.engines.base import Engine

_BYTES_PER_PARAMETER = 16
"""fp32 parameter, gradient and two moments."""

_SHARE = 0.5
"""Of a device's memory that may go into them; the rest is for activations."""


class SingleProcess:
    """This process trains the run by itself."""

    leads = True

    def directory(self, home: Path) -> Path:
        """Return the folder in which this process writes the files of the run's directory."""
        return home

    def agree(self, decision: bool) -> bool:
        """Return the leader's decision."""
        return decision

    def engine(self, name: str, config: RunConfig, threads: int, device: str) -> Engine:
        """Return the engine of that name, or the fastest for "auto"; a run that began in a pack continues with
        "fast".
        """
        return engine("fast" if name == "packed" else name, config, threads=threads, device=device)

    def save(self, home: Path, config: RunConfig, engine: Engine, position: Position) -> None:
        """Write the run's newest checkpoint."""
        checkpoint.write_checkpoint(home, config, engine.state(), position)

    def clear(self, directory: Path) -> None:
        """Remove every checkpoint that only serves to continue the run."""
        from allometry.train import sharded

        sharded.clear(directory)
        checkpoint.drop_all(directory)

    def restore(
        self, home: Path, config: RunConfig, log: Callable[[str], None]
    ) -> tuple[Position, Callable[[Engine], None]] | None:
        """Return the position of the newest checkpoint, and a function that loads its state into an engine; None
        without one.
        """
        from allometry.train import sharded

        divided = sharded.newest(home, config, log)
        found = checkpoint.read_newest(home, config, log)
        if divided is not None and (found is None or divided[1].step > found[1].step):
            folder, position = divided
            return position, lambda engine: sharded.load(folder, engine)
        if found is None:
            return None
        state, position = found
        return position, lambda engine: engine.load_state(state)


class Torchrun(SingleProcess):
    """The processes that torchrun has started; use it as a context manager."""

    def __init__(
        self,
        *,
        device: str = "cpu",
        sharded: bool | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """Join the process group. `sharded`: divide the model's state among the devices (FSDP2) or copy it
        (DDP); None divides it if it does not fit one. `stopping` says whether this process was asked to end:
        when the leader was, all write a checkpoint and raise KeyboardInterrupt.
        """
        import torch
        import torch.distributed as dist

        self._torch, self._dist, self._device, self._sharded = torch, dist, device, sharded
        self._stopping = stopping
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        self.leads = dist.get_rank() == 0
        self._scratch = tempfile.TemporaryDirectory(prefix="allometry-rank-")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._dist.destroy_process_group()
        self._scratch.cleanup()

    def directory(self, home: Path) -> Path:
        """Return the run's directory in the leader, a temporary one in the others."""
        return home if self.leads else Path(self._scratch.name) / home.name

    def agree(self, decision: bool) -> bool:
        """Return the leader's decision, or true if the leader was asked to end: the loop then has nothing to do,
        or writes its last checkpoint.
        """
        said = self._torch.tensor([float(decision or self._stopping())], device=self._device)
        self._dist.broadcast(said, src=0)
        return bool(said.item())

    def engine(self, name: str, config: RunConfig, threads: int, device: str) -> Engine:
        """Return the engine that divides batches among the processes, for any name."""
        from allometry.train.engines.parallel import ParallelEngine

        sharded = self._sharded
        if sharded is None:
            sharded = is_divided(config, _room(device))
        return ParallelEngine(config, threads=threads, device=device, sharded=sharded)

    def save(self, home: Path, config: RunConfig, engine: Engine, position: Position) -> None:
        """Save a distributed checkpoint: see `SingleProcess.save`."""
        from allometry.train import sharded

        sharded.write(home, config, engine, position, leads=self.leads)
        if self.agree(False):
            raise KeyboardInterrupt


def _room(device: str) -> float:
    """Return the bytes of memory that this process's device has for it."""
    import torch

    from allometry.core.env import memory

    if device.startswith("cuda"):
        return float(torch.cuda.get_device_properties(device).total_memory)
    return memory() / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_divided(config: RunConfig, room: float) -> bool:
    """Return whether parameters, gradients and moments are divided among devices of `room` bytes, because one
    device could not hold them besides the activations.
    """
    return config.model.counts().N_total * _BYTES_PER_PARAMETER >= _SHARE * room
