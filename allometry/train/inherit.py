"""Start a run from the final weights of another, with a fresh optimiser (`TrainConfig.init_from`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allometry.core.errors import AllometryError
from allometry.runs.record import RunRecord, read_run
from allometry.train.checkpoint import final_parameters

if TYPE_CHECKING:
    from allometry.train.config import RunConfig
    from allometry.train.engines.base import State

FREE = ("dropout", "init")
"""Settings of a model that may differ between a run and the one that it starts from."""


def inherited(config: RunConfig, store: Path) -> State:
    """Read the weights that a run starts from, as "params/<name>"; empty if it starts from its own.

    `store` is the directory that holds both runs' directories. AllometryError if the other run is not there,
    is not finished, diverged, or has another shape.
    """
    parent = config.train.init_from
    if parent is None:
        return {}
    if not (store / parent / "config.json").exists():
        raise AllometryError(
            f"{config.id} starts from {parent}, which is not in {store}",
            hint="train that run first, or add it to the same sweep",
        )
    record = read_run(store / parent)
    if reason := why_not(record) or mismatch(config, record.config.get("model", {})):
        raise AllometryError(
            f"{config.id} cannot start from {parent}: {reason}",
            hint="start from a finished run of the same shape, or leave init_from out",
        )
    return {f"params/{name}": tensor for name, tensor in final_parameters(store / parent).items()}


def why_not(record: RunRecord) -> str | None:
    """Return why a run has no weights to start from, or None if it has."""
    if record.status == "diverged":
        return "it diverged"
    if record.status == "failed":
        return f"it failed ({(record.error or '').strip().splitlines()[0]})" if record.error else "it failed"
    return None if record.status == "done" else "it is not finished"


def mismatch(config: RunConfig, model: Mapping[str, Any]) -> str | None:
    """Return how the model of another run (as plain JSON) differs from a run's own, or None if weights fit."""
    own = config.model.model_dump(mode="json")
    differ = [
        f"{key} {model.get(key)} instead of {own.get(key)}"
        for key in sorted({*own, *model} - set(FREE))
        if own.get(key) != model.get(key)
    ]
    return f"its model has {', '.join(differ)}" if differ else None
