"""Do the intervals hold what they promise? Simulate tables from a known law, fit each, and count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from allometry.laws.expressions import evaluate
from allometry.laws.fit import fit
from allometry.laws.result import FitResult
from allometry.laws.zoo import get

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Design:
    """A table to simulate: a law with known parameters, the inputs of its runs, and the noise of log losses.

    `points` measurements share the inputs' row as one run (with half of the noise's variance in common).
    `beyond` is the input at which the law, and a new run, are predicted.
    """

    law: str
    parameters: Mapping[str, float]
    inputs: Mapping[str, Array]
    noise: float
    objective: str = "huber-log"
    beyond: Mapping[str, float] = field(default_factory=dict)
    points: int = 1

    def table(self, rng: np.random.Generator) -> pd.DataFrame:
        """Simulate one table with columns of the law's symbols and `run`."""
        law = get(self.law)
        inputs = {n: np.repeat(x, self.points) for n, x in self.inputs.items()}
        truth = law.predict(self.parameters, **inputs)
        runs = len(truth) // self.points
        noise = rng.standard_normal(len(truth))
        if self.points > 1:
            noise = (noise + np.repeat(rng.standard_normal(runs), self.points)) / np.sqrt(2)
        run = np.repeat([f"run-{i}" for i in range(runs)], self.points)
        return pd.DataFrame({**inputs, law.output: truth * np.exp(self.noise * noise), "run": run})


def coverage(
    design: Design, *, tables: int = 500, bootstrap: int = 200, seed: int = 0, resample: str = "auto"
) -> pd.DataFrame:
    """Measure how often the intervals of fits to simulated tables hold the true values, in percent.

    One row a quantity (fitted parameters other than amounts, what is quoted from the law, the law at
    `beyond`, a new run there), columns `80` and `95` for the nominal levels, and `tables`.
    """
    rng = np.random.default_rng(seed)
    hits: dict[str, list[tuple[bool, bool]]] = {}
    for i in range(tables):
        result = fit(
            design.table(rng),
            law=design.law,
            objective=design.objective,
            bootstrap=bootstrap,
            seed=i,
            resample=resample,
        )
        for name, held in _held(design, result, rng).items():
            hits.setdefault(name, []).append(held)
    rows = {name: 100 * np.mean(held, axis=0) for name, held in hits.items()}
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=["80", "95"])
    return frame.assign(tables=tables)


def _held(design: Design, result: FitResult, rng: np.random.Generator) -> dict[str, tuple[bool, bool]]:
    """Return whether the 80 and 95 % intervals of each quantity hold its true value."""
    law, levels = result.law, (0.80, 0.95)
    found = {}
    for p in law.parameters:
        if p.anchor is None:
            found[p.name] = tuple(
                _within(design.parameters[p.name], result.interval(p.name, lv)) for lv in levels
            )
    for name, text in law.derived.items():
        truth = float(evaluate(text, design.parameters))
        found[name] = tuple(_within(truth, result.derived(text, lv)[1:]) for lv in levels)
    if design.beyond:
        at = {n: [v] for n, v in design.beyond.items()}
        truth = float(law.predict(design.parameters, **design.beyond))
        measured = truth * float(np.exp(design.noise * rng.standard_normal()))
        found["law beyond"] = tuple(_within(truth, result.interval_at(at, lv)) for lv in levels)
        found["new run beyond"] = tuple(
            _within(measured, result.prediction_interval(at, lv)) for lv in levels
        )
    return {name: (bool(low), bool(high)) for name, (low, high) in found.items()}


def _within(value: float, interval: tuple[float | Array, ...]) -> bool:
    low, high = (float(np.squeeze(end)) for end in interval)
    return low <= value <= high
