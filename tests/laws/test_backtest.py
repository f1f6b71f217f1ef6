import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from allometry.core.errors import AllometryError
from allometry.laws.backtest import backtest, weigh
from allometry.laws.zoo import get

PUBLISHED = Path(__file__).parents[3] / "shared" / "data"


def simulated(law="kaplan", noise=0.003, seed=0):
    params = dict(get(law).published[{"kaplan": "kaplan2020-table2", "chinchilla": "besiroglu2024"}[law]])
    grid = [(n, d) for n in np.logspace(5, 8, 6) for d in np.logspace(7, 10, 5)]
    frame = pd.DataFrame(grid, columns=["N", "D"])
    wobble = np.exp(noise * np.random.default_rng(seed).standard_normal(len(frame)))
    loss = get(law).predict(params, N=frame["N"], D=frame["D"]) * wobble
    return frame.assign(C=6 * frame["N"] * frame["D"], loss=loss)


@pytest.fixture(scope="module")
def kaplan_test():
    return backtest(simulated("kaplan"), laws=["chinchilla", "kaplan"], cuts=(0.5, 0.7), bootstrap=60)


def test_the_law_that_made_the_runs_predicts_them_best(kaplan_test):
    assert kaplan_test.best == "kaplan"
    scores = kaplan_test.scores.set_index("law")
    assert scores.loc["kaplan", "mean_error"] < 0.01 < scores.loc["chinchilla", "worst_error"]
    assert scores["weight"].sum() == pytest.approx(1)
    assert scores.loc["kaplan", "weight"] > 0.9


def test_only_dearer_runs_are_predicted(kaplan_test):
    assert (kaplan_test.predictions["beyond"] > 1).all()
    assert set(kaplan_test.predictions["cut"]) == set(kaplan_test.cuts)


def test_prediction_intervals_of_the_true_law_cover(kaplan_test):
    scores = kaplan_test.scores.set_index("law")
    assert scores.loc["kaplan", "coverage95"] >= 0.8


def test_the_forecast_follows_the_record(kaplan_test):
    points = {"N": [1e9], "D": [1e11]}
    forecast = kaplan_test.forecast(points)
    truth = get("kaplan").predict(get("kaplan").published["kaplan2020-table2"], **points)
    assert forecast.value == pytest.approx(truth, rel=0.02)
    assert forecast.low[0] < truth[0] < forecast.high[0]
    assert set(forecast.by_law) <= {"kaplan", "chinchilla"}


def test_report_and_json(kaplan_test):
    assert "kaplan" in kaplan_test.report()
    json.dumps(kaplan_test.to_dict(), allow_nan=False)


def test_a_law_that_cannot_be_fitted_at_a_cut_is_listed_and_ranked_last():
    frame = simulated("chinchilla").sample(12, random_state=0)
    result = backtest(frame, laws=["chinchilla", "kaplan-n"], cuts=(0.3, 0.8), bootstrap=0)
    assert any("too few" in f for f in result.failures)
    assert result.scores["law"].iloc[-1] == "chinchilla"
    assert np.isnan(result.scores["coverage95"]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cuts": (1e30,)}, "no cut"),
        ({"laws": ["chinchila"]}, "did you mean 'chinchilla'"),
        ({"laws": ["chinchilla", "b-crit"]}, "predict different things"),
        ({"by": "price"}, "price"),
    ],
)
def test_bad_requests_are_explained(options, message):
    with pytest.raises(AllometryError, match=message):
        backtest(simulated(), **{"laws": ["kaplan-n"], "bootstrap": 0} | options)


@pytest.mark.skipif(not PUBLISHED.exists(), reason=f"published measurements are not at {PUBLISHED}")
@pytest.mark.parametrize(
    ("law", "objective", "mean", "worst"),
    [("kaplan", "lsq-log", 0.0315, 0.074), ("chinchilla", "huber-log", 0.068, 0.15)],
)
def test_kaplan_points_up_to_85m_predict_302m_and_708m(law, objective, mean, worst):
    names = ["log_D", "loss", "size"]
    frame = pd.read_csv(PUBLISHED / "kaplan" / "loss_vs_model_and_param.csv", header=None, names=names)
    sizes = {"400K": 393216, "3M": 3e6, "25M": 25e6, "85M": 85e6, "302M": 302e6, "708M": 708e6}
    frame["N"] = frame["size"].str.strip('"').map(sizes)
    columns = {"D": "10**log_D"}
    scores = backtest(
        frame, laws=[law], columns=columns, by="N", cuts=[1e8], objective=objective, bootstrap=0
    ).scores
    assert scores["mean_error"][0] == pytest.approx(mean, abs=5e-4)
    assert scores["worst_error"][0] == pytest.approx(worst, abs=1.5e-3)


def test_what_the_fits_warn_of_is_shown_in_a_comparison():
    frame = simulated().assign(status="done", corpus=["c4", "pile"] * 15)
    frame.loc[[3, 8], "status"] = "crashed"
    frame.loc[12, "loss"] *= 1.3
    frame = pd.concat([frame, frame.iloc[[20]]], ignore_index=True)
    result = backtest(frame, laws=["kaplan", "chinchilla"], cuts=(0.7,), bootstrap=0)
    report, stored = result.report(), result.to_dict()
    assert stored["excluded"] == {"status is crashed": 2}
    assert "excluded   2 rows" in report
    assert "status is crashed: 3, 8" in report
    said = {w["name"]: w for w in stored["warnings"]}
    assert "kaplan" in said["outliers"]["laws"]
    assert "row 12" in said["outliers"]["meaning"]
    assert "row 30 repeats" in said["copies"]["meaning"]
    assert "warning: copies (kaplan, chinchilla): row 30 repeats an earlier row" in report
    assert "correlation" not in said


def test_laws_of_another_output_need_no_column_of_losses() -> None:
    """The gap between test and training loss, in a table that holds nothing else."""
    rng = np.random.default_rng(0)
    grid = [(n, u, r) for n in (1e4, 1e5, 1e6, 1e7) for u in (1e5, 1e6, 1e7) for r in (1.0, 4.0, 16.0)]
    frame = pd.DataFrame(grid, columns=["N", "U", "R"])
    frame["G"] = 0.1 * frame["R"] ** 0.5 * (frame["N"] / frame["U"]) ** 0.4
    frame["G"] *= np.exp(0.01 * rng.standard_normal(len(frame)))
    tested = backtest(frame, laws=["gap", "gap-saturating"], by="N", cuts=[1e5, 1e6], bootstrap=0)
    assert tested.best == "gap"
    assert tested.cuts == (1e5, 1e6)
    assert tested.scores["mean_error"].iloc[0] < 0.02


def held_out(errors, runs=4, cuts=2):
    """Predictions of laws that are off by these shares, alternately above and below."""
    rows = [
        {"law": law, "cut": cut, "row": i, "measured": 2.0, "predicted": 2.0 * np.exp(error * (-1) ** i)}
        for law, error in errors.items()
        for cut in range(cuts)
        for i in range(runs)
    ]
    return pd.DataFrame(rows)


def test_few_hold_outs_leave_the_weights_near_the_simple_law():
    errors = {"chinchilla-tied": 0.02, "chinchilla": 0.0203, "skaling": 0.01}
    few, many = (weigh(held_out(errors, runs)) for runs in (2, 500))
    assert few["chinchilla-tied"] == pytest.approx(2 * few["chinchilla"], rel=0.02)
    assert few["skaling"] < few["chinchilla-tied"]
    assert many["skaling"] > 0.7
    assert sum(few.values()) == pytest.approx(1)


def test_one_function_under_two_names_votes_once():
    frame = simulated("chinchilla").assign(M=lambda t: t["D"] / t["N"])
    both = backtest(frame, laws=["chinchilla", "chinchilla-tied", "gadre"], cuts=(0.5, 0.7), bootstrap=0)
    one = backtest(frame, laws=["chinchilla", "chinchilla-tied"], cuts=(0.5, 0.7), bootstrap=0)
    weights = dict(zip(both.scores["law"], both.scores["weight"], strict=True))
    alone = dict(zip(one.scores["law"], one.scores["weight"], strict=True))
    assert weights["gadre"] == pytest.approx(weights["chinchilla-tied"], rel=1e-2)
    assert weights["chinchilla"] == pytest.approx(alone["chinchilla"], rel=1e-2)


def test_ranking_and_weights_rest_on_one_error():
    errors = {"chinchilla": 0.01, "skaling": 0.03}
    weights = weigh(held_out(errors, 100))
    ratio = (0.031 / 0.011) ** (4 * 100 / 110)
    assert weights["chinchilla"] / weights["skaling"] == pytest.approx(ratio, rel=1e-6)
