"""When a row of the table agrees, differs, or cannot tell: by its interval, to either side of each limit."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from allometry.studies import least_data
from allometry.studies.compute_optimal import chinchilla, ladder
from allometry.studies.core.sections import (
    caveats,
    claim,
    constant,
    design_of,
    estimate,
    heaviest_first,
    mean_estimate,
    means_over_seeds,
    one_law,
    seed_noise,
)
from allometry.studies.memorisation import capacity, planted, texts
from allometry.studies.other_texts import effective_data

TOLD, NOT_TOLD = ("agrees", "differs"), ("cannot tell",)


def around(value: float, width: float) -> tuple[float, float, float]:
    """A value with an interval about it, `width` times as wide as the value is large."""
    return value, value - abs(value) * width / 2, value + abs(value) * width / 2


@pytest.mark.parametrize("value", [0.1, 3.0, -0.5])
@pytest.mark.parametrize("widest", [1.0, 0.8, 4.0])
def test_an_interval_as_wide_as_its_value_tells_nothing(value: float, widest: float) -> None:
    published = {"Paper": 1.1 * value}
    wide, narrow = around(value, 1.01 * widest), around(value, 0.99 * widest)
    assert constant("c", "c", published, narrow, "why", widest=widest).verdict == "agrees"
    assert constant("c", "c", published, wide, "why", widest=widest).verdict == "cannot tell"
    far = {"Paper": 9 * value}
    assert constant("c", "c", far, narrow, "why", widest=widest).verdict == "differs"
    assert constant("c", "c", far, wide, "why", widest=widest).verdict == "cannot tell"


def test_without_a_limit_the_interval_may_be_as_wide_as_its_value() -> None:
    for width, verdict in ((0.99, "agrees"), (1.01, "cannot tell")):
        assert constant("c", "c", {"Paper": 2.0}, around(2.0, width), "why").verdict == verdict


@pytest.mark.parametrize("low_high", [(-math.inf, math.inf), (math.nan, math.nan), (0.1, math.inf)])
def test_an_interval_without_an_end_tells_nothing(low_high: tuple[float, float]) -> None:
    assert constant("c", "c", {"Paper": 1.0}, (1.0, *low_high), "why").verdict == "cannot tell"


def test_the_ends_of_an_interval_belong_to_it_and_the_reason_names_who_is_inside() -> None:
    for value in (0.9, 1.1):
        assert constant("c", "c", {"Paper": value}, (1.0, 0.9, 1.1), "why").verdict == "agrees"
    row = constant("c", "c", {"One": 1.0, "Two": 2.0}, (1.0, 0.9, 1.1), "bytes")
    assert row.why == "the interval holds One, not the others: bytes"
    assert constant("c", "c", {"One": 1.0, "Two": 1.05}, (1.0, 0.9, 1.1), "bytes").why == "bytes"


@pytest.mark.parametrize(
    ("interval", "above", "below"),
    [
        ((2.0, 1.0, 3.0), "agrees", "differs"),
        ((-2.0, -3.0, -1.0), "differs", "agrees"),
        ((1.0, -1.0, 3.0), "cannot tell", "cannot tell"),
        ((1.0, 0.0, 3.0), "cannot tell", "cannot tell"),
    ],
)
def test_a_claim_is_about_the_whole_interval(
    interval: tuple[float, float, float], above: str, below: str
) -> None:
    assert claim("c", "c", interval, "why", above=True).verdict == above
    assert claim("c", "c", interval, "why", above=False).verdict == below


def fitted(loss: Any) -> Any:
    """A ladder of ten sizes at one horizon, whose noise is small beside what parts of it tell."""
    n = np.geomspace(3e3, 1e6, 10)
    noise = np.exp(1e-3 * np.random.default_rng(1).standard_normal(10))
    return one_law(pd.DataFrame({"N": n, "D": 1e7, "loss": loss(n) * noise}), "kaplan-n", "N")


def row_of(law: Any, published: float) -> Any:
    return constant(
        "L(N)", "α_N", {"Paper": published}, estimate(law, "alpha_N"), "why", design=design_of(law, "alpha_N")
    )


def test_a_straight_ladder_agrees_and_a_bent_one_cannot_tell() -> None:
    straight = row_of(fitted(lambda n: 3 * n**-0.076), 0.076)
    assert straight.verdict == "agrees"
    law = fitted(lambda n: 1.2 + 6 * n**-0.3)
    slope = law.parameters["alpha_N"]
    assert estimate(law, "alpha_N")[1] < slope < estimate(law, "alpha_N")[2]
    bent = row_of(law, slope)  # its own slope as the paper's: the interval holds it
    assert bent.verdict == "cannot tell"
    assert "slope of the range" in bent.why
    assert bent.design_high > 2 * bent.design_low


def test_a_difference_needs_both_intervals() -> None:
    fit_alone = (0.15, 0.14, 0.16)
    assert constant("c", "c", {"P": 0.076}, fit_alone, "w").verdict == "differs"
    assert constant("c", "c", {"P": 0.076}, fit_alone, "w", design=(0.13, 0.17)).verdict == "differs"
    assert constant("c", "c", {"P": 0.076}, fit_alone, "w", design=(0.05, 0.17)).verdict == "cannot tell"
    assert constant("c", "c", {"P": 0.15}, fit_alone, "w", design=(0.11, 0.19)).verdict == "agrees"
    assert constant("c", "c", {"P": 0.15}, fit_alone, "w", design=(0.11, 0.21)).verdict == "cannot tell"
    assert (
        constant("c", "c", {"P": 0.15}, fit_alone, "w", design=(0.12, 0.17), margin=0.1).verdict
        == "cannot tell"
    )
    assert (
        constant("c", "c", {"P": 0.15}, fit_alone, "w", design=(math.nan, math.nan)).verdict == "cannot tell"
    )


def test_a_repeated_size_counts_once() -> None:
    n = np.geomspace(1e3, 1e6, 6)
    once = pd.DataFrame({"N": n, "D": 1e7, "seed": 0, "loss": 3 * n**-0.1})
    off = once.iloc[[1] * 4].assign(seed=[1, 2, 3, 4], loss=once["loss"].iloc[1] * np.exp(0.02))
    means = means_over_seeds(pd.concat([once, off], ignore_index=True))
    assert len(means) == 6
    assert means["loss"].iloc[1] == pytest.approx(once["loss"].iloc[1] * np.exp(0.016))
    different = pd.concat([once, off.assign(lr=[1.0, 2.0, 3.0, 4.0])], ignore_index=True)
    assert len(means_over_seeds(different)) == 10


def test_the_noise_between_seeds_is_counted_by_trunks() -> None:
    rng = np.random.default_rng(0)
    seed, d = np.repeat(np.arange(4), 5), np.tile(np.geomspace(1e6, 1e7, 5), 4)
    runs = pd.DataFrame(
        {"N": 1e4, "D": d, "seed": seed, "lr": 0.01, "loss": np.exp(0.01 * rng.standard_normal(20))}
    )
    noise, section = seed_noise(runs)
    assert noise == pytest.approx(np.sqrt(np.log(runs["loss"]).groupby(runs["D"]).var().mean()))
    assert "5 points with 3 degrees of freedom" in section.section.text
    tuned = pd.concat([runs, runs.assign(lr=0.1, loss=9.0, seed=0)])  # another rate is no repeat
    assert seed_noise(tuned)[0] == pytest.approx(noise)


def test_means_have_students_interval() -> None:
    value, low, high = mean_estimate([1.0, 2.0, 3.0])
    assert value == 2
    assert high - value == pytest.approx(4.302653 / math.sqrt(3))  # t of 2 degrees of freedom; deviation 1
    assert value - low == pytest.approx(high - value)


# The limit of each study: what its own rows call too wide.


def verdict_of_chinchilla(width: float) -> str:
    answers = [
        chinchilla.Answer(approach=name, convention=what, a=around(0.5, width))
        for name in ("1: envelope", "2: parabolas")
        for _, _, what in chinchilla.CONVENTIONS
    ]
    return {row.verdict for row in chinchilla.compared(answers).constants}.pop()


def verdict_of_the_ladder(width: float) -> str:
    name = "+ rate by size (the recipe)"
    rung = SimpleNamespace(name=name, a=around(0.5, width))
    (row,) = ladder._constants([rung])  # type: ignore[list-item]
    return row.verdict


def verdict_of_canaries(width: float) -> str:
    """Exposures about a mean of 2, with Student's interval of so many times the mean."""
    half = 2.0 * width / 2
    offsets = np.array([-1.0, 1.0, -1.0, 1.0])
    scale = half / (2.353363 * offsets.std(ddof=1) / 2)  # t of 3 degrees of freedom at 90 %
    end = pd.DataFrame({"N": 1.0, "repeats": 1, "sampled": 2.0 + scale * offsets, "extrapolated": 2.0})
    rows = planted._constants(end, None)
    assert rows[0].high - rows[0].low == pytest.approx(2 * half, rel=1e-3)
    return rows[0].verdict


def verdict_of_worth(width: float) -> str:
    value = {"R_D": 15.4, "R_N": 5.3}
    law: Any = SimpleNamespace(parameters=value, interval=lambda name, level: around(value[name], width)[1:])
    return {row.verdict for row in least_data._worth(law)[0]}.pop()


def verdict_of_transfer(width: float) -> str:
    """D_T = D_F^α N^0.38 at three sizes, whose own slopes lie about 0.18."""
    offsets = np.array([-1.0, 0.0, 1.0])
    half = 0.18 * width / 2
    slopes = 0.18 + offsets * half / (4.302653 / math.sqrt(3))
    points = pd.DataFrame([
        {"N": n, "D_F": d, "D_T": n**0.38 * (d / 1e5) ** slope, "precision": 1.0}
        for n, slope in zip((1e4, 1e5, 1e6), slopes, strict=True)
        for d in np.geomspace(1e4, 1e6, 9)
    ])  # fmt: skip
    alpha, beta = effective_data.exponents(points, "web")
    assert alpha.high - alpha.low == pytest.approx(2 * half, rel=1e-3)
    assert beta.ours == pytest.approx(0.38, abs=0.01)
    return alpha.verdict


def verdict_of_the_most(width: float) -> str:
    """Where text is memorised most, about one, with a geometric interval of so many times its value."""
    log = np.arcsinh(width / 2)
    most = {"rises": True, "falls": True, "most": 3.6, "N_total": 1.0, "at": 1.0}
    peaks = pd.DataFrame([most | {"low": np.exp(-log), "high": np.exp(log)}] * 2)
    _, row = texts._constants(peaks, texts.PUBLISHED, "ours")
    assert row.high - row.low == pytest.approx(width)
    return row.verdict


def verdict_of_capacity(width: float) -> str:
    slope = around(capacity.SLOPE, width)
    (row,) = capacity._constants(pd.DataFrame({"bits per parameter": [1.0]}), slope, None)
    return row.verdict


LIMITS = {
    verdict_of_chinchilla: 0.8,
    verdict_of_the_ladder: 0.8,
    verdict_of_canaries: 0.5,
    verdict_of_worth: 4.0,
    verdict_of_transfer: 1.5,
    verdict_of_the_most: 2.0,
    verdict_of_capacity: 1.0,
}


@pytest.mark.parametrize("verdict", LIMITS, ids=lambda function: function.__name__)
def test_each_study_has_its_limit(verdict: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "_limited", lambda sizes, growth: False)
    assert verdict(0.98 * LIMITS[verdict]) in TOLD
    assert verdict(1.02 * LIMITS[verdict]) in NOT_TOLD


def test_caveats_come_in_the_order_of_their_weight() -> None:
    warnings = [
        SimpleNamespace(name=name, meaning=name, identified="")
        for name in ("outliers", "few-points", "correlation", "lack-of-fit")
    ]
    told = caveats(SimpleNamespace(warnings=warnings), "L(N)")  # type: ignore[arg-type]
    assert heaviest_first([*told, "the text has changed", *told]) == (
        *("L(N): lack-of-fit", "the text has changed", "L(N): few-points", "L(N): outliers"),
    )
