"""Ladders, what counting does, and the frontier's theory: by formula, without training."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from allometry.core.errors import AllometryError
from allometry.figures import theme
from allometry.figures.several import several, steps
from allometry.studies.compute_optimal.ladder import ladders
from allometry.studies.compute_optimal.reconcile import fit_omega, local_exponent, optimal_compute, total
from allometry.train.config import DataConfig

EPOCH = {"A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}


@pytest.mark.parametrize("compute", [2e11, 8e12])
def test_every_size_climbs_every_rung(compute: float) -> None:
    runs = ladders(compute, DataConfig())
    sizes = {run.model.counts().N for run in runs}
    assert len(sizes) >= 3
    warmups = {run.model.counts().N: {} for run in runs}
    for run in runs:
        warmups[run.model.counts().N].setdefault(run.train.schedule, set()).add(run.train.warmup)
    longs = {max(own["cosine"]) for own in warmups.values()}
    assert len(longs) == 1
    for own in warmups.values():
        assert own["wsd"] == {min(own["cosine"])}
        assert 2 * min(own["cosine"]) <= longs.copy().pop() + 1
    assert len({run.train.lr for run in runs if run.train.schedule == "cosine"}) == 1


def test_too_little_says_so() -> None:
    with pytest.raises(AllometryError, match="ladders"):
        ladders(1e10, DataConfig())


def test_pearce_and_songs_exponents_in_kaplans_range() -> None:
    sizes = np.geomspace(768, 1.5e9, 200)
    compute = optimal_compute(sizes, EPOCH, 47_491)
    slope = np.polyfit(np.log(compute), np.log(sizes), 1)[0]
    assert 0.74 < slope < 0.9
    assert local_exponent(1e13, EPOCH, 47_491) == pytest.approx(0.3658 / (0.3478 + 0.3658), abs=0.01)


def test_the_optimum_is_one() -> None:
    n, omega = 5e6, 47_491
    C = float(optimal_compute(n, EPOCH, omega))

    def loss(size: float) -> float:
        A, B, alpha, beta = EPOCH.values()
        return float(A / total(size, omega) ** alpha + B / (C / (6 * size)) ** beta)

    assert loss(n) < min(loss(n * 1.05), loss(n / 1.05))


def test_omega_of_shapes_of_constant_depth() -> None:
    width = np.array([16.0, 32, 64, 128])
    assert fit_omega(24 * width**2, 24 * width**2 + 325 * width, 0.5) == pytest.approx(325 / 24**0.5)


def test_figures_render() -> None:
    rows = pd.DataFrame(
        {"step": ["a", "b"], "a": [0.6, 0.5], "low": [0.5, 0.4], "high": [0.7, 0.6], "theirs": [0.8, None]}
    )
    drawn = steps(
        rows, label="step", value="a", low="low", high="high", published="theirs", reference=[0.5],
        name="steps", title="Steps", caption="2 points",
    )  # fmt: skip
    line = pd.DataFrame(
        {"series": "law", "N": [1e3, 1e5], "loss": [2.0, 1.5], "low": [1.9, 1.4], "high": [2.1, 1.6]}
    )
    both = several(line.assign(series="measured"), line, x="N", name="both", caption="points")
    for figure in (drawn, both):
        picture = theme.svg(figure, mode="dark")
        assert "NaN" not in picture
        assert "undefined" not in picture
    with pytest.raises(AllometryError, match="nothing to draw"):
        several(None, None, x="N", name="none", caption="points")
