"""Scores of predictions, checked against their definitions and against forecasts whose quality is planted."""

from __future__ import annotations

import json
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest

from allometry.studies.core.scoring import assess, compared, crps, interval_score, sentence

REACH = NormalDist().inv_cdf(0.975)


def forecasts(z: np.ndarray, sigma: float = 0.01, trunks: int = 50) -> pd.DataFrame:
    """Predictions of 2 whose errors are z times sigma, in trunks of equally many horizons."""
    n = len(z)
    return pd.DataFrame({
        "predicted": 2.0, "low": 2 * np.exp(-REACH * sigma), "high": 2 * np.exp(REACH * sigma), "level": 0.95,
        "measured": 2 * np.exp(sigma * z), "D": np.tile(2.0 ** np.arange(n // trunks), trunks),
        "trunk": np.repeat(np.arange(trunks), n // trunks),
    })  # fmt: skip


def test_the_scores_are_those_of_their_definitions() -> None:
    z, sigma = np.array([0.0, 1.3, -4.0]), np.array([0.5, 1.0, 2.0])
    grid = np.linspace(-20, 20, 8001)
    for one, s in zip(z, sigma, strict=True):
        x = one * s
        below = np.array([NormalDist(0, float(s)).cdf(v) for v in grid])
        integral = np.trapezoid((below - (grid >= x)) ** 2, grid)
        assert crps(np.array([one]), np.array([s]))[0] == pytest.approx(integral, rel=0.01)
    inside, outside = interval_score(np.array([1.0, 3.0]), np.array([0.1, 0.1]))
    assert inside == pytest.approx(0.2 * REACH)
    assert outside == pytest.approx(0.2 * REACH + 40 * 0.1 * (3 - REACH))


def test_honest_forecasts_have_their_coverage_and_wide_ones_show() -> None:
    z = np.random.default_rng(0).standard_normal(4000)
    honest, wide = assess(forecasts(z)), assess(forecasts(z / 4, sigma=0.04))
    assert honest.rms_z == pytest.approx(1, abs=0.05)
    assert honest.coverage == pytest.approx({0.5: 0.5, 0.8: 0.8, 0.95: 0.95}, abs=0.03)
    assert wide.rms_z == pytest.approx(0.25, abs=0.02)
    assert wide.coverage[0.95] == 1
    assert wide.mean_error == pytest.approx(honest.mean_error)
    assert wide.half_width == pytest.approx(np.expm1(REACH * 0.04))
    assert wide.crps > 1.5 * honest.crps
    assert wide.interval_score > honest.interval_score


def test_runs_count_by_trunk_and_errors_that_grow_are_seen() -> None:
    hit, missed = np.zeros(9), np.array([5.0])
    table = pd.concat(
        [forecasts(hit, trunks=1), forecasts(missed, trunks=1).assign(trunk=1)], ignore_index=True
    )
    score = assess(table)
    assert (score.runs, score.trunks) == (10, 2)
    assert score.coverage[0.95] == 0.5  # nine horizons of one trunk are one hit
    growing = assess(forecasts(np.tile(np.arange(5.0), 3), trunks=3))
    assert growing.trend == pytest.approx(0.01)
    assert np.isnan(assess(forecasts(np.zeros(3), trunks=3)).trend)


def ladder(curvature: float) -> pd.DataFrame:
    """Runs of a power law in N and D, that bends in N."""
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e4, 1e6, 6), np.geomspace(1e6, 8e6, 4)))
    log_n = np.log(n / 1e5)
    loss = np.exp(0.5 - 0.1 * log_n + curvature * log_n**2 - 0.1 * np.log(d / 1e6))
    return pd.DataFrame({
        "run": [f"r{i}" for i in range(len(n))], "N": n, "D": d, "loss": loss, "status": "done",
        "family": "transformer",
        "shape": [f"2x{x:.0f}" for x in n], "schedule": "wsd", "seed": 0, "B": 512, "lr": 0.01, "corpus": "sotu",
    })  # fmt: skip


@pytest.mark.parametrize(("curvature", "better"), [(0.0, False), (0.02, True)])
def test_a_naive_competitor_wins_on_a_straight_law_and_loses_on_a_bent_one(
    curvature: float, better: bool
) -> None:
    runs = ladder(curvature)
    target = runs[runs["N"] == runs["N"].max()]
    known = runs[runs["N"] < runs["N"].max()]
    scored = target[["run", "N", "D"]].assign(
        predicted=target["loss"] * 1.002, low=target["loss"] * 0.99, high=target["loss"] * 1.01, level=0.95,
        measured=target["loss"],
    )  # fmt: skip
    diverged = known.head(1).assign(run="odd", lr=9.0, loss=9.0, status="done")
    ours, naive = compared(scored, pd.concat([runs, diverged]), [*known["run"], "odd"])
    assert naive is not None
    assert (ours.crps < naive.crps) is better
    assert ours.trunks == 1
    assert ours.mean_error == pytest.approx(0.002, rel=0.01)
    if not better:
        assert naive.mean_error < 1e-6
    assert json.loads(json.dumps(ours.to_dict()))["coverage"] == {"50": 1.0, "80": 1.0, "95": 1.0}
    assert ("better" if better else "worse") in sentence(ours, naive)


def test_without_three_sizes_there_is_no_competitor() -> None:
    runs = ladder(0.0)
    sizes = sorted(runs["N"].unique())
    target = runs[runs["N"] == sizes[2]]
    scored = target[["run"]].assign(predicted=2.0, low=1.0, high=4.0, measured=target["loss"])
    assert compared(scored, runs, runs.loc[runs["N"] < sizes[2], "run"])[1] is None
