"""Collections: several studies under one budget, trained together and reported in one log."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from allometry.studies.base import Study, study

if TYPE_CHECKING:
    from allometry.report.content import Analysis
    from allometry.studies.base import Evidence
    from allometry.sweeps.sweep import Sweep
    from allometry.train.config import DataConfig


class Collection(Study):
    """Studies that share runs. `members` in the order of the report; `shares` gives each design its share of
    the whole compute (they sum to 1), so that members which read the same design ask for the same runs.
    """

    members: ClassVar[tuple[str, ...]]
    shares: ClassVar[dict[str, float]]

    def parts(self, compute: float, data: DataConfig) -> dict[str, Sweep]:
        """Each member's runs: of its designs, at the collection's shares."""
        from allometry.studies.designs.base import design
        from allometry.sweeps.sweep import Sweep

        runs = {name: design(name)(share * compute, data) for name, share in self.shares.items()}
        parts = {}
        for name in self.members:
            member = study(name)
            own = {run.id: run for each in member.designs for run in runs[each]}
            parts[name] = Sweep(name, member.question, tuple(own.values()))
        return parts

    def sweep(self, compute: float, data: DataConfig) -> Sweep:
        """Every run of every member, once."""
        from allometry.sweeps.sweep import Sweep

        runs = {run.id: run for part in self.parts(compute, data).values() for run in part}
        return Sweep(self.name, self.question, tuple(runs.values()))

    def analyse(self, evidence: Evidence) -> Analysis:
        """One chapter a study, and an answer over all of them."""
        raise NotImplementedError
