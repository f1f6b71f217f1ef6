"""Sweeps: sets of runs that together answer one question, planned, packed onto the machine and continued by the same
command.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from allometry.core.errors import AllometryError
from allometry.train.config import RunConfig


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

    def _repr_html_(self) -> str:
        """Return the name, the question and how many runs there are of each shape, for a notebook."""
        shapes = Counter(f"{getattr(run.model, 'family', '')} {run.model.shape}" for run in self.runs)
        rows = "".join(
            f"<tr><td>{escape(shape)}</td><td>{count}</td></tr>" for shape, count in shapes.items()
        )
        head = f"<p>{escape(self.name)}: {escape(self.question)}</p>"
        return f"{head}<table><tr><th>model</th><th>runs</th></tr>{rows}</table>"

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the runs, in order."""
        return tuple(run.id for run in self.runs)
