"""Predict what a sweep takes on a pool of workers: seconds, memory and disk."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import pandas as pd

from allometry.core.env import cores
from allometry.runs.store import Store
from allometry.sweeps.cost.makespan import makespan, makespan_when_lent
from allometry.sweeps.cost.packing import Packing
from allometry.sweeps.cost.schedule import Job, survey
from allometry.sweeps.cost.timing import RunCosts, Timing
from allometry.train.config import RunConfig

if TYPE_CHECKING:
    from allometry.sweeps.workers.pool import Pool


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What is left to do of a sweep: `seconds` on the clock with `workers` cores (or GPUs: `device`), `work`
    in core-seconds of runs trained one by one, FLOPs by the 6ND convention, peak `memory` and final `disk` in
    bytes, and whether all of it was measured on this machine.
    """

    seconds: float
    work: float
    flops: float
    memory: float
    disk: float
    workers: int
    measured: bool
    device: str = "cpu"


class CostModel:
    """Predict what sweeps take: `runs` says what single runs do, `packing` which of them are packed.

    It is made for one core after the other; `on` adapts it to a pool, and `learn` to how long the work that
    was predicted has taken.
    """

    def __init__(self, timings: Mapping[str, Timing] | None = None) -> None:
        """Take timings by `shape_key`; see `allometry.sweeps.cost.calibrate`."""
        self.runs = RunCosts(timings)
        self.packing = Packing(self.runs)
        self.device, self.workers, self.lends = "cpu", 0, False
        self.predicted = self.actual = 5.0

    def on(self, pool: Pool) -> Self:
        """Adapt the model to a pool and return it: how many slots there are, and what is packed there."""
        most = pool.pack
        if most is None and not pool.device.startswith("cuda"):
            most = 1  # on cores, runs trained one by one have a faster engine
        self.packing = Packing(self.runs, most, pool.device_memory)
        self.device, self.workers, self.lends = pool.device, pool.workers, pool.lends
        return self

    def learn(self, predicted: float, actual: float) -> None:
        """Record that work which was predicted to take so many seconds took `actual` seconds."""
        self.predicted += predicted
        self.actual += actual

    @property
    def stretch(self) -> float:
        """Return how many times as long as predicted the work has taken so far."""
        return self.actual / self.predicted

    @property
    def timings(self) -> dict[str, Timing]:
        """Return the timings that the predictions rest on, by `shape_key`."""
        return self.runs.timings

    @property
    def measured(self) -> bool:
        """Return whether anything was timed."""
        return self.runs.measured

    def between(self, config: RunConfig, start: int, stop: int) -> float:
        """Return the seconds of a run from step `start` to `stop` (`RunCosts.between`)."""
        return self.runs.between(config, start, stop)

    def seconds(self, config: RunConfig, start: int = 0) -> float:
        """Return the seconds of the whole run from step `start` (`RunCosts.seconds`)."""
        return self.runs.seconds(config, start)

    def memory(self, config: RunConfig) -> float:
        """Return the peak bytes of the processes that train the run, all together."""
        return self.runs.memory(config)

    def makespan(self, todo: Sequence[Job], workers: int, running: Iterable[Collection[str]] = ()) -> float:
        """Return the predicted seconds until all jobs are done on so many workers (see `cost.makespan`).

        Idle workers are lent to others where the pool does that.
        """
        if self.lends and self.packing.most == 1:
            return makespan_when_lent(todo, self.between, workers, self._takes_threads, running)
        return makespan(todo, self.between, workers, running, self.packing)

    def _takes_threads(self, config: RunConfig) -> bool:
        return self.runs.takes_threads(config)

    def total(
        self, runs: Sequence[RunConfig], store: Store | None = None, workers: int | None = None
    ) -> Cost:
        """Return what is left to do of `runs`, with trunks shared, on `workers` slots.

        Default: the slots of the pool that the model is adapted to, else all cores.
        """
        workers = workers or self.workers or cores()
        left = survey(runs, store)
        todo = left.jobs()
        memory = sorted((self.memory(run) for run in left.pending), reverse=True)
        return Cost(
            seconds=self.makespan(todo, workers),
            work=sum(self.seconds(job.config, job.start) * job.config.devices for job in todo),
            flops=float(sum(_flops_left(job.config, job.start) for job in todo)),
            memory=sum(memory[:workers]),
            disk=sum(self.runs.disk(run) for run in left.pending),
            workers=workers,
            measured=self.measured,
            device=self.device,
        )


def _flops_left(config: RunConfig, start: int) -> float:
    steps = config.train.steps - start
    return float(config.model.counts().flops_per_token()) * steps * config.train.batch_tokens


PLAN_COLUMNS = (
    *("run", "family", "shape", "N", "D", "S", "C", "lr", "seed", "devices", "seconds", "memory", "state"),
)
"""Columns of `plan_frame`."""


def plan_frame(
    runs: Iterable[RunConfig], store: Store | None = None, cost: CostModel | None = None
) -> pd.DataFrame:
    """Return a table of planned runs, a row each, with the columns PLAN_COLUMNS; C is 6ND.

    `seconds` (alone, on one core or its `devices`) and `memory` (bytes, of all) need a cost model, `state`
    ("done", "diverged", "failed", "partial", "new") a store; without, they are missing values.
    """
    return pd.DataFrame([_plan_row(run, store, cost) for run in runs], columns=list(PLAN_COLUMNS))


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
