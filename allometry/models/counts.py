"""Parameters and FLOPs by component. Runs record every component; a convention is chosen when they are read.

What "N" and "C" mean moves the exponents of a scaling law more than most experiments do: counting the head's
FLOPs alone takes the exponent of N_opt(C) from 0.84 to 0.71 (Porian et al. 2024). So a run records every
component and `Counts` offers each paper's sum under its own name.
"""

from dataclasses import asdict, dataclass
from typing import Literal

ParameterConvention = Literal["kaplan", "head", "total"]
ComputeConvention = Literal["6ND", "head", "attention"]


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Parameters of a model and the forward FLOPs it spends on one token, by component.

    Parameters: `embedding` (token table), `position`, `blocks` (weight matrices of the blocks, distinct ones
    only), `other` (biases and normalisation gains), `head` (an untied output matrix; 0 when tied to the
    embedding). FLOPs of one token's forward pass: `flops_blocks` (2 per weight *use*), `flops_attention`
    (causal average over the context, 2 n_layer n_ctx d_attn), `flops_head` (2 d_model n_vocab). Kaplan et al.
    2020, Table 1.
    """

    embedding: int
    position: int
    blocks: int
    other: int
    head: int
    flops_blocks: int
    flops_attention: int
    flops_head: int

    @property
    def N(self) -> int:
        """Kaplan's N: without embeddings, positions, biases and gains (Kaplan et al. 2020, section 1.3)."""
        return self.blocks

    @property
    def N_head(self) -> int:
        """Porian's N: Kaplan's plus the output matrix, tied or not (Porian et al. 2024)."""
        return self.blocks + self.flops_head // 2

    @property
    def N_total(self) -> int:
        """Chinchilla's N: every parameter that training changes (Hoffmann et al. 2022)."""
        return self.embedding + self.position + self.blocks + self.other + self.head

    def parameters(self, convention: ParameterConvention = "kaplan") -> int:
        """Return N under a named convention."""
        return {"kaplan": self.N, "head": self.N_head, "total": self.N_total}[convention]

    def flops_per_token(self, convention: ComputeConvention = "6ND") -> int:
        """Return the training FLOPs of one token: three forward passes, since the backward pass costs two.

        "6ND" is Kaplan's C / D (blocks only), "head" adds the output matrix, "attention" adds both the output
        matrix and the context term, which is everything that counts.
        """
        forward = self.flops_blocks
        if convention in ("head", "attention"):
            forward += self.flops_head
        if convention == "attention":
            forward += self.flops_attention
        return 3 * forward

    def to_dict(self) -> dict[str, int]:
        """Return the components as plain numbers for JSON."""
        return asdict(self)
