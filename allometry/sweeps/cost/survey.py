"""How far a sweep is: which runs are finished, where others can continue, which branch points lie ready."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from allometry.core.errors import AllometryError
from allometry.core.files import read_json, writing
from allometry.runs.record import FINISHED
from allometry.runs.store import Store
from allometry.sweeps.cost.schedule import Job, jobs
from allometry.train.config import RunConfig

_STEP = re.compile(r"step-(\d+)(?:\.safetensors|\.dcp/position\.json)")
_BRANCH = re.compile(r"branch-(\d+)\.safetensors")


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The state of a sweep in its store.

    `finished` are the ids of runs with a result (done or diverged), `failed` those that ended in an error
    and will be tried again, `resumes` maps a run to the step of its last checkpoint, `new` are those without
    one. `pending` are the runs to be trained, `branches` the branch points on disk as trunk -> step -> run.
    """

    finished: tuple[str, ...]
    failed: tuple[str, ...]
    resumes: dict[str, int]
    new: tuple[str, ...]
    pending: tuple[RunConfig, ...]
    branches: dict[str, dict[int, str]] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """For the user: "12 done, 1 resumes at step 3,400, 5 new"."""
        parts = [f"{len(self.finished)} done"] if self.finished else []
        if len(self.resumes) == 1:
            parts.append(f"1 resumes at step {next(iter(self.resumes.values())):,}")
        elif self.resumes:
            steps = self.resumes.values()
            parts.append(f"{len(self.resumes)} resume at steps {min(steps):,} to {max(steps):,}")
        if self.failed:
            parts.append(f"{len(self.failed)} failed before and will be tried again")
        fresh = [run for run in self.new if run not in self.failed]
        if fresh:
            parts.append(f"{len(fresh)} new")
        return ", ".join(parts) or "nothing to do"

    def jobs(self) -> list[Job]:
        """Return what is to be trained, with trunks shared."""
        return jobs(self.pending, self.resumes, self.branches)


def survey(runs: Sequence[RunConfig], store: Store | None) -> Survey:
    """Look up how far the runs are; without a store, all of them are new."""
    finished, failed, pending = [], [], []
    resumes: dict[str, int] = {}
    begun = []
    for run in runs:
        status = store.status(run.id) if store else None
        if status is not None:
            begun.append(run)
        if status in FINISHED:
            finished.append(run.id)
            continue
        pending.append(run)
        if status == "failed":
            failed.append(run.id)
        step = newest_step(store, run.id) if store and status else 0
        if step:
            resumes[run.id] = step
    return Survey(
        finished=tuple(finished),
        failed=tuple(failed),
        resumes=resumes,
        new=tuple(run.id for run in pending if run.id not in resumes),
        pending=tuple(pending),
        branches=branch_points(begun, store) if store else {},
    )


def newest_step(store: Store, run: str) -> int:
    """Return the step of a run's newest checkpoint; 0 if it has none."""
    folder = f"{run}/checkpoints"
    names = (name.removeprefix(f"{folder}/") for name in store.place.names(folder))
    return max(_numbers(names, _STEP), default=0)


def branch_points(runs: Iterable[RunConfig], store: Store) -> dict[str, dict[int, str]]:
    """Return branch points that lie in the runs' directories: trunk -> step -> run."""
    found: dict[str, dict[int, str]] = {}
    for run in runs:
        if run.trunk is not None and store.directory(run.id).exists():
            for step in _numbers(store.checkpoints(run.id), _BRANCH):
                found.setdefault(run.trunk, {})[step] = run.id
    return found


def _numbers(names: Iterable[str], pattern: re.Pattern[str]) -> list[int]:
    return [int(match[1]) for name in names if (match := pattern.fullmatch(name))]


def mend(directory: Path) -> list[str]:
    """Set damaged files of an unfinished run aside, so that training it again can write them; returns
    notes.
    """
    notes = []
    for name in ("config.json", "result.json"):
        path = directory / name
        try:
            read_json(path)
        except AllometryError as error:
            with writing(path):
                path.replace(path.with_name(f"{name}.damaged"))
            notes.append(f"{error.message}; set aside as {name}.damaged")
    return notes


def drop_branch(store: Store, run: str, step: int) -> None:
    """Remove a branch point that nothing waits for any more."""
    with contextlib.suppress(OSError, AllometryError):
        store.place.remove(f"{run}/checkpoints/branch-{step}.safetensors")


def tidy(runs: Iterable[RunConfig], store: Store) -> None:
    """Remove what only served while the runs went on: branch points, and half-written files that kills
    left."""
    for run in runs:
        directory = store.directory(run.id)
        if not directory.exists():
            continue
        for step in _numbers(store.checkpoints(run.id), _BRANCH):
            drop_branch(store, run.id, step)
        for path in (*directory.glob("checkpoints/*.tmp"), *directory.glob(".*.tmp")):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
                continue
            with contextlib.suppress(OSError):
                path.unlink()
