"""The study of size on planted laws: it must find their constants, and say which form they have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from allometry.report.build import Analysis
from allometry.studies.core.study import StudyData, study
from allometry.studies.shared.grid import bare_grid, grid
from allometry.train.config import DataConfig

ALPHA, NOISE = 0.08, 0.003


def power(row: dict[str, Any], tokens: Any) -> Any:
    """Kaplan's L(N, D) with a large exponent of D, so that data hardly matter."""
    return ((2e7 / row["N"]) ** (ALPHA / 0.5) + 2e3 / np.asarray(tokens)) ** 0.5


def floored(row: dict[str, Any], tokens: Any) -> Any:
    """Chinchilla's form."""
    return 1.0 + 0.9 * (6e3 / row["N"]) ** 0.45 + (9e4 / np.asarray(tokens)) ** 0.7


@pytest.fixture(scope="module")
def planned(planted: Any) -> StudyData:
    return planted(bare_grid(5e13, DataConfig()), power, noise=NOISE)


@pytest.fixture(scope="module")
def analysis(planned: StudyData) -> Analysis:
    """Of runs two of which are missing and one diverged: the rest must be answered."""
    runs = planned.runs.iloc[:-2].reset_index(drop=True)
    runs.loc[len(runs) - 1, ["status", "loss"]] = ["diverged", np.nan]
    return study("size").analyse(replace(planned, runs=runs))


def constants(analysis: Analysis) -> dict[str, Any]:
    return {row.name: row for row in analysis.constants}


def test_a_planted_exponent_lies_in_its_interval(analysis: Analysis) -> None:
    row = constants(analysis)["loss against size, d_model of 32 and more"]
    assert row.low < ALPHA < row.high
    assert row.high - row.low < 0.3 * ALPHA
    limit = constants(analysis)["loss against size as D → ∞ (Kaplan's L(N, D))"]
    assert limit.low < ALPHA < limit.high


def test_missing_and_diverged_runs_are_named(analysis: Analysis) -> None:
    assert analysis.excluded is not None
    assert sorted(analysis.excluded["reason"]) == ["diverged", "not trained yet", "not trained yet"]
    assert any("missing" in warning for warning in analysis.warnings)


def test_figures_have_their_numbers(analysis: Analysis) -> None:
    names = {item.name for section in analysis.sections for item in section.evidence}
    assert {"forms-of-loss-against-size", "embeddings", "exponent-against-horizon", "horizons"} <= names
    assert analysis.expected
    assert analysis.next


def test_a_single_size_is_refused_in_words(planned: StudyData) -> None:
    one = planned.runs[planned.runs["N"] == planned.runs["N"].max()].reset_index(drop=True)
    analysis = study("size").analyse(replace(planned, runs=one))
    assert "could not be answered" in analysis.sections[0].text
    assert analysis.constants == ()


def test_a_floor_is_told_from_a_straight_line(planted: Any) -> None:
    from allometry.studies.size import forms

    reading = forms(planted(bare_grid(5e13, DataConfig()), floored, noise=NOISE).runs)
    rows = reading.fits["rows"].set_index("form")
    assert rows["held-out error"].idxmin() == rows["residual"].idxmin() == "power law above a floor"
    (row,) = reading.constants
    assert row.low < 0.45 < row.high


@pytest.mark.parametrize("compute", [2e12, 5e13, 2e14])
def test_more_horizons_and_points_for_the_laws_than_for_the_quickstart(compute: float) -> None:
    full, bare = grid(compute, DataConfig()), bare_grid(compute, DataConfig())
    assert max(run.model.counts().N for run in full) <= max(run.model.counts().N for run in bare)
    assert {run.train.evals_per_octave for run in full} == {2}
    assert {run.train.evals_per_octave for run in bare} == {1}
    horizons = sorted({run.train.steps for run in full})
    common = [s for s in horizons if len({r.model.counts().N for r in full if r.train.steps == s}) > 4]
    assert len(common) >= 4
    if len(horizons) > len({run.train.steps for run in bare}) + 2:
        assert horizons[0] >= 2000
