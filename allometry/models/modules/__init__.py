"""The families as PyTorch modules, one file a family, loaded when a model is built; and the parts that they share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable


Module = TypeVar("Module", bound=nn.Module)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """Return softmax(q k^T / sqrt(w)) v, where each position attends to itself and to earlier ones; `dropout` is
    applied to the softmax.

    q, k, v and the result: (B, H, T, w) for B sequences, H heads of width w, T positions.
    """
    if q.device.type == "cpu" and q.dtype is torch.bfloat16:
        return _written_out(q, k, v, dropout)
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)


def _written_out(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    """Compute the same with plain products: in bf16 on CPUs, PyTorch's fused backward pass is five times slower."""
    T, w = q.shape[-2:]
    future = torch.full((T, T), -math.inf, dtype=q.dtype, device=q.device).triu(1)
    weights = torch.softmax(q @ k.mT * w**-0.5 + future, dim=-1)  # (B, H, T, T)
    return F.dropout(weights, dropout) @ v


def fresh(make: Callable[[], Module], seed: int) -> Module:
    """Return the module that `make` makes with weights drawn by its own `initialise`, a pure function of
    `seed`.
    """
    model = unfilled(make)
    cast(Any, model).initialise(torch.Generator().manual_seed(seed))
    return model


def unfilled(make: Callable[[], Module]) -> Module:
    """Return the module that `make` makes on the CPU, its tensors of the right shapes but not filled.

    Layers of PyTorch draw weights when they are made, which every model replaces by its own: what is skipped
    is time, memory and random numbers.
    """
    with torch.device("meta"), _WithoutInitialisation():
        module = make()
    # as `to_empty` does, whose `empty_like` of a meta tensor loads sympy: a second in every new process
    return module._apply(lambda t: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="cpu"))


class _WithoutInitialisation(TorchFunctionMode):
    """A context in which the functions of `torch.nn.init` leave tensors unchanged. On the meta device the random
    ones load PyTorch's compiler, which takes seconds in every new process.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))
