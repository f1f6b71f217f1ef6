"""One bad run is named, and moves neither intervals nor optima; and what intervals and optima rest on."""

import json

import numpy as np
import pandas as pd
import pytest

import allometry
from allometry.core.errors import AllometryError
from allometry.laws.envelope import read_curves, winners
from allometry.laws.fit import about_scale
from allometry.laws.isoflop import isoflop, misfits
from allometry.laws.slices import BELOW, make_slices, minimum
from allometry.laws.uncertainty import seed_noise, simulated_noise

E, A, B, ALPHA, BETA = 1.75, 320.0, 900.0, 0.33, 0.35
A_TRUE = BETA / (ALPHA + BETA)


def law(n, d):
    return E + A / n**ALPHA + B / d**BETA


def table(noise=0.003, seed=0):
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(2e8, 2e10, 5)))
    wobble = np.exp(noise * np.random.default_rng(seed).standard_normal(len(n)))
    return pd.DataFrame({"N": n, "D": d, "loss": law(n, d) * wobble})


def spoilt(rows, factor=1.25):
    frame = table()
    frame.loc[rows, "loss"] *= factor
    return frame


def warned(result):
    return {w.name: w.meaning for w in result.warnings}


@pytest.mark.parametrize("objective", ["huber-linear", "lad", "huber-log@0.01", "huber-linear@0.05"])
def test_robust_objectives_have_names_and_thresholds(objective):
    clean = allometry.fit(table(), law="chinchilla", objective=objective, bootstrap=30, test=False)
    assert clean.parameters["alpha"] == pytest.approx(ALPHA, abs=0.06)
    assert clean.objective.name == objective
    again = allometry.FitResult.from_dict(json.loads(json.dumps(clean.to_dict())))
    assert again.objective == clean.objective
    residual = clean.law.predict(clean.parameters, N=table().N, D=table().D) - table().loss
    if objective == "lad":
        assert clean.objective_value == pytest.approx(np.abs(residual).sum(), rel=1e-6)
    if objective == "huber-linear@0.05":
        size = np.abs(residual)
        huber = np.where(size < 0.05, size**2 / 2, 0.05 * (size - 0.025)).sum()
        assert clean.objective_value == pytest.approx(huber, rel=1e-6)


def test_a_large_threshold_is_least_squares_and_a_wrong_one_is_explained():
    squares, wide = (
        allometry.fit(table(), law="chinchilla", objective=name, bootstrap=0, test=False)
        for name in ("lsq-log", "huber-log@1000")
    )
    assert wide.parameters == pytest.approx(squares.parameters, rel=1e-4)
    for name, message in (
        ("lsq@0.1", "has no delta"),
        ("huber-log@-1", "positive number"),
        ("huber@1", "unknown"),
    ):
        with pytest.raises(AllometryError, match=message):
            allometry.fit(table(), law="chinchilla", objective=name)


@pytest.mark.parametrize("rows", [[10], [10, 13], [8, 10, 15, 25], [0, 6, 9, 19, 21, 24]])
@pytest.mark.parametrize("factor", [1.25, 0.8])
def test_bad_rows_are_named_and_hardly_widen_the_intervals(rows, factor):
    clean = allometry.fit(table(), law="chinchilla", bootstrap=150)
    result = allometry.fit(spoilt(rows, factor), law="chinchilla", bootstrap=150)
    assert list(np.flatnonzero(result.outliers)) == rows
    assert f"{len(rows)} of 30" in warned(result)["outliers"]
    assert all(f"{row} (" in warned(result)["outliers"] for row in rows)
    low, high = result.interval("alpha")
    width = np.subtract(*clean.interval("alpha")[::-1])
    assert low < ALPHA < high
    assert high - low < {1: 1.4, 2: 1.6, 4: 2.0, 6: 6.0}[len(rows)] * width  # 12 times, for one bad row, once
    assert result.scatter == pytest.approx(clean.scatter, rel=0.3 if len(rows) < 6 else 0.8)


def test_one_bad_row_of_exact_data_is_named():
    frame = table(noise=0)
    frame.loc[4, "loss"] *= 1.001
    result = allometry.fit(frame, law="chinchilla", bootstrap=40)
    assert list(np.flatnonzero(result.outliers)) == [4]
    exact = allometry.fit(table(noise=0), law="chinchilla", bootstrap=40)
    assert not {"correlation", "outliers"} & set(warned(exact))


def test_a_warning_and_the_table_say_the_same_interval():
    x = np.linspace(1e6, 2e6, 11)
    y = (2 + 300 * x**-0.4) * np.exp(0.003 * np.random.default_rng(1).standard_normal(11))
    result = allometry.fit(pd.DataFrame({"X": x, "L": y}), law="power-offset", bootstrap=200)
    low, high = result.interval("A")
    assert f"(95 %: {low:.3g} to {high:.3g})" in warned(result)["scale-not-identified"]


@pytest.mark.parametrize(
    ("column", "loss", "remedy"),
    [
        ("bitnet_val_loss", 3.0, None), ("val_loss_8bit", 3.0, None), ("orbit_loss", 3.0, None),
        ("loss_4_bits", 3.0, None), ("log(val_ppl)", 3.0, None), ("log_ppl", 3.0, None),
        ("val_bpb*4.4*log(2)", 3.0, None), ("supplementary_loss", 3.0, None),
        ("val_bpb", 1.2, "`val_bpb`*log(2)"), ("bits", 4.0, "`bits`*log(2)"),
        ("val_ppl", 20.0, "log(`val_ppl`)"), ("loss", 45.0, "log(`loss`)"), ("ppl", 3.0, "log(`ppl`)"),
    ],
)  # fmt: skip
def test_bits_and_perplexities_are_judged_by_words_and_values(column, loss, remedy):
    found = about_scale(np.full(5, loss), "L", column)
    assert [w.name for w in found] == (["loss-scale"] if remedy else [])
    assert remedy is None or remedy in found[0].meaning


def test_seed_noise_spends_a_degree_of_freedom_a_mean():
    """Two seeds a run: dividing by n instead of n - 1 would halve the variance."""
    n = np.repeat(np.geomspace(1e6, 1e9, 300), 2)
    frame = pd.DataFrame({"seed": np.tile([0, 1], 300)})
    values = 0.02 * np.random.default_rng(0).standard_normal(600)
    spread, dof = seed_noise(frame, values, {"N": n})
    assert dof == 300
    assert spread == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("runs", [30, 150])
def test_simulated_noise_is_smaller_where_weights_are_larger(runs):
    rng = np.random.default_rng(0)
    weights = np.where(np.arange(runs) % 2, 16.0, 1.0)
    residuals = 0.01 * rng.standard_normal(runs) / np.sqrt(weights)
    noise = simulated_noise(residuals, weights, np.arange(runs), 0, 0.0, 4000, rng)
    light, heavy = noise[:, ::2].std(), noise[:, 1::2].std()
    assert light / heavy == pytest.approx(4, rel=0.1)
    assert np.mean(weights * noise.var(axis=0)) == pytest.approx(np.mean(weights * residuals**2), rel=0.1)


def test_intervals_of_many_runs_follow_where_the_noise_is_large():
    """The slope rests on the runs at the ends, the level on all: noise at the ends widens the slope's interval."""
    rng = np.random.default_rng(0)
    x = np.geomspace(1e6, 1e9, 200)
    ends = np.abs(np.log(x / np.median(x))) > np.log(1e9 / 1e6) / 4
    spread = {}
    for place, size in {"ends": np.where(ends, 0.02, 0.002), "middle": np.where(ends, 0.002, 0.02)}.items():
        y = 10 * x**-0.1 * np.exp(size * rng.standard_normal(200))
        found = allometry.fit(pd.DataFrame({"X": x, "L": y}), law="power", objective="lsq-log", bootstrap=300)
        spread[place] = found.samples["alpha"].std()
    # the variance of a slope is the mean of x**2 sigma**2 over that of x**2, squared
    assert spread["ends"] / spread["middle"] == pytest.approx(2.56, rel=0.2)


def test_a_badly_determined_combination_is_warned_of():
    """A tiny exponent is hardly different from a logarithm: floor, amount and exponent cannot be told apart."""
    x = np.geomspace(1e6, 1e9, 30)
    y = (1 + 10 * x**-0.02) * np.exp(0.0001 * np.random.default_rng(0).standard_normal(30))
    narrow = allometry.fit(pd.DataFrame({"X": x, "L": y}), law="power-offset", bootstrap=0)
    assert "ill-conditioned" in warned(narrow)
    assert "ill-conditioned" not in warned(allometry.fit(table(), law="chinchilla", bootstrap=0))


def cells(noise=0.001, sizes=7, budgets=4, seed=0):
    rows = []
    for c in 1e17 * 10.0 ** np.arange(budgets):
        best = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA)) * (c / 6) ** A_TRUE
        rows += [(c, n, c / (6 * n)) for n in best * 2.0 ** np.arange(-(sizes // 2), sizes - sizes // 2)]
    frame = pd.DataFrame(rows, columns=["C", "N", "D"])
    wobble = np.exp(noise * np.random.default_rng(seed).standard_normal(len(frame)))
    return frame.assign(loss=law(frame.N, frame.D) * wobble)


@pytest.mark.parametrize("method", ["akima", "parabola"])
@pytest.mark.parametrize("kind", ["diverged", "slightly too high", "too low", "unfinished", "all"])
def test_bad_cells_are_named_and_do_not_move_the_exponent(method, kind):
    frame = cells()
    bad = {"diverged": {18: 2.8}, "slightly too high": {17: 1.04}, "too low": {9: 0.95}}.get(kind, {})
    if kind == "all":
        bad = {18: 2.8, 9: 0.95}
    for row, factor in bad.items():
        frame.loc[row, "loss"] *= factor
    if kind in ("unfinished", "all"):
        bad = {**bad, 24: 0}
        frame.loc[24, "D"] *= 0.4
        frame.loc[24, "loss"] = law(frame.N[24], frame.D[24])
    result = isoflop(frame, method=method, bootstrap=150)
    assert sorted(result.excluded.index) == sorted(bad)
    named = next(w.meaning for w in result.warnings if w.name == "runs left out")
    assert all(f"row {row} " in named for row in bad)
    assert result.a.value == pytest.approx(A_TRUE, abs=0.04)
    assert ("40 % of the tokens" in named) == (24 in bad)


def test_clean_cells_all_belong():
    for seed in range(5):
        assert not len(misfits(cells(noise=0.004, seed=seed)))
    counted = cells().assign(D=lambda f: f.D * (1 + 2e6 / f.N))  # C with the embeddings, N without
    assert not len(misfits(counted))


def test_an_interpolant_far_below_every_loss_is_no_optimum():
    frame = cells(noise=0)
    frame.loc[18, "loss"] *= 2.8
    made, _ = make_slices(frame)
    log_loss = np.log(frame["loss"].to_numpy())
    draws = np.repeat(log_loss[None], 5, axis=0)
    reasons = [minimum(s, log_loss, draws, "akima", 0.001).reason for s in made]
    assert reasons == ["", "", BELOW, ""]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (cells(budgets=1), "one compute budget.*needs a second budget"),
        (cells(noise=0).groupby("C").head(3), "the largest size is the best one"),
        (cells(noise=0).groupby("C").tail(3), "the smallest size is the best one"),
    ],
)
def test_what_is_missing_is_said(frame, message):
    with pytest.raises(AllometryError, match=message):
        isoflop(frame.reset_index(drop=True), bootstrap=20)


def test_the_envelope_trusts_no_winner_at_the_edge():
    """Below the optimum of the smallest size it wins whatever it does: the loss there is no frontier."""
    rows = [(n, 6 * n * d, law(n, d)) for n in np.geomspace(1e7, 1e9, 7) for d in np.geomspace(1e8, 1e11, 20)]
    curves = read_curves(pd.DataFrame(rows, columns=["N", "C", "loss"]))
    grid = curves.grid(24)
    won = winners(curves, grid, curves.losses(grid))
    sizes, kept = np.unique(curves.N), won.excluded == ""
    assert kept.any()
    assert not np.isin(won.N[kept], sizes[[0, -1]]).any()
    assert (won.excluded[sizes[0] == won.N] == "the smallest size wins").all()
    assert (won.excluded[sizes[-1] == won.N] == "the largest size wins").all()
    best = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA)) * (won.C[kept] / 6) ** A_TRUE
    np.testing.assert_allclose(won.N_opt[kept], best, rtol=0.25)
