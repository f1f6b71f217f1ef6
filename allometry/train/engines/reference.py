"""The reference engine: plain fp32 autograd and AdamW as the paper writes it. Every family, option and device.

Beside it stand what the other engines share: greedy predictions, and PyTorch's settings that decide a run's last
digits. These hold for the whole process; engines settle them before they compute, and a run's env.json keeps them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

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
    register,
)

if TYPE_CHECKING:
    from allometry.train.config import RunConfig


EVALUATION_TOKENS = 8192
"""Tokens evaluated at once, so that the logits of a large vocabulary need not fit in memory together."""


@contextmanager
def dropout_masks(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Make PyTorch's random numbers a function of (seed, step) within the context, also in a run that was resumed."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed * 1_000_003 + step)
        yield


def as_tensor(tokens: Tokens, device: torch.device) -> Tensor:
    """Return token ids as PyTorch needs them: int64, on the device."""
    return sent(torch.from_numpy(np.ascontiguousarray(tokens, dtype=np.int64)), device)


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host's memory on `device`.

    To a GPU it goes from pinned memory, for from any other the host would wait until all work that the GPU
    was given is done.
    """
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def with_auxiliary(loss: Tensor, model: torch.nn.Module) -> Tensor:
    """Return the loss to differentiate: the loss plus, in families that have one, their `auxiliary_loss`.

    That is a tensor of one number, from the last forward pass in training, or None. Reported losses are
    without it.
    """
    extra = getattr(model, "auxiliary_loss", None)
    return loss if extra is None else loss + extra


@register
class ReferenceEngine(Engine):
    """Plain operations, nothing fused, no reduced precision: slow, and the standard that the others are tested
    against.
    """

    name = "reference"

    @classmethod
    def unsupported_reason(cls, config: RunConfig) -> str | None:
        """Return None: this engine runs every configuration."""
        return None

    def __init__(self, config: RunConfig, *, threads: int = 1, device: str = "cpu") -> None:
        torch.set_num_threads(threads)
        self.config, self.device = config.train, torch.device(device)
        settle(self.device)
        self.model = config.model.build(config.train.seed).to(self.device)
        self.parameters: dict[str, Tensor] = dict(self.model.named_parameters())
        self.m = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self.v = {name: torch.zeros_like(p) for name, p in self.parameters.items()}

    def step(self, batch: Tokens, *, lr: float, step: int, weights: Floats | None = None) -> StepResult:
        """Make one update: see `Engine.step` for the equations."""
        loss = self._backward(batch, step, weights)
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        norm = float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients])))
        if self.config.clip is not None and norm > self.config.clip:
            for g in gradients:
                g.mul_(self.config.clip / (norm + CLIP_EPS))
        for name in self.parameters:
            self._adamw(name, lr, step)
        return StepResult(float(loss), norm)

    def _backward(self, batch: Tokens, step: int, weights: Floats | None) -> Tensor:
        """Return the loss on a batch, and leave its gradients in the parameters' `.grad`."""
        tokens = as_tensor(batch, self.device)
        self.model.train()
        self.model.zero_grad(set_to_none=True)
        with dropout_masks(self.config.seed, step, self.device):
            logits = self.model(tokens[:, :-1]).flatten(0, 1).float()
        targets = tokens[:, 1:].flatten()
        if weights is None:
            loss = F.cross_entropy(logits, targets)
        else:
            share = sent(torch.from_numpy(normalised(weights)), self.device).flatten()
            loss = (F.cross_entropy(logits, targets, reduction="none") * share).sum()
        with_auxiliary(loss, self.model).backward()
        return loss.detach()

    def gradients(
        self, windows: Tokens, *, step: int = 1, weights: Floats | None = None
    ) -> tuple[float, dict[str, Floats]]:
        """Return loss and gradients: see `Engine.gradients`."""
        loss = float(self._backward(windows, step, weights))
        return loss, {
            name: (torch.zeros_like(p) if p.grad is None else p.grad).cpu().numpy().copy()
            for name, p in self.parameters.items()
        }

    @torch.no_grad()
    def _adamw(self, name: str, lr: float, step: int) -> None:
        p, m, v = self.parameters[name], self.m[name], self.v[name]
        g = p.grad
        if g is None:  # a parameter that this configuration does not use
            return
        beta1, beta2 = self.config.beta1, self.config.beta2
        m.mul_(beta1).add_(g, alpha=1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        if decays(name, p.shape):
            p.mul_(1 - lr * self.config.weight_decay)
        p.addcdiv_(m / (1 - beta1**step), (v / (1 - beta2**step)).sqrt_().add_(ADAM_EPS), value=-lr)

    @torch.no_grad()
    def losses(self, windows: Tokens) -> NDArray[np.float32]:
        """Return the loss in nats of every predicted token, (sequences, n_ctx)."""
        self.model.eval()
        rows = max(1, EVALUATION_TOKENS // (windows.shape[1] - 1))
        parts = []
        for first in range(0, len(windows), rows):
            tokens = as_tensor(windows[first : first + rows], self.device)
            logits = self.model(tokens[:, :-1]).float()
            parts.append(F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none").cpu())
        return torch.cat(parts).numpy()

    def hits(self, windows: Tokens) -> NDArray[np.bool_]:
        """Return which predictions are right: see `Engine.hits`."""
        return hits(self.model, windows, self.device)

    def state(self) -> State:
        """Return copies of parameters and moments, under the names of the module's state_dict."""
        kinds = {"params": self.parameters, "adam_m": self.m, "adam_v": self.v}
        return {
            f"{kind}/{name}": tensor.detach().cpu().numpy().copy()
            for kind, tensors in kinds.items()
            for name, tensor in tensors.items()
        }

    @torch.no_grad()
    def load_state(self, state: State) -> None:
        """Continue from the state of any engine."""
        for kind, tensors in (("params", self.parameters), ("adam_m", self.m), ("adam_v", self.v)):
            for name, tensor in tensors.items():
                tensor.copy_(torch.from_numpy(state[f"{kind}/{name}"]))


LOGITS = 1 << 24
"""Logits that are held at once: 64 MB in fp32."""


@torch.no_grad()
def hits(module: nn.Module, windows: Tokens, device: torch.device) -> NDArray[np.bool_]:
    """Return whether the most probable token is the target, for windows (n, n_ctx + 1): shape (n, n_ctx)."""
    module.eval()
    vocabulary = max(p.shape[0] for p in module.parameters() if p.ndim == 2)  # or more
    rows = max(1, LOGITS // (vocabulary * (windows.shape[1] - 1)))
    parts = []
    for first in range(0, len(windows), rows):
        part = np.ascontiguousarray(windows[first : first + rows], dtype=np.int64)
        tokens = torch.from_numpy(part).to(device)
        parts.append((module(tokens[:, :-1]).argmax(-1) == tokens[:, 1:]).cpu())
    return torch.cat(parts).numpy()


def with_parameters(module: nn.Module, state: State) -> nn.Module:
    """Load the parameters of an engine's state into the module, and return it."""
    found = {
        k.removeprefix("params/"): torch.from_numpy(v) for k, v in state.items() if k.startswith("params/")
    }
    module.load_state_dict(found)
    return module


def settle(device: torch.device | str) -> dict[str, Any]:
    """Settle how fp32 numbers are multiplied on `device`, and return what env.json keeps of it.

    On a GPU cuDNN, whose kernels the LSTM's are, would round factors of fp32 products to 10 bits (TF32)
    unless told otherwise. PyTorch's own products are exact unless somebody asked for less.
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    found: dict[str, Any] = {
        "device": str(device),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
    }
    return found if device.type != "cuda" else found | _of_gpu(device)


def _of_gpu(device: torch.device) -> dict[str, Any]:
    """The GPU and its libraries, and the switches that matter only there."""
    properties = torch.cuda.get_device_properties(device)
    return {
        "gpu": properties.name,
        "gpu_memory": properties.total_memory,
        "compute_capability": [properties.major, properties.minor],
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "tf32_products": torch.backends.cuda.matmul.allow_tf32,
        "tf32_cudnn": torch.backends.cudnn.allow_tf32,
        "bf16_reduced_sums": torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    }
