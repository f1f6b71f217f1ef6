"""A fit tests whether it extrapolates: right laws pass, wrong ones fail, and their intervals then hold larger runs."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import allometry
from allometry.laws.result import FitResult
from allometry.laws.selftest import _cuts, directions
from allometry.laws.zoo import get

SCALEBENCH = Path(__file__).parents[3] / "shared" / "data" / "scalebench"
CHINCHILLA = dict(get("chinchilla").published["besiroglu2024"].values)
SKALING = {"E": 1.2, "A": 60.0, "a": 0.35, "b": 0.37, "R": 1.5, "k": 0.5}


def table(law, truth, noise, seed=0, sizes=(1e7, 1e9), tokens=(2e8, 2e10), levels=6):
    grid = [(n, d) for n in np.geomspace(*sizes, levels) for d in np.geomspace(*tokens, levels)]
    frame = pd.DataFrame(grid, columns=["N", "D"])
    wobble = np.exp(noise * np.random.default_rng(seed).standard_normal(len(frame)))
    return frame.assign(loss=get(law).predict(truth, N=frame["N"], D=frame["D"]) * wobble)


def larger(law, truth):
    return table(law, truth, 0.0, sizes=(2e9, 1e10), tokens=(4e10, 1e11), levels=3)


@pytest.fixture(scope="module")
def wrong():
    """A Chinchilla fit of runs whose terms add under a power."""
    return allometry.fit(table("skaling", SKALING, 0.001, levels=10), law="chinchilla", bootstrap=100)


@pytest.mark.parametrize(("law", "truth"), [("chinchilla", CHINCHILLA), ("skaling", SKALING)])
def test_a_right_law_passes(law, truth):
    """The level is 1 %; of 15 tables two fail in one of 100 series."""
    fits = [
        allometry.fit(table(law, truth, 0.005, seed), law=law, bootstrap=0, seed=seed) for seed in range(15)
    ]
    assert sum(f.selftest.failed for f in fits) <= 1
    assert np.mean([f.selftest.p for f in fits]) > 0.3
    assert not any("model" in f.status or "extrapolate" in f.status for f in fits if not f.selftest.failed)


def test_a_wrong_law_does_not_extrapolate(wrong):
    assert wrong.status == "does not extrapolate"
    assert wrong.selftest.direction in ("N", "D", "C", "D/N")
    assert f"along {wrong.selftest.direction}" in wrong.reasons[0]
    assert f"does not extrapolate along {wrong.selftest.direction}" in wrong.report()


def test_its_intervals_hold_the_larger_runs_and_did_not_before(wrong):
    points = larger("skaling", SKALING)
    low, high = wrong.prediction_interval(points)
    held = (points["loss"] >= low) & (points["loss"] <= high)
    untested = allometry.fit(
        table("skaling", SKALING, 0.001, levels=10), law="chinchilla", bootstrap=100, test=False
    )
    low, high = untested.prediction_interval(points)
    before = (points["loss"] >= low) & (points["loss"] <= high)
    assert untested.selftest is None
    assert untested.status == "converged"
    assert held.mean() >= 0.9 > 0.5 > before.mean()


def test_a_model_error_is_for_points_beyond_the_data_and_grows_with_the_distance(wrong):
    N, D = (np.array([1e8, 2e9, 1e13]), np.array([1e9, 4e10, 1e14]))
    inside, beyond, far = wrong.selftest.model_error({"N": N, "D": D})
    assert inside == 0
    assert far > 1.5 * beyond > 0
    passed = allometry.fit(table("chinchilla", CHINCHILLA, 0.005), law="chinchilla", bootstrap=0)
    assert not passed.selftest.model_error({"N": N, "D": D}).any()


def test_a_test_goes_to_json_and_back(wrong):
    again = FitResult.from_dict(json.loads(json.dumps(wrong.to_dict(), allow_nan=False)))
    points = larger("skaling", SKALING)
    assert again.status == wrong.status
    assert again.selftest.sentence() == wrong.selftest.sentence()
    for end, before in zip(again.prediction_interval(points), wrong.prediction_interval(points), strict=True):
        assert end == pytest.approx(before)


def test_few_runs_are_not_tested():
    few = table("chinchilla", CHINCHILLA, 0.005, levels=3)
    fit = allometry.fit(few, law="chinchilla", bootstrap=0)
    assert np.isnan(fit.selftest.p)
    assert "9 runs are too few" in fit.selftest.sentence()
    assert fit.status != "does not extrapolate"


def test_runs_that_the_table_names_are_held_out_whole():
    frame = table("chinchilla", CHINCHILLA, 0.005).assign(run=np.repeat(np.arange(18), 2))
    fit = allometry.fit(frame, law="chinchilla", bootstrap=0)
    along = directions({n: frame[n].to_numpy() for n in ("N", "D")})
    for cut in _cuts(fit.problem(), along, fit.group, whole=True):
        assert len(np.intersect1d(fit.group[cut.held], fit.group[~cut.held])) == 0
    split = [c for c in _cuts(fit.problem(), along, fit.group, whole=False) if c.direction == "D"]
    assert any(len(np.intersect1d(fit.group[c.held], fit.group[~c.held])) for c in split)


def test_directions_of_a_law_of_n_and_m():
    found = directions({"N": np.array([10.0]), "M": np.array([20.0])})
    assert set(found) == {"N", "M", "D", "C"}
    assert np.exp(found["C"][0]) == pytest.approx(6 * 10 * 200)


def test_one_seed_gives_one_answer(wrong):
    again = allometry.fit(table("skaling", SKALING, 0.001, levels=10), law="chinchilla", bootstrap=0)
    assert again.selftest.p == wrong.selftest.p
    pd.testing.assert_frame_equal(again.selftest.tests, wrong.selftest.tests)


def test_a_limit_above_measured_losses_is_said():
    frame = table("chinchilla", CHINCHILLA, 0.002)
    fit = allometry.fit(frame, law="chinchilla", fixed={"E": 2.8}, bootstrap=0)
    said = {w.name: w.meaning for w in fit.warnings}["floor-above-data"]
    assert "L = 2.8 is the least that this law can give" in said
    assert (
        f"{int((frame['loss'] < 2.8).sum())} rows of the table measured less: {frame['loss'].min():.4g}"
        in said
    )
    assert any("limit 2.8 lies above" in reason for reason in fit.reasons)
    assert "floor-above-data" not in {
        w.name for w in allometry.fit(frame, law="chinchilla", bootstrap=0).warnings
    }


@pytest.mark.skipif(not SCALEBENCH.exists(), reason=f"published measurements are not at {SCALEBENCH}")
@pytest.mark.parametrize("law", ["chinchilla", "rosenfeld", "skaling"])
def test_published_runs_larger_than_a_table_lie_in_the_widened_intervals(law):
    runs, test = (pd.read_csv(SCALEBENCH / f"farseer_{part}.csv") for part in ("train", "test"))
    fit = allometry.fit(runs, law=law, bootstrap=100)
    low, high = fit.prediction_interval(test)
    assert fit.status == "does not extrapolate"
    assert ((test["loss"] >= low) & (test["loss"] <= high)).all()
    assert (high / low < 1.2).all()
