"""A set of runs that together answer one question."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from allometry.errors import AllometryError
from allometry.train.config import RunConfig

if TYPE_CHECKING:
    from allometry.runs.store import Store
    from allometry.sweeps.cost import Cost, CostModel


@dataclass(frozen=True)
class Sweep:
    """Runs under a name and a question; a set: `a + b` and `a | b` unite, `a - b` takes away.

    The runs keep their order and no run counts twice. A union keeps the name and question on its left.
    """

    name: str
    question: str
    runs: tuple[RunConfig, ...]

    def __post_init__(self) -> None:
        if not self.name:
            raise AllometryError("a sweep needs a name", hint='Sweep("my-sweep", "What is asked?", runs)')
        unique = {run.id: run for run in self.runs}
        object.__setattr__(self, "runs", tuple(unique.values()))

    def __len__(self) -> int:
        return len(self.runs)

    def __iter__(self) -> Iterator[RunConfig]:
        return iter(self.runs)

    def __contains__(self, run: RunConfig) -> bool:
        return any(run.id == mine.id for mine in self.runs)

    def __or__(self, other: Sweep) -> Sweep:
        return Sweep(self.name, self.question, (*self.runs, *other.runs))

    __add__ = __or__

    def __sub__(self, other: Sweep) -> Sweep:
        taken = {run.id for run in other.runs}
        return Sweep(self.name, self.question, tuple(run for run in self.runs if run.id not in taken))

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the runs, in order."""
        return tuple(run.id for run in self.runs)

    def frame(self, store: Store | None = None, cost: CostModel | None = None) -> pd.DataFrame:
        """The plan: a row a run with run, family, shape, N, D, S, C (6ND), lr, seed, devices, seconds, memory
        and state.

        `seconds` (alone, on one core or its `devices`) and `memory` (bytes, of all) need a cost model,
        `state` ("done", "diverged", "failed", "partial", "new") a store; without, they are missing values.
        """
        return pd.DataFrame([_plan_row(run, store, cost) for run in self.runs], columns=list(PLAN_COLUMNS))

    def cost(self, model: CostModel, store: Store | None = None, workers: int | None = None) -> Cost:
        """What training the sweep takes from here, with what `store` already holds (see
        `CostModel.total`).
        """
        return model.total(self.runs, store=store, workers=workers)


PLAN_COLUMNS = (
    *("run", "family", "shape", "N", "D", "S", "C", "lr", "seed", "devices", "seconds", "memory", "state"),
)
"""Columns of `Sweep.frame`."""


def _plan_row(run: RunConfig, store: Store | None, cost: CostModel | None) -> dict[str, Any]:
    counts = run.model.counts()
    tokens = run.train.steps * run.train.batch_tokens
    return {
        "run": run.id,
        "family": getattr(run.model, "family", None),
        "shape": run.model.shape,
        "N": counts.N,
        "D": tokens,
        "S": run.train.steps,
        "C": float(counts.flops_per_token()) * tokens,
        "lr": run.train.lr,
        "seed": run.train.seed,
        "devices": run.devices,
        "seconds": cost.seconds(run) if cost else None,
        "memory": cost.memory(run) if cost else None,
        "state": (store.status(run.id) or "new") if store else None,
    }
