"""The decoder-only transformer of Kaplan et al. 2020, "Scaling Laws for Neural Language Models", section 2.

It is GPT-2's architecture (Radford et al. 2019): pre-LN blocks, learned positions, a head tied to the token
embedding, d_ff = 4 d_model. What the paper leaves open follows GPT-2, except where small models want
otherwise: no biases by default, weights initialised by fan-in, the exact (erf) GELU.

In shapes: B sequences of T <= n_ctx tokens, d = d_model, H = n_head heads of width d / H, V = n_vocab.
`docs/transformer.md` reads along.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from allometry.errors import AllometryError
from allometry.models.base import ModelConfig, register
from allometry.models.counts import Counts
from allometry.models.layers import causal_attention, unfilled

Positive = Annotated[int, Field(ge=1)]

ASPECT_RATIO = 32
"""d_model / n_layer along the dial. Kaplan et al. (section 3.1) find that a factor of 40 hardly matters in
large models; in small ones it does, and a ladder of sizes with a constant ratio scatters least about L(N)."""


@register
class TransformerConfig(ModelConfig):
    """The shape of a decoder-only transformer; `n_head` and `d_ff` follow from `d_model` unless given.

    Heads are 32 wide (64 from d_model = 512; 16 or 8 where 32 does not divide d_model). `init`: "fan_in" or
    "gpt2", see `Transformer.initialise`.
    """

    family: Literal["transformer"] = "transformer"
    n_layer: Positive
    d_model: Positive
    n_head: Positive
    d_ff: Positive
    n_ctx: Positive = 256
    n_vocab: Positive = 256
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    bias: bool = False
    init: Literal["fan_in", "gpt2"] = "fan_in"

    @model_validator(mode="before")
    @classmethod
    def _derive(cls, data: Any) -> Any:
        return with_derived(data)

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.d_model % self.n_head:
            raise ValueError(f"n_head {self.n_head} does not divide d_model {self.d_model}")
        if (self.d_model // self.n_head) % 8:
            raise ValueError(
                f"heads must be a multiple of 8 wide, but d_model {self.d_model} / n_head {self.n_head} = "
                f"{self.d_model // self.n_head}"
            )
        return self

    @property
    def shape(self) -> str:
        """Depth x width, such as "4x64"; a feed-forward layer other than 4 d_model wide is named too."""
        return f"{self.n_layer}x{self.d_model}" + (f"f{self.d_ff}" if self.d_ff != 4 * self.d_model else "")

    def counts(self) -> Counts:
        """Kaplan et al. 2020, Table 1, with d_attn = d_model: N = 2 d_model n_layer (2 d_attn + d_ff)."""
        d = self.d_model
        blocks = 2 * d * self.n_layer * (2 * d + self.d_ff)
        gains = (2 * self.n_layer + 1) * d
        biases = gains + self.n_layer * (3 * d + d + self.d_ff + d) if self.bias else 0
        return Counts(
            embedding=self.n_vocab * d,
            position=self.n_ctx * d,
            blocks=blocks,
            other=gains + biases,
            head=0,
            flops_blocks=2 * blocks,
            flops_attention=2 * self.n_layer * self.n_ctx * d,
            flops_head=2 * d * self.n_vocab,
        )

    def build(self, seed: int = 0) -> Transformer:
        """The module with freshly initialised weights, a pure function of (shape, seed)."""
        model = unfilled(lambda: Transformer(self))
        model.initialise(torch.Generator().manual_seed(seed))
        return model

    @classmethod
    def of_size(cls, n: int, **fixed: Any) -> Self:
        """The dial: depth and width with N near `n` at d_model / n_layer near 32 and at least two layers.

        Widths are multiples of 8 (of 16 from 64 on, of 32 from 256 on), so N is within 30 % of `n` from 1e4
        on, 15 % from 1e5 and 10 % from 1e6. `fixed` sets any field; a fixed depth or width is kept and the
        other one found. Raises AllometryError for n < 1 and for impossible fields.
        """
        if n < 1:
            raise AllometryError(f"no transformer has {n} parameters", hint="ask for at least 1e3")
        heads, d_ff = fixed.get("n_head", 1), fixed.get("d_ff")
        shapes = _shapes_near(n, fixed.get("n_layer"), fixed.get("d_model"), heads, d_ff)
        candidates = [cls.model_validate({**fixed, "n_layer": L, "d_model": d}) for L, d in shapes]

        def misfit(shape: Self) -> float:
            ratio = shape.d_model / (ASPECT_RATIO * shape.n_layer)
            return math.log(shape.counts().N / n) ** 2 + (0.15 * math.log(ratio)) ** 2

        return min(candidates, key=misfit)


def with_derived(data: Any) -> Any:
    """The fields of a configuration, with `n_head` and `d_ff` from `d_model` where they are not given."""
    d = data.get("d_model") if isinstance(data, dict) else None
    if isinstance(d, int) and d > 0:
        data = {"n_head": max(1, d // head_width(d)), "d_ff": 4 * d, **data}
    return data


def head_width(d_model: int) -> int:
    """A head's default width: 32 (64 in wide models), else the larger of 16 and 8 that divides d_model."""
    widths = (64, 32, 16, 8) if d_model >= 512 else (32, 16, 8)
    return next((width for width in widths if d_model % width == 0), d_model)


def _shapes_near(
    n: int, n_layer: int | None, d_model: int | None, n_head: int, d_ff: int | None
) -> list[tuple[int, int]]:
    """Depths around the aspect ratio's, each with the two widths between which N passes `n`."""
    if d_model is not None:
        depth = n / (2 * d_model * (2 * d_model + (d_ff or 4 * d_model)))
        return [
            (L, d_model) for L in ([n_layer] if n_layer else [max(1, math.floor(depth)), math.ceil(depth)])
        ]
    ideal = (n / (12 * ASPECT_RATIO**2)) ** (1 / 3)  # N = 12 n_layer d^2 with d = 32 n_layer
    nearby = range(max(2, math.ceil(ideal) - 1), math.ceil(ideal) + 3)
    shapes = []
    for L in [n_layer] if n_layer else nearby:
        # N = 2 d L (2 d + d_ff), solved for d
        d = math.sqrt(n / (12 * L)) if d_ff is None else (math.sqrt(d_ff**2 + 4 * n / L) - d_ff) / 4
        grain = 8 * n_head if n_head > 1 or d < 64 else 16 if d < 256 else 32
        below = max(grain, int(d / grain) * grain)
        shapes += [(L, below), (L, below + grain)]
    return shapes


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
        """Logits (B, T, V) of the token after each position; position t sees tokens 0 … t only."""
        return F.linear(self.features(tokens), self.head())

    def features(self, tokens: Tensor) -> Tensor:
        """What the head reads: the residual stream after the last block, normalised, (B, T, d)."""
        return self.norm(self.stack(self.enter(tokens)))

    def enter(self, tokens: Tensor) -> Tensor:
        """The residual stream before the first block, (B, T, d): what each token is, and where."""
        return self.dropout(self.embed(tokens) + self.position.weight[: tokens.shape[1]])

    def stack(self, x: Tensor) -> Tensor:
        """Every block once, (B, T, d) to (B, T, d)."""
        for block in self.blocks:
            x = block(x)
        return x

    def head(self) -> Tensor:
        """The output matrix, (V, d): the token embedding again, so the head has no weights of its own."""
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
        """Residual stream (B, T, d) to residual stream."""
        x = x + self.attention(self.norm_1(x))
        return x + self.mlp(self.norm_2(x))


class Attention(nn.Module):
    """Causal self-attention with H heads: 4 d^2 weights, and the only place where positions meet."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.n_head, self.p = config.n_head, config.dropout
        d = config.d_model
        self.qkv = nn.Linear(d, 3 * d, bias=config.bias)  # queries, keys and values side by side
        self.project = nn.Linear(d, d, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, d) to (B, T, d): in each head softmax(q k^T / sqrt(d / H)) v over the positions so far."""
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
        """(B, T, d) to (B, T, d)."""
        return self.dropout(self.contract(F.gelu(self.expand(x))))
