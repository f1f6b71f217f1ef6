"""The one interface between the training loop and the arithmetic of a step.

The loop, schedules, checkpoints and evaluation do not know which engine runs. An engine owns the parameters,
the optimiser's moments and the step's arithmetic; it knows nothing of files, schedules or data sets.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from allometry.train.config import RunConfig

Tokens = NDArray[np.integer]
State = dict[str, NDArray[np.float32]]


ADAM_EPS = 1e-8
"""Added to the root of the second moment, after bias correction, as in PyTorch's AdamW."""

CLIP_EPS = 1e-6
"""Added to the gradient norm before dividing by it, as in `torch.nn.utils.clip_grad_norm_`."""


def decays(name: str, shape: Sequence[int]) -> bool:
    """Whether weight decay falls on a parameter: on every matrix, token embedding and positions included.

    Gains and biases (one dimension) are left alone. This is the rule of most GPT-2 reproductions, and the
    only place where it is written; every engine asks here.
    """
    return len(shape) >= 2


class StepResult(NamedTuple):
    """What one update reports: mean training loss in nats per token, and the gradient's norm before
    clipping.
    """

    loss: float
    grad_norm: float


class Engine(ABC):
    """A model, its optimiser and one way to compute with them.

    Same configuration, machine and thread count: bitwise the same results, also through `state` and
    `load_state`.
    """

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def lacks(cls, config: RunConfig) -> str | None:
        """Why this engine cannot run `config` on this machine (one sentence with the remedy), or None if it
        can.
        """

    @abstractmethod
    def __init__(self, config: RunConfig, *, threads: int = 1, device: str = "cpu") -> None:
        """Initial parameters come from `config.model.build(config.train.seed)`, the same in every engine."""

    @abstractmethod
    def step(self, batch: Tokens, *, lr: float, step: int) -> StepResult:
        """One AdamW update on token ids of shape (sequences, n_ctx + 1); the last column is only a target.

        With g the gradient of the mean loss over all predicted tokens and |g| its norm over all parameters,
        which is reported as it was before clipping:

            g <- g clip / (|g| + CLIP_EPS)            if |g| > clip
            m <- beta1 m + (1 - beta1) g
            v <- beta2 v + (1 - beta2) g^2
            p <- p - lr weight_decay p                where `decays`
            p <- p - lr (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + ADAM_EPS)

        `step` counts from 1; the bias correction and the dropout masks are functions of it (and of the seed).
        """

    @abstractmethod
    def losses(self, windows: Tokens) -> NDArray[np.float32]:
        """Loss in nats of every predicted token, shape (sequences, n_ctx), without dropout or gradients."""

    @abstractmethod
    def state(self) -> State:
        """Copies of everything that training changes, under names that every engine shares.

        "params/<name>", "adam_m/<name>" and "adam_v/<name>" with the names and shapes of the reference
        module's state_dict (a tied head appears once, as the embedding). fp32.
        """

    @abstractmethod
    def load_state(self, state: State) -> None:
        """Continue from `state()` of any engine with the same model."""
