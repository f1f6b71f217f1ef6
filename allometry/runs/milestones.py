"""When a run on questions had learnt them: the steps at which its accuracy first reached 99 % on each split.

Between the two, steps to fit and steps to generalise, lies what Power et al. 2022 (arXiv 2201.02177) call
grokking.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

LEARNT = 0.99
"""Accuracy from which a split counts as learnt."""

MILESTONES = {"memorised": "train_accuracy", "generalised": "accuracy"}
"""Columns of the run table, and the column of the curve that each is read from."""


def milestones(curve: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Return the step at which each split was learnt, None where that was not seen; empty without accuracies."""
    if not curve or "accuracy" not in curve[-1]:
        return {}
    steps = [row["step"] for row in curve]
    return {name: reached(steps, [row[c] for row in curve], LEARNT) for name, c in MILESTONES.items()}


def reached(steps: Sequence[float], values: Sequence[float], level: float) -> float | None:
    """Return the step at which `values` first reach `level`, interpolated in the logarithm of the step between
    evaluations; None if they do not.
    """
    for place, (step, value) in enumerate(zip(steps, values, strict=True)):
        if not value >= level:
            continue
        if place == 0:
            return float(step)
        part = (level - values[place - 1]) / (value - values[place - 1])
        return float(math.exp((1 - part) * math.log(steps[place - 1]) + part * math.log(step)))
    return None
