"""Intervals: how they are made, what they must contain, and that they hold what they promise."""

import importlib.util
import pickle
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import allometry
from allometry.core.errors import AllometryError
from allometry.laws.uncertainty import (
    components,
    quantiles,
    seed_noise,
    spent_within,
    student_quantile,
    student_scales,
)


def table(runs=30, points=1, noise=0.01, seed=0):
    x = np.geomspace(1e5, 1e9, runs)
    rng = np.random.default_rng(seed)
    shared = np.repeat(rng.standard_normal(runs), points) if points > 1 else 0.0
    loss = np.repeat(7 * x**-0.08, points) * np.exp(
        noise * (rng.standard_normal(runs * points) * (0.1 if points > 1 else 1) + shared)
    )
    return pd.DataFrame({"N": np.repeat(x, points), "loss": loss, "run": np.repeat(np.arange(runs), points)})


@pytest.fixture(scope="module")
def fitted():
    return allometry.fit(table(), law="kaplan-n", bootstrap=300)


@pytest.mark.parametrize("dof", [1, 2, 5, 30, 80, 500])
@pytest.mark.parametrize("probability", [0.6, 0.9, 0.975, 0.995])
def test_student_quantiles(dof, probability):
    assert student_quantile(probability, dof) == pytest.approx(stats.t.ppf(probability, dof), rel=2e-4)


@pytest.mark.parametrize("dof", [1, 2, 5, 30, 70])
def test_normal_draws_of_uncertain_size_follow_student(dof):
    scales = student_scales(dof, 20000, seed=0)
    draws = scales * np.random.default_rng(0).standard_normal(20000)
    for level in (0.8, 0.95):
        low, high = quantiles(draws, level)
        expected = stats.t.ppf((1 + level) / 2, dof)
        assert (-low, high) == (pytest.approx(expected, rel=0.07), pytest.approx(expected, rel=0.07))


@pytest.mark.parametrize("points", [3, 4, 6])
def test_intervals_of_few_points_are_those_of_students_t(points):
    """A power law by least squares of logarithms is a straight line: its intervals are known exactly."""
    x = np.geomspace(1e6, 1e9, points)
    y = 12 * x**-0.08 * np.exp(0.01 * np.random.default_rng(points).standard_normal(points))
    result = allometry.fit(pd.DataFrame({"X": x, "L": y}), law="power", objective="lsq-log", bootstrap=4000)
    line = stats.linregress(np.log(x), np.log(y))
    for level in (0.8, 0.95):
        half = line.stderr * stats.t.ppf((1 + level) / 2, points - 2)
        low, high = result.interval("alpha", level)
        assert low == pytest.approx(-line.slope - half, abs=0.12 * half)
        assert high == pytest.approx(-line.slope + half, abs=0.12 * half)
    assert result.table()["se_boot"]["alpha"] == pytest.approx(line.stderr, rel=0.1)


def test_points_of_one_run_are_recognised():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(200), 5)
    alone = rng.standard_normal(1000)
    together = np.sqrt(0.5) * alone + np.sqrt(0.5) * rng.standard_normal(200)[group]
    own, common = components(alone, group, 0, 0)
    assert (own, common) == (pytest.approx(1, abs=0.05), pytest.approx(0, abs=0.2))
    own, common = components(together, group, 0, 0)
    assert (own, common) == (pytest.approx(0.5**0.5, abs=0.05), pytest.approx(0.5**0.5, abs=0.07))
    assert components(np.zeros(1000), group, 0, 0) == (0, 0)


def test_parameters_are_spent_where_they_differ():
    group = np.repeat(np.arange(20), 5)
    of_group, of_point = np.repeat(np.linspace(-1, 1, 20), 5), np.tile(np.linspace(-1, 1, 5), 20)
    assert spent_within(np.stack([np.ones(100), of_group]), group) == pytest.approx(0)
    assert spent_within(np.stack([of_point, of_point**2 - 0.5]), group) == pytest.approx(1)
    assert spent_within(np.stack([np.ones(100), of_group, of_point]), group) == pytest.approx(1 / 3)


def test_few_runs_are_simulated_and_many_are_resampled(fitted):
    assert fitted.resampling == "noise"
    assert allometry.fit(table(runs=120), law="kaplan-n", bootstrap=10).resampling == "runs"
    lower = allometry.fit(table(), law="kaplan-n", bootstrap=10, objective="lower-envelope")
    assert lower.resampling == "runs"  # noise about an envelope is not centred on it
    assert allometry.fit(table(), law="kaplan-n", bootstrap=10, resample="runs").resampling == "runs"


def test_both_ways_agree_where_both_hold():
    frame = table(runs=150)
    errors = [
        allometry.fit(frame, law="kaplan-n", bootstrap=400, resample=kind).samples.std()
        for kind in ("runs", "noise")
    ]
    assert errors[0]["alpha_N"] == pytest.approx(errors[1]["alpha_N"], rel=0.25)


def test_more_points_of_the_same_runs_are_not_more_runs():
    """Ten points a run that share nearly all of their noise must not narrow the interval by sqrt(10)."""
    widths = {}
    for points in (1, 10):
        result = allometry.fit(
            table(points=points, seed=3), law="kaplan-n", bootstrap=200, objective="lsq-log"
        )
        low, high = result.interval("alpha_N")
        widths[points] = high - low
    assert widths[10] > 0.6 * widths[1]


def test_intervals_are_ordered_and_nested(fitted):
    low80, high80 = fitted.interval("alpha_N", 0.8)
    low95, high95 = fitted.interval("alpha_N", 0.95)
    assert low95 < low80 < fitted.parameters["alpha_N"] < high80 < high95
    with pytest.raises(AllometryError, match="unknown parameter"):
        fitted.interval("alpha")


def test_derived_quantities(fitted):
    by_text = fitted.derived("2*alpha_N")
    by_function = fitted.derived(lambda p: 2 * p["alpha_N"])
    assert by_text == by_function
    assert by_text[0] == pytest.approx(2 * fitted.parameters["alpha_N"])
    with pytest.raises(AllometryError, match="unknown"):
        fitted.derived("2*beta")


def test_a_new_run_is_less_certain_than_the_law(fitted):
    at = {"N": [1e7, 1e10]}
    low, high = fitted.interval_at(at)
    new_low, new_high = fitted.prediction_interval(at)
    assert np.all(new_low < low)
    assert np.all(high < new_high)
    assert np.all((low < fitted.predict(**at)) & (fitted.predict(**at) < high))
    assert high[1] - low[1] > high[0] - low[0]  # wider outside the data
    frame = pd.DataFrame(at)
    np.testing.assert_array_equal(fitted.interval_at(frame)[0], low)


def test_a_profile_has_its_minimum_at_the_estimate(fitted):
    frame = fitted.profile("alpha_N", 21)
    assert list(frame.columns) == ["alpha_N", "objective", "rise"]
    best = frame.loc[frame["objective"].idxmin(), "alpha_N"]
    assert best == pytest.approx(fitted.parameters["alpha_N"], rel=0.02)
    assert frame["rise"].min() >= -1e-9
    with pytest.raises(AllometryError, match="was not fitted"):
        allometry.fit(table(), law="kaplan-n", fixed={"alpha_N": 0.08}, bootstrap=0).profile("alpha_N")


def test_without_samples_there_are_no_intervals():
    result = allometry.fit(table(), law="kaplan-n", bootstrap=0)
    assert all(np.isnan(result.interval("alpha_N")))
    with pytest.raises(AllometryError, match="no bootstrap samples"):
        result.interval_at({"N": [1e7]})


def test_seed_noise_comes_from_repeats_only():
    rng = np.random.default_rng(0)
    n = np.repeat(np.geomspace(1e6, 1e8, 40), 3)
    values = np.log(n) + 0.02 * rng.standard_normal(120)
    frame = pd.DataFrame({"seed": np.tile([0, 1, 2], 40)})
    spread, dof = seed_noise(frame, values, {"N": n})
    assert dof == 80
    assert spread == pytest.approx(0.02, rel=0.2)
    assert seed_noise(frame.assign(lr=np.arange(120)), values, {"N": n}) is None
    assert seed_noise(frame.assign(seed=0), values, {"N": n}) is None


def benchmark():
    """The benchmark of coverage, as a module (a dataclass looks its own module up by name)."""
    path = Path(__file__).parents[2] / "benchmarks" / "coverage.py"
    spec = importlib.util.spec_from_file_location("coverage_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


BENCHMARK = benchmark()


def test_coverage_counts():
    design = BENCHMARK.Design(
        law="power",
        parameters={"A": 20.0, "alpha": 0.1},
        inputs={"X": np.geomspace(1e5, 1e8, 8)},
        noise=0.01,
        objective="lsq-log",
        beyond={"X": 1e9},
    )
    frame = BENCHMARK.coverage(design, tables=25, bootstrap=60)
    assert list(frame.index) == ["alpha", "law beyond", "new run beyond"]
    assert frame["80"].between(48, 100).all()  # 80 +- 4 standard errors of 25 tables
    assert (frame["95"] >= frame["80"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARK.DESIGNS)
def test_intervals_cover_as_they_promise(name):
    frame = BENCHMARK.coverage(BENCHMARK.DESIGNS[name], tables=500, bootstrap=400, seed=1)
    assert frame["80"].between(75, 85).all(), frame
    assert frame["95"].between(92, 98).all(), frame


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARK.OTHER_INPUTS)
def test_intervals_of_laws_with_other_inputs_cover(name):
    frame = BENCHMARK.coverage(BENCHMARK.OTHER_INPUTS[name], tables=100, bootstrap=150, seed=1)
    assert frame.loc["new run beyond", "95"] >= 90, frame  # 95 less 2 standard errors of 100 tables
    assert frame.loc["law beyond", "95"] >= 88, frame
    assert frame.attrs["failed"] <= 5


def elsewhere(function, items):
    """A `map` whose functions, items and results are sent through a pipe."""
    sent = [pickle.loads(pickle.dumps((function, item))) for item in items]
    assert len(sent) > 1
    return [pickle.loads(pickle.dumps(each(item))) for each, item in sent]


@pytest.mark.parametrize("resample", ["runs", "noise"])
def test_resamples_fitted_elsewhere_are_the_same_bits(resample):
    def fit(**where):
        return allometry.fit(table(200), law="kaplan-n", bootstrap=150, resample=resample, **where)

    assert np.array_equal(fit().samples, fit(mapped=elsewhere).samples)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_resamples_fitted_on_a_cluster_are_the_same_bits(monkeypatch):
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    from allometry.cluster import mapped

    monkeypatch.setenv("RAY_ADDRESS", "local")
    here = allometry.fit(table(200), law="kaplan-n", bootstrap=150)
    with mapped("ray") as cluster:
        there = allometry.fit(table(200), law="kaplan-n", bootstrap=150, mapped=cluster)
    assert np.array_equal(here.samples, there.samples)
    with pytest.raises(AllometryError, match="'slurm' is no cluster"), mapped("slurm"):
        pass


def test_quantiles_of_samples_that_overflowed_are_infinite():
    samples = np.array([[1.0, np.inf], [2.0, np.inf], [3.0, np.inf], [np.inf, 1.0]])
    low, high = quantiles(samples, 0.5)
    assert low.tolist() == [pytest.approx(1.25), np.inf]
    assert high[1] == np.inf


@pytest.mark.filterwarnings("ignore:All-NaN slice encountered")
def test_quantiles_of_samples_that_are_no_numbers_are_not_infinite():
    low, high = quantiles(np.full((4, 1), np.nan), 0.5)
    assert np.isnan([low, high]).all()
