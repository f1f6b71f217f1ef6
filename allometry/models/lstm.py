"""The shape of the LSTM (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000) that Kaplan
et al. 2020 compare the transformer with in section 3.2.1. The model itself is `modules/lstm.py`.

The paper gives the data, the context and the number of layers (1, 2 and 4), and nothing else. What it leaves
open is chosen so that an LSTM and a transformer of the same N differ in how positions meet and in little
else: the hidden width is d_model, so the head is tied to the embedding as the transformer's is, and the state
starts at zero in each window, so that a position in the context means the same in both.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field

from allometry.core.errors import AllometryError
from allometry.models.base import Counts, ModelConfig, register

if TYPE_CHECKING:
    from allometry.models.modules.lstm import LSTM

Positive = Annotated[int, Field(ge=1)]

USUAL_DEPTH = 2
"""Layers that `from_n_params` gives: the middle one of the paper's three series (figure 7)."""


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
        """Return the counts, with N = 8 n_layer d^2: each of four gates has a matrix for the input and one for
        the state.

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
        """Build the module with freshly initialised weights, a pure function of (shape, seed)."""
        from allometry.models.modules import fresh
        from allometry.models.modules.lstm import LSTM

        return fresh(lambda: LSTM(self), seed)

    @classmethod
    def from_n_params(cls, n: int, **fixed: Any) -> Self:
        """Return the shape with N nearest to `n`: two layers unless depth or width is fixed, and the width that fits.

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
    """Return the usable width whose square is nearest to `square`, in proportion."""
    width = math.sqrt(square)
    grain = next((grain for limit, grain in ((32, 2), (64, 4), (256, 8)) if width < limit), 16)
    below = max(grain, int(width / grain) * grain)
    return min(below, below + grain, key=lambda d: abs(math.log(d / width)))
