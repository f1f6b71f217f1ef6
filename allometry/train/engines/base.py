"""The one interface between the training loop and the arithmetic of a step.

The loop, schedules, checkpoints and evaluation do not know which engine runs. An engine owns the parameters, the
optimiser's moments and the step's arithmetic; it knows nothing of files, schedules or data sets.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from allometry.train.config import RunConfig

Tokens = NDArray[np.integer]
State = dict[str, NDArray[np.float32]]


class StepResult(NamedTuple):
    """What one update reports: mean training loss in nats per token, and the gradient's norm before clipping."""

    loss: float
    grad_norm: float


class Engine(ABC):
    """A model, its optimiser and one way to compute with them.

    Same configuration, machine and thread count: bitwise the same results, also through `state` and `load_state`.
    """

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def lacks(cls, config: RunConfig) -> str | None:
        """Why this engine cannot run `config` on this machine (one sentence with the remedy), or None if it can."""

    @abstractmethod
    def __init__(self, config: RunConfig, *, threads: int = 1, device: str = "cpu") -> None:
        """Initial parameters come from `config.model.build(config.train.seed)`, the same in every engine."""

    @abstractmethod
    def step(self, batch: Tokens, *, lr: float, step: int) -> StepResult:
        """One AdamW update on token ids of shape (sequences, n_ctx + 1); the last column is only a target.

        `step` counts from 1 (Adam's bias correction and the dropout masks are functions of it). The loss is the mean over all
        predicted tokens. Weight decay is decoupled and falls on matrices only (not gains, biases or positions of
        dimension one). The global gradient norm is clipped to `config.train.clip`.
        """

    @abstractmethod
    def losses(self, windows: Tokens) -> NDArray[np.float32]:
        """Loss in nats of every predicted token, shape (sequences, n_ctx), without dropout or gradients."""

    @abstractmethod
    def state(self) -> State:
        """Copies of everything that training changes, under names that every engine shares.

        "params/<name>", "adam_m/<name>" and "adam_v/<name>" with the names and shapes of the reference module's
        state_dict (a tied head appears once, as the embedding). fp32.
        """

    @abstractmethod
    def load_state(self, state: State) -> None:
        """Continue from `state()` of any engine with the same model."""
