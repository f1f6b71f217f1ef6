"""The recipe by family: sizes, rates, and names of runs that must not change."""

from __future__ import annotations

import pytest

from allometry.core.errors import AllometryError
from allometry.studies.core.study import CONTEXT, learning_rate, rule_rate, small_model, small_run
from allometry.train.config import DataConfig


def test_names_of_the_transformers_runs_stay() -> None:
    """Stored runs are found by their names: whatever the recipe learns, these stay as they are."""
    names = {
        small_run(small_model(n, n_vocab=256), tokens=2_048_000, data=DataConfig(), seed=1).id
        for n in (6_000, 100_000, 1_000_000)
    }
    assert names == {
        "transformer-2x16-sotu-2.05M-s1-86d00df7",
        "transformer-2x64-sotu-2.05M-s1-96a9cdd8",
        "transformer-2x208-sotu-2.05M-s1-f403007d",
    }


@pytest.mark.parametrize("family", ["lstm", "universal"])
def test_ladders_of_other_families_are_monotone_and_near(family: str) -> None:
    targets = [round(10 ** (3.3 + k / 20)) for k in range(60)]
    models = [small_model(n, n_vocab=256, family=family) for n in targets]
    sizes = [model.counts().N for model in models]
    assert sizes == sorted(sizes)
    assert all(abs(size / n - 1) < 0.25 for n, size in zip(targets, sizes, strict=True) if n > 1e5)
    assert all(model.n_ctx == CONTEXT for model in models)


def test_a_universal_ladder_has_the_transformers_sizes() -> None:
    for n in (6_000, 100_000, 1_000_000):
        plain = small_model(n, n_vocab=256)
        for reuse in (1, 2, 4):
            shared = small_model(n, n_vocab=256, family="universal", reuse=reuse)
            assert shared.counts().N == plain.counts().N
            assert shared.counts().flops_blocks == reuse * plain.counts().flops_blocks
            assert learning_rate(shared) == learning_rate(plain)


def test_what_is_fixed_stays_fixed() -> None:
    assert small_model(100_000, n_vocab=256, n_layer=4).shape == "4x48"
    assert small_model(100_000, n_vocab=256, d_model=32).shape == "8x32"
    assert small_model(100_000, n_vocab=256, family="lstm", n_layer=1).shape == "1x112"
    assert small_model(100_000, n_vocab=256, family="lstm", d_model=32).shape == "12x32"
    assert small_model(100_000, n_vocab=256, family="universal", n_layer=8, reuse=8).shape == "8x96r8"
    assert small_model(100_000, n_vocab=256, n_ctx=128).n_ctx == 128
    with pytest.raises(AllometryError, match="unknown model family 'lstn'"):
        small_model(100_000, n_vocab=256, family="lstn")


def test_rates_fall_with_the_width_and_an_lstm_takes_a_higher_one() -> None:
    rates = [rule_rate("lstm", width) for width in (8, 16, 64, 256)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 0.05
    for width in (16, 64, 256):
        assert rule_rate("lstm", width) > 3 * rule_rate("transformer", width)
    run = small_run(small_model(50_000, n_vocab=256, family="lstm"), tokens=100_000, data=DataConfig())
    assert run.train.lr == rule_rate("lstm", 56)
