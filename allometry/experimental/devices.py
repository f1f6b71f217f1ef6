"""One step on many devices: every process of a torchrun group takes its share of the sequences of a batch.

The model is copied to each device (DDP), or parameters, gradients and moments are divided among them (FSDP2)
when they do not fit one. The update is the one that every engine makes (`Engine.step`), so the losses are
those of one device within rounding; dropout masks differ with the number of devices.
Run on processes of one CPU with gloo; never measured on GPUs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from allometry.core.env import memory
from allometry.core.errors import AllometryError
from allometry.core.files import write_json, writing
from allometry.train.checkpoint import KEPT, SHARDED_POSITION, Position, folder, sharded_newest_first
from allometry.train.config import is_divided
from allometry.train.engines.base import (
    ADAM_EPS,
    CLIP_EPS,
    Engine,
    Floats,
    State,
    StepResult,
    Tokens,
    decays,
    normalised,
)
from allometry.train.engines.reference import as_tensor, dropout_masks
from allometry.train.loop import SingleProcess

if TYPE_CHECKING:
    from allometry.train.config import RunConfig


ROWS_OF_TOKENS = 16_384
"""Tokens that go through a device at once; a larger share of the batch is accumulated."""


class ParallelEngine(Engine):
    """The engine of each process of an initialised group; all of them must make the same calls."""

    name = "parallel"

    @classmethod
    def unsupported_reason(cls, config: RunConfig) -> str | None:
        """Return why the batch cannot be divided among the processes, or None."""
        return config.undivided(dist.get_world_size())

    def __init__(
        self,
        config: RunConfig,
        *,
        threads: int = 1,
        device: str = "cpu",
        sharded: bool = False,
        tokens_at_once: int = ROWS_OF_TOKENS,
    ) -> None:
        """Copy the model to each process (DDP) or, with `sharded`, divide its state among them (FSDP2)."""
        lack = self.unsupported_reason(config)
        if lack:
            raise AllometryError(lack, hint="choose batch_tokens a multiple of n_ctx times the devices")
        torch.set_num_threads(threads)
        self.config, self.device, self.sharded = config.train, torch.device(device), sharded
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.rows_at_once = max(1, tokens_at_once // config.model.n_ctx)
        self.model: nn.Module = config.model.build(config.train.seed).to(self.device)
        self.runner: Any = _shard(self.model) if sharded else DistributedDataParallel(self.model)
        self.parameters: dict[str, Tensor] = dict(self.model.named_parameters())
        self.m = {name: torch.zeros_like(_local(p)) for name, p in self.parameters.items()}
        self.v = {name: torch.zeros_like(_local(p)) for name, p in self.parameters.items()}

    def step(self, batch: Tokens, *, lr: float, step: int, weights: Floats | None = None) -> StepResult:
        """Make one update on the whole batch, of which each process computes its share; see `Engine.step`."""
        loss = self._backward(batch, step, weights)
        norm = self._norm()
        scale = 1.0
        if self.config.clip is not None and norm > self.config.clip:
            scale = self.config.clip / (norm + CLIP_EPS)
        for name in self.parameters:
            self._adamw(name, lr, step, scale)
        return StepResult(loss, norm)

    def _backward(self, batch: Tokens, step: int, weights: Floats | None) -> float:
        """Leave the gradient of the batch's loss in `.grad`, and return the loss, in every process."""
        self.model.train()
        self._forget()
        tokens = batch[:, 1:].size
        share = (
            np.full(batch[:, 1:].shape, 1 / tokens, np.float32) if weights is None else normalised(weights)
        )
        mine, mine_share = batch[self.rank :: self.world], share[self.rank :: self.world]
        total = torch.zeros((), device=self.device)
        firsts = range(0, len(mine), self.rows_at_once)
        for first in firsts:
            rows = slice(first, first + self.rows_at_once)
            draw = (step * self.world + self.rank) * len(firsts) + first // self.rows_at_once
            with self._synchronised(first == firsts[-1]), dropout_masks(self.config.seed, draw, self.device):
                loss, extra = self._loss(mine[rows], mine_share[rows], len(batch))
                ((loss + extra) * self.world).backward()  # gradients are averaged over the processes
            total += loss.detach()
        dist.all_reduce(total)
        return float(total)

    def _loss(self, rows: Tokens, share: Floats, of: int) -> tuple[Tensor, Tensor]:
        """Return these sequences' part of the batch's loss, and of the auxiliary loss that its family adds in
        training.
        """
        tokens = as_tensor(rows, self.device)
        logits = self.runner(tokens[:, :-1]).flatten(0, 1).float()
        each = F.cross_entropy(logits, tokens[:, 1:].flatten(), reduction="none")
        loss = (each * torch.from_numpy(np.ascontiguousarray(share)).to(self.device).flatten()).sum()
        extra = getattr(self.model, "auxiliary_loss", None)
        return loss, loss.new_zeros(()) if extra is None else extra * (len(rows) / of)

    @contextlib.contextmanager
    def _synchronised(self, last: bool) -> Iterator[None]:
        """Synchronise gradients between the processes only for the last part of a batch."""
        if self.sharded:
            self.runner.set_requires_gradient_sync(last)
            yield
        elif last:
            yield
        else:
            with self.runner.no_sync():
                yield

    def _norm(self) -> float:
        squares = [_local(p.grad).square().sum() for p in self.parameters.values() if p.grad is not None]
        total = torch.stack(squares).sum()
        if self.sharded:
            dist.all_reduce(total)
        return float(total.sqrt())

    @torch.no_grad()
    def _adamw(self, name: str, lr: float, step: int, scale: float) -> None:
        parameter, m, v = self.parameters[name], self.m[name], self.v[name]
        if parameter.grad is None:  # a parameter that this configuration does not use
            return
        p, g = _local(parameter), _local(parameter.grad) * scale
        beta1, beta2 = self.config.beta1, self.config.beta2
        m.mul_(beta1).add_(g, alpha=1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        if decays(name, parameter.shape):
            p.mul_(1 - lr * self.config.weight_decay)
        p.addcdiv_(m / (1 - beta1**step), (v / (1 - beta2**step)).sqrt_().add_(ADAM_EPS), value=-lr)

    def gradients(
        self, windows: Tokens, *, step: int = 1, weights: Floats | None = None
    ) -> tuple[float, dict[str, Floats]]:
        """Return loss and gradients: see `Engine.gradients`. The number of sequences must be a multiple of the
        devices.
        """
        loss = self._backward(windows, step, weights)
        gradients = {
            name: _whole(p.grad).cpu().numpy() for name, p in self.parameters.items() if p.grad is not None
        }
        self._forget()
        return loss, gradients

    def _forget(self) -> None:
        """Remove the gradients, by parameter name: while it is gathered, FSDP shows the module other tensors."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def losses(self, windows: Tokens) -> NDArray[np.float32]:
        """Return the losses, of which each process evaluates its share: see `Engine.losses`."""
        return self._each(windows, lambda logits, targets: F.cross_entropy(logits, targets, reduction="none"))

    def hits(self, windows: Tokens) -> NDArray[np.bool_]:
        """Return which predictions are right: see `Engine.hits`."""
        return self._each(windows, lambda logits, targets: (logits.argmax(1) == targets).float()) > 0.5

    @torch.no_grad()
    def _each(self, windows: Tokens, measure: Any) -> NDArray[np.float32]:
        """Return `measure` of every predicted token, computed where its sequence is and gathered in every process."""
        self.model.eval()
        found = torch.zeros(windows[:, 1:].shape, device=self.device)
        per_process = -(-len(windows) // self.world)  # equal in all: FSDP gathers are collective
        for first in range(0, per_process, self.rows_at_once):
            wanted = np.arange(first, min(first + self.rows_at_once, per_process)) * self.world + self.rank
            rows = wanted % len(windows)  # past the end: computed again, with equal results
            tokens = as_tensor(windows[rows], self.device)
            logits = self.model(tokens[:, :-1]).flatten(0, 1).float()
            values = measure(logits, tokens[:, 1:].flatten()).view(len(rows), -1)
            keep = torch.from_numpy(wanted < len(windows)).to(self.device)
            found[torch.from_numpy(rows).to(self.device)[keep]] = values[keep]
        if self.sharded:
            self.runner.reshard()  # FSDP keeps the root gathered for a backward pass, and there is none
        dist.all_reduce(found)
        return found.cpu().numpy()

    def state(self) -> State:
        """Return parameters and moments, gathered, the same in every process: see `Engine.state`."""
        return {name: _whole(tensor).cpu().numpy().copy() for name, tensor in self._tensors().items()}

    @torch.no_grad()
    def load_state(self, state: State) -> None:
        """Continue from the state of any engine."""
        for name, tensor in self._tensors().items():
            given = torch.from_numpy(state[name]).to(self.device)
            if isinstance(tensor, DTensor):
                given = distribute_tensor(given, tensor.device_mesh, tensor.placements).to_local()
            _local(tensor).copy_(given)

    def save(self, folder: Path) -> None:
        """Write the state as a distributed checkpoint: each process writes what it holds."""
        dcp.save(dict(self._tensors()), checkpoint_id=str(folder))

    def load(self, folder: Path) -> None:
        """Continue from a distributed checkpoint, of any number of processes."""
        dcp.load(dict(self._tensors()), checkpoint_id=str(folder))

    def _tensors(self) -> dict[str, Tensor]:
        """Return all that training changes, under the names of `Engine.state`, divided as the parameters are."""
        found: dict[str, Tensor] = {}
        for name, p in self.parameters.items():
            found[f"params/{name}"] = p.detach()
            found[f"adam_m/{name}"] = _divided_like(p, self.m[name])
            found[f"adam_v/{name}"] = _divided_like(p, self.v[name])
        return found


def _shard(model: nn.Module) -> nn.Module:
    """Divide the parameters of each layer, and of the whole, among the processes of the group."""
    layers = {
        id(layer): layer for each in model.modules() if isinstance(each, nn.ModuleList) for layer in each
    }
    for layer in layers.values():
        fully_shard(layer)
    fully_shard(model)
    return model


def _local(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor.detach()


def _whole(tensor: Tensor) -> Tensor:
    """Gather the whole of a tensor."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _divided_like(parameter: Tensor, local: Tensor) -> Tensor:
    """Return the tensor of which this process holds `local`, divided as the parameter is."""
    if not isinstance(parameter, DTensor):
        return local
    return DTensor.from_local(
        local,
        parameter.device_mesh,
        parameter.placements,
        shape=parameter.shape,
        stride=parameter.stride(),
        run_check=False,
    )


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
        sharded = self._sharded
        if sharded is None:
            sharded = is_divided(config, _room(device))
        return ParallelEngine(config, threads=threads, device=device, sharded=sharded)

    def save(self, home: Path, config: RunConfig, engine: Engine, position: Position) -> None:
        """Save a distributed checkpoint: see `SingleProcess.save`."""

        write_sharded(home, config, engine, position, leads=self.leads)
        if self.agree(False):
            raise KeyboardInterrupt


def write_sharded(home: Path, config: RunConfig, engine: Engine, position: Position, *, leads: bool) -> None:
    """Save the newest checkpoint of a run; every process of the group must call this."""

    assert isinstance(engine, ParallelEngine)
    path = folder(home) / f"step-{position.step:09d}.dcp"
    aside = path.with_suffix(".tmp")
    if leads:
        with writing(path):
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
    dist.barrier()
    engine.save(aside)
    if leads:
        write_json(aside / SHARDED_POSITION, {"run": config.id, "position": asdict(position)})
        with writing(path):
            shutil.rmtree(path, ignore_errors=True)
            aside.rename(path)
        for old in sharded_newest_first(home)[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)
    dist.barrier()


def _room(device: str) -> float:
    """Return the bytes of memory that this process's device has for it."""
    if device.startswith("cuda"):
        return float(torch.cuda.get_device_properties(device).total_memory)
    return memory() / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
