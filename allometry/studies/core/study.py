"""Studies and run sets: a question, the runs that would answer it within a budget, and their analysis.

A study is one registered subclass of `Study`, in a file of this package or in a folder of it. `core.run` does
the rest: it scales the study to the time that the user has, trains what is missing, registers the prediction,
and writes the report.

A run set (a "design" in the language of experimental design) is a function from compute to runs. It is
declared apart from the questions, because one run feeds many studies: a study names the run sets that it
reads, and a collection gives every run set one share of its compute, so that two studies of the same run set
ask for the same runs, which are trained once.

The recipe is what all runs have in common. At this scale ordinary defaults give no law at all: one learning
rate for all sizes turns their order around, a batch of hundreds of thousands of tokens leaves too few updates,
and a large vocabulary makes the width of the head the bottleneck. `docs/log.md` has what was measured, with
the failures.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from html import escape
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from allometry.core.errors import AllometryError
from allometry.core.registry import Registry
from allometry.data.tokens import manifest_of
from allometry.models.base import family as config_class
from allometry.sweeps import Sweep
from allometry.train.config import DataConfig, RunConfig, TrainConfig

if TYPE_CHECKING:
    import pandas as pd

    from allometry.models.base import ModelConfig
    from allometry.report.build import Analysis


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
    `allometry run` gives it unless it is told another; one that is not `listed` has a command of its own.
    """

    name: ClassVar[str]
    question: ClassVar[str]
    expected: ClassVar[str] = ""
    budget: ClassVar[str] = "10m"
    listed: ClassVar[bool] = True
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

    def _repr_html_(self) -> str:
        """Return the question, what is expected and the budget, for a notebook."""
        said = f"<p><b>{escape(self.name)}</b>: {escape(self.question)}</p><p>{escape(self.expected)}</p>"
        return f"{said}<p>allometry run {escape(self.name)} --budget {escape(self.budget)}</p>"

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
    """Return every study that `allometry run` offers, by name."""
    return {name: asked for name, asked in STUDIES.all().items() if asked.listed}


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


CONTEXT = 64
"""Tokens of context. For N < 1e6, bytes and a few million tokens, 64 reach a lower loss than 128 or 256: more
sequences a batch, and the plateau before context is used ends sooner."""

ASPECT = 128
"""Largest d_model / n_layer along the ladder. Kaplan et al. 2020 (figure 5) find the loss of larger models
flat from 10 to 200."""

BATCH_TOKENS = 512
"""Tokens a batch: small, because a run of fewer than about 2,000 updates measures its plateau, not its size.
"""

EVAL_TOKENS = 65_536
"""Held-out tokens of an evaluation, the same ones in every run: what they leave uncertain is common to
all."""

RATE_TIMES_WIDTH = 0.16
"""Peak learning rate x d_model of transformers: the best rate goes as 1 / width, hardly with depth."""

HIGHEST_RATE = 0.01
"""The rule's 1 / width is capped for the narrowest models."""

LSTM_RATE, LSTM_POWER = 0.33, 0.75
"""Peak learning rate of LSTMs: LSTM_RATE / d_model^LSTM_POWER, several times the transformer's."""

LSTM_HIGHEST_RATE = 0.05
"""The cap of the LSTMs' rule, for the narrowest."""


def learning_rate(model: ModelConfig) -> float:
    """Return the peak learning rate of a model at BATCH_TOKENS: what its family states, or by its family's rule;
    other families: the transformer's.

    A Universal Transformer takes the rate of the transformer of its width. AllometryError for a family
    without d_model.
    """
    stated = model.own_rate()
    if stated is not None:
        return stated
    width = getattr(model, "d_model", getattr(model, "rate_width", None))
    if width is None:
        raise AllometryError(
            f"the recipe has no learning rate for {type(model).__name__}, which has no d_model",
            hint="give lr",
        )
    return rule_rate(model.family, width)  # type: ignore[attr-defined]


def rule_rate(family: str, d_model: float) -> float:
    """Return the rule itself: peak learning rate of a family at a width, as `learning_rate` gives it to a
    model.
    """
    if (
        family == "lstm"
    ):  # rounded: the last bits of a power differ between machines, and runs' names with them
        return float(f"{min(LSTM_HIGHEST_RATE, LSTM_RATE / d_model**LSTM_POWER):.3g}")
    return min(HIGHEST_RATE, RATE_TIMES_WIDTH / d_model)


def heads(d_model: int) -> int:
    """Return the attention heads of a width: about 8 wide below d_model = 48, about 16 wide from there on.

    At these widths more and narrower heads are better than the 32 or 64 wide ones of larger models.
    """
    wanted = 8 if d_model < 48 else 16
    widths = [width for width in range(8, d_model + 1, 8) if d_model % width == 0]
    return d_model // min(widths, key=lambda width: abs(math.log(width / wanted)))


def small_model(n: int, *, n_vocab: int, family: str = "transformer", **fixed: Any) -> ModelConfig:
    """Return the model of about `n` parameters that studies train: two layers, wider and wider.

    Up to d_model / n_layer of about ASPECT a third layer makes a transformer of the same N no better on these
    horizons, and a ladder that mixes depths has kinks that no law of N can follow. A Universal Transformer
    has the transformer of this N as its stack of distinct blocks; other families have their own dial, an
    LSTM's being two layers too. `fixed` sets any field of the family's configuration, and a fixed depth or
    width decides the other. AllometryError for an unknown family.
    """
    fixed = {"n_ctx": CONTEXT, "n_vocab": n_vocab, **fixed}
    config = config_class(family)
    if family not in ("transformer", "universal"):
        return config.from_n_params(n, **fixed)
    reuse = fixed.setdefault("reuse", 2) if family == "universal" else 1
    depth = max(2, round((n / (12 * ASPECT**2)) ** (1 / 3)))
    if "d_model" in fixed:
        depth = max(1, round(n / (12 * fixed["d_model"] ** 2)))
    depth = max(1, fixed["n_layer"] // reuse) if "n_layer" in fixed else depth
    width = fixed.get("d_model") or _width(n / (12 * depth))
    shape = {"n_layer": depth * reuse, "d_model": width, "n_head": heads(width), "d_ff": 4 * width}
    return config.model_validate({**shape, **fixed})


def _width(square: float) -> int:
    """Return the width near the root of `square`: a multiple of 8, of 16 from 40 on."""
    width = math.sqrt(square)
    grain = 8 if width < 40 else 16
    return grain * max(1, round(width / grain))


def small_run(
    model: ModelConfig, *, tokens: int, data: DataConfig, seed: int = 0, **changes: Any
) -> RunConfig:
    """Return a run of the recipe: constant rate with a final decay, so that runs of one size share their
    trunk.

    `changes` are fields of `TrainConfig` that a study varies on purpose.
    """
    train = {
        "tokens": tokens,
        "batch_tokens": BATCH_TOKENS,
        "lr": learning_rate(model),
        "schedule": "wsd",
        "evals_per_octave": 1,
        "seed": seed,
        **changes,
    }
    data = data.replace(eval_tokens=EVAL_TOKENS)
    return RunConfig(model=model, data=data, train=TrainConfig.model_validate(train))


def vocabulary(data: DataConfig) -> int:
    """Return the size of the vocabulary of the data set's tokens; prepare them if they are not there yet."""
    return manifest_of(data.corpus, data.tokenizer).n_vocab
