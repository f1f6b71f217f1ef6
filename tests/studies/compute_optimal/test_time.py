"""L(N, S_min) on planted curves: constants come back, with B_crit undone, and from the right points."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from allometry.core.errors import AllometryError
from allometry.laws.critical_batch import s_min
from allometry.laws.power_lines import PowerLine
from allometry.studies.compute_optimal.learning_curves import (
    FEWEST_POINTS,
    FEWEST_SIZES,
    _enough,
    arrivals,
    paper_start,
    starts,
    time_law,
)
from allometry.studies.core.study import StudyData
from allometry.studies.shared.batches import BatchLaw, Critical
from allometry.studies.shared.grid import bare_grid, longest, recipe_runs, trunk_points
from allometry.train.config import DataConfig

A_N, A_S, N_C, S_C = 0.09, 0.7, 3e7, 60.0
NOTHING = Critical(law=None, reason="planted without")


def batch_law(exponent: float = -4.0, at_one: float = 8e3) -> BatchLaw:
    """B_crit = at_one · L^exponent, known to a per cent."""
    rng = np.random.default_rng(0)
    draws = np.column_stack([rng.normal(exponent, 0.02, 200), rng.normal(np.log(at_one), 0.01, 200)])
    line = PowerLine(
        x="L", y="B_crit", center=0.0, slope=exponent, level=float(np.log(at_one)), draws=draws,
        scatter=1.0, x_range=(1.0, 3.0),
    )  # fmt: skip
    return BatchLaw(scans={}, line=line, targets=pd.DataFrame())


def adjusted(row: dict[str, Any], tokens: Any) -> Any:
    """The loss after tokens at the run's batch, where steps count as S_min under `batch_law`."""
    law, steps = batch_law(), np.asarray(tokens, float) / row["B"]
    loss = np.full(np.shape(steps), 1.8)
    for _ in range(80):
        counted = s_min(steps, row["B"], law(loss))
        loss = 0.5 * loss + 0.5 * ((N_C / row["N"]) ** A_N + (S_C / counted) ** A_S)
    return loss


@pytest.fixture(scope="module")
def evidence(planted: Any) -> StudyData:
    return planted(bare_grid(5e13, DataConfig()), adjusted, noise=0.002)


@pytest.fixture(scope="module")
def points(evidence: StudyData) -> pd.DataFrame:
    return trunk_points(recipe_runs(evidence.runs), evidence.curves)


def test_trunks_are_read_once_and_before_the_decay(evidence: StudyData, points: pd.DataFrame) -> None:
    assert not points.duplicated(["N", "seed", "S"]).any()
    ends = points.groupby("run")["S"].max() / longest(evidence.runs).set_index("run")["S"]
    assert (ends <= 0.8).all()
    assert points["S"].min() > 100
    own = points.iloc[5]
    whole = evidence.runs.set_index("run").loc[own["run"]]
    assert own["C_head"] == pytest.approx(whole["C_head"] * own["D"] / whole["D"])


def test_planted_constants_come_back_once_the_batch_is_undone(points: pd.DataFrame) -> None:
    law = time_law(points, Critical(law=batch_law()), start=500)
    for name, value in (("alpha_N", A_N), ("alpha_S", A_S)):
        low, high = law.result.interval(name)
        assert low < value < high, name
    plain = time_law(points, NOTHING, start=500)
    assert plain.result.parameters["S_c"] > law.result.parameters["S_c"]
    assert plain.result.rms > law.result.rms
    loss = law.at_steps(np.array([98_304.0]), np.array([4096.0]), 512)
    assert loss == pytest.approx(adjusted({"B": 512, "N": 98_304}, 4096 * 512.0), rel=0.02)


def test_larger_models_arrive_first(points: pd.DataFrame) -> None:
    reached = arrivals(points, Critical(law=batch_law()))
    one = reached[reached["loss"] == reached["loss"].max()].sort_values("N")
    assert (np.diff(one.groupby("N")["S"].mean()) < 0).all()
    assert (reached["S_min"] < reached["S"]).all()
    assert (reached["E_min"] < reached["D"]).all()


def test_the_start_is_the_plateaus_end_where_points_allow(points: pd.DataFrame) -> None:
    assert time_law(points, NOTHING).start == 2000
    early = points[points["S"] < 3000]
    assert time_law(early, NOTHING).start < 2000
    assert paper_start(points) == pytest.approx(0.012 * points["S"].max())
    with pytest.raises(AllometryError, match="too few"):
        time_law(points.head(8), NOTHING)


def test_without_a_scan_of_batches_the_rest_is_answered(evidence: StudyData, points: pd.DataFrame) -> None:
    reading = starts(points, recipe_runs(evidence.runs), NOTHING)
    assert len(reading.fits["starts"]) >= 4
    assert "no size was trained at a constant rate" not in reading.section.text


@pytest.mark.parametrize(
    ("sizes", "each", "enough"),
    [
        (FEWEST_SIZES, 3, True),
        (FEWEST_SIZES - 1, 4, False),
        (FEWEST_SIZES, 2, False),
        (FEWEST_POINTS, 1, False),
    ],
)
def test_a_law_of_two_variables_needs_sizes_that_were_measured_twice(
    sizes: int, each: int, enough: bool
) -> None:
    assert _enough(pd.DataFrame({"N": np.repeat(np.arange(sizes), each)})) is enough
