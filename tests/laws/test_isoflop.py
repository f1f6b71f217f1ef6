import json

import numpy as np
import pandas as pd
import pytest
from scipy.interpolate import PchipInterpolator

from allometry.core.errors import AllometryError
from allometry.laws.isoflop import isoflop
from allometry.laws.power_lines import power_line
from allometry.laws.slices import make_slices, parabola_window, slices, valley_noise

A, B, E, ALPHA, BETA = 482.01, 2085.43, 1.8172, 0.3478, 0.3658
a_true = BETA / (ALPHA + BETA)


def loss(n, d):
    return E + A / n**ALPHA + B / d**BETA


def best_size(c):
    g = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))
    return g * (c / 6) ** a_true


def at_budgets(noise=0.0, seed=0, span=0.8, sizes=9, shift=0.0):
    rows = [
        (n, c / (6 * n))
        for c in 6e18 * 2.0 ** np.arange(7)
        for n in best_size(c) * np.logspace(-span + shift, span + shift, sizes)
    ]
    frame = pd.DataFrame(rows, columns=["N", "D"])
    wobble = np.exp(noise * np.random.default_rng(seed).standard_normal(len(frame)))
    return frame.assign(loss=loss(frame.N, frame.D) * wobble)


def on_a_grid(noise=0.0, seed=0):
    rows = [(n, d) for n in np.logspace(6, 9, 10) for d in np.logspace(8, 10.6, 9)]
    frame = pd.DataFrame(rows, columns=["N", "D"])
    wobble = np.exp(noise * np.random.default_rng(seed).standard_normal(len(frame)))
    return frame.assign(loss=loss(frame.N, frame.D) * wobble)


@pytest.mark.parametrize("method", ["akima", "parabola"])
@pytest.mark.parametrize("table", [at_budgets, on_a_grid])
def test_finds_the_exponent_of_a_known_law(method, table):
    result = isoflop(table(noise=0.0005, seed=3), method=method, bootstrap=300)
    low, high = result.a.interval(0.95)
    assert low - 0.005 < a_true < high + 0.005
    assert result.a.value == pytest.approx(a_true, abs=0.04 if method == "akima" else 0.01)
    assert result.a.value + result.b.value == pytest.approx(1.0, abs=0.01)
    used = result.table[result.table.used]
    np.testing.assert_allclose(used.N_opt, [best_size(c) for c in used.C], rtol=0.35)


def test_losses_between_runs_lie_on_one_cubic_through_all_runs_of_a_size():
    """Also at its ends, at a run itself, and with repeats of a run, which count as their mean."""
    grid = pd.concat([on_a_grid(0.01), on_a_grid(0.01, seed=1).iloc[::2]], ignore_index=True)
    table = grid.assign(C=6 * grid["N"] * grid["D"])
    part = table[table["N"] == table["N"].unique()[4]].groupby("C")["loss"]
    mean = np.log(table["loss"]).groupby([table["N"], table["C"]]).mean()
    budgets = [*part.first().index, *(np.sqrt(part.first().index[:-1] * part.first().index[1:]))]
    for row in slices(table, budgets=budgets).itertuples():
        own = mean[row.N]
        cubic = PchipInterpolator(np.log(own.index), own)
        assert np.log(row.loss) == pytest.approx(cubic(np.log(row.C)), abs=1e-12)


def test_set_budgets_are_recognised_and_a_grid_is_interpolated():
    assert not slices(at_budgets())["interpolated"].any()
    cut = slices(on_a_grid(), budgets=[1e18])
    assert cut["interpolated"].all()
    np.testing.assert_allclose(cut["loss"], loss(cut["N"], cut["D"]), rtol=2e-3)
    np.testing.assert_allclose(6 * cut["N"] * cut["D"], 1e18, rtol=1e-6)


def test_columns_are_mapped_and_computed():
    frame = at_budgets(noise=0.001).rename(columns={"N": "size", "loss": "nats"})
    frame = frame.assign(flop=6 * frame["size"] * frame["D"]).drop(columns="D")
    mapped = isoflop(frame, columns={"N": "size", "C": "flop", "loss": "nats"}, bootstrap=100)
    assert mapped.a.value == pytest.approx(isoflop(at_budgets(noise=0.001), bootstrap=100).a.value, abs=1e-6)


def test_budgets_whose_optimum_is_at_the_edge_are_listed_with_the_reason():
    frame = at_budgets(noise=0.0005)
    first = (frame.N * frame.D * 6 < 8e18) & (best_size(6e18) * 0.9 > frame.N)
    result = isoflop(frame[~first], bootstrap=200)
    assert len(result.discarded) == 1
    assert "smallest" in result.discarded["reason"][0]
    assert any(w.name == "budgets discarded" for w in result.warnings)
    assert "discarded" in result.report()


def test_a_parabola_that_is_too_wide_or_off_centre_is_warned_about():
    """Four sizes are needed, however far apart; many sizes over a wide range are no fault."""
    coarse = isoflop(at_budgets(noise=0.0005, span=1.2, sizes=5), method="parabola", bootstrap=100)
    assert "grid too wide for a parabola" in {w.name for w in coarse.warnings}
    aside = isoflop(at_budgets(noise=0.0005, span=0.3, sizes=5, shift=0.22), method="parabola", bootstrap=100)
    assert "grid off-centre" in {w.name for w in aside.warnings}
    for span in (0.5, 1.2):
        fine = isoflop(at_budgets(noise=0.0005, span=span), method="parabola", bootstrap=100)
        assert not {"grid too wide for a parabola", "grid off-centre"} & {w.name for w in fine.warnings}


def test_noise_comes_from_repeats_where_there_are_any():
    frame = pd.concat([at_budgets(noise=0.004, seed=s) for s in range(3)], ignore_index=True)
    result = isoflop(frame, bootstrap=100)
    assert "repeats" in result.noise_source
    assert result.noise == pytest.approx(0.004, rel=0.25)
    assert isoflop(frame, noise=0.01, bootstrap=50).noise_source == "given"


def test_same_seed_same_result_and_plain_json():
    first, second = (isoflop(at_budgets(noise=0.002), bootstrap=50, seed=5).to_dict() for _ in range(2))
    assert json.dumps(first, allow_nan=False) == json.dumps(second, allow_nan=False)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (at_budgets().drop(columns="loss"), "needed for L|'L'|loss"),
        (at_budgets().drop(columns="D"), "'D'|'C'"),
        (on_a_grid().query("D < 1.1e8"), "three sizes"),
    ],
)
def test_bad_tables_are_explained(frame, message):
    with pytest.raises(AllometryError, match=message):
        isoflop(frame, bootstrap=20)


def test_an_unknown_method_is_answered_with_the_known_ones():
    with pytest.raises(AllometryError, match="akima"):
        isoflop(at_budgets(), method="cubic")  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["akima", "parabola"])
def test_intervals_cover_the_true_exponent(method):
    hits = []
    for seed in range(100):
        span = 0.5 if method == "parabola" else 0.8
        low, high = isoflop(at_budgets(0.003, seed, span), method=method, bootstrap=300).a.interval(0.95)
        hits.append(low <= a_true <= high)
    assert np.mean(hits) >= 0.88


@pytest.mark.parametrize(
    ("factor", "warned"),
    [(1 / 3, True), (1e-15, True), (1.5, True), (6 / 8, True), (1.05, False), (1.0, False)],
    ids=["2ND", "PFLOPs", "recomputed activations", "per GPU", "attention", "6ND"],
)
def test_a_compute_that_is_not_6nd_by_a_constant_is_said_and_the_exponent_stands(factor, warned):
    frame = at_budgets(noise=0.001).assign(C=lambda f: factor * 6 * f.N * f.D)
    found = isoflop(frame, bootstrap=100)
    said = [w.meaning for w in found.warnings if w.name == "count of compute"]
    assert bool(said) == warned
    if warned:
        assert f"C is {factor:.3g} times 6ND" in said[0]
    assert found.a.value == pytest.approx(isoflop(frame.drop(columns="C"), bootstrap=100).a.value, rel=1e-9)


def test_compute_of_small_models_with_their_embeddings_is_no_other_count():
    frame = on_a_grid().assign(C=lambda f: 6 * f.N * f.D * (1 + 2e4 / f.N**0.8))
    assert "count of compute" not in {w.name for w in isoflop(frame, noise=0.001, bootstrap=100).warnings}


def starved(noise=0.0, seed=0, ratio=2):
    """Budgets over many close sizes: below a ratio of tokens to parameters the loss rises by another rule, steeply."""
    rng = np.random.default_rng(seed)
    rows = [
        (n, c / (6 * n))
        for c in 6e18 * 2.0 ** np.arange(10)
        for n in np.geomspace(3e7, 3e10, 21)
        if best_size(c) / 15 < n < best_size(c) * 15
    ]
    frame = pd.DataFrame(rows, columns=["N", "D"])
    few = np.maximum(0, np.log(ratio * frame.N / frame.D)) ** 2
    return frame.assign(
        loss=loss(frame.N, frame.D) * np.exp(0.5 * few + noise * rng.standard_normal(len(frame)))
    )


@pytest.mark.parametrize("noise", [0.001, 0.003])
def test_noise_comes_from_the_valleys_not_from_the_steep_ends(noise):
    """A cubic through the whole of such a slice misses by ten times the noise."""
    found = [isoflop(starved(noise, seed), bootstrap=20).noise for seed in range(4)]
    assert np.median(found) == pytest.approx(noise, rel=0.35)


def test_noise_of_averaged_repeats_is_that_of_one_run():
    found = []
    for seed in range(0, 60, 6):
        frame = pd.concat([starved(0.004, seed + i) for i in range(6)], ignore_index=True)
        made, _ = make_slices(frame.assign(C=6 * frame.N * frame.D))
        found.append(valley_noise(made, np.log(frame["loss"].to_numpy()))[0])
    assert np.median(found) == pytest.approx(0.004, rel=0.25)


def test_a_parabola_goes_through_the_sizes_near_the_optimum_only():
    """The window is the widest in which the valleys are parabolas; noise hides more of their skewness."""
    windows = {}
    for noise in (0.0003, 0.03):
        frame = starved(noise, ratio=5).assign(C=lambda f: 6 * f.N * f.D)
        made, _ = make_slices(frame)
        windows[noise] = parabola_window(made, np.log(frame["loss"].to_numpy()), noise)
    assert windows[0.0003] == 2 < windows[0.03]
    found = isoflop(starved(0.0003), method="parabola", bootstrap=100)
    assert found.a.value == pytest.approx(a_true, abs=0.02)
    assert any("within a factor" in note for note in found.notes)


def test_runs_of_other_learning_rates_are_no_repeats():
    """The best rate falls with size, and a wrong one costs the more the larger the model."""
    parts = []
    for rate in np.geomspace(3e-4, 4e-3, 6):
        frame = at_budgets(noise=0.0003, seed=int(1e5 * rate))
        away = np.log(rate / (1e-3 * (frame.N / 5e8) ** -0.2))
        parts.append(
            frame.assign(peak_lr=rate, loss=frame.loss * np.exp(0.02 * away**2 * (frame.N / 5e8) ** 0.3))
        )
    swept = pd.concat(parts, ignore_index=True)
    found = isoflop(swept, bootstrap=200)
    assert found.a.value == pytest.approx(a_true, abs=0.03)
    assert "repeats" not in found.noise_source
    assert found.noise < 0.004
    assert (found.excluded["reason"] == "a better setting of this size is in the table").sum() == 5 * len(
        parts[0]
    )
    said = next(w.meaning for w in found.warnings if w.name == "best settings")
    assert "differ in peak_lr" in said
    averaged = isoflop(swept.drop(columns="peak_lr"), bootstrap=200)
    assert abs(averaged.a.value - a_true) > 2 * abs(found.a.value - a_true)


def test_seeds_of_one_setting_are_repeats_and_stay():
    swept = pd.concat(
        [
            at_budgets(noise=0.003, seed=10 * seed + i)
            .assign(lr=rate, seed=seed)
            .eval(f"loss = loss * {1 + 0.02 * i}")
            for i, rate in enumerate((1e-3, 3e-3))
            for seed in range(3)
        ],
        ignore_index=True,
    )  # fmt: skip
    found = isoflop(swept, bootstrap=50)
    assert "repeats" in found.noise_source
    assert found.noise == pytest.approx(0.003, rel=0.25)
    assert set(swept.loc[found.excluded.index, "lr"]) == {3e-3}
    assert len(found.excluded) == len(swept) // 2


def test_a_run_that_is_too_low_is_not_the_best_of_its_rates():
    swept = pd.concat(
        [at_budgets(noise=0.001, seed=i).assign(lr=rate) for i, rate in enumerate((1e-3, 3e-3))],
        ignore_index=True,
    )
    swept.loc[4, "loss"] *= 0.8
    found = isoflop(swept, bootstrap=100)
    assert "off the law" in found.excluded.loc[4, "reason"]
    assert found.a.value == pytest.approx(a_true, abs=0.04)


@pytest.mark.parametrize("method", ["akima", "parabola"])
def test_no_interval_has_zero_width(method):
    found = isoflop(at_budgets(), noise=0.0, method=method, bootstrap=200)
    for estimate in (found.a, found.b):
        low, high = estimate.interval(0.95)
        assert 1e-4 < high - low < 0.1
    used = found.table[found.table.used]
    assert (used.N_opt_high / used.N_opt_low > 1.001).all()
    low, high = found.a.interval(0.95)
    assert low - 0.01 < a_true < high + 0.01


@pytest.mark.parametrize("method", ["akima", "parabola"])
def test_losses_are_moved_to_the_budget_where_tokens_are_rounded(method):
    frame = at_budgets(noise=0.0005)
    exact = isoflop(frame, method=method, bootstrap=100)
    tokens = frame.D * np.exp(0.03 * np.random.default_rng(1).uniform(-1, 1, len(frame)))
    rounded = frame.assign(D=tokens, loss=frame.loss * loss(frame.N, tokens) / loss(frame.N, frame.D))
    found = isoflop(rounded, method=method, bootstrap=100)
    assert found.a.value + found.b.value == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(found.a.samples + found.b.samples, 1, atol=1e-6)
    assert found.a.value == pytest.approx(exact.a.value, abs=0.003)
    assert found.noise < 0.001


def test_a_sharp_optimum_does_not_decide_the_exponent_alone():
    """Its draws hardly move, but it lies between sizes like any other: its weight is bounded."""
    C = np.geomspace(1e18, 1e20, 5)
    N = 1e8 * (C / 1e19) ** 0.5 * np.exp([0, 0.1, 0, 0, 0])
    spread = np.array([0.1, 1e-4, 1e-4, 0.1, 0.1])
    draws = N * np.exp(spread * np.random.default_rng(0).standard_normal((400, 5)))
    bare = power_line("C", "N", (C, N), draws)
    floored = power_line("C", "N", (C, N), draws, floor=np.full(5, 0.1))
    plain_line = np.polyfit(np.log(C), np.log(N), 1)[0]
    assert abs(bare.exponent.value - 0.5) > 0.05
    assert floored.exponent.value == pytest.approx(plain_line, abs=0.003)
