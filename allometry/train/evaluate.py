"""The measurements of an evaluation, besides what training itself reports."""

from __future__ import annotations

import math
from typing import Any

from allometry.runs.measurements import by_position
from allometry.runs.record import BY_POSITION
from allometry.train import noise_scale
from allometry.train.engines.base import Engine
from allometry.train.inputs import Inputs


def measurements(engine: Engine, inputs: Inputs, *, step: int, noise_batches: int) -> dict[str, Any]:
    """Return the part of a curve's row that is measured at the parameters after `step`.

    "loss" and "loss_<corpus>" on the test sets, in nats; the loss by position; where only answers count,
    "accuracy" and "train_accuracy" instead; with `noise_batches` the gradient noise. If a loss is not finite,
    the losses alone.
    """
    losses = {name: engine.losses(test) for name, test in inputs.tests.items()}
    row: dict[str, Any] = {name: inputs.mean(each) for name, each in losses.items()}
    if not all(map(math.isfinite, row.values())):
        return row
    if inputs.weights is None:
        row[BY_POSITION] = by_position(losses["loss"])
    else:
        row["accuracy"] = inputs.mean(engine.hits(inputs.tests["loss"]))
        row["train_accuracy"] = inputs.mean(engine.hits(inputs.trained))
    if noise_batches:
        noise = noise_scale.measure(engine, inputs.order, after=step, batches=noise_batches)
        row |= {f"noise_{k}": v if math.isfinite(v) else None for k, v in noise._asdict().items()}
    return row


def final(row: dict[str, Any], inputs: Inputs) -> dict[str, Any]:
    """Return the part of a curve's row that a run's result keeps: losses, accuracies, bits per byte."""
    kept = ("loss", "train_loss", "accuracy", "train_accuracy")
    found = {name: value for name, value in row.items() if name.startswith(kept)}
    if inputs.weights is None:  # the loss of an answer is not that of the text around it
        found["bits_per_byte"] = row["loss"] / math.log(2) / inputs.bytes_per_token
    return found
