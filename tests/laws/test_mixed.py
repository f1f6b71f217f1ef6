"""Tables that hold runs of several laws are told, and single laws are not suspected."""

import numpy as np
import pandas as pd
import pytest

import allometry
from allometry.core.errors import AllometryError
from allometry.laws.isoflop import isoflop


def grid(seed=0, noise=0.002):
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(2e8, 2e10, 5)))
    loss = 1.75 + 320 / n**0.33 + 900 / d**0.35
    loss = loss * np.exp(noise * np.random.default_rng(seed).standard_normal(len(n)))
    return pd.DataFrame({"N": n, "D": d, "loss": loss})


def two(frame, factor):
    other = frame.assign(loss=frame["loss"] * factor)
    return pd.concat([frame.assign(corpus="c4"), other.assign(corpus="pile")], ignore_index=True)


def mixed(result):
    return [w for w in result.warnings if w.name == "mixed-runs"]


def test_two_corpora_in_one_table_are_told_apart():
    result = allometry.fit(two(grid(), 0.8), law="chinchilla", bootstrap=0)
    assert len(mixed(result)) == 1
    assert "'corpus'" in mixed(result)[0].meaning
    assert result.status == "doubtful"


def test_words_that_say_nothing_of_the_loss_are_not_suspected():
    for seed in range(10):
        draw = np.random.default_rng(seed)
        frame = grid(seed).assign(
            gpu=draw.choice(["a100", "h100"], 30),
            node=draw.choice(["x", "y", "z"], 30),
            model=lambda f: (f["N"] / 1e6).round().astype(str) + "M",
        )
        assert not mixed(allometry.fit(frame, law="chinchilla", bootstrap=0))


def slices():
    rows = []
    for compute in np.geomspace(1e18, 1e20, 5):
        for n in 0.3 * np.sqrt(compute / 6) * 10 ** np.linspace(-0.6, 0.6, 7):
            d = compute / 6 / n
            rows.append((n, d, compute, 1.75 + 320 / n**0.33 + 900 / d**0.35))
    frame = pd.DataFrame(rows, columns=["N", "D", "C", "loss"])
    return frame.assign(
        loss=frame["loss"] * np.exp(0.001 * np.random.default_rng(0).standard_normal(len(frame)))
    )


def test_isoflop_of_two_corpora_is_warned_of():
    assert not mixed(isoflop(slices().assign(corpus="c4"), bootstrap=20))
    assert len(mixed(isoflop(two(slices(), 0.8), bootstrap=20))) == 1


@pytest.mark.parametrize("bootstrap", [-1, 0, 1])
def test_isoflop_without_resamples_is_refused(bootstrap):
    with pytest.raises(AllometryError, match="at least 2"):
        isoflop(slices(), bootstrap=bootstrap)
