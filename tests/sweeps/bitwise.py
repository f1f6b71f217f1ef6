"""What two trainings of one run must share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from allometry.runs.store import Store
    from allometry.train.config import RunConfig


def run_bytes(store: Store, run: RunConfig) -> tuple[bytes, bytes]:
    """The curve and the trained parameters of a run."""
    from allometry.train.checkpoint import final_parameters

    parameters = final_parameters(store.directory(run.id))
    weights = b"".join(parameters[name].tobytes() for name in sorted(parameters))
    return (store.directory(run.id) / "curve.jsonl").read_bytes(), weights
