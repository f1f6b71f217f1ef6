"""Schedules of a run: the learning rate of each step, the rate for each size, and the evaluation steps."""

from __future__ import annotations

import math

from allometry.core.errors import AllometryError
from allometry.train.config import RunConfig, TrainConfig


def learning_rate(train: TrainConfig, step: int) -> float:
    """Return the rate of update `step` (from 1 to `train.steps`): linear warm-up, then the schedule's shape.

    "wsd" (warm-up, stable, decay) stays at `lr` until `train.decay_start` and then falls as 1 - sqrt(x), the
    form that Hägele et al. 2024 (arXiv 2405.18392) found best; until there it does not depend on the horizon,
    bit for bit.
    """
    warm = min(1.0, step / train.warmup) if train.warmup else 1.0
    return train.lr * warm * _shape(train, step)


def _shape(train: TrainConfig, step: int) -> float:
    """Return the schedule without its warm-up, from 1 down to `final_lr`."""
    if train.schedule == "constant":
        return 1.0
    start = train.decay_start if train.schedule == "wsd" else min(train.warmup, train.steps - 1)
    if step <= start:
        return 1.0
    x = (step - start) / (train.steps - start + 1)  # the update after the last would have the final rate
    falls = {"wsd": 1 - math.sqrt(x), "cosine": 0.5 * (1 + math.cos(math.pi * x)), "linear": 1 - x}
    return train.final_lr + (1 - train.final_lr) * falls[train.schedule]


def evaluation_steps(config: RunConfig) -> list[int]:
    """Return the steps at which a run is evaluated: `evals_per_octave` for each doubling of the step, and the
    last step.

    The steps lie on one grid whatever the horizon, so that runs of different length have comparable curves.
    It begins where a run has trained on as many tokens as an evaluation reads, so that evaluation costs a
    small share of any run. After something was inserted at one step, there are evaluations before that step,
    after it, and after 1, 2, 4, … further ones.
    """
    train, plant = config.train, config.data.plant
    first = max(1, math.ceil(config.data.eval_tokens / train.batch_tokens))
    octaves = math.ceil(math.log2(train.steps) * train.evals_per_octave) + 1
    grid = {round(2 ** (k / train.evals_per_octave)) for k in range(octaves + 1)}
    around = set()
    if plant is not None and plant.at is not None:
        around = {plant.at - 1, plant.at} | {plant.at + 2**k for k in range(octaves + 1)}
    wanted = {step for step in grid if step >= first} | around
    return sorted({step for step in wanted if 1 <= step < train.steps} | {train.steps})


def kaplan_learning_rate(n: float) -> float:
    """Return LR(N) = 0.003239 - 0.0001395 ln N (Kaplan et al. 2020, eq. D.1), for transformers below about 1e10
    parameters.

    Measured at 2^19 tokens a batch and GPT-2's widths; narrow models at small batches want `lr_for_width`.
    """
    rate = 0.003239 - 0.0001395 * math.log(n)
    if rate <= 0:
        raise AllometryError(
            f"Kaplan's learning rate rule is negative at N = {n:.2g}",
            hint="it holds below 1e10; give lr yourself",
        )
    return rate


def lr_for_width(d_model: int, constant: float = 0.256) -> float:
    """Return constant / d_model: Adam's best rate goes as 1 / width when weights start by fan-in.

    The exponent is that of Yang et al. 2022 (arXiv 2203.03466); the constant was measured on byte-level
    models of width 32 to 128 with 1024 tokens a batch.
    """
    return constant / d_model
