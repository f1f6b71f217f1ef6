"""Scaling a study to the time that the user has, and keeping that plan, so that the same command continues
the same runs.

Calibration differs a little from day to day; if every invocation chose sizes afresh, nothing would ever be
resumed. So a plan is made once for a (study, budget, data) in a store and written down with its resolved
runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from allometry.errors import AllometryError
from allometry.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from allometry.studies.base import Study
    from allometry.sweeps.cost import CostModel
    from allometry.sweeps.sweep import Sweep
    from allometry.train.config import DataConfig, RunConfig

FILE = "plan.json"
LEAST_COMPUTE = 1e9
MOST_COMPUTE = 1e22

_FIXED = 12.0
"""Seconds of a budget kept for what does not scale with it: loading, fits and the report."""

_SHARE = 0.03
"""Share of a budget kept for what does."""


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """A study scaled to a budget: the runs in the order of stages, and which of them are predicted before
    they are trained.

    `compute` is what the study was asked to spend (FLOPs, everything counted), `seconds` the predicted time
    of the training.
    """

    study: str
    budget: float
    compute: float
    seconds: float
    sweep: Sweep
    held_back: tuple[str, ...]
    created: str

    def stages(self) -> list[Sweep]:
        """What is trained first, and what is trained after the prediction has been registered (if anything
        is).
        """
        held = set(self.held_back)
        parts = [[r for r in self.sweep if r.id not in held], [r for r in self.sweep if r.id in held]]
        return [self._part(runs) for runs in parts if runs]

    def _part(self, runs: list[RunConfig]) -> Sweep:
        from allometry.sweeps.sweep import Sweep

        return Sweep(self.sweep.name, self.sweep.question, tuple(runs))


def train_seconds(budget: float) -> float:
    """The part of a budget (seconds) that may go into training."""
    return budget * (1 - _SHARE) - _FIXED


def within_budget(
    study: Study,
    budget: float,
    data: DataConfig,
    cost: CostModel,
    workers: int | None = None,
    *,
    spent: float = 0.0,
) -> StudyPlan:
    """The largest version of a study whose predicted time fits the budget (seconds; `spent` are gone).

    Raises AllometryError, naming the smallest budget that works on this machine, if none does.
    """
    sweep_of = _cached(lambda compute: study.sweep(compute, data))

    def seconds(sweep: Sweep) -> float:
        return _seconds(study, sweep, cost, workers)

    compute = _largest(sweep_of, seconds, train_seconds(budget) - spent)
    if compute is None:
        needed = (seconds(sweep_of(_smallest(sweep_of))) + spent + _FIXED) / (1 - _SHARE)
        raise AllometryError(
            f"a budget of {format_duration(budget)} is too small for {study.name!r} on this machine",
            hint=f"the smallest that works is about --budget {math.ceil((needed + 2) / 5) * 5}s",
        )
    return _plan(study, sweep_of(compute), budget, compute, cost, workers)


def of_compute(
    study: Study,
    compute: float,
    data: DataConfig,
    cost: CostModel | None = None,
    workers: int | None = None,
) -> StudyPlan:
    """The version of a study that spends `compute` FLOPs, or the smallest one for 0, whatever it takes."""
    least = compute or _smallest(_cached(lambda amount: study.sweep(amount, data)))
    return _plan(study, study.sweep(least, data), math.nan, least, cost, workers)


def _plan(
    study: Study, sweep: Sweep, budget: float, compute: float, cost: CostModel | None, workers: int | None
) -> StudyPlan:
    return StudyPlan(
        study=study.name,
        budget=budget if math.isfinite(budget) else 0.0,
        compute=compute,
        seconds=_seconds(study, sweep, cost, workers) if cost else 0.0,
        sweep=sweep,
        held_back=tuple(run.id for run in sweep if study.held_back(run, sweep)),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _seconds(study: Study, sweep: Sweep, cost: CostModel, workers: int | None) -> float:
    """Predicted time of the stages, one after the other."""
    held = tuple(run for run in sweep if study.held_back(run, sweep))
    first = tuple(run for run in sweep if run not in held)
    return sum(cost.total(stage, workers=workers).seconds for stage in (first, held) if stage)


def _cached(sweep_of: Callable[[float], Sweep]) -> Callable[[float], Sweep]:
    made: dict[float, Sweep] = {}

    def cached(compute: float) -> Sweep:
        if compute not in made:
            made[compute] = sweep_of(compute)
        return made[compute]

    return cached


def _possible(sweep_of: Callable[[float], Sweep], compute: float) -> bool:
    try:
        sweep_of(compute)
    except AllometryError:
        return False
    return True


def _smallest(sweep_of: Callable[[float], Sweep]) -> float:
    """The least compute with which the study can be asked at all, to within a tenth (bisection in the
    logarithm).
    """
    low, high = LEAST_COMPUTE, MOST_COMPUTE
    if _possible(sweep_of, low):
        return low
    while high / low > 1.1:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if _possible(sweep_of, middle) else (middle, high)
    return high


def _largest(
    sweep_of: Callable[[float], Sweep], seconds: Callable[[Sweep], float], allowed: float
) -> float | None:
    """The most compute whose sweep is predicted to take no longer than `allowed` seconds, to within 1 %."""
    low, high = _smallest(sweep_of), MOST_COMPUTE
    if seconds(sweep_of(low)) > allowed:
        return None
    while high / low > 1.01:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if seconds(sweep_of(middle)) <= allowed else (low, middle)
    return low


def save(plan: StudyPlan, folder: Path) -> None:
    """Write the plan into a study's folder, with its runs resolved."""
    from allometry.runs.files import write_json

    content: dict[str, Any] = {
        "study": plan.study,
        "question": plan.sweep.question,
        "budget": plan.budget,
        "compute": plan.compute,
        "seconds": plan.seconds,
        "created": plan.created,
        "held_back": list(plan.held_back),
        "runs": [run.model_dump(mode="json") for run in plan.sweep],
    }
    write_json(folder / FILE, content)


def load(folder: Path) -> StudyPlan | None:
    """The plan in a study's folder, or None if there is none yet."""
    from allometry.runs.files import read_json
    from allometry.sweeps.sweep import Sweep
    from allometry.train.config import RunConfig

    content = read_json(folder / FILE)
    if content is None:
        return None
    runs = tuple(RunConfig.model_validate(run) for run in content["runs"])
    return StudyPlan(
        study=content["study"],
        budget=content["budget"],
        compute=content["compute"],
        seconds=content["seconds"],
        sweep=Sweep(content["study"], content["question"], runs),
        held_back=tuple(content["held_back"]),
        created=content["created"],
    )
