"""Recipes with planted multipliers: `versus` returns them, their growth, and no difference where there is none."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

import allometry
from allometry.core.errors import AllometryError
from allometry.laws.versus import versus

E, A, B, ALPHA, BETA = 1.75, 320.0, 900.0, 0.33, 0.35
CENTRE = 6 * 1e7 * 2e8


def runs(
    seed=0, multiplier=1.0, growth=1.0, noise=0.001, pair=0.003, trunk=0.0, sizes=6, horizons=(5, 20, 80),
    recipes=("base", "changed"), data=False,
):  # fmt: skip
    """Pairs of runs whose recipes differ from the first by a multiplier that is a power of the compute."""
    rng = np.random.default_rng(seed)
    rows = []
    for n in np.geomspace(1e6, 1e8, sizes):
        of_trunk = trunk * rng.standard_normal(len(recipes))
        for ratio in horizons:
            d, common = n * ratio, pair * rng.standard_normal()
            for i, recipe in enumerate(recipes):
                m = multiplier * growth ** np.log10(6 * n * d / CENTRE) if i else 1.0
                n_like, d_like = (n, d * m) if data else (n * m**0.5, d * m**0.5)
                loss = E + A / n_like**ALPHA + B / d_like**BETA
                loss *= np.exp(common + of_trunk[i] + noise * rng.standard_normal())
                run = f"{recipe}-{n:.0f}" + ("" if trunk else f"-{ratio}")
                rows.append((recipe, run, n, d, loss))
    return pd.DataFrame(rows, columns=["recipe", "run", "N", "D", "loss"])


def planted(c, multiplier, growth):
    return multiplier * growth ** np.log10(c / CENTRE)


@pytest.mark.parametrize(
    ("multiplier", "growth", "verdict"),
    [
        (1.3, 1.1, "helps, and more with scale"),
        (1.6, 0.9, "helps, but less with scale"),
        (0.7, 1.0, "hurts"),
        (0.5, 0.8, "hurts, and more with scale"),
        (1.0, 1.0, "no difference larger than 5 %"),
    ],
)
def test_planted_multipliers_are_found(multiplier, growth, verdict):
    (found,) = versus(runs(multiplier=multiplier, growth=growth, noise=3e-4), by="recipe").comparisons
    truth = planted(found.C, multiplier, growth)
    assert found.compute[0] == pytest.approx(truth, rel=0.04)
    assert found.compute[1] < truth < found.compute[2]
    assert found.growth[0] == pytest.approx(growth, rel=0.02)
    assert found.forecasts[100.0][1] < planted(100 * found.C, multiplier, growth) < found.forecasts[100.0][2]
    assert found.verdict.startswith(verdict)
    assert found.pairs == 18


def test_without_noise_every_pair_measures_the_planted_multiplier():
    frame = runs(multiplier=1.3, growth=1.1, noise=1e-7, pair=0.0)
    scales = versus(frame, by="recipe").comparisons[0].scales
    truth = planted(scales["C"], 1.3, 1.1)
    np.testing.assert_allclose(scales["measured"], truth, rtol=1e-3)
    np.testing.assert_allclose(scales["multiplier"], truth, rtol=1e-3)
    assert (scales["low"] <= scales["high"]).all()


def test_a_multiplier_of_data_is_one_of_data():
    (found,) = versus(runs(multiplier=1.5, noise=1e-6, pair=0.0, data=True), by="recipe").comparisons
    assert found.data[0] == pytest.approx(1.5, rel=1e-3)


def test_the_other_way_round_is_the_reciprocal():
    frame = runs(multiplier=1.3, noise=3e-4)
    (there,) = versus(frame, by="recipe", against="base").comparisons
    (back,) = versus(frame, by="recipe", against="changed").comparisons
    assert back.compute[0] == pytest.approx(1 / there.compute[0], rel=0.01)
    assert back.loss[0] == pytest.approx(1 / (1 + there.loss[0]) - 1, rel=1e-6)


def test_what_a_pair_has_in_common_cancels():
    (quiet,) = versus(runs(multiplier=1.2, pair=0.0), by="recipe").comparisons
    (loud,) = versus(runs(multiplier=1.2, pair=0.01), by="recipe").comparisons
    width = [np.log(c.compute[2] / c.compute[1]) for c in (quiet, loud)]
    assert width[1] < 2 * width[0]


def test_horizons_of_one_run_are_not_independent():
    """Trunks that differ by 0.5 % and pairs that differ by less: the interval is that of six sizes, not of 18 runs."""
    for seed in (3, 4, 5, 6):  # four of the first eight: trunks whose luck looks like a difference
        frame = runs(seed, trunk=0.005, noise=3e-4, pair=0.0)
        (known,) = versus(frame, by="recipe").comparisons
        (naive,) = versus(frame.drop(columns="run"), by="recipe").comparisons
        assert known.compute[1] < 1 < known.compute[2]
        assert not naive.compute[1] < 1 < naive.compute[2]
    assert any("continue one run" in note for note in versus(frame, by="recipe").notes)


def test_a_ladder_of_one_ratio_is_a_law_of_compute_and_gives_no_multiplier_of_data():
    result = versus(runs(multiplier=1.3, horizons=(20,), sizes=7, noise=3e-4), by="recipe")
    assert result.law == "E + K/C^γ"
    assert result.comparisons[0].data is None
    assert result.comparisons[0].compute[0] == pytest.approx(1.3, rel=0.05)


def test_the_best_rate_of_each_recipe_counts_and_copies_of_it_do_not():
    frame = runs(multiplier=1.3, noise=3e-4)
    worse = frame.assign(loss=frame["loss"] * 1.02, lr=1e-2, run=frame["run"] + "w")
    result = versus(pd.concat([frame.assign(lr=1e-3), worse], ignore_index=True), by="recipe")
    assert result.comparisons[0].compute == pytest.approx(versus(frame, by="recipe").comparisons[0].compute)
    assert sum("best lr" in note for note in result.notes) == 2


def test_several_recipes_are_judged_at_a_stricter_level_and_the_best_comes_first():
    frame = runs(multiplier=1.2, recipes=("base", "one", "two"), noise=3e-4)
    frame.loc[frame["recipe"] == "two", "loss"] *= 0.99
    result = versus(frame, by="recipe")
    assert [c.recipe for c in result.comparisons] == ["two", "one"]
    assert "97.5 %" in result.report()
    assert list(result.table["recipe"]) == ["two", "one"]


def test_time_counts_where_the_table_has_it():
    frame = runs(multiplier=1.3, noise=3e-4)
    slower = np.where(frame["recipe"] == "changed", 1.3, 1.0)
    (found,) = versus(frame.assign(seconds=frame["N"] * frame["D"] * slower), by="recipe").comparisons
    assert found.time[0] == pytest.approx(found.compute[0] / 1.3, rel=1e-6)


def test_a_multiplier_that_bends_is_said():
    frame = runs(noise=1e-4, pair=0.0)
    c = 6 * frame["N"] * frame["D"]
    frame.loc[frame["recipe"] == "changed", "loss"] *= 1 - 0.01 * np.log10(c / CENTRE) ** 2
    bent = versus(frame, by="recipe")
    assert "multiplier bends" in {w.name for w in bent.warnings}
    assert (bent.comparisons[0].growth, bent.comparisons[0].forecasts) == (None, {})
    assert not versus(runs(multiplier=1.2, growth=1.1), by="recipe").warnings


def test_cannot_tell_says_how_many_pairs_would():
    (found,) = versus(runs(noise=0.01, sizes=4), by="recipe").comparisons
    assert found.verdict == "cannot tell"
    assert "pairs like these would decide it" in found.why


def test_the_result_is_json_and_one_line():
    result = versus(runs(multiplier=1.3, horizons=(20,)), by="recipe")
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["comparisons"][0]["recipe"] == "changed"
    assert "\n" not in repr(result)
    assert all(len(line) < 200 for line in result.report().splitlines())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda f: f.assign(recipe="base"), "one recipe only"),
        (lambda f: f.assign(tokenizer=np.where(f["recipe"] == "base", "bytes", "bpe")), "not comparable"),
        (lambda f: f[f["N"] == f["N"].min()].iloc[:2], "leave nothing to judge"),
        (lambda f: f.drop(columns="recipe"), "unknown column"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, match):
    with pytest.raises(AllometryError, match=match):
        allometry.versus(change(runs()), by="recipe")


def test_losses_per_byte_of_different_tokenizers_are_compared():
    frame = runs(multiplier=1.3, noise=3e-4)
    frame = frame.assign(tokenizer=frame["recipe"], loss_per_byte=frame["loss"])
    (found,) = versus(frame, by="recipe", columns={"loss": "loss_per_byte"}).comparisons
    assert found.compute[0] == pytest.approx(1.3, rel=0.05)


def test_a_run_that_diverged_is_left_out_with_its_reason():
    frame = runs(multiplier=1.3, noise=3e-4)
    frame.loc[3, "loss"] = np.nan
    result = versus(frame, by="recipe", exclude={5: "stopped"})
    assert list(result.excluded.index) == [3, 5]
    assert result.comparisons[0].pairs == 16


def test_sizes_that_nearly_agree_are_pairs_and_the_law_accounts_for_the_rest():
    frame = runs(multiplier=1.3, noise=1e-6, pair=0.01, horizons=(5, 20, 80))
    n, d = frame["N"] * np.where(frame["recipe"] == "base", 1, 1.06), frame["D"]
    exact = frame["loss"] / (E + A / frame["N"] ** ALPHA + B / d**BETA) * (E + A / n**ALPHA + B / d**BETA)
    (found,) = versus(frame.assign(N=n, loss=exact), by="recipe").comparisons
    assert found.pairs == 18
    assert found.compute[0] == pytest.approx(1.3, rel=0.02)


def test_recipes_without_a_common_size_are_compared_by_the_law_and_that_is_said():
    frame = runs(multiplier=1.3, noise=3e-4, pair=0.0)
    sizes = sorted(frame["N"].unique())
    alternating = frame[frame["N"].isin(sizes[::2]) == (frame["recipe"] == "base")]
    result = versus(alternating, by="recipe")
    assert "no pairs" in {w.name for w in result.warnings}
    assert result.comparisons[0].loss is None
    assert result.comparisons[0].compute[1] < 1.3 < result.comparisons[0].compute[2]


def test_rows_with_equal_labels_are_told_apart():
    frame = runs(multiplier=1.3, noise=3e-4)
    same = frame.set_axis([0] * len(frame), axis=0)
    assert (
        versus(same, by="recipe").comparisons[0].compute == versus(frame, by="recipe").comparisons[0].compute
    )
