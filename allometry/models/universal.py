"""The shape of the recurrent transformer of Kaplan et al. 2020, appendix D.2, after the Universal Transformer
(Dehghani et al. 2019, arXiv 1807.03819): a stack of transformer blocks that is applied repeatedly.

`n_layer` blocks are applied in all; `reuse` of those applications share weights, so n_layer / reuse blocks
are distinct, and the stack of them is gone through `reuse` times. N counts each block once, FLOPs count every
application: "parameters, including reuse" (the paper's figure 17) are `counts().flops_blocks / 2`. With a
reuse of 1 this is the transformer, bit for bit.

The paper does not say which layers shared weights, nor whether Dehghani et al.'s two additions were used: a
signal for the time step, and halting by position (ACT). Both are off unless asked for. The model itself is
`modules/universal.py`; `docs/universal-transformer.md` reads along.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from allometry.models.base import Counts, ModelConfig, StrictModel, register
from allometry.models.transformer import TransformerConfig, with_derived

if TYPE_CHECKING:
    from allometry.models.modules.universal import Universal

Positive = Annotated[int, Field(ge=1)]

ONE_BLOCK = 20_000
"""Below this N `from_n_params` gives a single distinct block, as Dehghani et al. have at any size."""


class Act(StrictModel):
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
        """Return the transformer of the n_layer / reuse distinct blocks, each applied once."""
        shared = self.model_dump(exclude={"family", "n_layer", "reuse", "timestep", "act"})
        return TransformerConfig.model_validate({**shared, "n_layer": self.n_layer // self.reuse})

    @property
    def shape(self) -> str:
        """Depth x width and reuse, such as "4x64r2"; "t" for the time-step signal and "a" for ACT follow."""
        depth, width = self.distinct().shape.split("x")
        extras = "t" * self.timestep + "a" * (self.act is not None)
        return f"{int(depth) * self.reuse}x{width}r{self.reuse}{extras}"

    def counts(self) -> Counts:
        """Return the parameters of the distinct blocks and the FLOPs of every application; with ACT the maximum FLOPs.

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
        """Build the module with freshly initialised weights, a pure function of (shape, seed)."""
        from allometry.models.modules import fresh
        from allometry.models.modules.universal import Universal

        return fresh(lambda: Universal(self), seed)

    @classmethod
    def from_n_params(cls, n: int, **fixed: Any) -> Self:
        """Return the transformer's shape of this N, its stack applied `reuse` times; one block below N = ONE_BLOCK.

        N is within 40 % of `n` from 3e3 on, 30 % from 1e4, 15 % from 1e5 and 10 % from 1e6. `fixed` sets any
        field, `n_layer` being applications. Raises AllometryError for n < 1 and for impossible fields.
        """
        reuse = fixed.get("reuse", cls.model_fields["reuse"].default)
        stack: dict[str, Any] = {key: fixed[key] for key in ("d_model", "n_head", "d_ff") if key in fixed}
        if "n_layer" in fixed:
            stack["n_layer"] = max(1, fixed["n_layer"] // reuse)
        elif n < ONE_BLOCK and "d_model" not in fixed:
            stack["n_layer"] = 1
        found = TransformerConfig.from_n_params(n, **stack)
        shape = {"n_layer": found.n_layer * reuse, "d_model": found.d_model}
        return cls.model_validate({**shape, **fixed})
