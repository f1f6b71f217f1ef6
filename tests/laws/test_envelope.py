import json

import numpy as np
import pandas as pd
import pytest

from allometry.core.errors import AllometryError
from allometry.laws.envelope import envelope, fit_envelope, frontier
from allometry.laws.power_lines import offset_power, power_line

A, B, E, ALPHA, BETA = 482.01, 2085.43, 1.8172, 0.3478, 0.3658
a_true = BETA / (ALPHA + BETA)


def curves(seeds=1, noise=0.0, sizes=10, points=30):
    """Learning curves whose noise is common to a run, as the effect of its seed is."""
    rng = np.random.default_rng(0)
    rows = []
    for seed in range(seeds):
        for n in np.logspace(6, 9, sizes):
            shift = np.exp(noise * rng.standard_normal())
            for d in np.logspace(8, 11, points):
                rows.append((f"{n:.3g}-{seed}", n, d, 6 * n * d, shift * (E + A / n**ALPHA + B / d**BETA)))
    return pd.DataFrame(rows, columns=["run", "N", "D", "C", "loss"])


def test_the_frontier_is_the_lowest_loss_inside_the_window():
    table = curves()
    every, kept = envelope(table), frontier(table)
    assert set(kept) == {"C", "loss", "run", "N", "D", "N_opt"}
    assert kept["C"].is_monotonic_increasing
    assert not kept["N"].isin([table["N"].min(), table["N"].max()]).any()
    assert {"the smallest size wins", "the largest size wins"} <= set(every["excluded"])
    for _, point in kept.iloc[::15].iterrows():
        at_c = E + A / table["N"].unique() ** ALPHA + B / (point["C"] / 6 / table["N"].unique()) ** BETA
        assert point["loss"] == pytest.approx(at_c.min(), rel=1e-3)


def test_the_exponents_of_a_known_law_are_found():
    fitted = fit_envelope(curves(seeds=3, noise=0.001), bootstrap=60)
    low, high = fitted.a.interval(0.95)
    assert low < a_true < high
    assert fitted.a.value == pytest.approx(a_true, abs=0.02)
    assert fitted.loss_offset.E.value == pytest.approx(E, abs=0.05)
    assert fitted.loss_offset.exponent.value == pytest.approx(ALPHA * BETA / (ALPHA + BETA), abs=0.01)
    json.dumps(fitted.to_dict(), allow_nan=False)
    assert "bootstrap over runs" in fitted.report()


def test_finished_runs_make_a_curve_for_each_size():
    fitted = fit_envelope(curves(points=12).drop(columns="run"), bootstrap=30)
    assert fitted.runs == 10
    assert fitted.a.value == pytest.approx(a_true, abs=0.02)
    assert "noise of one run" in fitted.how


def test_an_offset_power_law_is_found_without_starts():
    x = np.logspace(15, 21, 30)
    fit = offset_power("C", (x, 1.7 + (1e18 / x) ** 0.15), [])
    assert fit.E.value == pytest.approx(1.7, abs=2e-3)
    assert fit.exponent.value == pytest.approx(0.15, abs=1e-3)
    np.testing.assert_allclose(fit.predict(x), 1.7 + (1e18 / x) ** 0.15, rtol=1e-4)


def test_a_pure_power_law_leaves_the_offset_at_zero():
    x = np.logspace(15, 21, 30)
    fit = offset_power("C", (x, 3 * (x / 1e18) ** -0.05), [])
    assert fit.E.value == pytest.approx(0.0, abs=1e-6)
    assert fit.exponent.value == pytest.approx(0.05, abs=1e-3)


def test_a_weighted_line_widens_when_its_points_scatter():
    x, draws = np.logspace(0, 4, 5), np.exp(0.01 * np.random.default_rng(0).standard_normal((200, 5)))
    y = x**0.5
    straight = power_line("C", "N", (x, y), y * draws)
    assert straight.exponent.value == pytest.approx(0.5, abs=1e-9)
    bent = power_line("C", "N", (x, y * np.array([1.1, 0.9, 1.1, 0.9, 1.1])), y * draws)
    assert bent.scatter > 5
    assert bent.exponent.spread > 5 * straight.exponent.spread
    assert bent.beyond(x[-1] * 10) == pytest.approx(10)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (curves().drop(columns="N"), "missing: N"),
        (curves(sizes=2), "three model sizes"),
        (curves().groupby("run").head(1), "no curves"),
        (curves().query("D < 1e9").query("N > 3e8"), "three model sizes|no window"),
    ],
)
def test_bad_tables_are_explained(table, message):
    with pytest.raises(AllometryError, match=message):
        frontier(table)
