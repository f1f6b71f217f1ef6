"""The matrix products of a forward pass, told apart by what is multiplied: a weight, or activations only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


def products(module: nn.Module, tokens: Tensor, n_vocab: int) -> dict[str, int]:
    """Return the FLOPs of the products in `module(tokens)` by kind.

    "head": with a weight, into logits (the last axis has `n_vocab` numbers); "blocks": with any other weight;
    "attention": of activations. Attention is carried out as plain products, so that it is counted on every
    device.
    """
    counter = _Products(module, n_vocab)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        module(tokens)
    return counter.spent


class _Products(TorchDispatchMode):
    """Add up the FLOPs of every operation that PyTorch's flop counter has a formula for."""

    def __init__(self, module: nn.Module, n_vocab: int) -> None:
        super().__init__()
        self.spent = {"blocks": 0, "head": 0, "attention": 0}
        self._weights = {_storage(parameter) for parameter in module.parameters()}
        self._n_vocab = n_vocab

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        formula: Callable[..., int] | None = flop_registry.get(func._overloadpacket)
        if formula is None:
            if func not in {torch.ops.prim.device.default}:
                with self:
                    result = func.decompose(*args, **kwargs)
                if result is not NotImplemented:
                    return result
            return func(*args, **kwargs)
        result = func(*args, **kwargs)
        own = any(isinstance(a, Tensor) and _storage(a) in self._weights for a in tree_leaves((args, kwargs)))
        head = own and isinstance(result, Tensor) and result.shape[-1] == self._n_vocab
        kind = "head" if head else "blocks" if own else "attention"
        self.spent[kind] += int(formula(*args, **kwargs, out_val=result))
        return result


def _storage(tensor: Tensor) -> int:
    """Return a number that tensors of the same memory share, also on the meta device."""
    return int(tensor.untyped_storage()._cdata)
