import json

import numpy as np
import pandas as pd
import pytest

from allometry.core.errors import AllometryError
from allometry.laws.critical_batch import (
    b_crit,
    c_min,
    fit_critical_batch,
    hyperbola,
    s_min,
    targets_from_curves,
)


def scan(noise=0.0, seed=0, batches=2.0 ** np.arange(12, 22), losses=(5.0, 4.5, 4.0, 3.5)):
    rng = np.random.default_rng(seed)
    wobble = {b: np.exp(noise * rng.standard_normal()) for b in batches}
    rows = []
    for loss in losses:
        crit, steps = b_crit(loss, 2.1e8, 0.21), 1e4 * (4 / loss) ** 5
        rows += [(loss, b, steps * (1 + crit / b) * wobble[b]) for b in batches]
    return pd.DataFrame(rows, columns=["loss", "B", "S"]).assign(E=lambda t: t["B"] * t["S"])


def test_published_values():
    assert b_crit(4, 2.1e8, 0.21) == pytest.approx(285277, rel=1e-5)
    assert s_min(1e4, 2**19, b_crit(4, 2.1e8, 0.21)) == pytest.approx(6476.2, rel=1e-5)
    assert c_min(1, 2**19, b_crit(4, 2.1e8, 0.21)) == pytest.approx(0.35238, rel=1e-4)


def test_at_the_critical_batch_steps_and_examples_double():
    steps = 2 * 100.0
    assert hyperbola(steps, 100, 1e6) == pytest.approx(2e6)
    assert np.isnan(hyperbola(99, 100, 1e6))
    assert s_min(steps, 1e4, 1e4) == pytest.approx(100)
    assert c_min(2.0, 1e4, 1e4) == pytest.approx(1.0)


def test_exact_scans_give_the_law_back():
    result = fit_critical_batch(scan(), bootstrap=20)
    np.testing.assert_allclose(result.table["B_crit"], b_crit(result.table["loss"], 2.1e8, 0.21), rtol=1e-4)
    np.testing.assert_allclose(result.table["S_min"], 1e4 * (4 / result.table["loss"]) ** 5, rtol=1e-4)
    assert result.alpha_B.value == pytest.approx(0.21, rel=1e-3)
    assert result.B_star.value == pytest.approx(2.1e8, rel=1e-2)
    assert not result.warnings


def test_e_and_s_are_enough():
    frame = scan().drop(columns="B")
    assert fit_critical_batch(frame, bootstrap=5).alpha_B.value == pytest.approx(0.21, rel=1e-3)


def test_intervals_cover_with_noise_that_runs_share():
    hits = []
    for seed in range(25):
        result = fit_critical_batch(scan(0.05, seed), bootstrap=100, seed=seed)
        low, high = result.at(4.0).interval(0.9)
        hits.append(low <= 285277 <= high)
    assert 0.7 <= np.mean(hits) <= 1.0


def test_batches_on_one_side_are_warned_about():
    small = fit_critical_batch(scan(0.01, batches=2.0 ** np.arange(6, 12)), bootstrap=20)
    assert {w.name for w in small.warnings} == {"batches too small"}
    large = fit_critical_batch(scan(0.01, batches=2.0 ** np.arange(23, 27)), bootstrap=20)
    assert {w.name for w in large.warnings} == {"batches too large"}
    assert "extrapolated" in small.report()


def test_targets_are_read_from_learning_curves_and_the_best_rate_counts():
    steps = np.unique(np.logspace(0, 4, 60).round())
    rows = []
    for batch in (1e4, 1e5, 1e6):
        for rate, slower in (("a", 1.0), ("b", 1.7)):
            loss = 10 * (1 + steps / (slower * (10 + 1e6 / batch))) ** -0.3
            rows.append(pd.DataFrame({"run": f"{batch}-{rate}", "B": batch, "step": steps, "loss": loss}))
    table = targets_from_curves(pd.concat(rows), [5.0, 4.0])
    assert len(table) == 6
    assert table["run"].str.endswith("a").all()
    expected = (10 + 1e6 / table["B"]) * ((10 / table["loss"]) ** (1 / 0.3) - 1)
    np.testing.assert_allclose(table["S"], expected, rtol=0.02)
    np.testing.assert_allclose(table["E"], table["B"] * table["S"])


def test_result_is_plain_json():
    json.dumps(fit_critical_batch(scan(0.02), bootstrap=10).to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("frame", "message"),
    [(scan().drop(columns=["S"]), "lacks the column"), (scan(batches=[1e4, 1e5]), "three batch sizes")],
)
def test_bad_tables_are_explained(frame, message):
    with pytest.raises(AllometryError, match=message):
        fit_critical_batch(frame)


def test_targets_that_nobody_reaches_are_explained():
    curve = pd.DataFrame({"run": "a", "B": 1e4, "step": [1, 2, 3], "loss": [5.0, 4.0, 3.0]})
    with pytest.raises(AllometryError, match="no run reaches"):
        targets_from_curves(curve, [2.0])
