"""The interface of every architecture: a frozen configuration that can count, build and resize itself.

What "N" and "C" mean moves the exponents of a scaling law more than most experiments do: counting the head's
FLOPs alone takes the exponent of N_opt(C) from 0.84 to 0.71 (Porian et al. 2024). So a run records parameters and
FLOPs by component, and `Counts` offers each paper's sum under its own name; a convention is chosen when they are read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from allometry.core.errors import AllometryError, unknown
from allometry.core.registry import Registry

if TYPE_CHECKING:
    from torch import nn


class StrictModel(BaseModel):
    """A record that is validated when made, cannot be changed, and rejects unknown keys.

    A wrong value raises AllometryError, which names the record and the field and, for a misspelt field, the
    nearest known names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    if not TYPE_CHECKING:  # type checkers see the fields that pydantic declares, not this signature

        def __init__(self, /, **fields: Any) -> None:
            try:
                super().__init__(**fields)
            except ValidationError as error:
                raise readable(error, type(self)) from None

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed, checked again."""
        return type(self).model_validate({**self.model_dump(), **changes})


def readable(error: ValidationError, record: type[BaseModel]) -> AllometryError:
    """Return a pydantic error in the user's words: which field is wrong, and what was given."""
    wrong: list[str] = []
    hint = None
    for item in error.errors(include_url=False):
        field = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            guess = unknown("field", field, record.model_fields)
            wrong, hint = [*wrong, guess.message], guess.hint
        elif item["type"] == "missing":
            wrong.append(f"{field} is missing")
        elif item["type"] == "value_error":  # raised by our own validator, for the user
            wrong.append(str(item["ctx"]["error"]))
        else:
            wrong.append(f"{field}: {item['msg']} (got {item['input']!r})")
    return AllometryError(f"{record.__name__}: {'; '.join(wrong)}", hint=hint)


class ModelConfig(StrictModel, ABC):
    """The shape of a model. One subclass per family, each in its own file of this package, at most 12 fields.

    A subclass sets a `family` field with a literal default and implements the four methods; registering it is
    one decorator. The contract tests in `tests/contracts/test_models.py` then hold for it.
    """

    n_ctx: int
    n_vocab: int

    @abstractmethod
    def counts(self) -> Counts:
        """Return parameters and FLOPs by component, computed from the shape alone."""

    @abstractmethod
    def build(self, seed: int = 0) -> nn.Module:
        """Build the PyTorch module with freshly initialised fp32 weights, a pure function of (shape, seed).

        Its forward maps token ids of shape (batch, time) to logits of shape (batch, time, n_vocab). If it has
        an attribute `auxiliary_loss` that is not None after a forward pass in training, that (one number) is
        added to what the PyTorch engines differentiate, and not to the losses that they report.
        """

    @classmethod
    @abstractmethod
    def from_n_params(cls, n: int, **fixed: Any) -> Self:
        """Return the shape of this family with Kaplan's N near `n`; fields that are not `fixed` are derived from
        it.
        """

    def own_rate(self) -> float | None:
        """Return the peak learning rate that the family states for this shape; None: a rule of the recipe decides."""
        return None

    @property
    @abstractmethod
    def shape(self) -> str:
        """A short name of the shape for tables and run names, such as "4x64"."""


class AbsentModel(ModelConfig):
    """The recorded shape of a family of a plugin that is not loaded, or has other fields by now: enough to read its
    runs, whose table holds what was counted; it cannot be built.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    family: str

    @property
    def shape(self) -> str:
        """Return "absent": only the plugin knows the name of the shape."""
        return "absent"

    def counts(self) -> Counts:
        """Raise AllometryError: the plugin is not loaded."""
        raise self._error()

    def build(self, seed: int = 0) -> nn.Module:
        """Raise AllometryError: the plugin is not loaded."""
        raise self._error()

    @classmethod
    def from_n_params(cls, n: int, **fixed: Any) -> Self:
        """Raise AllometryError: the plugin is not loaded."""
        raise AllometryError("no size of an absent family is known", hint="load its plugin")

    def _error(self) -> AllometryError:
        return AllometryError(
            f"the family {self.family!r} comes from a plugin that is not loaded, or has changed since",
            hint="allometry.load_plugins('my_things.py')",
            cli_hint="--plugin my_things.py",
        )


FAMILIES: Registry[type[ModelConfig]] = Registry(
    "model family", packages=("allometry.models",), without=("torch", "safetensors")
)
"""Model families by name. A file that needs PyTorch is left out where PyTorch is not installed."""

ConfigType = TypeVar("ConfigType", bound=type[ModelConfig])


def register(config: ConfigType) -> ConfigType:
    """Register a family (class decorator) under the default of its `family` field."""
    name: str = config.__pydantic_fields__["family"].default
    return FAMILIES.add(name, config)


def families() -> dict[str, type[ModelConfig]]:
    """Return every family by name; a file put into this package is found without being listed anywhere."""
    return FAMILIES.all()


def family(name: str) -> type[ModelConfig]:
    """Return the configuration class of a family; AllometryError with the nearest names for an unknown one.

    The file of that name is looked into first, so that to read a run loads no other family, nor PyTorch.
    """
    return FAMILIES[name]


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
