"""The native engine with products of weights in bf16 on AMX tiles (csrc/gemm_bf16.h); all else in fp32.

Parameters, moments, gradients, activations, attention and the losses stay fp32; only the factors of products
with weights, and of gradients of weights, are rounded. An engine of its own name, because its numbers are not
those of `native`: losses of trained models differ by less than their seeds' do, to either side
(docs/performance.md). It trains only where a run names it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from allometry.train.engines.base import register
from allometry.train.engines.bindings import environment, library
from allometry.train.engines.native import NativeEngine

if TYPE_CHECKING:
    from allometry.train.config import RunConfig


@register
class NativeBf16Engine(NativeEngine):
    """Transformers on processors with AMX; see `NativeEngine` for the rest."""

    name = "native-bf16"
    bf16 = True

    @classmethod
    def unsupported_reason(cls, config: RunConfig) -> str | None:
        """Return why this engine cannot run `config` here, or None: see `Engine.unsupported_reason`."""
        if reason := super().unsupported_reason(config):
            return reason
        if getattr(config.model, "family", "?") == "lstm":
            return "an LSTM's recurrence is kept in fp32: use engine native"
        if not library(environment()).allometry_has_bf16():
            return "this processor has no bf16 tiles (AMX), or the system keeps them back: use engine native"
        return None
