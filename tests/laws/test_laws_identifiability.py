"""Designs that say nothing are refused; fits that say little say so, and say what they do know."""

import numpy as np
import pandas as pd
import pytest

import allometry
from allometry.core.errors import AllometryError


def points(n, d, floor=1.8, noise=0.003, seed=0):
    n, d = np.asarray(n, dtype=float), np.asarray(d, dtype=float)
    loss = floor + 400 / n**0.34 + 1500 / d**0.36
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"N": n, "D": d, "loss": loss * np.exp(noise * rng.standard_normal(len(n)))})


def grid(sizes, horizons):
    n, d = np.meshgrid(sizes, horizons)
    return n.ravel(), d.ravel()


def names(result):
    return {w.name for w in result.warnings}


def test_fewer_points_than_parameters():
    with pytest.raises(AllometryError, match="4 usable rows cannot determine the 5 parameters") as error:
        allometry.fit(points([1e7, 1e8, 1e7, 1e8], [1e9, 1e9, 1e10, 1e10]), law="chinchilla")
    assert "fixed=" in error.value.hint


def test_as_many_points_as_parameters_have_no_intervals():
    frame = points([1e7, 3e7, 1e8, 1e7, 1e8], [1e9, 1e9, 1e10, 3e10, 4e9])
    result = allometry.fit(frame, law="chinchilla", bootstrap=50)
    assert "no-spare-points" in names(result)
    assert all(np.isnan(result.interval("alpha")))
    assert "no intervals" in result.report()


@pytest.mark.parametrize("ratio", [20.0, 173.0])
def test_one_ratio_of_data_to_parameters_is_refused(ratio):
    n = np.geomspace(1e7, 1e9, 8)
    with pytest.raises(AllometryError, match="one D/N ratio") as error:
        allometry.fit(points(n, ratio * n), law="chinchilla")
    assert "other ratios" in error.value.hint


def test_data_growing_as_a_power_of_size_is_refused():
    n = np.geomspace(1e7, 1e9, 8)
    with pytest.raises(AllometryError, match=r"D growing as N\^0.74"):
        allometry.fit(points(n, 5e3 * n**0.74), law="kaplan")


def test_one_level_of_an_input_is_refused():
    with pytest.raises(AllometryError, match="N takes 1 value"):
        allometry.fit(points(np.full(9, 1e8), np.geomspace(1e9, 1e11, 9)), law="chinchilla")


def test_two_levels_cannot_show_an_exponent_and_a_floor():
    with pytest.raises(AllometryError, match="N takes 2 values"):
        allometry.fit(points(*grid([1e7, 1e8], np.geomspace(1e9, 1e11, 6))), law="chinchilla")


def test_three_levels_are_said():
    result = allometry.fit(
        points(*grid([1e7, 1e8, 1e9], np.geomspace(1e9, 1e11, 6))), law="chinchilla", bootstrap=50
    )
    assert "few-levels" in names(result)


def test_a_narrow_range_is_said():
    result = allometry.fit(
        points(*grid(np.geomspace(1e8, 4e8, 5), np.geomspace(1e9, 1e11, 5))), law="chinchilla", bootstrap=50
    )
    assert "narrow-range" in names(result)


def test_a_floor_that_the_data_do_not_show():
    n = np.geomspace(1e5, 1e8, 12)
    noise = np.random.default_rng(1).standard_normal(12)
    frame = pd.DataFrame({"N": n, "loss": 9 * n**-0.07 * np.exp(0.003 * noise)})
    result = allometry.fit(frame, law="power-offset", columns={"X": "N"}, bootstrap=200)
    assert {"floor-at-zero", "floor-not-identified", "flat-profile"} & names(result)
    if result.parameters["E"] == 0:
        assert result.status == "doubtful"
        assert any("floor is not identified" in r for r in result.reasons)


def test_each_warning_says_what_is_identified():
    result = allometry.fit(points(*grid([1e7, 1e8, 1e9], [1e9, 1e10, 4e10])), law="chinchilla", bootstrap=100)
    assert result.warnings
    for w in result.warnings:
        assert w.meaning
        assert w.identified
        assert w.name in result.report()


def test_noise_between_seeds_shows_a_law_that_does_not_fit():
    n = np.repeat(np.geomspace(1e6, 1e9, 10), 3)
    rng = np.random.default_rng(0)
    loss = (1.8 + 400 / n**0.34) * np.exp(0.001 * rng.standard_normal(30))
    frame = pd.DataFrame({"N": n, "loss": loss, "seed": np.tile([0, 1, 2], 10)})
    straight = allometry.fit(frame, law="kaplan-n", bootstrap=0)
    bent = allometry.fit(frame, law="power-offset", columns={"X": "N"}, bootstrap=0)
    assert straight.noise == pytest.approx(0.001, rel=0.5)
    assert "lack-of-fit" in names(straight)
    assert "lack-of-fit" not in names(bent)


def test_another_learning_rate_is_not_a_repeat():
    n = np.repeat(np.geomspace(1e6, 1e9, 10), 3)
    frame = pd.DataFrame(
        {"N": n, "loss": 7 * n**-0.08 * np.tile([1, 1.1, 1.2], 10), "lr": np.tile([1e-3, 2e-3, 3e-3], 10)}
    )
    assert allometry.fit(frame, law="kaplan-n", bootstrap=0).noise is None


def test_a_good_table_is_not_cried_wolf_over():
    result = allometry.fit(
        points(*grid(np.geomspace(1e7, 3e9, 8), np.geomspace(3e8, 1e11, 8))), law="chinchilla", bootstrap=100
    )
    assert result.status == "converged"
    assert names(result) <= {"correlation", "outliers"}
