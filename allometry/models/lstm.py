"""The LSTM (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000) that Kaplan et al. 2020
compare the transformer with in section 3.2.1.

The paper gives the data, the context and the number of layers (1, 2 and 4), and nothing else. What it leaves
open is chosen so that an LSTM and a transformer of the same N differ in how positions meet and in little
else: the hidden width is d_model, so the head is tied to the embedding as the transformer's is, and the state
starts at zero in each window, so that a position in the context means the same in both.

In shapes: B sequences of T <= n_ctx tokens, d = d_model, V = n_vocab. `docs/lstm.md` reads along.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from allometry.errors import AllometryError
from allometry.models.base import ModelConfig, register
from allometry.models.counts import Counts
from allometry.models.layers import unfilled

Positive = Annotated[int, Field(ge=1)]

USUAL_DEPTH = 2
"""Layers along the dial: the middle one of the paper's three series (figure 7)."""

FORGET_BIAS = 1.0
"""Where the forget gates' biases start, so that cells remember until told otherwise (Gers et al. 2000;
Jozefowicz et al. 2015 find it the one initialisation that matters)."""

STATE_SCALE = 1 / 6
"""About the root mean square of a fresh model's state, at any width. Measured: 0.23 after one layer whose
input has scale 1, 0.16 after two or more."""


@register
class LSTMConfig(ModelConfig):
    """The shape of an LSTM: `n_layer` layers, each `d_model` wide, as are the embeddings.

    `dropout` falls on what goes up, from the embedding into the first layer and between layers and into the
    head, never on what goes on in time (Zaremba et al. 2014).
    """

    family: Literal["lstm"] = "lstm"
    n_layer: Positive
    d_model: Positive
    n_ctx: Positive = 256
    n_vocab: Positive = 256
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @property
    def shape(self) -> str:
        """Depth x width, such as "2x64"."""
        return f"{self.n_layer}x{self.d_model}"

    def counts(self) -> Counts:
        """N = 8 n_layer d^2: four gates, each with a matrix for the input and one for the state.

        No context term: a token costs the same wherever it stands.
        """
        d = self.d_model
        blocks = 8 * self.n_layer * d * d
        return Counts(
            embedding=self.n_vocab * d,
            position=0,
            blocks=blocks,
            other=4 * self.n_layer * d,
            head=0,
            flops_blocks=2 * blocks,
            flops_attention=0,
            flops_head=2 * d * self.n_vocab,
        )

    def build(self, seed: int = 0) -> LSTM:
        """The module with freshly initialised weights, a pure function of (shape, seed)."""
        model = unfilled(lambda: LSTM(self))
        model.initialise(torch.Generator().manual_seed(seed))
        return model

    @classmethod
    def of_size(cls, n: int, **fixed: Any) -> Self:
        """The dial: the width with N nearest to `n`, at two layers unless depth or width is fixed.

        Widths are multiples of 2 (of 4 from 32 on, 8 from 64 on, 16 from 256 on), so N is within 15 % of `n`
        from 3e3 on. Raises AllometryError for n < 1 and for impossible fields.
        """
        if n < 1:
            raise AllometryError(f"no LSTM has {n} parameters", hint="ask for at least 1e3")
        depth, width = fixed.get("n_layer"), fixed.get("d_model")
        if width is not None:
            shape = {"n_layer": depth or max(1, round(n / (8 * width**2)))}
        else:
            depth = depth or USUAL_DEPTH
            shape = {"n_layer": depth, "d_model": _width_near(n / (8 * depth))}
        return cls.model_validate({**shape, **fixed})


def _width_near(square: float) -> int:
    """The usable width whose square is nearest to `square`, in proportion."""
    width = math.sqrt(square)
    grain = next((grain for limit, grain in ((32, 2), (64, 4), (256, 8)) if width < limit), 16)
    below = max(grain, int(width / grain) * grain)
    return min(below, below + grain, key=lambda d: abs(math.log(d / width)))


class LSTM(nn.Module):
    """Token ids to logits: embed, read the sequence once a layer, compare with every embedding."""

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.n_vocab, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(Layer(config.d_model) for _ in range(config.n_layer))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (B, T, V) of the token after each position; position t sees tokens 0 … t only."""
        return F.linear(self.features(tokens), self.head())

    def features(self, tokens: Tensor) -> Tensor:
        """What the head reads: the hidden state of the last layer, (B, T, d)."""
        x = self.dropout(self.embed(tokens.T))  # (T, B, d): time first, as the recurrence goes
        start = x.new_zeros(1, x.shape[1], x.shape[2])
        with _full_precision(x.device.type):
            for layer in self.layers:
                x = self.dropout(layer(x, start))
        return x.transpose(0, 1)

    def head(self) -> Tensor:
        """The output matrix, (V, d): the token embedding again, so the head has no weights of its own."""
        return self.embed.weight

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw the weights: normal numbers, by the scale of what they meet, so that products have scale 1.

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
        """(T, B, d) to (T, B, d) by PyTorch's fused kernels; h and c begin as `start`, (1, B, d)."""
        weights = [self.input.weight, self.recurrent.weight, self.bias, torch.zeros_like(self.bias)]
        # has_biases, num_layers, dropout, train, bidirectional, batch_first
        settings = (True, 1, 0.0, torch.is_grad_enabled(), False, False)
        y, _, _ = torch.lstm(x, (start, start), weights, *settings)
        return y


def _full_precision(device: str) -> AbstractContextManager[Any]:
    """No autocast within it: that fewer bits do a recurrence no harm is not shown.

    Where there is no autocast nothing is entered, which would cost 8 % of a step at d = 32.
    """
    if not torch.is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)
