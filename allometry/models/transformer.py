"""The shape of the decoder-only transformer of Kaplan et al. 2020, "Scaling Laws for Neural Language Models",
section 2: its fields, its counts, and the shape of a given size. The model itself is
`modules/transformer.py`.

It is GPT-2's architecture (Radford et al. 2019): pre-LN blocks, learned positions, a head tied to the token
embedding, d_ff = 4 d_model. What the paper leaves open follows GPT-2, except where small models want
otherwise: no biases by default, weights initialised by fan-in, the exact (erf) GELU.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from allometry.core.errors import AllometryError
from allometry.models.base import Counts, ModelConfig, register

if TYPE_CHECKING:
    from allometry.models.modules.transformer import Transformer

Positive = Annotated[int, Field(ge=1)]

ASPECT_RATIO = 32
"""d_model / n_layer that `from_n_params` aims for.

Kaplan et al. (section 3.1) find that a factor of 40 hardly matters in large models; in small ones it does, and
a ladder of sizes with a constant ratio scatters least about L(N).
"""


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
        """Return the counts of Kaplan et al. 2020, Table 1, with d_attn = d_model: N = 2 d_model n_layer (2
        d_attn + d_ff).
        """
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
        """Build the module with freshly initialised weights, a pure function of (shape, seed)."""
        from allometry.models.modules import fresh
        from allometry.models.modules.transformer import Transformer

        return fresh(lambda: Transformer(self), seed)

    @classmethod
    def from_n_params(cls, n: int, **fixed: Any) -> Self:
        """Return the shape with N near `n`: d_model / n_layer near 32, and at least two layers.

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
    """Fill in `n_head` and `d_ff` from `d_model` in the fields of a configuration where they are not given."""
    d = data.get("d_model") if isinstance(data, dict) else None
    if isinstance(d, int) and d > 0:
        data = {"n_head": max(1, d // head_width(d)), "d_ff": 4 * d, **data}
    return data


def head_width(d_model: int) -> int:
    """Return a head's default width: 32 (64 in wide models), else the larger of 16 and 8 that divides d_model."""
    widths = (64, 32, 16, 8) if d_model >= 512 else (32, 16, 8)
    return next((width for width in widths if d_model % width == 0), d_model)


def _shapes_near(
    n: int, n_layer: int | None, d_model: int | None, n_head: int, d_ff: int | None
) -> list[tuple[int, int]]:
    """Return depths around that of the aspect ratio, each with the two widths between which N passes `n`."""
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
