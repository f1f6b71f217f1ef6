"""The one interface between the training loop and the arithmetic of a step.

The loop, schedules, checkpoints and evaluation do not know which engine runs. An engine owns the parameters,
the optimiser's moments and the step's arithmetic; it knows nothing of files, schedules or data sets.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from allometry.core.errors import AllometryError
from allometry.core.registry import Registry

if TYPE_CHECKING:
    from allometry.train.config import RunConfig

Tokens = NDArray[np.integer]
Floats = NDArray[np.float32]
State = dict[str, Floats]


ADAM_EPS = 1e-8
"""Added to the root of the second moment, after bias correction, as in PyTorch's AdamW."""

CLIP_EPS = 1e-6
"""Added to the gradient norm before dividing by it, as in `torch.nn.utils.clip_grad_norm_`."""


def decays(name: str, shape: Sequence[int]) -> bool:
    """Return whether weight decay applies to a parameter: to every matrix, token and position embeddings included.

    Gains and biases (one dimension) are left alone. This is the rule of most GPT-2 reproductions, and the
    only place where it is written; every engine asks here.
    """
    return len(shape) >= 2


def normalised(weights: Floats) -> Floats:
    """Return weights of predicted tokens, (sequences, n_ctx), divided by their sum.

    AllometryError if none counts: a mean over no tokens has no gradient.
    """
    total = float(weights.sum(dtype=np.float64))
    if total == 0:
        raise AllometryError(
            "no position of the batch counts in the loss: all its weights are zero",
            hint="give at least one predicted token a weight",
        )
    return (weights / total).astype(np.float32)


class StepResult(NamedTuple):
    """The result of one update: mean training loss in nats per token, and the gradient's norm before clipping."""

    loss: float
    grad_norm: float


class Step(NamedTuple):
    """The arguments of `Engine.step`."""

    batch: Tokens
    lr: float
    step: int
    weights: Floats | None = None


class Engine(ABC):
    """A model, its optimiser and one way to compute with them.

    Same configuration, machine and `threads` at the start: bitwise the same results, also through `state` and
    `load_state`.
    """

    name: ClassVar[str]
    bf16: ClassVar[bool] = False
    """Whether products of weights are rounded to bf16, so that its numbers are near fp32's, not equal."""

    @classmethod
    @abstractmethod
    def unsupported_reason(cls, config: RunConfig) -> str | None:
        """Return why this engine cannot run `config` on this machine (one sentence with the remedy), or None if
        it can.
        """

    @abstractmethod
    def __init__(self, config: RunConfig, *, threads: int = 1, device: str = "cpu") -> None:
        """Initialise the parameters from `config.model.build(config.train.seed)`, the same in every engine."""

    def use_threads(self, count: int) -> bool:
        """Use `count` threads from now on, if that changes no bit of any result; return whether they are used."""
        return False

    @abstractmethod
    def step(self, batch: Tokens, *, lr: float, step: int, weights: Floats | None = None) -> StepResult:
        """Make one AdamW update on token ids of shape (sequences, n_ctx + 1); the last column is only a target.

        The loss is the mean over all predicted tokens or, with `weights` w of shape (sequences, n_ctx),
        sum(w l) / sum(w); AllometryError if all w are zero. With g its gradient and |g| the norm of that over
        all parameters, which is reported as it was before clipping:

            g <- g clip / (|g| + CLIP_EPS)            if |g| > clip
            m <- beta1 m + (1 - beta1) g
            v <- beta2 v + (1 - beta2) g^2
            p <- p - lr weight_decay p                where `decays`
            p <- p - lr (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + ADAM_EPS)

        `step` counts from 1; the bias correction and the dropout masks are functions of it (and of the seed).
        """

    @abstractmethod
    def gradients(
        self, windows: Tokens, *, step: int = 1, weights: Floats | None = None
    ) -> tuple[float, dict[str, Floats]]:
        """Return the loss that `step` would report for these arguments, and its gradient by parameter (copies,
        not clipped). Parameters and moments stay as they are.
        """

    def gradient_norm(self, windows: Tokens, *, step: int = 1) -> float:
        """Return the norm over all parameters of the gradient of the mean loss on `windows`."""
        _, gradients = self.gradients(windows, step=step)
        return math.sqrt(sum(float(np.sum(np.square(g, dtype=np.float64))) for g in gradients.values()))

    def sequence_norms(self, windows: Tokens, *, step: int = 1) -> NDArray[np.float64]:
        """Return the gradient norm of each sequence's own mean loss, (sequences,), from which the gradient noise
        scale is computed (McCandlish et al. 2018, appendix A.1).
        """
        return np.array([self.gradient_norm(window[None], step=step) for window in windows])

    @abstractmethod
    def losses(self, windows: Tokens) -> NDArray[np.float32]:
        """Return the loss in nats of every predicted token, (sequences, n_ctx), without dropout or gradients."""

    @abstractmethod
    def hits(self, windows: Tokens) -> NDArray[np.bool_]:
        """Return whether the most probable token is the target, for every predicted token, (sequences, n_ctx)."""

    @abstractmethod
    def state(self) -> State:
        """Return copies of everything that training changes, under names that every engine shares.

        "params/<name>", "adam_m/<name>" and "adam_v/<name>" with the names and shapes of the reference
        module's state_dict (a tied head appears once, as the embedding). fp32.
        """

    @abstractmethod
    def load_state(self, state: State) -> None:
        """Continue from `state()` of any engine with the same model."""


ENGINES: Registry[type[Engine]] = Registry("engine", packages=("allometry.train.engines",))
"""Engines that a configuration can name. Those of packs and of several devices are chosen by what is trained."""

EngineType = TypeVar("EngineType", bound=type[Engine])


def register(engine: EngineType) -> EngineType:
    """Make an engine known (class decorator) by its `name`."""
    return ENGINES.add(engine.name, engine)
