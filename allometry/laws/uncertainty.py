"""How sure a fit is: bootstrap over runs, noise from repeats, profile likelihood."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from allometry.laws.problem import Problem
from allometry.laws.solver import minimise

Array = NDArray[np.float64]


def bootstrap(problem: Problem, z: Array, group: NDArray[np.int_], count: int, seed: int) -> Array:
    """Coordinates (count, p) of fits to resamples of the groups, drawn with replacement; each starts at `z`."""
    if not count or not len(z):
        return np.empty((count, len(z))) if not len(z) else np.empty((0, len(z)))
    groups = int(group.max()) + 1
    rng = np.random.default_rng(seed)
    times = rng.multinomial(groups, np.full(groups, 1 / groups), size=count)[:, group]
    weights = times * problem.weights
    start = np.broadcast_to(z, (count, len(z))).copy()
    return minimise(problem.residuals, start, weights, problem.objective, problem.box).z
