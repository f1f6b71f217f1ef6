"""Start a sweep: check what it asks for, name it in the store, and run it as studies are run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allometry.core.errors import AllometryError
from allometry.core.units import compact_duration, counted, format_duration, format_flops
from allometry.models.base import FAMILIES
from allometry.studies.core.plan import LEAST_COMPUTE
from allometry.studies.core.results import STUDIES
from allometry.studies.core.run import StudyRequest, run_study
from allometry.studies.sweep.grid import Grid, plugins_of
from allometry.studies.sweep.sweep import GridStudy
from allometry.train.config import DataConfig

if TYPE_CHECKING:
    from allometry.report.build import Analysis
    from allometry.runs.store import Store
    from allometry.studies.core.plan import StudyPlan
    from allometry.studies.core.run import Display
    from allometry.sweeps.cost import CostModel
    from allometry.sweeps.progress import Event

UNASKED = 3600.0
"""Predicted seconds up to which a grid of given horizons is trained without a budget or a yes."""

MANY = 2000
"""Runs from which a yes is asked for before anything is timed."""


def sweep_request(
    grid: Grid,
    data: DataConfig,
    *,
    budget: float | None,
    compute: float | None,
    store: Path,
    command: str,
    **how: Any,
) -> StudyRequest:
    """Return the request of a sweep: `budget` in seconds or `compute` in FLOPs set the horizons where the grid gives
    none; where it does, a budget is what it may take.

    Its name in the store holds a hash of the grid, the data and the plugins, so that the same command continues it
    and another grid, or a plugin that was edited, is another sweep. AllometryError for a family that cannot be
    trained.
    """
    from allometry.models.check import require_sound  # needs torch

    for family in grid.family:
        if FAMILIES[family].__module__ == "__main__":
            raise AllometryError(
                f"family {family!r} is known to this process only, and the workers have to make it too",
                hint="save it as a file of its own, and: allometry.load_plugins('my_things.py')",
            )
        require_sound(family)
    if grid.fixed and compute is not None:
        raise AllometryError(
            "--compute sets horizons, and the grid gives them",
            hint="leave out --compute, or --tokens and --passes",
        )
    size = "" if grid.fixed else f"{budget or ''} {'' if compute is None else compute}"
    label = f"{grid.name}-{grid.digest(data.corpus, data.tokenizer, size)}"
    tags = plugins_of(grid, data)
    return StudyRequest(
        study="sweep",
        asked=GridStudy(grid),
        label=label + "".join(f"-{tag.rpartition('@')[2][:8]}" for tag in tags),
        budget=budget or 0.0,
        compute=0.0 if grid.fixed and budget is None else compute,
        store=store,
        data=data,
        command=command,
        **how,
    )


def run_sweep(
    request: StudyRequest, display: Display, *, dry_run: bool = False, yes: bool = False
) -> Path | None:
    """Run a sweep from plan to report; return the report's path, or None for a dry run.

    AllometryError for a grid of given horizons that is predicted to take more than an hour, unless there is a
    budget or `yes`; what is planned stays planned.
    """
    asked = request.asked
    assert isinstance(asked, GridStudy)
    assert asked.grid is not None
    unbounded = request.compute is not None and not (yes or dry_run)
    if unbounded and asked.grid.fixed:
        runs = [run for each in asked.grid.runs(LEAST_COMPUTE, request.data).values() for run in each]
        if len(runs) > MANY:
            flops = sum(float(r.model.counts().flops_per_token("attention")) * r.train.tokens for r in runs)
            raise AllometryError(
                f"the grid has {len(runs):,} runs of {format_flops(flops)} FLOPs in all",
                hint="--dry-run prices it; --yes trains it, whatever it takes; --budget 2h refuses what takes longer",
            )
    for sentence in earlier_plugins(request):
        display.say(sentence)
    return run_study(
        request, _Bounded(display, request.budget if not unbounded else UNASKED, unbounded), dry_run=dry_run
    )


def earlier_plugins(request: StudyRequest) -> list[str]:
    """Return a sentence where the store has this very sweep with another version of its plugin."""
    asked = request.asked
    if not isinstance(asked, GridStudy) or asked.grid is None or "://" in str(request.store):
        return []
    tags = plugins_of(asked.grid, request.data)
    stem = request.label[: len(request.label) - 9 * len(tags)]
    folder = Path(request.store) / STUDIES
    if not tags or not folder.is_dir() or (folder / request.label).exists():
        return []
    others = [path.name for path in folder.glob(f"{stem}-*") if path.name != request.label]
    if not others:
        return []
    names = ", ".join(tag.rpartition("@")[0] for tag in tags)
    return [
        f"{names} has changed since {counted(len(others), 'earlier sweep')} of this grid: its runs are new ones; the "
        f"old ones stay, and allometry report {others[-1]} reads them"
    ]


@dataclass
class _Bounded:
    """A display that stops a sweep which nobody has agreed to pay for, once its plan has been shown."""

    display: Display
    most: float
    bounded: bool

    def say(self, text: str) -> None:
        """Show a line to the user."""
        self.display.say(text)

    def warn(self, text: str) -> None:
        """Show a warning."""
        self.display.warn(text)

    def plan(self, plan: StudyPlan, store: Store | None, cost: CostModel) -> None:
        """Show the plan; AllometryError if what is left to do takes longer than may be taken unasked."""
        self.display.plan(plan, store, cost)
        seconds = cost.total(plan.sweep.runs, store=store).seconds
        if self.bounded and seconds > self.most:
            raise AllometryError(
                f"this grid takes about {format_duration(seconds)} here, and no budget was given",
                hint=f"--yes trains it, --budget {compact_duration(round(1.1 * seconds))} too; or make it smaller",
            )

    def calibrating(self, done: int, total: int) -> None:
        """Show the progress of the calibration."""
        self.display.calibrating(done, total)

    def event(self, event: Event) -> None:
        """Show the progress of the sweep."""
        self.display.event(event)

    def answer(self, analysis: Analysis, path: Path, seconds: float) -> None:
        """Show what came out."""
        self.display.answer(analysis, path, seconds)
