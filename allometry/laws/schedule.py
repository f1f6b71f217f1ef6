"""What a learning-rate schedule does to the loss, in two numbers: the momentum law's areas."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def areas(rates: ArrayLike, decay: float = 0.999) -> tuple[Array, Array]:
    """Return the forward area S_1 and annealing area S_2 after each step of a schedule (Tissue et al. 2024,
    section 3).

    `rates` are the learning rates of the steps, shape (steps,). S_1 is their running sum. Annealing gathers
    momentum m_i = decay * m_(i-1) + (rate_(i-1) - rate_i), from the highest rate on (a warm-up is no
    annealing), and S_2 is the running sum of m. Both have the shape of `rates`; they are inputs of the law
    "schedule".
    """
    rate = np.asarray(rates, dtype=float)
    drops = np.zeros_like(rate)
    drops[1:] = -np.diff(rate)
    drops[: int(np.argmax(rate)) + 1] = 0.0
    momentum = np.empty_like(rate)
    carried = 0.0
    for i, drop in enumerate(drops):
        carried = decay * carried + drop
        momentum[i] = carried
    return np.cumsum(rate), np.cumsum(momentum)
