"""Scaling a study to the time that the user has, and keeping that plan, so that the same command continues
the same runs.

Calibration differs a little from day to day; if every invocation chose sizes afresh, nothing would ever be
resumed. So a plan is made once for a (study, budget, data) in a store and written down with its resolved
runs.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import StrictFloat, StrictInt, StrictStr, ValidationError, create_model

from allometry.core.errors import AllometryError
from allometry.core.files import read_json
from allometry.core.units import compact_duration, format_duration
from allometry.runs.record import FORMAT, check_format
from allometry.studies.core.texts import analysis_seconds
from allometry.sweeps import Sweep
from allometry.train.config import RunConfig

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from allometry.runs.store import Store
    from allometry.studies.core.study import Study
    from allometry.sweeps.cost import CostModel
    from allometry.train.config import DataConfig

FILE = "plan.json"
LEAST_COMPUTE = 1e9
MOST_COMPUTE = 1e22

_FIXED = 4.0
"""Seconds of a budget kept for what does not scale with it: loading, and the start of the workers."""

_SHARE = 0.03
"""Share of a budget kept for what does. Fits and report are counted by themselves (`analysis_time`)."""


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """A study scaled to a budget: the runs in the order of stages, and which of them are predicted before
    they are trained.

    `compute` is what the study was asked to spend (FLOPs, everything counted), `seconds` the predicted time
    of the training, `parts` the ids of the runs by study: of this one, or of each member of a collection;
    `run_sets` the same by run set, empty for a study that names none.
    """

    study: str
    budget: float
    compute: float
    seconds: float
    sweep: Sweep
    held_back: tuple[str, ...]
    created: str
    parts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    run_sets: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def stages(self) -> list[Sweep]:
        """Return what is trained first, and what is trained after the prediction has been registered (if
        anything is).
        """
        held = set(self.held_back)
        parts = [[r for r in self.sweep if r.id not in held], [r for r in self.sweep if r.id in held]]
        return [self._part(runs) for runs in parts if runs]

    def part(self, name: str) -> Sweep:
        """Return the runs of one study of the plan."""
        own = set(self.parts[name])
        return self._part([run for run in self.sweep if run.id in own])

    def _part(self, runs: list[RunConfig]) -> Sweep:
        return Sweep(self.sweep.name, self.sweep.question, tuple(runs))


@dataclass(frozen=True)
class Asked:
    """What a study asks for with `compute` FLOPs: its runs, those of each member, and which are held back."""

    study: Study
    compute: float
    data: DataConfig

    @cached_property
    def parts(self) -> dict[str, Sweep]:
        """The runs by study."""
        return self.study.parts(self.compute, self.data)

    @cached_property
    def sweep(self) -> Sweep:
        """Every run once."""
        runs = tuple(run for part in self.parts.values() for run in part)
        return Sweep(self.study.name, self.study.question, runs)

    @cached_property
    def held_back(self) -> tuple[str, ...]:
        """The runs that some member predicts before they are trained."""
        held = {run for name, part in self.parts.items() for run in held_back(self.study.member(name), part)}
        return tuple(run for run in self.sweep.ids if run in held)

    def seconds(self, cost: CostModel, workers: int | None) -> float:
        """Return the predicted time of the stages, one after the other."""
        held = set(self.held_back)
        first = tuple(run for run in self.sweep if run.id not in held)
        later = tuple(run for run in self.sweep if run.id in held)
        return sum(cost.total(stage, workers=workers).seconds for stage in (first, later) if stage)


def _ask(study: Study, compute: float, data: DataConfig) -> Asked:
    """Return raises AllometryError if the compute is too little to ask."""
    asked = Asked(study, compute, data)
    assert asked.parts
    return asked


def held_back(study: Study, sweep: Sweep) -> tuple[str, ...]:
    """Return the runs of a study that are to be predicted before they are trained."""
    return tuple(run.id for run in sweep if study.held_back(run, sweep))


def train_seconds(budget: float) -> float:
    """Return the part of a budget (seconds) that may go into training and analysis."""
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
    """Return the largest version of a study whose predicted time, fits and report included, fits the budget
    (seconds; `spent` are gone).

    Raises AllometryError, naming the smallest budget that works on this machine, if none does.
    """
    asked = _cached(lambda compute: _ask(study, compute, data))

    def seconds(compute: float) -> float:
        wanted = asked(compute)
        return wanted.seconds(cost, workers) + analysis_seconds(study.name, len(wanted.sweep))

    least = smallest(asked)
    compute = _largest(seconds, least, train_seconds(budget) - spent)
    if compute is None:
        needed = (seconds(least) + spent + _FIXED) / (1 - _SHARE)
        raise AllometryError(
            f"a budget of {format_duration(budget)} is too small for {study.name!r} on this machine",
            hint=f"the smallest that works is about --budget {compact_duration(_rounded_up(needed + 2))}",
        )
    return _plan(asked(compute), budget, cost, workers)


def _rounded_up(seconds: float) -> float:
    """Round a time up to 5 seconds, from 10 minutes on to whole minutes."""
    grain = 5 if seconds < 600 else 60
    return math.ceil(seconds / grain) * grain


def of_compute(
    study: Study,
    compute: float,
    data: DataConfig,
    cost: CostModel | None = None,
    workers: int | None = None,
) -> StudyPlan:
    """Return the version of a study that spends `compute` FLOPs, or the smallest one for 0, whatever it
    takes.
    """
    asked = _cached(lambda amount: _ask(study, amount, data))
    least = compute or smallest(asked)
    return _plan(asked(least), math.nan, cost, workers)


def _plan(asked: Asked, budget: float, cost: CostModel | None, workers: int | None) -> StudyPlan:
    by_run_set = asked.study.by_run_set(asked.compute, asked.data)
    return StudyPlan(
        study=asked.study.name,
        budget=budget if math.isfinite(budget) else 0.0,
        compute=asked.compute,
        seconds=asked.seconds(cost, workers) if cost else 0.0,
        sweep=asked.sweep,
        held_back=asked.held_back,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        parts={name: part.ids for name, part in asked.parts.items()},
        run_sets={name: tuple(run.id for run in runs) for name, runs in by_run_set.items()},
    )


Made = TypeVar("Made")


def _cached(of: Callable[[float], Made]) -> Callable[[float], Made]:
    made: dict[float, Made] = {}

    def cached(compute: float) -> Made:
        if compute not in made:
            made[compute] = of(compute)
        return made[compute]

    return cached


def _possible(of: Callable[[float], object], compute: float) -> bool:
    try:
        of(compute)
    except AllometryError:
        return False
    return True


def smallest(of: Callable[[float], object]) -> float:
    """Return the least compute with which a study or a run set can be asked for at all (it raises
    AllometryError below), to within a tenth (bisection in the logarithm).
    """
    low, high = LEAST_COMPUTE, MOST_COMPUTE
    if _possible(of, low):
        return low
    while high / low > 1.1:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if _possible(of, middle) else (middle, high)
    return high


def _largest(seconds: Callable[[float], float], least: float, allowed: float) -> float | None:
    """Return the most compute that is predicted to take no longer than `allowed` seconds, to within 1 %."""
    low, high = least, MOST_COMPUTE
    if seconds(low) > allowed:
        return None
    while high / low > 1.01:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if seconds(middle) <= allowed else (low, middle)
    return low


def keep(plan: StudyPlan, store: Store, folder: Path) -> StudyPlan:
    """Write the plan into a study's folder, with its runs resolved, unless another driver has been quicker:
    then that plan is everybody's, and is returned.
    """
    content: dict[str, Any] = {
        "format": FORMAT,
        "study": plan.study,
        "question": plan.sweep.question,
        "budget": plan.budget,
        "compute": plan.compute,
        "seconds": plan.seconds,
        "created": plan.created,
        "held_back": list(plan.held_back),
        "parts": {name: list(ids) for name, ids in plan.parts.items()},
        "designs": {name: list(ids) for name, ids in plan.run_sets.items()},
        "runs": [run.model_dump(mode="json") for run in plan.sweep],
    }
    if any(run.plugins for run in plan.sweep):  # whose names cannot be made again without the plugin
        content["ids"] = list(plan.sweep.ids)
    folder.mkdir(parents=True, exist_ok=True)
    store.publish(folder / FILE, json.dumps(content, indent=1, sort_keys=True) + "\n")
    return load(folder) or plan


def load(folder: Path) -> StudyPlan | None:
    """Return the plan in a study's folder, or None if there is none yet."""
    content = read_json(folder / FILE)
    if content is None:
        return None
    check_format(content, folder / FILE)  # plans of 0.1 have none: theirs is the first
    runs = tuple(RunConfig.model_validate(run) for run in _checked(content, folder / FILE)["runs"])
    for run, name in zip(runs, content.get("ids", ()), strict=False):
        run.__dict__["id"] = name  # as `cached_property` keeps it
    return StudyPlan(
        study=content["study"],
        budget=content["budget"],
        compute=content["compute"],
        seconds=content["seconds"],
        sweep=Sweep(content["study"], content["question"], runs),
        held_back=tuple(content["held_back"]),
        created=content["created"],
        # a plan from before there were collections is of one study
        parts=_tuples(content.get("parts") or {content["study"]: [run.id for run in runs]}),
        run_sets=_tuples(content.get("designs", {})),
    )


def _checked(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return what a plan's file holds; AllometryError, naming the entry, where one is missing or wrong."""
    number, texts, lists = StrictFloat | StrictInt, list[StrictStr], dict[str, list[StrictStr]]
    entries: dict[str, Any] = {
        **dict.fromkeys(("study", "question", "created"), (StrictStr, ...)),
        **dict.fromkeys(("budget", "compute"), (number | None, ...)),
        "seconds": (number, ...),
        "held_back": (texts, ...),
        "runs": (list[RunConfig], ...),
        "parts": (lists | None, None),
        "designs": (lists, {}),
        "ids": (texts, []),
    }
    stored = create_model("StoredPlan", **entries)
    try:
        stored.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise AllometryError(
            f"{path} is damaged: {where}: {first['msg']}",
            hint="restore the file from a copy, or start the study afresh in another --store",
        ) from None
    return content


def _tuples(ids: dict[str, list[str]]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(listed) for name, listed in ids.items()}
