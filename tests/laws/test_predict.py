"""Predictions from a table, a fit, a back-test and printed constants."""

import json

import numpy as np
import pandas as pd
import pytest

import allometry
from allometry.core.errors import AllometryError
from allometry.laws.zoo import get

TRUTH = dict(get("chinchilla").published["besiroglu2024"].values)
POINTS = {"N": [2e9, 4e9], "D": [3e10, 6e10]}


@pytest.fixture(scope="module")
def runs():
    grid = [(n, d) for n in np.geomspace(1e7, 1e9, 6) for d in np.geomspace(2e8, 2e10, 5)]
    frame = pd.DataFrame(grid, columns=["N", "D"])
    wobble = np.exp(0.003 * np.random.default_rng(1).standard_normal(len(frame)))
    return frame.assign(loss=get("chinchilla").predict(TRUTH, N=frame["N"], D=frame["D"]) * wobble)


@pytest.fixture(scope="module")
def mixture(runs):
    return allometry.predict(runs, POINTS, bootstrap=40)


def test_a_table_is_predicted_from_by_a_mixture_that_holds_the_truth(mixture):
    truth = get("chinchilla").predict(TRUTH, **POINTS)
    table = mixture.table
    assert len(mixture.weights) > 1
    assert sum(mixture.weights.values()) == pytest.approx(1)
    assert table["predicted"].to_numpy() == pytest.approx(truth, rel=0.01)
    assert ((table["low95"] < truth) & (truth < table["high95"])).all()
    assert (table["low95"] < table["low80"]).all()
    assert (table["high80"] < table["high95"]).all()
    assert table["beyond"].to_list() == pytest.approx([6e19 / 2e19, 2.4e20 / 2e19])


def test_a_prediction_is_that_of_the_back_test(runs, mixture):
    tested = allometry.backtest(runs, bootstrap=40)
    again = allometry.predict(tested, [{"N": "2B", "D": "30B"}, {"N": "4B", "D": "60B"}])
    pd.testing.assert_frame_equal(again.table, mixture.table)
    assert again.table["low95"].to_numpy() == pytest.approx(tested.forecast(POINTS, 0.95).low)


def test_a_law_alone_and_a_saved_fit_say_the_same(runs):
    alone = allometry.predict(runs, POINTS, law="chinchilla", bootstrap=40)
    fit = allometry.fit(runs, law="chinchilla", bootstrap=40)
    saved = type(fit).from_dict(json.loads(json.dumps(fit.to_dict())))
    pd.testing.assert_frame_equal(alone.table, allometry.predict(saved, POINTS).table)
    low, high = fit.prediction_interval(POINTS, 0.8)
    assert alone.table["low80"].to_numpy() == pytest.approx(low)
    assert alone.table["high80"].to_numpy() == pytest.approx(high)
    assert not alone.weights


def test_a_fit_without_resamples_has_no_intervals(runs):
    made = allometry.predict(runs, POINTS, law="chinchilla", bootstrap=0)
    assert made.table[["low80", "high95"]].isna().all(axis=None)
    json.dumps(made.to_dict(), allow_nan=False)


@pytest.mark.parametrize("name", ["chinchilla", "besiroglu2024", "chinchilla-besiroglu2024"])
def test_printed_constants_are_named_in_three_ways(name):
    made = allometry.predict(name, {"N": "70B", "D": "1.4T"})
    assert made.table["predicted"][0] == pytest.approx(
        float(get("chinchilla").predict(TRUTH, N=7e10, D=1.4e12))
    )
    assert "without uncertainty" in made.report()


def test_two_of_n_d_and_c_suffice():
    direct = allometry.predict("chinchilla", {"N": 1e9, "D": 2e10}).table["predicted"][0]
    for at in ({"N": 1e9, "C": 1.2e20}, {"D": 2e10, "C": 1.2e20}, {"N": 1e9, "M": 20}):
        assert allometry.predict("chinchilla", at).table["predicted"][0] == pytest.approx(direct)


def test_a_law_with_other_inputs():
    at = {"N": "1B", "D": "100B", "U": "20B"}
    once = allometry.predict("muennighoff", at | {"U": "100B"}).table["predicted"][0]
    assert allometry.predict("muennighoff", at).table["predicted"][0] > once


def test_a_law_of_experts_is_fitted_and_asked_by_the_names_of_its_columns():
    law = get("joint-experts")
    rows = [(n, d, e) for n in (1e8, 4e8, 1.6e9) for d in (1e9, 6e9, 3.6e10) for e in (1, 2, 8, 32, 128)]
    runs = pd.DataFrame(rows, columns=["params", "tokens", "num_experts"])
    constants = law.published["ludziejewski2025"]
    runs["loss"] = law.predict(constants, N=runs.params, D=runs.tokens, n_E=runs.num_experts)
    made = allometry.predict(runs, {"N": "3B", "D": "60B", "n_E": 8}, law="joint-experts", bootstrap=0)
    truth = float(law.predict(constants, N=3e9, D=6e10, n_E=8))
    assert made.table["predicted"][0] == pytest.approx(truth, rel=1e-4)
    with pytest.raises(AllometryError, match="needs n_E too"):
        allometry.predict("ludziejewski2025", {"N": "3B", "D": "60B"})
    with pytest.raises(AllometryError, match="positive numbers"):
        allometry.predict("ludziejewski2025", {"N": "3B", "D": "60B", "n_E": 0})


@pytest.mark.parametrize(
    ("source", "at", "message"),
    [
        ("chinchilla", {"N": 1e9}, "needs D too"),
        ("chinchilla", {"N": 1e9, "D": 2e10, "U": 1e9}, "U is no input of the law 'chinchilla'"),
        ("chinchilla", {"N": -1, "D": 2e10}, "positive numbers"),
        ("chinchilla", {"N": 1e9, "D": 2e10, "C": 1e22}, "does not follow from N and D"),
        ("chinchilla", {"N": [1e9, 2e9, 3e9], "D": [1e9, 2e9]}, "cannot be read"),
        ("chinchilla", {}, "no point"),
        ("chinchila", {"N": 1e9, "D": 2e10}, "did you mean 'chinchilla'"),
        ("rosenfeld", {"N": 1e9, "D": 2e10}, "no paper's constants"),
        ("shehper2024", {"N": 1e9, "D": 2e10}, "constants of several laws"),
    ],
)
def test_bad_requests_are_explained(source, at, message):
    with pytest.raises(AllometryError, match=message):
        allometry.predict(source, at)


def test_options_of_a_table_are_refused_for_a_fit():
    with pytest.raises(AllometryError, match="law says how a table is fitted"):
        allometry.predict("chinchilla", {"N": 1e9, "D": 2e10}, law="kaplan")


def test_a_table_too_small_for_a_back_test_names_the_way_out(runs):
    with pytest.raises(AllometryError, match="cannot be compared on this table") as refused:
        allometry.predict(runs.iloc[[0, 7, 14, 21, 28]], POINTS)
    assert "--law chinchilla-tied" in refused.value.cli_hint
