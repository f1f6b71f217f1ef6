"""Faster PyTorch for every family: flat buffers, one fused AdamW, a head that never holds all its logits.

On a GPU matrix products run in bf16 over fp32 master weights. On CPUs everything is fp32 unless `precision`
says otherwise, whatever the processor can do: an engine's name says how it rounds, so that runs of one study
on two machines can be compared.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.adamw import adamw

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
from allometry.train.engines.reference import as_tensor, dropout_masks, hits, sent, settle, with_auxiliary

if TYPE_CHECKING:
    from allometry.train.config import RunConfig

CHUNK = 1 << 18
"""Logits that the head holds at once in training: 1 MB in fp32, about a core's second-level cache."""

CHUNK_ELSEWHERE = 1 << 25
"""The same on GPUs, 128 MB, so that launching small kernels does not dominate: estimated, not measured."""

EVALUATION_TOKENS = 4096
"""Tokens evaluated at once on CPUs; on GPUs as many as have `CHUNK_ELSEWHERE` logits."""

KINDS = ("params", "adam_m", "adam_v", "gradient")
"""The numbers that there are of each parameter."""

Places = dict[str, tuple[int, tuple[int, ...]]]
"""Offset in a flat buffer, and shape, of each parameter."""

ALIGNMENT = 16
"""Every parameter begins at a multiple of this many numbers (64 bytes, a cache line) of the flat buffers."""


@register
class FastEngine(Engine):
    """The engine for GPUs and for families without a compiled step. Parameters, gradients and moments each live
    in one buffer: those that decay first, then the others.
    """

    name = "fast"

    @classmethod
    def unsupported_reason(cls, config: RunConfig) -> str | None:
        """Return None: this engine runs every configuration."""
        return None

    def __init__(
        self,
        config: RunConfig,
        *,
        threads: int = 1,
        device: str = "cpu",
        precision: torch.dtype | None = None,
        home: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Set the `precision` of the matrix products, by default the machine's best (see `best_precision`).
        `home`: zeroed buffers for the four `KINDS` of numbers, laid out as `layout` says.
        """
        torch.set_num_threads(threads)
        self.config, self.device = config.train, torch.device(device)
        settle(self.device)
        self.precision = precision or best_precision(self.device)
        self.model = config.model.build(config.train.seed).to(self.device)
        self.places, self.decaying, size = layout(self.model)
        home = home or {kind: torch.zeros(size, device=self.device) for kind in KINDS}
        self.buffers = {kind: home[kind] for kind in KINDS[:3]}
        self.gradient = home["gradient"]
        for name, parameter in self.model.named_parameters():
            place = self._view(self.buffers["params"], name)
            place.copy_(parameter.detach())
            parameter.data, parameter.grad = place, self._view(self.gradient, name)

    def step(self, batch: Tokens, *, lr: float, step: int, weights: Floats | None = None) -> StepResult:
        """Make one update: see `Engine.step` for the equations."""
        results = self.enqueue(batch, lr=lr, step=step, weights=weights)
        return StepResult(*results.tolist())  # here, and only here, the host waits for the device

    def enqueue(self, batch: Tokens, *, lr: float, step: int, weights: Floats | None = None) -> Tensor:
        """Give the device the work of one step and return, as a tensor (2,) on it, what will be `StepResult`.

        Nothing is asked of the device, so the host goes on while it works (except for adaptive computation
        time, which asks after each repetition whether all positions have halted).
        """
        loss = self._backward(batch, step, weights)
        norm = torch.linalg.vector_norm(self.gradient)
        if (clip := self.config.clip) is not None:
            exact = norm.double()
            self.gradient.mul_(torch.where(exact > clip, clip / (exact + CLIP_EPS), 1.0))
        self._update(lr, step)
        return torch.stack([loss, norm])

    def gradients(
        self, windows: Tokens, *, step: int = 1, weights: Floats | None = None
    ) -> tuple[float, dict[str, Floats]]:
        """Return loss and gradients: see `Engine.gradients`."""
        loss = float(self._backward(windows, step, weights))
        return loss, {name: self._view(self.gradient, name).cpu().numpy().copy() for name in self.places}

    def gradient_norm(self, windows: Tokens, *, step: int = 1) -> float:
        """Return the gradient's norm without copies: see `Engine.gradient_norm`."""
        self._backward(windows, step, None)
        return float(torch.linalg.vector_norm(self.gradient))

    def _backward(self, batch: Tokens, step: int, weights: Floats | None) -> Tensor:
        """Return the loss on a batch, and leave its gradient in `self.gradient`."""
        share = None
        if weights is not None:
            share = sent(torch.from_numpy(normalised(weights)), self.device).flatten()
        self.gradient.zero_()
        self.model.train()
        with dropout_masks(self.config.seed, step, self.device):
            loss = self._loss(as_tensor(batch, self.device), share)
        with_auxiliary(loss, self.model).backward()  # accumulates into `self.gradient`
        return loss.detach()

    def _loss(self, tokens: Tensor, share: Tensor | None) -> Tensor:
        """Return the mean loss in nats, or the one weighted by `share` (which sums to 1).

        A family that has `features` and `head` never holds all its logits at once.
        """
        inputs, targets = tokens[:, :-1], tokens[:, 1:].flatten()
        model: Any = self.model
        if not hasattr(model, "features"):
            with self._autocast():
                logits = model(inputs).flatten(0, 1)
            if share is None:
                return F.cross_entropy(logits.float(), targets)
            return (F.cross_entropy(logits.float(), targets, reduction="none") * share).sum()
        with self._autocast():
            x = model.features(inputs).flatten(0, 1)
        loss: Tensor = LinearCrossEntropy.apply(x.to(self.precision), model.head(), targets, share)
        return loss

    @torch.no_grad()
    def _update(self, lr: float, step: int) -> None:
        """Apply fused AdamW to the two halves of the flat buffers."""
        decay = self.config.weight_decay
        for part, rate in ((slice(0, self.decaying), decay), (slice(self.decaying, None), 0.0)):
            adamw(
                [self.buffers["params"][part]],
                [self.gradient[part]],
                [self.buffers["adam_m"][part]],
                [self.buffers["adam_v"][part]],
                [],
                [torch.full((), float(step - 1), device=self.device)],
                fused=True,
                amsgrad=False,
                beta1=self.config.beta1,
                beta2=self.config.beta2,
                lr=lr,
                weight_decay=rate,
                eps=ADAM_EPS,
                maximize=False,
            )

    @torch.no_grad()
    def losses(self, windows: Tokens) -> NDArray[np.float32]:
        """Return the loss in nats of every predicted token, (sequences, n_ctx)."""
        self.model.eval()
        at_once = EVALUATION_TOKENS
        if self.device.type != "cpu":
            vocabulary = max(shape[0] for _, shape in self.places.values() if len(shape) == 2)  # or more
            at_once = CHUNK_ELSEWHERE // vocabulary
        rows = max(1, at_once // (windows.shape[1] - 1))
        parts = []
        for first in range(0, len(windows), rows):
            tokens = as_tensor(windows[first : first + rows], self.device)
            with self._autocast():
                logits = self.model(tokens[:, :-1])
            targets = tokens[:, 1:]
            each = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
            parts.append(each.view(targets.shape).cpu())
        return torch.cat(parts).numpy()

    def hits(self, windows: Tokens) -> NDArray[np.bool_]:
        """Return which predictions are right: see `Engine.hits`."""
        with self._autocast():
            return hits(self.model, windows, self.device)

    def state(self) -> State:
        """Return copies of parameters and moments, under the names of the module's state_dict."""
        return {
            f"{kind}/{name}": self._view(buffer, name).detach().cpu().numpy().copy()
            for kind, buffer in self.buffers.items()
            for name in self.places
        }

    @torch.no_grad()
    def load_state(self, state: State) -> None:
        """Continue from the state of any engine."""
        for kind, buffer in self.buffers.items():
            for name in self.places:
                self._view(buffer, name).copy_(torch.from_numpy(state[f"{kind}/{name}"]))

    def _view(self, buffer: Tensor, name: str) -> Tensor:
        offset, shape = self.places[name]
        return buffer[offset : offset + math.prod(shape)].view(shape)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.precision is torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.precision)


def best_precision(device: torch.device) -> torch.dtype:
    """Return bf16 on GPUs that multiply bf16 matrices, fp32 elsewhere."""
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32


def layout(model: nn.Module) -> tuple[Places, int, int]:
    """Return each parameter's place in a flat buffer, the end of those that decay, and the buffer's length."""
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    places: Places = {}
    end = decaying = 0
    for name in sorted(shapes, key=lambda name: not decays(name, shapes[name])):  # stable: keeps the order
        places[name] = (end, shapes[name])
        end += math.ceil(math.prod(shapes[name]) / ALIGNMENT) * ALIGNMENT
        decaying = end if decays(name, shapes[name]) else decaying
    return places, decaying, end


class LinearCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of softmax(x W^T), a chunk of tokens at a time, gradients included.

    With `share`, (n,), the sum of each token's cross-entropy times its share. A leading axis of K models is
    allowed in all of them, and the loss then is one number for each.

    Forward computes the gradients too, while a chunk's logits are at hand, so that at most `CHUNK` logits
    exist at once. Only for a loss that is differentiated once, from one upstream gradient for each model.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, share: Tensor | None) -> Tensor:
        """Return the mean loss in nats, of x (n, d), weight (V, d) and targets (n)."""
        w, n = weight.to(x.dtype), x.shape[-2]
        chunk_size = CHUNK if x.device.type == "cpu" else CHUNK_ELSEWHERE
        rows = max(1, chunk_size // w[..., 0].numel())
        dx, dw = torch.empty_like(x), torch.zeros(weight.shape, dtype=torch.float32, device=x.device)
        total = torch.zeros(x.shape[:-2], dtype=torch.float32, device=x.device)
        for first in range(0, n, rows):
            chunk = slice(first, first + rows)
            part, wanted = x[..., chunk, :], targets[..., chunk, None]
            logp = torch.log_softmax((part @ w.mT).float(), dim=-1)
            picked = logp.gather(-1, wanted)
            dlogits = logp.exp_().scatter_add_(-1, wanted, logp.new_full(wanted.shape, -1.0))
            if share is None:
                total -= picked.sum((-2, -1))
                dlogits.div_(n)
            else:
                mine = share[..., chunk, None]
                total -= (picked * mine).sum((-2, -1))
                dlogits.mul_(mine)
            dlogits = dlogits.to(x.dtype)
            torch.matmul(dlogits, w, out=dx[..., chunk, :])
            dw += dlogits.mT @ part
        ctx.save_for_backward(dx, dw)
        return total / n if share is None else total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Return the gradients for x and weight."""
        dx, dw = ctx.saved_tensors
        each = upstream[..., None, None]
        return (dx * each).to(dx.dtype), dw * each, None, None
