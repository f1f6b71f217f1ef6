"""The recurrent transformer (Dehghani et al. 2019) as PyTorch modules; its shape is `models/universal.py`.

In shapes: B sequences of T <= n_ctx tokens, d = d_model. `docs/universal-transformer.md` reads along.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from allometry.models.modules.transformer import Transformer

if TYPE_CHECKING:
    from allometry.models.universal import Act, UniversalConfig

HALTING_BIAS = 1.0
"""Initial bias of the halting unit, as in Dehghani et al.'s code: a fresh model halts after two steps."""


class Universal(Transformer):
    """The transformer with its stack of blocks applied `reuse` times; parameter names are the transformer's.

    `auxiliary_loss`: with ACT, what the last forward pass in training adds to the loss; else None.
    """

    def __init__(self, config: UniversalConfig) -> None:
        super().__init__(config.distinct())
        self.config, self.depth = config, config.n_layer
        self.reuse, self.timestep, self.act = config.reuse, config.timestep, config.act
        self.auxiliary_loss: Tensor | None = None
        if config.act:
            self.halt = nn.Linear(config.d_model, 1)

    def features(self, tokens: Tensor) -> Tensor:
        """Return the input of the head: the residual stream after the last repetition, normalised, (B, T, d)."""
        x = self.enter(tokens)
        if self.act:
            return self.norm(self._until_halted(x, self.act))
        for repetition in range(self.reuse):
            x = self.repeat(x, repetition)
        return self.norm(x)

    def repeat(self, x: Tensor, repetition: int) -> Tensor:
        """Apply the stack once, as repetition number `repetition` from 0, (B, T, d) to (B, T, d)."""
        return self.stack(x + _signal(repetition, x) if self.timestep else x)

    def _until_halted(self, x: Tensor, act: Act) -> Tensor:
        """Return each position's mean state, weighted by its halting probabilities, (B, T, d).

        After repetition n a position that still runs has the halting probability p_n. Its weights are p_1,
        p_2, … until their sum would pass the threshold or the repetitions end; the last weight is what is
        then left to 1, the remainder. A position that has halted keeps its state, which others still read.
        Its ponder cost is the number of its repetitions plus the remainder (Graves 2016, equations 6 to 12).
        """
        left = x.new_ones(x.shape[:2])  # 1 - sum of the weights so far, (B, T)
        running = torch.ones_like(left, dtype=torch.bool)
        mean, cost = torch.zeros_like(x), torch.zeros_like(left)
        for repetition in range(self.reuse):
            x = torch.where(running[..., None], self.repeat(x, repetition), x)
            p = torch.sigmoid(self.halt(self.norm(x))).squeeze(-1)  # (B, T)
            last = repetition == self.reuse - 1
            halts = running & (last | (1 - left + p > act.threshold))
            weight = torch.where(halts, left, p) * running
            mean = mean + weight[..., None] * x
            cost = cost + running + torch.where(halts, left, 0.0)
            left, running = left - weight, running & ~halts
            if not running.any():
                break
        self.auxiliary_loss = act.ponder * cost.mean() if self.training else None
        return mean

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Initialise as the transformer of n_layer layers; the halting unit starts with the same p at every
        position.
        """
        super().initialise(generator)
        if self.act:
            self.halt.weight.zero_()
            self.halt.bias.fill_(HALTING_BIAS)


def _signal(repetition: int, x: Tensor) -> Tensor:
    """Return the time-step signal (d,) of Dehghani et al. 2019, equation 5: sines and cosines at d / 2 wavelengths.

    Divided by sqrt(d), because embeddings here have std 1 / sqrt(d) where theirs have 1.
    """
    d = x.shape[-1]
    rates = 10_000.0 ** (-2 * torch.arange(d // 2, dtype=torch.float32, device=x.device) / d)
    angles = (repetition + 1) * rates
    return (torch.cat([angles.sin(), angles.cos()]) / math.sqrt(d)).to(x.dtype)
