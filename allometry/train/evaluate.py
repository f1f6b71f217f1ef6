"""The measurements of an evaluation besides what training itself reports: losses, accuracies, and the gradient noise
scale of McCandlish et al. 2018 (arXiv 1812.06162, section 2.2 and appendix A.1).

G is the gradient of the loss over all data, Sigma the covariance of the gradients of single sequences. The
gradient G_B of a batch of B sequences has expectation G, covariance Sigma / B, and so

    E|G_B|^2 = |G|^2 + tr Sigma / B.

Two batch sizes give both unknowns without bias. Here the small batch is one sequence, the mean of whose
|G_1|^2 runs over n sequences, and the large one is all n together:

    tr Sigma ~ (|G_1|^2 - |G_n|^2) / (1 - 1 / n)          |G|^2 ~ (n |G_n|^2 - |G_1|^2) / (n - 1)

B_simple = tr Sigma / |G|^2 is about the batch at which more sequences stop to shorten training. Both are
unbiased, their ratio is not, and a single |G|^2 may be negative: average each by itself and divide last.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from allometry.core.errors import AllometryError
from allometry.runs.measurements import by_position
from allometry.runs.record import BY_POSITION
from allometry.train.engines.base import Engine
from allometry.train.inputs import Inputs

if TYPE_CHECKING:
    import pandas as pd

    from allometry.data.batches import BatchOrder
    from allometry.train.engines.base import Engine


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
        noise = measure(engine, inputs.order, after=step, batches=noise_batches)
        row |= {f"noise_{k}": v if math.isfinite(v) else None for k, v in noise._asdict().items()}
    return row


def final(row: dict[str, Any], inputs: Inputs) -> dict[str, Any]:
    """Return the part of a curve's row that a run's result keeps: losses, accuracies, bits per byte."""
    kept = ("loss", "train_loss", "accuracy", "train_accuracy")
    found = {name: value for name, value in row.items() if name.startswith(kept)}
    if inputs.weights is None:  # the loss of an answer is not that of the text around it
        found["bits_per_byte"] = row["loss"] / math.log(2) / inputs.bytes_per_token
    return found


WINDOW = 5
"""Evaluations over which `noise_scale` averages; at two an octave they span a factor of four in steps."""


class Noise(NamedTuple):
    """Estimates of tr Sigma, for one sequence, and of |G|^2, in nats^2 per unit of parameter^2."""

    trace: float
    signal: float


def estimate(small: NDArray[np.float64], large: float) -> Noise:
    """Return unbiased estimates from the squared norms of n sequences' gradients, (n,), and of their mean's."""
    n, mean = len(small), float(small.mean())
    assert n >= 2, "one sequence says nothing of how sequences differ"
    return Noise(trace=(mean - large) / (1 - 1 / n), signal=(n * large - mean) / (n - 1))


def measure(engine: Engine, order: BatchOrder, *, after: int, batches: int) -> Noise:
    """Measure the noise at the parameters that `engine` has after step `after`, from the batches that come next.

    Those are a pure function of (seed, step), and in a first epoch the parameters have not seen them: the
    batch that was just learnt from would make |G| too small. Nothing of the run's state changes.
    """
    small: list[NDArray[np.float64]] = []
    total: dict[str, NDArray[np.float64]] = {}
    for step in range(after + 1, after + batches + 1):
        windows = order.batch(step)
        small.append(np.square(engine.sequence_norms(windows, step=step)))
        _, gradients = engine.gradients(windows, step=step)
        for name, gradient in gradients.items():
            total[name] = total[name] + gradient if name in total else gradient.astype(np.float64)
    large = sum(float(np.sum(np.square(each / batches))) for each in total.values())
    return estimate(np.concatenate(small), large)


def noise_scale(curve: pd.DataFrame, *, n_ctx: int, window: int = WINDOW) -> pd.Series:
    """Return B_simple in tokens (sequences x n_ctx) at each row of one run's curve, NaN where it is not known.

    Numerator and denominator are averaged over `window` neighbouring evaluations before they are divided; an
    averaged |G|^2 that is not positive gives NaN. AllometryError for a run that did not measure it.
    """
    if not {"noise_trace", "noise_signal"} <= set(curve.columns):
        raise AllometryError(
            "this run did not measure its gradient noise", hint="train it with noise_batches = 8, say"
        )
    means = curve[["noise_trace", "noise_signal"]].rolling(window, center=True, min_periods=1).mean()
    signal = means["noise_signal"].where(means["noise_signal"] > 0)
    return (n_ctx * means["noise_trace"] / signal).rename("B_simple")
