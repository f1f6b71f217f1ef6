"""Studies of the compute-optimal size, called whole on planted runs: their constants must be the planted ones.

The runs are those that each study asks for; their losses come from a known law of N, D or steps, with a little
noise. Where a count of parameters or FLOPs bends a frontier, its exponent is found by trying a million sizes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from allometry.report.build import Analysis, Constant
from allometry.studies.compute_optimal import learning_curves
from allometry.studies.compute_optimal.frontiers import _gap, _gap_text
from allometry.studies.compute_optimal.ladder import ladders
from allometry.studies.core.study import StudyData, study
from allometry.studies.shared.basic_laws import CONVENTIONS
from allometry.studies.shared.batches import batches
from allometry.studies.shared.grid import bare_grid, grid
from allometry.train.config import DataConfig

Row = dict[str, Any]
Plant = Callable[..., StudyData]


def rows(analysis: Analysis) -> dict[str, Constant]:
    """Constants by name."""
    return {row.name: row for row in analysis.constants}


def holds(row: Constant, truth: float, widest: float) -> None:
    """Check that the interval has the planted value, and is no wider than a sound analysis needs."""
    assert row.low <= truth <= row.high, (row.name, truth)
    assert row.low < row.ours < row.high, row.name
    assert row.high - row.low < widest, row.name


# L = E + (A/N_total)^α + (B/D)^β of all parameters: the frontier is β/(α + β) where everything is counted.

E, A, B, ALPHA, BETA = 0.8, 3e3, 1e5, 0.40, 0.45


def chinchilla_law(row: Row, tokens: Any) -> Any:
    return E + (A / row["N_total"]) ** ALPHA + (B / np.asarray(tokens, float)) ** BETA


def counted_chinchilla(seed: int, plant: Plant) -> StudyData:
    return plant(grid(2e14, DataConfig()), chinchilla_law, noise=0.002, seed=seed)


def exponent(runs: Any, counted: tuple[str, str], window: tuple[float, float]) -> float:
    """Return the planted slope of log N_opt in log C over a window of C, in these columns of N and C."""
    one = runs.iloc[0]
    width = one["N"] ** 0.5  # two layers: N = 24 d²; all else is proportional to d

    def beside(column: float, blocks: float) -> float:
        return float((column - blocks) / width)

    per_token = one[counted[1]] / (6 * one["D"])
    n = np.geomspace(1e3, 1e7, 50_000)
    every = n + beside(one["N_total"], one["N"]) * n**0.5
    flops = 6 * (n + beside(per_token, one["N"]) * n**0.5)
    shown = n + beside(one[counted[0]], one["N"]) * n**0.5
    best = [shown[((A / every) ** ALPHA + (B / (c / flops)) ** BETA).argmin()] for c in window]
    return float(np.log(best[1] / best[0]) / np.log(window[1] / window[0]))


# The learning curves' law, L = (N_c/N)^α_N + (S_c/S_min)^α_S, with B_crit = B_STAR/L^(1/α_B).

K_N, K_S, K_B, N_C, S_C, B_STAR = 0.3, 0.6, 0.25, 2.4e4, 300.0, 4e3
ALPHA_C = 1 / (1 / K_N + 1 / K_S + 1 / K_B)


def adjusted_law(row: Row, tokens: Any) -> Any:
    """Return the loss after so many tokens at the run's batch, by halving the interval that holds it."""
    steps = np.asarray(tokens, float) / row["B"]
    low, high = np.full(steps.shape, 1e-2), np.full(steps.shape, 1e3)
    for _ in range(60):
        loss = np.sqrt(low * high)
        s_min = steps / (1 + B_STAR / loss ** (1 / K_B) / row["B"])
        above = (N_C / row["N"]) ** K_N + (S_C / s_min) ** K_S > loss
        low, high = np.where(above, loss, low), np.where(above, high, loss)
    return np.sqrt(low * high)


def at_batches(seed: int, plant: Plant) -> StudyData:
    data = DataConfig()
    return plant([*bare_grid(3.75e13, data), *batches(1.25e13, data)], adjusted_law, noise=0.002, seed=seed)


def laddered(seed: int, plant: Plant) -> StudyData:
    data = DataConfig()
    return plant([*grid(5.6e13, data), *ladders(2.4e13, data)], chinchilla_law, noise=0.001, seed=seed)


def shown(analysis: Analysis, name: str) -> Any:
    """Return the numbers of the figure or table of that name."""
    (item,) = (e for s in analysis.sections for e in s.evidence if e.name == name)
    return item.table if hasattr(item, "table") else item.frame


def answered(analysis: Analysis) -> None:
    """Check that every section has an answer."""
    assert not [s.text for s in analysis.sections if "could not be answered" in s.text]


# Chinchilla


@pytest.fixture(scope="module")
def chinchilla_runs(planted: Plant) -> StudyData:
    return counted_chinchilla(1, planted)


@pytest.fixture(scope="module")
def chinchilla(chinchilla_runs: StudyData) -> Analysis:
    return study("chinchilla").analyse(chinchilla_runs)


APPROACHES = {"1: envelope": 0.2, "2: parabolas": 0.3, "2: Akima (Porian)": 0.3, "3: parametric": 0.06}
"""Approach -> how wide its interval may be."""


def test_every_approach_finds_the_planted_frontier(chinchilla: Analysis) -> None:
    answered(chinchilla)
    found = rows(chinchilla)
    for approach, widest in APPROACHES.items():
        holds(found[f"N_opt ∝ C^a, approach {approach}"], BETA / (ALPHA + BETA), widest)
    holds(found["parametric fit, size"], ALPHA, 0.03)
    holds(found["parametric fit, tokens"], BETA, 0.08)
    assert found["parametric fit, size"].verdict == "differs"  # from .339 and .348
    assert len(found) == len(APPROACHES) + 2
    assert "The approaches agree within their intervals" in chinchilla.answer
    assert "Agreement within wide intervals is weak" in str(chinchilla.next)
    text = chinchilla.sections[2].text
    own = found["parametric fit, tokens"]
    assert f"β = {own.ours:.2f} [{own.low:.2f}, {own.high:.2f}]" in text
    assert f"E = {E:.2f}" in text


def test_each_way_of_counting_has_its_own_exponent(chinchilla: Analysis, chinchilla_runs: StudyData) -> None:
    table = shown(chinchilla, "approaches").set_index("approach")
    window = 2e12, 1e13
    truths = [exponent(chinchilla_runs.runs, (n, c), window) for n, c, _ in CONVENTIONS]
    assert truths == sorted(truths, reverse=True)
    assert truths[0] > truths[2] + 0.03
    assert truths[2] == pytest.approx(BETA / (ALPHA + BETA), abs=0.005)
    for (_, _, what), truth in zip(CONVENTIONS, truths, strict=True):
        value, low, high = numbers(table.loc["2: parabolas", what])
        assert low <= truth <= high, what
        assert value == pytest.approx(truth, abs=0.1), what  # four sizes about each optimum


def numbers(text: str) -> list[float]:
    """Return value, low and high of "0.53 [0.51, 0.55]"."""
    return [float(part.strip("[],")) for part in text.split()]


# Compute and time


@pytest.fixture(scope="module")
def batch_runs(planted: Plant) -> StudyData:
    return at_batches(0, planted)


@pytest.fixture(scope="module")
def compute(batch_runs: StudyData) -> Analysis:
    return study("compute").analyse(batch_runs)


def fixed_batch(compute: float) -> tuple[float, float]:
    """Return the best size and its loss at C = 6ND with batches of 512 tokens."""
    n = np.geomspace(1e3, 1e6, 2000)
    loss = adjusted_law({"N": n, "B": 512.0}, compute / (6 * n))
    best = int(loss.argmin())
    return float(n[best]), float(loss[best])


def test_frontiers_at_one_batch_and_at_the_best_one(compute: Analysis) -> None:
    answered(compute)
    found = rows(compute)
    points = shown(compute, "loss-against-compute")
    ends = points[points["series"] == "fixed batch, against C"]["C"]
    window = float(ends.min()), float(ends.max())
    (small, high), (large, low) = (fixed_batch(c) for c in window)
    span = np.log(window[1] / window[0])
    holds(found["loss along the frontier of C"], np.log(high / low) / span, 0.03)
    holds(found["N_opt ∝ C^p"], np.log(large / small) / span, 0.3)
    holds(found["loss along the frontier of C_min"], ALPHA_C, 0.03)
    holds(found["N_opt ∝ C_min^p"], ALPHA_C / K_N, 0.35)
    assert found["loss along the frontier of C_min"].verdict == "differs"
    assert found["loss along the frontier of C"].verdict == "cannot tell"  # C and C_min are one measurement
    row = found["loss along the frontier of C_min"]
    assert f"α_C^min = {row.ours:.3f} [{row.low:.3f}, {row.high:.3f}] (Kaplan: 0.050)" in compute.answer


def test_theory_with_the_planted_constants_is_the_frontier(compute: Analysis) -> None:
    table = shown(compute, "theory").set_index("from")
    for start in ("from the paper's start", "past the plateau"):
        for name, truth in (("α_C", ALPHA_C), ("p_N", ALPHA_C / K_N)):
            value, low, high = numbers(table.loc[f"theory, L(N, S_min) {start}", name])
            assert low <= truth <= high, (start, name)
            assert value == pytest.approx(truth, rel=0.06), (start, name)
            assert high - low < 0.3 * truth, (start, name)


def test_models_of_the_wrong_size_cost_what_the_law_says(compute: Analysis) -> None:
    """Compute at the critical batch to reach a loss, over the least: S_min is found from the law."""
    table = shown(compute, "wrong-size")
    points = table[table["series"] == "measured"]
    n = np.geomspace(1e3, 1e6, 20_000)
    for loss, part in points.groupby("loss"):
        known = n[(N_C / n) ** K_N < float(str(loss))]
        flops = known * (float(str(loss)) - (N_C / known) ** K_N) ** (-1 / K_S)
        truth = np.interp(np.log(part["N"]), np.log(known), flops / flops.min())
        assert part["excess"].to_numpy() == pytest.approx(truth, rel=0.12)
        assert part["ratio"].to_numpy() == pytest.approx(part["N"] / known[flops.argmin()], rel=0.2)
    assert points["excess"].max() > 1.5


def test_a_hull_is_held_against_a_frontier_where_both_have_points() -> None:
    """The losses bend, so that power laws through different ranges would show another gap."""

    def bent(low: float, high: float, factor: float) -> pd.DataFrame:
        compute = np.geomspace(low, high, 40)
        return pd.DataFrame({"C": compute, "loss": factor * (1 + 1e3 * compute**-0.3)})

    hull, ends = bent(1e9, 1e12, 1.03), bent(3e11, 1e13, 1.0)
    found = _gap(hull, ends)
    assert found == pytest.approx((0.03, (3e11 * 1e12) ** 0.5), rel=0.01)
    assert "lies 3.0 % above the frontier" in _gap_text(*found)
    assert _gap(ends, hull)[0] == pytest.approx(1 / 1.03 - 1, rel=0.01)
    below = _gap_text(*_gap(ends, hull))
    assert "lies 2.9 % below" in below
    assert "gains" not in below
    assert _gap(bent(1e9, 1e11, 1.0), ends) is None


@pytest.fixture(scope="module")
def time(batch_runs: StudyData) -> Analysis:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning_curves, "DRAWS", 4)  # a quarter of the refits, which take most of the time
        return study("time").analyse(batch_runs)


def test_learning_curves_have_the_planted_exponents(time: Analysis) -> None:
    answered(time)
    found = rows(time)
    assert len(found) == 6
    for name, row in found.items():
        of_size = name.endswith("size")
        holds(row, K_N if of_size else K_S, 0.06 if of_size else 0.25)
        assert row.ours == pytest.approx(K_N if of_size else K_S, rel=0.04), name
        if name.startswith("learning curves"):
            assert row.verdict == "cannot tell", name  # at a constant rate
        elif of_size:
            assert row.verdict == "differs", name  # .077 is far away
    for part in ("paper", "late", "ends"):
        steps = list(found.values())[2 * ("paper", "late", "ends").index(part) + 1]
        assert f"α_S = {steps.ours:.2f} [{steps.low:.2f}, {steps.high:.2f}]" in time.answer
    assert "change places" not in time.answer


def test_no_start_moves_the_exponents_of_curves_without_a_plateau(time: Analysis) -> None:
    table = shown(time, "starts")
    starts = [f"update {start} on" for start in (200, 500, 1000, 2000)]
    assert list(table["points from"]) == [*starts, "decayed ends of all horizons"]
    assert (table["residual"] < 0.004).all()  # the noise is 0.2 %
    assert table["α_N"].to_numpy() == pytest.approx(K_N, rel=0.05)
    assert table["α_S, floor"].to_numpy() == pytest.approx(K_S, rel=0.05)
    assert (table["points"].diff().iloc[1:4] < 0).all()


def test_larger_models_need_as_many_fewer_tokens_as_the_law_says(time: Analysis) -> None:
    text = time.sections[3].text
    level, gain, span = (
        float(re.findall(pattern, text)[0])
        for pattern in (r"loss of ([\d.]+)", r"needs ([\d.]+) times", r"smallest, (\d+) times")
    )
    sizes = shown(time, "tokens-to-reach-a-loss")["N"]
    ratio = min(((a, b) for a in sizes for b in sizes if a > b), key=lambda p: abs(p[0] / p[1] - span))
    left = [(level - (N_C / n) ** K_N) ** (-1 / K_S) for n in ratio]
    assert gain == pytest.approx(left[1] / left[0], rel=0.05)


# Reconcile


@pytest.fixture(scope="module")
def ladder_runs(planted: Plant) -> StudyData:
    return laddered(0, planted)


@pytest.fixture(scope="module")
def reconcile(ladder_runs: StudyData) -> Analysis:
    return study("reconcile").analyse(ladder_runs)


def test_a_ladder_moves_by_what_is_counted_and_by_nothing_else(
    reconcile: Analysis, ladder_runs: StudyData
) -> None:
    """All schedules follow one law here, so that steps of training move nothing, and counting does."""
    answered(reconcile)
    counted = {"blocks": ("N", "C"), "everything": ("N_total", "C_attention")}
    table = shown(reconcile, "steps")
    assert len(table) == 9
    off = []
    for step in table.to_dict("records"):
        columns = next((v for k, v in counted.items() if k in step["step"]), ("N_head", "C_head"))
        truth = exponent(ladder_runs.runs, columns, (step["C from"], step["C to"]))
        off.append(max(step["low (95 %)"] - truth, truth - step["high (95 %)"], 0))
        assert step["high (95 %)"] - step["low (95 %)"] < 0.25, step["step"]
    assert max(off) < 0.02
    assert sum(x > 0 for x in off) <= 1
    by_step = {row.name.removeprefix("N_opt ∝ C^a, "): row for row in reconcile.constants}
    published = table.dropna(subset=["a, Porian et al. 2024"])
    assert [by_step[name].ours for name in published["step"]] == list(published["a"])
    assert by_step["long warm-up, one rate, one long cosine; blocks only"].verdict == "differs"  # from .835
    assert by_step["+ rate by size (the recipe)"].verdict == "agrees"  # with .497
    assert "The intervals of the two ends overlap" in reconcile.sections[0].text


def test_counting_alone_predicts_the_exponent_of_blocks(reconcile: Analysis, ladder_runs: StudyData) -> None:
    steps = shown(reconcile, "steps").set_index("step").loc["the recipe on the grid, blocks only"]
    truth = exponent(ladder_runs.runs, ("N", "C"), (steps["C from"], steps["C to"]))
    row = shown(reconcile, "conversion").iloc[0]
    assert row["low (95 %)"] <= truth <= row["high (95 %)"]
    assert row["predicted a"] == pytest.approx(truth, abs=0.015)
    assert row["β/(α+β)"] == pytest.approx(BETA / (ALPHA + BETA), abs=0.02)
    assert row["error"] == pytest.approx(0, abs=1e-9)
    assert row["high (95 %)"] - row["low (95 %)"] < 0.05
    assert "which agrees with it" in reconcile.sections[1].text
    assert f"from {row['β/(α+β)']:.2f} to {row['predicted a']:.2f} in our range" in reconcile.answer
