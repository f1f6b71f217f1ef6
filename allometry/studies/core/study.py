"""Studies and run sets: a question, the runs that would answer it within a budget, and their analysis.

A study is one registered subclass of `Study`, in a file of this package or in a folder of it. `core.run` does
the rest: it scales the study to the time that the user has, trains what is missing, registers the prediction,
and writes the report.

A run set (a "design" in the language of experimental design) is a function from compute to runs. It is
declared apart from the questions, because one run feeds many studies: a study names the run sets that it
reads, and a collection gives every run set one share of its compute, so that two studies of the same run set
ask for the same runs, which are trained once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from allometry.core.errors import AllometryError
from allometry.core.registry import Registry
from allometry.sweeps import Sweep

if TYPE_CHECKING:
    import pandas as pd

    from allometry.report.content import Analysis
    from allometry.train.config import DataConfig, RunConfig

PACKAGE = "allometry.studies"


@dataclass(frozen=True, kw_only=True)
class StudyData:
    """Data that a study reads: finished runs and curves from the store, never anything else.

    `runs` and `curves` have the columns of `Store.frame()` and `Store.curves()`; `prediction` is what was
    registered before the held-back runs were trained (see `core.predictions`), or None; `planned` names
    every run that the study asked for, and `parts` the same by study where a collection asked (see
    `core.collection`). `positions`, `probes` and `novelty` have the columns of
    the store's own.
    """

    runs: pd.DataFrame
    curves: pd.DataFrame
    planned: tuple[str, ...]
    prediction: dict[str, Any] | None = None
    command: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    ledger: pd.DataFrame | None = None
    positions: pd.DataFrame | None = None
    probes: pd.DataFrame | None = None
    novelty: pd.DataFrame | None = None
    parts: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def of(self, name: str) -> StudyData:
        """Return the data of one study of a collection: its runs, their curves, and its own
        prediction.
        """
        ids = self.parts[name]
        known = set(ids)

        def kept(frame: pd.DataFrame | None) -> Any:
            return None if frame is None else frame[frame["run"].isin(known)].reset_index(drop=True)

        registered = self.prediction
        if registered is not None:
            rows = [row for row in registered["predictions"] if row["run"] in known]
            registered = {**registered, "predictions": rows} if rows else None
        return replace(
            self, runs=kept(self.runs), curves=kept(self.curves), positions=kept(self.positions),
            probes=kept(self.probes), novelty=kept(self.novelty), planned=ids, prediction=registered,
            parts={name: ids},
        )  # fmt: skip


class Study(ABC):
    """A question with a docstring that says why it is asked and how it is answered.

    `expected` says in a sentence or two what one expects to see, before it is seen. `run_sets` names the run
    sets that the study reads, each with its share of the study's compute. `budget` is the time that
    `allometry run` gives it unless it is told another.
    """

    name: ClassVar[str]
    question: ClassVar[str]
    expected: ClassVar[str] = ""
    budget: ClassVar[str] = "10m"
    run_sets: ClassVar[dict[str, float]] = {}

    def sweep(self, compute: float, data: DataConfig) -> Sweep:
        """Return the runs that spend about `compute` training FLOPs (everything counted: blocks, attention
        and head) on `data`: those of its run sets, each at its share.

        Larger compute must never ask for less. Raises AllometryError if `compute` is too little to ask the
        question.
        """
        runs = [run for part in self.by_run_set(compute, data).values() for run in part]
        return Sweep(self.name, self.question, tuple(runs))

    def by_run_set(self, compute: float, data: DataConfig) -> dict[str, tuple[RunConfig, ...]]:
        """Return the runs by run set; two run sets may ask for the same run."""
        return {name: run_set_named(name)(share * compute, data) for name, share in self.run_sets.items()}

    def parts(self, compute: float, data: DataConfig) -> dict[str, Sweep]:
        """Return the runs by study: of this one, or of each member of a collection."""
        return {self.name: self.sweep(compute, data)}

    def member(self, name: str) -> Study:
        """Return the study of that name among `parts`: this one, or a member of a collection."""
        return self if name == self.name else study(name)

    def held_back(self, run: RunConfig, sweep: Sweep) -> bool:
        """Return whether this run's loss is to be predicted, in writing, before it is trained. Default: none
        is.
        """
        return False

    def predict(self, runs: pd.DataFrame, held_back: pd.DataFrame) -> pd.DataFrame:
        """Return losses of the held-back runs, predicted from the finished ones: `held_back` with columns
        loss, low, high, level, method. Only asked of studies that hold runs back.
        """
        raise NotImplementedError(f"{self.name} holds runs back and does not predict them")

    @abstractmethod
    def analyse(self, study_data: StudyData) -> Analysis:
        """Report the answer: fits, intervals, figures, verdicts. Reads only `study_data`; never imports
        torch.
        """


STUDIES: Registry[type[Study]] = Registry("study", packages=(PACKAGE,), nested=True)
"""Studies by name; a file or folder put into the package is found without being listed anywhere."""

StudyType = TypeVar("StudyType", bound=type[Study])


def register(study: StudyType) -> StudyType:
    """Register a study by its name (a class decorator)."""
    return STUDIES.add(study.name, study)


def studies() -> dict[str, type[Study]]:
    """Return every study by name."""
    return STUDIES.all()


def study(name: str) -> Study:
    """Return a study by name; AllometryError with the nearest names for an unknown one.

    The file or folder of that name is imported first, and the whole package only if the study is not there.
    """
    if name not in STUDIES:
        error = STUDIES.unknown(name)
        within = [known for known, asked in studies().items() if name in asked.run_sets]
        if within:
            error.hint = f"{name} is a set of runs of {', '.join(within)}: allometry run {within[0]}"
            error.cli_hint = error.hint
        raise error
    return STUDIES[name]()


RunSet = Callable[[float, "DataConfig"], "tuple[RunConfig, ...]"]
"""(compute, data) -> runs. `compute` is in training FLOPs, everything counted. Larger compute must never ask
for less. Raises AllometryError (see `too_little`) where `compute` cannot ask the question at all.
"""

RUN_SETS: Registry[RunSet] = Registry("run set", packages=(PACKAGE,), nested=True)
"""Run sets by name, found as studies are."""


def run_set(function: RunSet) -> RunSet:
    """Register a run set by the function's name (a function decorator)."""
    return RUN_SETS.add(function.__name__, function)


def run_sets() -> dict[str, RunSet]:
    """Return every run set by name."""
    return RUN_SETS.all()


def run_set_named(name: str) -> RunSet:
    """Return a run set by name; AllometryError with the nearest names for an unknown one."""
    return RUN_SETS[name]


def too_little(compute: float, name: str) -> AllometryError:
    """Return the error of a run set that `compute` FLOPs cannot pay for."""
    return AllometryError(
        f"{compute:.1e} FLOPs are too few for the {name}",
        hint="compute=0 is the smallest that can be asked",
        cli_hint="--compute 0 plans the smallest that can be asked",
    )
