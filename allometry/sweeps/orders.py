"""How a sweep is executed, and what an executor sends to a slot, so that jobs are trained there."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from typing import TYPE_CHECKING, Any

from allometry.sweeps.cost import PROCESS_BYTES, CostModel, estimated_memory
from allometry.sweeps.schedule import Job

if TYPE_CHECKING:
    from allometry.runs.claims import Sight
    from allometry.runs.store import Store


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a sweep is executed: see `execute`. `lease` (seconds) is that of claims; None where nobody else
    writes to the store."""

    checkpoint_every: float = 15.0
    fail_fast: bool = False
    later: float = 0.0
    lease: float | None = None
    first: frozenset[str] = frozenset()


@dataclass
class Orders:
    """Writes the orders of one executor (`allometry.sweeps.service` says what is in them).

    `over` are claims of others that are gone, by run; `data` the names of token sets; `session` is the owner
    of this executor's claims.
    """

    store: Store
    cost: CostModel
    settings: Settings
    over: dict[str, Sight] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    session: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    def to_train(self, jobs: Sequence[Job]) -> dict[str, Any]:
        """The order to train these jobs in one slot: one by itself, or as a pack."""
        orders = [self._one(job) for job in jobs]
        if not self.cost.packing.is_pack(jobs):
            (order,) = orders
            return order
        models = sum(estimated_memory(job.config) - PROCESS_BYTES for job in jobs[1:])
        memory = max(order["memory"] for order in orders) + models  # in one process
        return {"do": "pack", "orders": orders, "memory": memory}

    def _one(self, job: Job) -> dict[str, Any]:
        claim = None
        if self.settings.lease is not None:
            over = self.over.pop(job.id, None)
            claim = {"owner": self.session, "lease": self.settings.lease, "over": over and astuple(over)}
        return {
            "do": "train",
            "store": self.store.place.location,
            "run": job.id,
            "config": job.config.model_dump(mode="json"),
            "branch_at": list(job.branch_at),
            "source": None if job.source is None else list(job.source),
            "memory": self.cost.memory(job.config),
            "checkpoint_every": self.settings.checkpoint_every,
            "claim": claim,
            "data": self.data,
        }
