"""What every architecture is to the rest of Allometry: a frozen configuration that can count, build and resize itself."""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict

from allometry.errors import unknown
from allometry.models.counts import Counts

if TYPE_CHECKING:
    from torch import nn


class Frozen(BaseModel):
    """A record that is checked when made, never changed, and rejects keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, checked again."""
        return type(self).model_validate({**self.model_dump(), **changes})


class ModelConfig(Frozen, ABC):
    """The shape of a model. One subclass per family, each in its own file of this package, at most 12 fields.

    A subclass sets a `family` field with a literal default and implements the four methods; registering it is one
    decorator. The contract tests in `tests/contracts/test_models.py` then hold for it.
    """

    n_ctx: int
    n_vocab: int

    ladder_hint: ClassVar[str] = ""

    @abstractmethod
    def counts(self) -> Counts:
        """Parameters and FLOPs by component, computed from the shape alone."""

    @abstractmethod
    def build(self, seed: int = 0) -> nn.Module:
        """The PyTorch module with freshly initialised fp32 weights, a pure function of (shape, seed).

        Its forward maps token ids of shape (batch, time) to logits of shape (batch, time, n_vocab).
        """

    @classmethod
    @abstractmethod
    def of_size(cls, n: int, **fixed: Any) -> Self:
        """The dial: the shape of this family whose Kaplan-N is nearest to `n`, all else derived unless fixed."""

    @property
    @abstractmethod
    def shape(self) -> str:
        """A short name of the shape for tables and run names, such as "4x64"."""


_FAMILIES: dict[str, type[ModelConfig]] = {}
ConfigType = TypeVar("ConfigType", bound=type[ModelConfig])


def register(config: ConfigType) -> ConfigType:
    """Class decorator: makes a family known by the default of its `family` field."""
    _FAMILIES[config.model_fields["family"].default] = config
    return config


def families() -> dict[str, type[ModelConfig]]:
    """Every family by name; a file put into this package is found without being listed anywhere."""
    package = importlib.import_module("allometry.models")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"allometry.models.{module.name}")
    return dict(sorted(_FAMILIES.items()))


def family(name: str) -> type[ModelConfig]:
    """The configuration class of a family; AllometryError with the nearest names for an unknown one."""
    if name not in _FAMILIES and name not in families():
        raise unknown("model family", name, _FAMILIES)
    return _FAMILIES[name]
