"""The study of laws of the gap on runs whose gap follows a planted law."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from allometry.core.errors import AllometryError
from allometry.studies import gap_laws
from allometry.studies.shared.repeats import USUAL_DECAY

SIZES = (1e4, 3e4, 9e4, 2.7e5)
SETS = (1e5, 3e5, 9e5)
PLANTED = {"P": 0.02, "a": 0.6, "b": 0.8}


def planted_gap(n: float, u: float, repeats: Any) -> Any:
    """The law "gap", by its formula as it stands in the literature: P · R^a · (N/U)^b."""
    return PLANTED["P"] * repeats ** PLANTED["a"] * (n / u) ** PLANTED["b"]


@pytest.fixture(scope="module")
def points() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    parts = []
    for n in SIZES:
        for u in SETS:
            repeats = np.geomspace(1, 300, 9)
            gap = planted_gap(n, u, repeats) * np.exp(0.01 * rng.standard_normal(9))
            parts.append(pd.DataFrame({"run": f"{n:.0f}-{u:.0f}", "N": n, "U": u, "R": repeats, "gap": gap}))
    return pd.concat(parts, ignore_index=True)


def test_the_planted_form_of_the_gap_is_found_with_its_exponents(points: pd.DataFrame) -> None:
    found = gap_laws._forms(points, "gap", "Forms of the gap")
    best = found.fits["best"]
    grid = points.rename(columns={"run": "run_id"})
    assert np.allclose(best.predict(grid), planted_gap(grid["N"], grid["U"], grid["R"]), rtol=0.02)
    assert found.fits["scores"]["mean_error"].iloc[0] < 0.02
    left_out = int((points["gap"] <= gap_laws.LEAST_GAP).sum())
    assert left_out > 0
    assert f"{left_out} points below 0.02 nats are left out" in found.section.text
    assert f"{len(points) - left_out} points of" in found.section.text


def test_the_exponents_are_those_of_the_law_that_is_named(points: pd.DataFrame) -> None:
    best = gap_laws._forms(points, "gap", "Forms of the gap").fits["best"]
    assert best.law.name in ("gap", "gap-power")  # the second holds the first as a special case
    assert best.parameters["delta"] == pytest.approx(PLANTED["a"], abs=0.02)
    for name in set(best.parameters) & {"kappa", "a", "b"}:
        assert best.parameters[name] == pytest.approx(PLANTED["b"], abs=0.04), name


@pytest.mark.parametrize("sizes", [SIZES[:2], SIZES[:3]])
def test_two_sizes_are_too_few_for_a_form(points: pd.DataFrame, sizes: tuple[float, ...]) -> None:
    some = points[points["N"].isin(sizes)]
    usable = some[some["gap"] > gap_laws.LEAST_GAP]
    assert usable["N"].nunique() == len(sizes)
    if len(sizes) < 3:
        with pytest.raises(AllometryError, match="2 sizes on 3 sets"):
            gap_laws._forms(some, "gap", "Forms of the gap")
    else:
        assert gap_laws._forms(some, "gap", "Forms of the gap").fits["best"] is not None


def test_points_are_those_after_the_first_pass_less_the_loss_on_all_the_text() -> None:
    table = pd.DataFrame({
        "run": ["set", "all", "other"], "N": 1e4, "U": [1000.0, 1e9, 1000.0], "infinite": [False, True, False],
        "usual": [True, True, False],
    })  # fmt: skip
    step = np.array([1, 2, 4, 8])
    curves = pd.concat([
        pd.DataFrame({"run": run, "step": step, "tokens": 500 * step, "loss": loss, "train_loss": train})
        for run, loss, train in (("set", 3.0, 2.0), ("all", 2.5, 2.4), ("other", 9.0, 1.0))
    ])  # fmt: skip
    points = gap_laws.along(table, curves)
    assert list(points["run"].unique()) == ["set"]
    assert list(points["R"]) == [1.0, 3.0]  # 2000 and 4000 tokens of a set of 1000, less the first pass
    assert list(points["gap"]) == [1.0, 1.0]
    assert list(points["penalty"]) == [0.5, 0.5]
    with pytest.raises(AllometryError, match="no set was passed over twice"):
        gap_laws.along(table, curves[curves["tokens"] < 2000])


@pytest.mark.parametrize(("left", "does"), [(0.3, "takes 70 %"), (0.6, "takes 40 %"), (1.2, "adds 20 %")])
def test_what_weight_decay_takes_away(left: float, does: str) -> None:
    excess = {USUAL_DECAY: 0.5, 1.0: 0.5 * left, 0.3: 0.1}
    frame = pd.DataFrame({"weight_decay": list(excess), "dropout": 0.0, "excess": list(excess.values())})
    noise = 0.02
    (row,), said = gap_laws._taken(frame, noise)
    assert row.ours == pytest.approx(1 - left)
    half = 1.96 * np.sqrt(noise**2 * 2 + (left * noise) ** 2 * 2) / 0.5
    assert (row.high - row.low) / 2 == pytest.approx(half)
    assert row.published == {"Lovelace 2026": 0.7}
    assert row.verdict == "cannot tell"  # one run at each decay, whatever it says
    assert "What would decide: the rate tuned at each decay" in row.why
    assert does in said


def test_an_excess_within_the_noise_is_not_divided() -> None:
    frame = pd.DataFrame({"weight_decay": [USUAL_DECAY, 1.0], "dropout": 0.0, "excess": [0.5, 0.1]})
    rows, said = gap_laws._taken(frame, 0.17)
    assert not rows
    assert "too small" in said
    assert gap_laws._taken(frame, 0.16)[0]
