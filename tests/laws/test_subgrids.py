"""What runs of one trunk share must be in the intervals, and what a design hides must be in the design intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import allometry
from allometry.laws.result import FitResult
from allometry.laws.subgrids import design_range, slope_range
from allometry.laws.uncertainty import seed_noise

ALPHA = 0.076
SIZES = np.geomspace(5e3, 6e5, 8)


def branched(seed: int, horizons: int = 8, shared: float = 0.86) -> pd.DataFrame:
    """Eight sizes, each with branches of one trunk, whose log losses share most of their noise of 0.6 %."""
    rng = np.random.default_rng(seed)
    trunk = np.repeat(np.arange(len(SIZES)), horizons)
    noise = np.sqrt(1 - shared) * rng.standard_normal(len(trunk))
    noise += np.sqrt(shared) * rng.standard_normal(len(SIZES))[trunk]
    loss = 3.0 * SIZES[trunk] ** -ALPHA * np.exp(0.006 * noise)
    return pd.DataFrame({
        "N": SIZES[trunk], "loss": loss, "run": np.arange(len(trunk)), "trunk": [f"t{i}" for i in trunk],
    })  # fmt: skip


def power(table: pd.DataFrame, **options: int) -> FitResult:
    return allometry.fit(
        table, law="kaplan-n", objective="lsq-log", test=False, **{"bootstrap": 80} | options
    )  # type: ignore[arg-type]


def held(table: pd.DataFrame) -> bool:
    low, high = power(table).interval("alpha_N")
    return low <= ALPHA <= high


def test_intervals_of_runs_that_share_trunks_hold_what_they_say() -> None:
    tables = [branched(seed) for seed in range(30)]
    naive = np.mean([held(table.drop(columns="trunk")) for table in tables])
    ours = np.mean([held(table) for table in tables])
    assert naive < 0.7  # nominal 95 %; 40 to 50 % in many tables
    assert ours >= 0.8  # fewer than 24 of 30 once in ten thousand


def test_fits_group_by_trunk_and_say_so() -> None:
    result = power(branched(0), bootstrap=0)
    assert (result.group_name, result.group.max() + 1) == ("trunk", len(SIZES))
    assert any("trunk" in note for note in result.notes)
    asked = allometry.fit(branched(0), law="kaplan-n", group="run", bootstrap=0)
    assert asked.group.max() + 1 == 8 * len(SIZES)


def test_one_trunk_gives_no_interval() -> None:
    rng = np.random.default_rng(0)
    d = np.geomspace(1e6, 1e8, 9)
    table = pd.DataFrame(
        {"D": d, "loss": 5 * d**-0.1 * np.exp(1e-3 * rng.standard_normal(9)), "run": range(9)}
    )
    alone = allometry.fit(table, law="kaplan-d", objective="lsq-log", bootstrap=50)
    assert np.isfinite(alone.interval("alpha_D")).all()
    together = allometry.fit(table.assign(trunk="t"), law="kaplan-d", objective="lsq-log", bootstrap=50)
    assert together.parameters == pytest.approx(alone.parameters)
    assert np.isnan(together.interval("alpha_D")).all()


def test_the_noise_between_seeds_has_the_freedom_of_trunks() -> None:
    rng = np.random.default_rng(0)
    seed, d = np.repeat(np.arange(4), 6), np.tile(np.geomspace(1e6, 1e7, 6), 4)
    value = 0.01 * rng.standard_normal(4)[seed]
    table = pd.DataFrame({"N": 1e4, "D": d, "seed": seed})
    noise = seed_noise(table, value, {"D": d})
    by_trunk = seed_noise(table.assign(trunk=seed.astype(str)), value, {"D": d})
    assert noise is not None
    assert by_trunk is not None
    assert (noise[1], by_trunk[1]) == (18, 3)
    assert by_trunk[0] == pytest.approx(noise[0])


def test_a_straight_ladder_has_one_slope_and_a_bent_one_has_not() -> None:
    x = np.geomspace(1e3, 1e6, 12)
    straight = pd.DataFrame({"N": x, "loss": 3 * x**-ALPHA})
    bent = pd.DataFrame({"N": x, "loss": 1.1 + 20 * x**-0.4})
    low, high = design_range(power(straight, bootstrap=0)).interval("alpha_N")
    assert (low, high) == (pytest.approx(ALPHA, rel=1e-4), pytest.approx(ALPHA, rel=1e-4))
    found = design_range(power(bent, bootstrap=0))
    low, high = found.interval("alpha_N")

    def line(part: np.ndarray) -> float:
        return -float(np.polyfit(np.log(x[part]), np.log(bent["loss"].to_numpy()[part]), 1)[0])

    assert high == pytest.approx(line(np.arange(6)), rel=1e-3)
    assert low == pytest.approx(line(np.arange(6, 12)), rel=1e-3)
    assert high > 3 * low
    assert found.table["alpha_N"].idxmin() == "only the larger sizes"
    assert (-high, -low) == pytest.approx(slope_range(x, bent["loss"]), rel=1e-3)


def test_parts_that_do_not_determine_a_law_are_named() -> None:
    n, d = np.meshgrid(np.geomspace(1e4, 1e6, 4), np.geomspace(1e6, 1e8, 3))
    table = pd.DataFrame({"N": n.ravel(), "D": d.ravel(), "loss": (1 + 20 * n**-0.4 + 90 * d**-0.5).ravel()})
    result = allometry.fit(table, law="chinchilla", bootstrap=0, test=False)
    found = design_range(result)
    assert "N takes 2 values" in found.left_out["only the smaller sizes"]
    assert not any("horizons" in part for part in found.table.index)  # three values of D have no parts
    assert found.to_dict()["left_out"] == dict(found.left_out)
    assert set(found.to_dict()["intervals"]) == set(result.free)
