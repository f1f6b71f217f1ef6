"""Which runs can be trained as a pack, judged by their configurations: planning needs no torch."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from allometry.train.config import RunConfig


def kind(run: RunConfig) -> Hashable:
    """Return what the runs of a pack must have in common: their model and the size of their batches."""
    return run.model, run.train.batch_tokens


def alone(run: RunConfig) -> str | None:
    """Return why a run cannot be in any pack (one sentence), or None.

    Whether its family can be batched is known once its module is built (`packs.unsupported_reason`).
    """
    if run.engine not in ("auto", "fast"):
        return f"{run.id} asks for engine {run.engine!r}"
    if run.plugins:
        return f"{run.id} uses {', '.join(run.plugins)}, and packs are for built-in families"
    if run.devices > 1:
        return f"{run.id} is trained on {run.devices} devices"
    if getattr(run.model, "dropout", 0):
        return "dropout masks are drawn for each run by itself, and a pack draws none"
    return None
