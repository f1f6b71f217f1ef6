"""The LSTM that Kaplan et al. 2020 compare the transformer with, as PyTorch modules; its shape is
`models/lstm.py`.

In shapes: B sequences of T <= n_ctx tokens, d = d_model, V = n_vocab. `docs/lstm.md` reads along.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from allometry.models.lstm import LSTMConfig

FORGET_BIAS = 1.0
"""Initial bias of the forget gates: positive, so that cells remember at first (Gers et al. 2000;
Jozefowicz et al. 2015 find it the one initialisation that matters)."""

STATE_SCALE = 1 / 6
"""About the root mean square of a fresh model's state, at any width. Measured: 0.23 after one layer whose
input has scale 1, 0.16 after two or more."""


class LSTM(nn.Module):
    """Token ids to logits: embed, read the sequence once a layer, compare with every embedding."""

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.n_vocab, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(Layer(config.d_model) for _ in range(config.n_layer))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (B, T, V) of the token after each position; position t sees tokens 0 … t only."""
        return F.linear(self.features(tokens), self.head())

    def features(self, tokens: Tensor) -> Tensor:
        """Return the input of the head: the hidden state of the last layer, (B, T, d)."""
        x = self.dropout(self.embed(tokens.T))  # (T, B, d): time first, as the recurrence goes
        start = x.new_zeros(1, x.shape[1], x.shape[2])
        with _full_precision(x.device.type):
            for layer in self.layers:
                x = self.dropout(layer(x, start))
        return x.transpose(0, 1)

    def head(self) -> Tensor:
        """Return the output matrix, (V, d): the token embedding, since the head is tied to it."""
        return self.embed.weight

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw normal weights, scaled by the number of inputs, so that products have scale 1.

        A state entry is about STATE_SCALE, so embeddings have std 1 / (sqrt(d) STATE_SCALE), which puts the
        logits at the scale of 1, and the first layer's input matrix std STATE_SCALE, which undoes it. Narrow
        models learn much faster so than from embeddings of std 1 / sqrt(d): logits are products with a state
        whose entries cannot exceed 1. All other matrices have std 1 / sqrt(d); biases are 0, those of the
        forget gates FORGET_BIAS.
        """
        d = self.config.d_model
        scales = {"embed.weight": 1 / STATE_SCALE, "layers.0.input.weight": math.sqrt(d) * STATE_SCALE}
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                parameter.zero_()[d : 2 * d] = FORGET_BIAS
            else:
                parameter.normal_(0.0, scales.get(name, 1.0) / math.sqrt(d), generator=generator)


class Layer(nn.Module):
    """One layer of cells. At each position, with x its input and h the layer's output one position before:

        i, f, g, o = input x + recurrent h + bias       four vectors of d numbers
        c = sigmoid(f) c + sigmoid(i) tanh(g)           keep some, write some
        h = sigmoid(o) tanh(c)                          show some

    One bias: PyTorch's modules have two, whose sum is all that matters.
    """

    def __init__(self, d: int) -> None:
        super().__init__()
        self.input = nn.Linear(d, 4 * d, bias=False)
        self.recurrent = nn.Linear(d, 4 * d, bias=False)
        self.bias = nn.Parameter(torch.empty(4 * d))

    def forward(self, x: Tensor, start: Tensor) -> Tensor:
        """Map (T, B, d) to (T, B, d) with PyTorch's fused kernels; h and c begin as `start`, (1, B, d)."""
        weights = [self.input.weight, self.recurrent.weight, self.bias, torch.zeros_like(self.bias)]
        # has_biases, num_layers, dropout, train, bidirectional, batch_first
        settings = (True, 1, 0.0, torch.is_grad_enabled(), False, False)
        y, _, _ = torch.lstm(x, (start, start), weights, *settings)
        return y


def _full_precision(device: str) -> AbstractContextManager[Any]:
    """Switch autocast off within the context: it is not known whether a recurrence tolerates fewer bits.

    Where there is no autocast nothing is entered, which would cost 8 % of a step at d = 32.
    """
    if not torch.is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)
