"""The recurrent transformer of Kaplan et al. 2020, appendix D.2, after the Universal Transformer (Dehghani et
al. 2019, arXiv 1807.03819): the transformer's blocks, with a stack of them applied again and again.

`n_layer` blocks are applied in all; `reuse` of those applications share weights, so n_layer / reuse blocks
are distinct, and the stack of them is gone through `reuse` times. N counts each block once, FLOPs count every
application: "parameters, including reuse" (the paper's figure 17) are `counts().flops_blocks / 2`. With a
reuse of 1 this is the transformer, bit for bit.

The paper does not say which layers shared weights, nor whether Dehghani et al.'s two additions were used: a
signal for the time step, and halting by position (ACT). Both are off unless asked for.
`docs/universal-transformer.md` reads along.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from allometry.models.base import Frozen, ModelConfig, register
from allometry.models.counts import Counts
from allometry.models.layers import unfilled
from allometry.models.transformer import Transformer, TransformerConfig, with_derived

Positive = Annotated[int, Field(ge=1)]

ONE_BLOCK = 20_000
"""Below this N the dial has a single distinct block, as Dehghani et al. have at any size."""

HALTING_BIAS = 1.0
"""Where the halting unit's bias starts, as in Dehghani et al.'s code: a fresh model halts after two steps."""


class Act(Frozen):
    """Adaptive computation time (Graves 2016, arXiv 1603.08983): each position halts by itself.

    It halts once its halting probabilities exceed `threshold` in sum, and `ponder` times the mean ponder cost
    is added to the training loss. Defaults are those of Dehghani et al.'s code.
    """

    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.99
    ponder: Annotated[float, Field(ge=0)] = 0.01


@register
class UniversalConfig(ModelConfig):
    """The shape of a Universal Transformer; `n_head` and `d_ff` follow from `d_model` as the transformer's
    do.

    `n_layer`: blocks applied in all. `reuse`: how often each distinct block is, a divisor of n_layer.
    `timestep`: add a signal for the number of the repetition. `act`: an `Act`, or true for its defaults.
    """

    family: Literal["universal"] = "universal"
    n_layer: Positive
    reuse: Positive = 2
    d_model: Positive
    n_head: Positive
    d_ff: Positive
    n_ctx: Positive = 256
    n_vocab: Positive = 256
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    bias: bool = False
    timestep: bool = False
    act: Act | None = None

    @model_validator(mode="before")
    @classmethod
    def _derive(cls, data: Any) -> Any:
        return with_derived(data)

    @field_validator("act", mode="before")
    @classmethod
    def _plain_yes_or_no(cls, value: Any) -> Any:
        return (Act() if value else None) if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _whole_repetitions(self) -> Self:
        if self.n_layer % self.reuse:
            raise ValueError(f"reuse {self.reuse} does not divide n_layer {self.n_layer}")
        self.distinct()  # checks heads
        return self

    def distinct(self) -> TransformerConfig:
        """The transformer of the n_layer / reuse distinct blocks: one pass through them."""
        shared = self.model_dump(exclude={"family", "n_layer", "reuse", "timestep", "act"})
        return TransformerConfig.model_validate({**shared, "n_layer": self.n_layer // self.reuse})

    @property
    def shape(self) -> str:
        """Depth x width and reuse, such as "4x64r2"; "t" for the time-step signal and "a" for ACT follow."""
        depth, width = self.distinct().shape.split("x")
        extras = "t" * self.timestep + "a" * (self.act is not None)
        return f"{int(depth) * self.reuse}x{width}r{self.reuse}{extras}"

    def counts(self) -> Counts:
        """Parameters of the distinct blocks, FLOPs of every application; with ACT the most there can be.

        ACT's halting unit (d + 1 numbers) is counted with the gains, and its FLOPs are left out like theirs.
        """
        once = self.distinct().counts()
        return Counts(
            embedding=once.embedding,
            position=once.position,
            blocks=once.blocks,
            other=once.other + (0 if self.act is None else self.d_model + 1),
            head=0,
            flops_blocks=self.reuse * once.flops_blocks,
            flops_attention=self.reuse * once.flops_attention,
            flops_head=once.flops_head,
        )

    def build(self, seed: int = 0) -> Universal:
        """The module with freshly initialised weights, a pure function of (shape, seed)."""
        model = unfilled(lambda: Universal(self))
        model.initialise(torch.Generator().manual_seed(seed))
        return model

    @classmethod
    def of_size(cls, n: int, **fixed: Any) -> Self:
        """The dial: the transformer's of this N, its stack applied `reuse` times; below ONE_BLOCK one block.

        N is within 40 % of `n` from 3e3 on, 30 % from 1e4, 15 % from 1e5 and 10 % from 1e6. `fixed` sets any
        field, `n_layer` being applications. Raises AllometryError for n < 1 and for impossible fields.
        """
        reuse = fixed.get("reuse", cls.model_fields["reuse"].default)
        stack: dict[str, Any] = {key: fixed[key] for key in ("d_model", "n_head", "d_ff") if key in fixed}
        if "n_layer" in fixed:
            stack["n_layer"] = max(1, fixed["n_layer"] // reuse)
        elif n < ONE_BLOCK and "d_model" not in fixed:
            stack["n_layer"] = 1
        found = TransformerConfig.of_size(n, **stack)
        shape = {"n_layer": found.n_layer * reuse, "d_model": found.d_model}
        return cls.model_validate({**shape, **fixed})


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
        """What the head reads: the residual stream after the last repetition, normalised, (B, T, d)."""
        x = self.enter(tokens)
        if self.act:
            return self.norm(self._until_halted(x, self.act))
        for repetition in range(self.reuse):
            x = self.repeat(x, repetition)
        return self.norm(x)

    def repeat(self, x: Tensor, repetition: int) -> Tensor:
        """One repetition, counted from 0, of the stack, (B, T, d) to (B, T, d)."""
        return self.stack(x + _signal(repetition, x) if self.timestep else x)

    def _until_halted(self, x: Tensor, act: Act) -> Tensor:
        """Each position's mean state, weighted by its halting probabilities, (B, T, d).

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
        """As the transformer of n_layer layers; the halting unit starts with the same p at every position."""
        super().initialise(generator)
        if self.act:
            self.halt.weight.zero_()
            self.halt.bias.fill_(HALTING_BIAS)


def _signal(repetition: int, x: Tensor) -> Tensor:
    """Dehghani et al. 2019, equation 5, of the time step: sines and cosines of it at d / 2 wavelengths, (d,).

    Divided by sqrt(d), because embeddings here have std 1 / sqrt(d) where theirs have 1.
    """
    d = x.shape[-1]
    rates = 10_000.0 ** (-2 * torch.arange(d // 2, dtype=torch.float32, device=x.device) / d)
    angles = (repetition + 1) * rates
    return (torch.cat([angles.sin(), angles.cos()]) / math.sqrt(d)).to(x.dtype)
