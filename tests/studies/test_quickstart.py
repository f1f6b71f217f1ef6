"""The quickstart: its grid, at any budget, and its whole analysis of runs whose losses follow a known law."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from allometry.core.errors import AllometryError
from allometry.report.build import Analysis
from allometry.studies.core.plan import of_compute, within_budget
from allometry.studies.core.sections import TooFewRuns
from allometry.studies.core.study import StudyData, heads, small_model, study
from allometry.studies.shared.basic_laws import forecast, prediction
from allometry.sweeps import Sweep
from allometry.sweeps.cost import CostModel, plan_frame
from allometry.train.config import DataConfig

QUICKSTART = study("quickstart")


@pytest.fixture(scope="module", params=[2e13, 5e13, 4e14])
def sweep(request: pytest.FixtureRequest) -> Sweep:
    return QUICKSTART.sweep(request.param, DataConfig())


def test_sizes_and_horizons(sweep: Sweep) -> None:
    frame = plan_frame(sweep)
    assert frame["N"].nunique() >= 6
    assert len(frame) >= 24
    assert frame.groupby("N")["D"].nunique().min() >= 4
    assert frame["N"].max() / frame["N"].min() >= 60


def test_two_orders_of_magnitude_in_ten_minutes() -> None:
    frame = plan_frame(QUICKSTART.sweep(5e13, DataConfig()))
    assert frame["N"].max() / frame["N"].min() >= 100


def test_a_horizon_is_common_to_all_sizes_and_seeds_repeat_it(sweep: Sweep) -> None:
    frame = plan_frame(sweep)
    shared = frame.groupby("D")["N"].nunique()
    common = shared[shared == frame["N"].nunique()].index
    assert len(common) >= 4
    repeats = frame[frame["D"].isin(common)].groupby(["N", "D"])["seed"].nunique()
    assert repeats.max() >= 4


def test_runs_of_a_size_share_their_trunk(sweep: Sweep) -> None:
    trunks = {(run.model.shape, run.train.seed): run.trunk for run in sweep}
    assert all(run.trunk == trunks[run.model.shape, run.train.seed] is not None for run in sweep)


def test_the_largest_are_held_back(sweep: Sweep) -> None:
    held = [run for run in sweep if QUICKSTART.held_back(run, sweep)]
    rest = [run for run in sweep if run not in held]
    assert held
    assert min(run.model.counts().N for run in held) > max(run.model.counts().N for run in rest)


def test_time_buys_compute_and_too_little_says_what_works() -> None:
    cost = CostModel()  # a nominal speed
    short = within_budget(QUICKSTART, 600, DataConfig(), cost, 2)
    long = within_budget(QUICKSTART, 3600, DataConfig(), cost, 2)
    assert long.compute > 4 * short.compute
    assert short.seconds <= 600
    with pytest.raises(AllometryError, match="too small") as error:
        within_budget(QUICKSTART, 13, DataConfig(), cost, 2)
    assert "--budget" in str(error.value.hint)


def test_the_smallest_study_is_the_smallest() -> None:
    least = of_compute(QUICKSTART, 0, DataConfig()).compute
    with pytest.raises(AllometryError):
        QUICKSTART.sweep(least * 0.8, DataConfig())


@pytest.mark.parametrize("width", range(8, 400, 8))
def test_heads_divide_the_width_into_multiples_of_eight(width: int) -> None:
    assert width % heads(width) == 0
    assert (width // heads(width)) % 8 == 0


def test_the_ladder_is_monotone() -> None:
    sizes = [small_model(round(10 ** (3.3 + k / 20)), n_vocab=256).counts().N for k in range(60)]
    assert sizes == sorted(sizes)


E, A, B, ALPHA, BETA, NOISE = 0.8, 3e3, 1e5, 0.40, 0.45, 0.002


def planted_loss(row: Any, tokens: Any) -> Any:
    """Chinchilla's form, of N without embeddings."""
    return E + (A / row["N"]) ** ALPHA + (B / np.asarray(tokens, float)) ** BETA


@pytest.fixture(scope="module")
def runs(planted: Any) -> StudyData:
    """The runs of a plan, with the losses of the largest sizes predicted from the others."""
    sweep = QUICKSTART.sweep(5e13, DataConfig())
    made: StudyData = planted(list(sweep), planted_loss, noise=NOISE, seed=1)
    held = made.runs["run"].isin({run.id for run in sweep if QUICKSTART.held_back(run, sweep)})
    smaller = made.runs[~held].reset_index(drop=True)
    predicted = QUICKSTART.predict(smaller, made.runs[held].drop(columns="loss"))
    written = {
        "registered": "2026-01-01", "made_from": list(smaller["run"]),
        "predictions": predicted.assign(already_known=False).to_dict("records"),
    }  # fmt: skip
    return replace(made, prediction=written)


@pytest.fixture(scope="module")
def analysis(runs: StudyData) -> Analysis:
    return QUICKSTART.analyse(runs)


def shown(analysis: Analysis, name: str) -> pd.DataFrame:
    """The numbers of the figure or table of that name."""
    (item,) = (e for s in analysis.sections for e in s.evidence if e.name == name)
    return item.table if hasattr(item, "table") else item.frame


def slope(runs: pd.DataFrame, column: str) -> float:
    """The planted slope of log L in a straight line through these runs, by least squares, less its sign."""
    loss = planted_loss({"N": runs["N"].to_numpy(float)}, runs["D"])
    return -float(np.polyfit(np.log(runs[column].to_numpy(float)), np.log(loss), 1)[0])


def test_the_basic_laws_have_the_planted_constants(runs: StudyData, analysis: Analysis) -> None:
    assert not [s.text for s in analysis.sections if "could not be answered" in s.text]
    table = runs.runs
    common = [d for d, part in table.groupby("D") if part["N"].nunique() == table["N"].nunique()]
    optima = shown(analysis, "optimal-size").dropna(subset=["N_opt_low"])["C"]
    n = np.geomspace(1e3, 1e7, 20_000)
    window = optima.min(), optima.max()
    lowest = [float(planted_loss({"N": n}, c / (6 * n)).min()) for c in window]
    truths = {
        "loss along the frontier": (np.log(lowest[0] / lowest[1]) / np.log(window[1] / window[0]), 0.02),
        "N_opt ∝ C^a from slices": (BETA / (ALPHA + BETA), 0.25),
        "loss against size, at one horizon": (slope(table[table["D"] == max(common)], "N"), 0.04),
        "the same above a floor": (ALPHA, 0.06),
        "loss against tokens, largest size": (slope(table[table["N"] == table["N"].max()], "D"), 0.06),
        "Chinchilla's form, size": (ALPHA, 0.03),
        "Chinchilla's form, tokens": (BETA, 0.1),
        "N_opt ∝ C^a from Chinchilla's form": (BETA / (ALPHA + BETA), 0.06),
    }
    found = {row.name: row for row in analysis.constants}
    assert set(found) == {*truths, "Kaplan's form, size", "Kaplan's form, tokens"}
    for name, (truth, widest) in truths.items():
        row = found[name]
        assert row.low <= truth <= row.high, (name, truth)
        assert row.low < row.ours < row.high, name
        assert row.high - row.low < widest, name
    bent = found["loss against size, at one horizon"]
    assert bent.verdict == "cannot tell"
    assert "these losses bend" in bent.why
    assert found["the same above a floor"].verdict != "agrees"  # .339 and .348 lie outside the interval
    assert found["N_opt ∝ C^a from slices"].verdict == "agrees"  # with .49 and .513
    assert found["Chinchilla's form, tokens"].verdict == "differs"


def test_the_answer_has_the_planted_numbers(analysis: Analysis) -> None:
    found = {row.name: row for row in analysis.constants}
    line, optimum = found["loss against size, at one horizon"], found["N_opt ∝ C^a from slices"]
    sizes = sorted(analysis.runs["N"])
    assert f"72 runs of 8 sizes, a factor of {sizes[-1] / sizes[0]:.0f} apart in N." in analysis.answer
    assert f"falls as N^-{line.ours:.3f} (95 % interval {line.low:.3f} to {line.high:.3f}" in analysis.answer
    assert f"grows as C^{optimum.ours:.2f} ({optimum.low:.2f} to {optimum.high:.2f})" in analysis.answer
    (noise,) = (s.text for s in analysis.sections if s.title == "Noise between seeds")
    repeated = shown(analysis, "seed-noise")
    pooled = float(np.sqrt((repeated["relative sd"] ** 2).mean()))  # four points of four seeds each
    assert f"differ by {100 * pooled:.2g} % of the loss" in noise
    assert "3 degrees of freedom" in noise  # four trunks, four horizons each
    assert pooled == pytest.approx(NOISE, rel=0.5)
    logs = np.log(analysis.runs["loss"])
    for point in repeated.itertuples():
        own = logs[(analysis.runs["N"] == point.N) & (analysis.runs["D"] == point.D)]
        assert point.seeds == len(own) == 4
        assert point[5] == pytest.approx(own.std(ddof=1))


def test_the_largest_sizes_are_predicted_within_their_intervals(runs: StudyData, analysis: Analysis) -> None:
    table = shown(analysis, "predictions")
    assert len(table) == 9
    assert table["N"].nunique() == 2
    truth = planted_loss({"N": table["N"].to_numpy(float)}, table["D"])
    assert table["predicted"].to_numpy() == pytest.approx(truth, rel=0.003)
    assert table["inside"].all()
    assert ((table["high"] - table["low"]) / table["predicted"]).max() < 0.02
    assert table["error"].to_numpy() == pytest.approx((table["measured"] / table["predicted"] - 1).to_numpy())
    assert "9 of 9 lie inside their 95 % interval" in analysis.answer
    assert "missed" not in analysis.answer
    off = runs.runs.assign(loss=np.where(runs.runs["run"].isin(table["run"]), 1.05, 1) * runs.runs["loss"])
    assert runs.prediction is not None
    text = prediction(off, runs.prediction, None).section.text
    assert "0 of 9 lie inside" in text
    assert "The prediction missed" in text


def test_three_sizes_are_enough_to_predict_and_two_are_not(runs: StudyData) -> None:
    """The smallest studies have no more: fitted to two sizes and tested on the third."""
    sizes = np.sort(runs.runs["N"].unique())
    three = runs.runs[runs.runs["N"].isin(sizes[-5:-2])].reset_index(drop=True)
    ahead = runs.runs.loc[runs.runs["N"] == sizes[-2], ["N", "D"]].reset_index(drop=True)
    found = forecast(three, ahead)
    truth = planted_loss(ahead, ahead["D"])
    assert found["loss"].to_numpy() == pytest.approx(truth, rel=0.03)
    assert ((found["low"] < truth) & (truth < found["high"])).all()
    with pytest.raises(TooFewRuns, match="2 sizes are finished"):
        forecast(three[three["N"] != sizes[-3]], ahead)
