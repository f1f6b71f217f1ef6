"""The gradient noise scale: unbiased, the same from every engine, and no part of training."""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from allometry.core.errors import AllometryError
from allometry.train.config import RunConfig
from allometry.train.engines.base import Engine
from allometry.train.engines.select import engine_class
from allometry.train.evaluate import Noise, estimate, measure, noise_scale
from allometry.train.inputs import load_inputs
from allometry.train.loop import train

Make = Callable[..., RunConfig]


@settings(max_examples=30, derandomize=True, deadline=None)
@given(gradients=arrays.arrays(float, (3, 2), elements=st.floats(-10, 10, width=16)), n=st.integers(2, 4))
def test_estimates_are_unbiased(gradients: np.ndarray, n: int) -> None:
    """The mean over all samples of n from a population is the population's own, exactly."""
    mean = gradients.mean(axis=0)
    trace, signal = ((gradients - mean) ** 2).sum() / 3, mean @ mean
    samples = [gradients[list(which)] for which in itertools.product(range(3), repeat=n)]
    found = [estimate((each**2).sum(axis=1), float((each.mean(axis=0) ** 2).sum())) for each in samples]
    assert np.mean([each.trace for each in found]) == pytest.approx(trace, abs=1e-9 * (1 + trace))
    assert np.mean([each.signal for each in found]) == pytest.approx(signal, abs=1e-9 * (1 + trace + signal))


def begun(make_run: Make, name: str) -> tuple[Engine, RunConfig]:
    config = make_run(name, batch_tokens=64)
    if lack := engine_class(name).unsupported_reason(config):
        pytest.skip(lack)
    return engine_class(name)(config), config


def test_engines_agree_with_gradients_taken_one_by_one(make_run: Make) -> None:
    found: dict[str, Noise] = {}
    for name in ("reference", "fast", "native"):
        engine, config = begun(make_run, name)
        order = load_inputs(config).order
        found[name] = measure(engine, order, after=7, batches=3)
    windows = np.concatenate([order.batch(step) for step in (8, 9, 10)])
    flat = [
        np.concatenate([g.ravel() for g in engine.gradients(window[None])[1].values()]) for window in windows
    ]
    variance = np.var(flat, axis=0, ddof=1).sum()
    for noise in found.values():
        assert noise.trace == pytest.approx(variance, rel=1e-4)
        assert noise.signal == pytest.approx(np.sum(np.mean(flat, axis=0) ** 2) - variance / 6, rel=1e-4)


@pytest.mark.parametrize("engine", ["reference", "native"])
def test_a_run_records_it_and_trains_as_without(make_run: Make, tmp_path: Path, engine: str) -> None:
    begun(make_run, engine)
    train(make_run(engine), tmp_path / "plain")
    train(make_run(engine, noise_batches=2), tmp_path / "noise")
    plain, measured = (
        [json.loads(line) for line in (tmp_path / name / "curve.jsonl").read_text().splitlines()]
        for name in ("plain", "noise")
    )
    assert [{k: v for k, v in row.items() if not k.startswith("noise")} for row in measured] == plain
    assert all(row["noise_trace"] > 0 for row in measured)
    scale = noise_scale(pd.DataFrame(measured), n_ctx=32)
    assert len(scale) == len(measured)
    assert scale.iloc[0] < scale.dropna().iloc[-1]  # it grows as the loss falls


def test_numerator_and_denominator_are_averaged_apart() -> None:
    curve = pd.DataFrame({"noise_trace": [4.0, 6.0, 8.0], "noise_signal": [1.0, -0.4, 0.6]})
    found = noise_scale(curve, n_ctx=10, window=3)
    assert found.iloc[1] == pytest.approx(10 * 18 / 1.2)
    alone = noise_scale(curve, n_ctx=10, window=1)
    assert alone.iloc[0] == pytest.approx(40)
    assert math.isnan(alone.iloc[1])


def test_a_run_without_it_says_how_to_get_it() -> None:
    with pytest.raises(AllometryError, match="noise_batches"):
        noise_scale(pd.DataFrame({"loss": [1.0]}), n_ctx=8)
