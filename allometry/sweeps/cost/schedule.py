"""Turn runs into jobs: which job waits for which, and which is the most urgent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

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
