"""Turn runs into jobs: which job waits for which, which is the most urgent; and how far a sweep is: which runs are
finished, where others can continue, which branch points lie ready.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from allometry.core.errors import AllometryError
from allometry.core.files import read_json, writing
from allometry.runs.record import FINISHED
from allometry.runs.store import Store
from allometry.train.config import RunConfig

BranchPoint = tuple[str, int]
"""A run's id and the step at which it leaves a state behind for other runs."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run to be trained: where it starts, and the steps at which it must leave a branch point for others.

    `start` is the step of its last checkpoint (0 for a new run) or of its branch point; `source` is the
    branch point that it starts from, if it is to start from another run's trunk. A new run may also start
    from the end of another, its `parent`.
    """

    config: RunConfig
    start: int = 0
    source: BranchPoint | None = None
    branch_at: tuple[int, ...] = ()

    @property
    def id(self) -> str:
        """The run's id."""
        return self.config.id

    @property
    def parent(self) -> str | None:
        """The run whose final weights are needed to start this one; None if it starts or goes on without."""
        return self.config.train.init_from if self.start == 0 else None

    @property
    def awaits(self) -> str | None:
        """The run that must get somewhere, or end, before this one starts."""
        return self.parent if self.source is None else self.source[0]

    def until(self, other: Job) -> int:
        """Return how far `other`, which this one awaits, must get."""
        return other.config.train.steps if self.source is None else self.start


def jobs(
    runs: Sequence[RunConfig],
    progress: Mapping[str, int],
    branches: Mapping[str, Mapping[int, str]],
) -> list[Job]:
    """Return the jobs for runs that are not finished, with trunks shared wherever that is possible.

    `progress` gives the step of a run's last checkpoint; `branches` the branch points on disk, as
    trunk -> step -> id of the run that left it. Among new runs with the same trunk, the longest trains it
    and the others start where they leave it (`decay_start`). A run with a checkpoint of its own continues
    from that.
    """
    found: list[Job] = []
    groups: dict[str | None, list[RunConfig]] = {}
    for run in runs:
        groups.setdefault(run.trunk, []).append(run)
    for trunk, members in groups.items():
        if trunk is None:
            found += [Job(config=run, start=progress.get(run.id, 0)) for run in members]
        else:
            found += _group(members, progress, branches.get(trunk, {}))
    return found


def _group(
    members: Sequence[RunConfig], progress: Mapping[str, int], branches: Mapping[int, str]
) -> list[Job]:
    """The jobs of runs that share one trunk."""
    found, rest = [], []
    for run in members:
        leaves = run.train.decay_start
        if progress.get(run.id, 0) == 0 and leaves in branches:
            found.append(Job(config=run, start=leaves, source=(branches[leaves], leaves)))
        else:
            rest.append(run)
    rest.sort(key=lambda run: run.train.steps, reverse=True)
    while rest:
        leader, *others = rest
        begun = progress.get(leader.id, 0)
        rest, steps = [], set()
        for run in others:
            leaves = run.train.decay_start
            if progress.get(run.id, 0) == 0 and begun < leaves <= leader.train.decay_start and leaves > 0:
                found.append(Job(config=run, start=leaves, source=(leader.id, leaves)))
                steps.add(leaves)
            else:
                rest.append(run)
        found.append(Job(config=leader, start=begun, branch_at=tuple(sorted(steps))))
    return found


Seconds = Callable[[RunConfig, int, int], float]
"""(run, from step, to step) -> seconds on one core."""


def urgency(todo: Sequence[Job], seconds: Seconds) -> dict[str, float]:
    """Return the seconds until the last run that depends on a job could end: the longest goes first."""
    after = following(todo)
    times: dict[str, float] = {}
    for job in reversed(_leaders_first(todo, after)):
        chains = [seconds(job.config, job.start, job.config.train.steps)]
        for other in after.get(job.id, ()):
            chains.append(seconds(job.config, job.start, other.until(job)) + times[other.id])
        times[job.id] = max(chains)
    return times


def following(todo: Sequence[Job]) -> dict[str, list[Job]]:
    """Return the jobs among `todo` that await another of them, by the id of that."""
    ids = {job.id for job in todo}
    found: dict[str, list[Job]] = {}
    for job in todo:
        if job.awaits is not None and job.awaits in ids:
            found.setdefault(job.awaits, []).append(job)
    return found


def _leaders_first(todo: Sequence[Job], after: Mapping[str, Sequence[Job]]) -> list[Job]:
    """The jobs in an order in which each comes after the one that it awaits."""
    behind = {job.id for others in after.values() for job in others}
    found = [job for job in todo if job.id not in behind]
    for job in found:  # grows as it is gone through
        found += after.get(job.id, ())
    return found


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
