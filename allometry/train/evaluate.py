"""What is measured at an evaluation, besides what training itself reports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from allometry.runs.positions import by_position
from allometry.runs.record import BY_POSITION
from allometry.train import noise_scale
from allometry.train.engines.base import Engine
from allometry.train.inputs import Inputs


def measurements(engine: Engine, inputs: Inputs, *, step: int, noise_batches: int) -> dict[str, Any]:
    """The part of a curve's row that is measured at the parameters after `step`.

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


FITTED = 0.99
"""Accuracy from which a split counts as learnt (Power et al. 2022)."""


def milestones(curve: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """The steps at which training questions and held-out ones were first answered to 99 %, interpolated in
    the logarithm of the step between evaluations; None where that was not seen. Empty for curves without
    accuracies.
    """
    if not curve or "accuracy" not in curve[-1]:
        return {}
    return {name: _reached(curve, column) for name, column in MILESTONES.items()}


MILESTONES = {"memorised": "train_accuracy", "generalised": "accuracy"}


def _reached(curve: Sequence[Mapping[str, Any]], column: str) -> float | None:
    before: Mapping[str, Any] | None = None
    for row in curve:
        if row[column] >= FITTED:
            if before is None:
                return float(row["step"])
            part = (FITTED - before[column]) / (row[column] - before[column])
            return float(before["step"] * (row["step"] / before["step"]) ** part)
        before = row
    return None


def final(row: dict[str, Any], inputs: Inputs) -> dict[str, Any]:
    """What a run's result takes from the row of its curve that counts: losses, accuracies, bits per byte."""
    kept = ("loss", "train_loss", "accuracy", "train_accuracy")
    found = {name: value for name, value in row.items() if name.startswith(kept)}
    if inputs.weights is None:  # the loss of an answer is not that of the text around it
        found["bits_per_byte"] = row["loss"] / math.log(2) / inputs.bytes_per_token
    return found
