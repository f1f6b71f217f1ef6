"""The decoder-only transformer of Kaplan et al. 2020, section 2, as PyTorch modules; its shape is
`models/transformer.py`.

In shapes: B sequences of T <= n_ctx tokens, d = d_model, H = n_head heads of width d / H, V = n_vocab.
`docs/transformer.md` reads along.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allometry.models.modules import causal_attention

if TYPE_CHECKING:
    from allometry.models.base import ModelConfig
    from allometry.models.transformer import TransformerConfig


class Transformer(nn.Module):
    """Token ids to logits: embed, add `n_layer` blocks' work, normalise, compare with every embedding."""

    config: ModelConfig

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config, self.depth, self.init = config, config.n_layer, config.init
        self.embed = nn.Embedding(config.n_vocab, config.d_model)
        self.position = nn.Embedding(config.n_ctx, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = nn.LayerNorm(config.d_model, bias=config.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (B, T, V) of the token after each position; position t sees tokens 0 … t only."""
        return F.linear(self.features(tokens), self.head())

    def features(self, tokens: Tensor) -> Tensor:
        """Return the input of the head: the residual stream after the last block, normalised, (B, T, d)."""
        return self.norm(self.stack(self.enter(tokens)))

    def enter(self, tokens: Tensor) -> Tensor:
        """Return the residual stream before the first block, (B, T, d): token plus position embedding."""
        return self.dropout(self.embed(tokens) + self.position.weight[: tokens.shape[1]])

    def stack(self, x: Tensor) -> Tensor:
        """Apply every block once, (B, T, d) to (B, T, d)."""
        for block in self.blocks:
            x = block(x)
        return x

    def head(self) -> Tensor:
        """Return the output matrix, (V, d): the token embedding, since the head is tied to it."""
        return self.embed.weight

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw the weights. Gains start at 1, biases at 0, matrices as independent normal numbers.

        "fan_in": std 1 / sqrt(fan-in), so that a product has its input's scale at any width; embeddings and
        positions 1 / sqrt(d_model), so that logits start at the scale of 1. "gpt2": 0.02 throughout
        (Radford et al. 2019), which is the same thing at d_model = 2500 and much too small for narrow
        models. Both divide the two matrices that write into the residual stream by sqrt(2 depth), as 2 depth
        of their products add up (depth: blocks applied in all, n_layer here).
        """
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
                continue
            fan_in = parameter.shape[1]  # embeddings are (V, d) and (n_ctx, d): d, as for the head
            std = 0.02 if self.init == "gpt2" else fan_in**-0.5
            if name.endswith(("project.weight", "contract.weight")):
                std /= math.sqrt(2 * self.depth)
            parameter.normal_(0.0, std, generator=generator)


class Block(nn.Module):
    """One layer: attention moves information between positions, then each position works by itself.

    Pre-LN: each half reads a normalised copy of the residual stream and adds its result to the stream itself.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(config.d_model, bias=config.bias)
        self.attention = Attention(config)
        self.norm_2 = nn.LayerNorm(config.d_model, bias=config.bias)
        self.mlp = FeedForward(config)

    def forward(self, x: Tensor) -> Tensor:
        """Map the residual stream (B, T, d) to the residual stream after this block."""
        x = x + self.attention(self.norm_1(x))
        return x + self.mlp(self.norm_2(x))


class Attention(nn.Module):
    """Causal self-attention with H heads: 4 d^2 weights. Only here does information move between positions."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.n_head, self.p = config.n_head, config.dropout
        d = config.d_model
        self.qkv = nn.Linear(d, 3 * d, bias=config.bias)  # queries, keys and values side by side
        self.project = nn.Linear(d, d, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, d) to (B, T, d): in each head softmax(q k^T / sqrt(d / H)) v over the positions so far."""
        B, T, d = x.shape
        split = self.qkv(x).view(B, T, 3, self.n_head, d // self.n_head)  # 3: queries, keys, values
        q, k, v = split.permute(2, 0, 3, 1, 4)  # each (B, H, T, d / H)
        y = causal_attention(q, k, v, dropout=self.p if self.training else 0.0)  # (B, H, T, d / H)
        return self.dropout(self.project(y.transpose(1, 2).reshape(B, T, d)))


class FeedForward(nn.Module):
    """Two matrices with a GELU between them: 2 d d_ff weights, two thirds of a block."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.expand = nn.Linear(config.d_model, config.d_ff, bias=config.bias)
        self.contract = nn.Linear(config.d_ff, config.d_model, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, d) to (B, T, d)."""
        return self.dropout(self.contract(F.gelu(self.expand(x))))
