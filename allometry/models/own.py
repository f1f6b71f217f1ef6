"""Families made from a PyTorch module of one's own: the module says what it computes, everything else is derived.

The arguments of the module's constructor become the fields of the configuration. Parameters are counted from the
module, FLOPs by running it once on PyTorch's meta device and adding up its matrix products, and the size that gives N
parameters is searched for. Such a family is trained by the PyTorch engines; the native one and packs pass it over.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar, get_type_hints

from pydantic import Field, create_model

from allometry.core.errors import AllometryError
from allometry.models.base import Counts, ModelConfig, register

if TYPE_CHECKING:
    from torch import nn

Module = TypeVar("Module", bound=type)

MOST = 1 << 20
"""Largest size that is tried: a module whose N has not come near by then does not grow with it."""

FIELDS = (int, float, bool, str)
"""Types of arguments that a configuration can hold."""


@dataclass(frozen=True)
class Made:
    """What a family is made from: the module's class, the argument that sets its size, and what else was said."""

    module: type
    size: str
    multiple: int
    rate: float | Callable[[Any], float] | None
    counts: Callable[[Any], Counts] | None


class ModuleConfig(ModelConfig):
    """The shape of a family made from a module: the arguments of its constructor."""

    made: ClassVar[Made]

    @property
    def shape(self) -> str:
        """The size, after the depth if there is one: "2x64"."""
        depth, size = getattr(self, "n_layer", None), getattr(self, self.made.size)
        return f"{depth}x{size}" if depth is not None and self.made.size != "n_layer" else f"{size}"

    def counts(self) -> Counts:
        """Return the counts of the module, or those that the family states."""
        return self.made.counts(self) if self.made.counts else measured_counts(self)

    def build(self, seed: int = 0) -> nn.Module:
        """Build the module with its own initialisation, a pure function of (shape, seed).

        A module with a method `initialise(generator)` draws its weights there; for others the global generator
        is seeded within, and left as it was.
        """
        import torch

        from allometry.models.modules import fresh

        if hasattr(self.made.module, "initialise"):
            return fresh(self._construct, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._construct()

    def _construct(self) -> nn.Module:
        given = {**self.model_dump(), "n_ctx": self.n_ctx, "n_vocab": self.n_vocab}
        try:
            module: nn.Module = self.made.module(
                **{name: given[name] for name in arguments(self.made.module)}
            )
        except Exception as error:
            name = getattr(self, "family", "")
            raise AllometryError(
                f"the module of family {name!r} cannot be made with {self.made.size}={getattr(self, self.made.size)}: "
                f"{type(error).__name__}: {error}",
                hint=f"mend its constructor, or let sizes go in steps: family({name!r}, multiple=16)",
            ) from error
        return module

    def own_rate(self) -> float | None:
        """Return the peak learning rate that the family states, if it does."""
        rate = self.made.rate
        return float(rate(self)) if callable(rate) else rate

    @property
    def rate_width(self) -> float:
        """The width by which the rule sets the learning rate: d_model, or else the size."""
        return float(getattr(self, "d_model", getattr(self, self.made.size)))

    @classmethod
    def from_n_params(cls, n: int, **fixed: Any) -> Self:
        """Return the shape with N nearest to `n`: the size is searched for, the other fields are as given.

        AllometryError where N does not grow with the size.
        """
        size, step = cls.made.size, cls.made.multiple
        if size in fixed:
            return cls.model_validate(fixed)

        at: Callable[[int], Self] = lambda count: cls.model_validate({**fixed, size: count * step})  # noqa: E731
        low = high = 1
        while at(high).parameters() < n:
            low, high = high, 2 * high
            if high * step > MOST:
                raise AllometryError(
                    f"no {size} up to {MOST} gives family {cls.model_fields['family'].default!r} {n} parameters",
                    hint=f"is {size!r} the argument that sets its size? family(NAME, size=...) names it",
                )
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if at(middle).parameters() < n else (low, middle)
        return min(at(low), at(high), key=lambda shape: abs(math.log(max(shape.parameters(), 1) / n)))

    def parameters(self) -> int:
        """Return N: the weights of the blocks."""
        return self.made.counts(self).N if self.made.counts else _by_kind(self)[0]["blocks"]


def family(
    name: str,
    *,
    size: str = "d_model",
    multiple: int = 4,
    rate: float | Callable[[Any], float] | None = None,
    counts: Callable[[Any], Counts] | None = None,
) -> Callable[[Module], Module]:
    """Register a PyTorch module as a model family; a class decorator.

    The module's constructor takes `n_vocab` and, if it likes, `n_ctx`, besides numbers that say its shape; its
    forward maps token ids of shape (batch, time) to logits of shape (batch, time, n_vocab).

    Parameters
    ----------
    name
        Name of the family, for `--family` and run ids.
    size
        Argument of the constructor that sets the model's size.
    multiple
        The size is a multiple of this.
    rate
        Peak learning rate, or a function from the configuration to it (default: the transformer's rule by width).
    counts
        Exact parameters and FLOPs from the configuration (default: counted from the module).

    Returns
    -------
    Callable
        The decorator, which returns the module's class unchanged.

    Raises
    ------
    AllometryError
        If another family has the name, or the constructor takes what no configuration can hold.

    Examples
    --------
    >>> import allometry
    >>> allometry.family("tiny", size="width")(object)
    Traceback (most recent call last):
        ...
    allometry.core.errors.AllometryError: the module of family 'tiny' takes no n_vocab
      hint: def __init__(self, n_vocab: int, width: int)
    """

    def decorate(module: Module) -> Module:
        fields = _fields(name, module, size)
        made = Made(module, size, multiple, rate, counts)
        own: dict[str, Any] = {"family": (Literal[name], name), **fields}
        config = create_model(
            f"{module.__name__}Config", __base__=ModuleConfig, __module__=module.__module__, **own
        )
        config.__doc__ = module.__doc__
        config.made = made
        register(config)
        return module

    return decorate


def arguments(module: type) -> dict[str, inspect.Parameter]:
    """Return the named arguments of a class's constructor."""
    if module.__init__ is object.__init__:  # type: ignore[misc]
        return {}
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    signature = inspect.signature(module)
    return {name: each for name, each in signature.parameters.items() if each.kind in kinds}


def _fields(name: str, module: type, size: str) -> dict[str, Any]:
    """Return the constructor's arguments as fields of a configuration: types and defaults."""
    known = arguments(module)
    form = f"def __init__(self, n_vocab: int, {size}: int)"
    for needed in ("n_vocab", size):
        if needed not in known:
            raise AllometryError(f"the module of family {name!r} takes no {needed}", hint=form)
    hints = get_type_hints(module.__init__)  # type: ignore[misc]
    fields: dict[str, Any] = {
        "n_ctx": (int, Field(default=256, ge=1)),
        "n_vocab": (int, Field(default=256, ge=1)),
    }
    for argument, found in known.items():
        if argument in fields:
            continue
        if argument.startswith("_") or hasattr(ModuleConfig, argument):
            raise AllometryError(
                f"family {name!r} cannot have an argument called {argument!r}, which a configuration uses itself",
                hint=f"call it n_{argument.strip('_')}",
            )
        default = ... if found.default is inspect.Parameter.empty else found.default
        kind = hints.get(argument, int if default is ... else type(default))
        if kind not in FIELDS:
            raise AllometryError(
                f"the argument {argument!r} of family {name!r} is no int, float, bool or str",
                hint=f"give it a type and a default, such as {argument}: int = 2, or make it inside the module",
            )
        fields[argument] = (kind, default)
    return fields


def skeleton(config: ModuleConfig) -> nn.Module:
    """Return the module without weights, on the meta device; with weights where it cannot be made there."""
    import torch

    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return config._construct()
        except AllometryError:
            return config._construct()


@lru_cache(maxsize=65536)
def _by_kind(config: ModuleConfig) -> tuple[dict[str, int], frozenset[str]]:
    """Return the parameters by kind, and the names of those that make logits."""
    from torch import nn

    module = skeleton(config)
    counted = dict.fromkeys(("embedding", "position", "blocks", "other", "head"), 0)
    out, seen = set(), set()
    for path, part in module.named_modules():
        for own, parameter in part.named_parameters(recurse=False):
            name = f"{path}.{own}" if path else own
            if isinstance(part, nn.Linear) and part.out_features == config.n_vocab and own == "weight":
                out.add(name)
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            counted[_kind(part, parameter, config)] += parameter.numel()
    return counted, frozenset(out)


def _kind(part: nn.Module, parameter: nn.Parameter, config: ModuleConfig) -> str:
    """Return which of the counts a parameter belongs to."""
    from torch import nn

    if isinstance(part, nn.Embedding):
        return "embedding" if part.num_embeddings == config.n_vocab else "position"
    if parameter.ndim < 2:
        return "other"
    if isinstance(part, nn.Linear) and part.out_features == config.n_vocab:
        return "head"
    whole = isinstance(part, nn.Linear | nn.RNNBase | nn.modules.conv._ConvNd | nn.MultiheadAttention)
    return "position" if not whole and parameter.shape[-2] == config.n_ctx else "blocks"


@lru_cache(maxsize=4096)
def measured_counts(config: ModuleConfig) -> Counts:
    """Return parameters by kind, and the FLOPs of a forward pass as PyTorch carries it out.

    A product with a weight counts as the head's where its result has one number for each id of the vocabulary,
    else as the blocks'; a product of activations is attention's, counted in full where `Counts` of the
    built-in transformer has the causal half.
    """
    counted, _ = _by_kind(config)
    spent = flops(config)
    return Counts(
        **counted,
        flops_blocks=round(spent["blocks"] / config.n_ctx),
        flops_attention=round(spent["attention"] / config.n_ctx),
        flops_head=round(spent["head"] / config.n_ctx),
    )


def flops(config: ModuleConfig) -> dict[str, int]:
    """Return the FLOPs of the products of one window's forward pass: "blocks", "head" and "attention"."""
    import torch

    from allometry.models.modules.products import products

    last: Exception | None = None
    for make in (lambda: skeleton(config), config.build):  # some kernels do not exist on the meta device
        module = make().double().eval()
        device = next(module.parameters()).device
        tokens = torch.zeros((1, config.n_ctx), dtype=torch.int64, device=device)
        try:
            return products(module, tokens, config.n_vocab)
        except Exception as error:
            last = error
    name = getattr(config, "family", "")
    raise AllometryError(
        f"the module of family {name!r} cannot be run on {config.n_ctx} tokens: {type(last).__name__}: {last}",
        hint="its forward takes token ids of shape (batch, time), int64, and returns logits of shape "
        "(batch, time, n_vocab)",
    ) from last
