"""Analyses behind the headline numbers, on runs whose truth is planted: each must give it back.

No losses here come from training. The truths are worked out from the papers' equations, not from the code
under test, or by brute force.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from allometry.core.errors import AllometryError
from allometry.core.units import PF_DAY
from allometry.laws.power_lines import PowerLine
from allometry.studies import batch
from allometry.studies.compute_optimal import chinchilla, compute, frontiers, ladder, reconcile
from allometry.studies.core.study import StudyData, study
from allometry.studies.shared.batches import BatchLaw, Critical

from test_batch import ALPHA, SIZES, synthetic  # isort: skip

FLOOR, A, B, ALPHA_N, BETA = 1.2, 60.0, 900.0, 0.40, 0.55
OMEGA = 30.0
"""Embeddings: N_total = N + 30 √N. FLOPs are 6 N D under every way of counting."""


def inside(value: float, interval: tuple[float, float, float]) -> bool:
    _, low, high = interval
    return low <= value <= high


def counted_runs(seed: int = 0) -> pd.DataFrame:
    """Finished runs of a law of all parameters, E + A/N_total^α + B/D^β, counted in three ways."""
    rng = np.random.default_rng(seed)
    rows = []
    for n in np.geomspace(1e3, 1e6, 10):
        for d in np.geomspace(1e5, 3e8, 12):
            for repeat in range(2 if 1e4 < n < 3e4 else 1):
                total, head = n + OMEGA * n**0.5, n + OMEGA / 2 * n**0.5
                loss = (FLOOR + A / total**ALPHA_N + B / d**BETA) * np.exp(1e-3 * rng.standard_normal())
                rows.append({
                    "run": f"{n:.0f}-{d:.0f}-{repeat}", "seed": repeat, "D": d, "loss": loss,
                    "N": n, "N_head": head, "N_total": total,
                    "C": 6 * n * d, "C_head": 6 * head * d, "C_attention": 6 * total * d,
                })  # fmt: skip
    return pd.DataFrame(rows)


def best_size(compute: float) -> float:
    """Return N, blocks only, of the lowest loss at C = 6ND, blocks only, by trying a million sizes."""
    n = np.geomspace(10, 1e10, 1_000_000)
    loss = A / (n + OMEGA * n**0.5) ** ALPHA_N + B / (compute / (6 * n)) ** BETA
    return float(n[loss.argmin()])


@pytest.fixture(scope="module")
def counted() -> pd.DataFrame:
    return counted_runs()


EVERYTHING, BLOCKS = chinchilla.CONVENTIONS[-1][2], chinchilla.CONVENTIONS[0][2]


def answer(approach: str, *a: float, what: str = EVERYTHING) -> chinchilla.Answer:
    return chinchilla.Answer(approach=approach, convention=what, a=a or None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "agree"),
    [
        ([answer("1: envelope", 0.5, 0.45, 0.55), answer("2: parabolas", 0.6, 0.55, 0.65)], True),
        ([answer("1: envelope", 0.5, 0.45, 0.54), answer("2: parabolas", 0.6, 0.55, 0.65)], False),
        ([answer("1: envelope", 0.5, 0.1, 0.8), answer("2: parabolas", 0.6, 0.2, 0.9)], None),
        ([answer("1: envelope", 0.5, 0.1, 0.8), answer("2: parabolas", 0.6, 0.4, 0.7)], True),
        ([answer("2: parabolas", 0.5, 0.4, 0.6), answer("2: Akima (Porian)", 0.5, 0.4, 0.6)], None),
        ([answer("1: envelope", 0.5, 0.4, 0.6), answer("2: parabolas")], None),
        ([answer("1: envelope", 0.5, 0.4, 0.6), answer("3: parametric", 0.5, 0.4, 0.6, what=BLOCKS)], None),
    ],
)  # fmt: skip
def test_when_approaches_agree(found: list[chinchilla.Answer], agree: bool | None) -> None:
    assert chinchilla.agreement(found, EVERYTHING)[0] is agree


def test_conversion_predicts_the_exponent_of_counting_blocks_only(counted: pd.DataFrame) -> None:
    frame = reconcile.conversion(counted, []).fits["conversion"].set_index("form")
    own = frame.loc["γ = 1/2, as our shapes have it"]
    assert own["ω"] == pytest.approx(OMEGA, rel=1e-9)
    assert own["error"] == pytest.approx(0, abs=1e-9)
    low, high = counted["C"].min(), counted["C"].max()
    truth = np.log(best_size(high) / best_size(low)) / np.log(high / low)
    assert own["predicted a"] == pytest.approx(truth, abs=0.02)
    assert own["low (95 %)"] < truth < own["high (95 %)"]
    assert own["β/(α+β)"] == pytest.approx(BETA / (ALPHA_N + BETA), abs=0.02)
    third = frame.loc["γ = 1/3, as theirs have it"]
    n = counted["N"].unique()
    assert third["ω"] == pytest.approx(np.exp(np.log(OMEGA * n ** (1 / 2 - 1 / 3)).mean()))
    assert third["error"] > 0.01


# Compute at the critical batch: L = (N_c/N)^α_N + (S_c/S_min)^α_S and B_crit = B_star/L^(1/α_B), for which
# C_min = 6 N S_min B_crit and 1/α_C = 1/α_N + 1/α_S + 1/α_B (Kaplan et al. 2020, appendix B).

K_N, K_S, K_B, N_C, S_C, B_STAR = 0.2, 0.6, 0.25, 1e6, 50.0, 4e3
ALPHA_C = 1 / (1 / K_N + 1 / K_S + 1 / K_B)
BATCH = 512


def batch_law(exponent: float = -1 / K_B, at_one: float = B_STAR) -> BatchLaw:
    """Return B_crit = at_one · L^exponent, known to a per cent."""
    rng = np.random.default_rng(0)
    draws = np.column_stack([rng.normal(exponent, 0.02, 200), rng.normal(np.log(at_one), 0.01, 200)])
    line = PowerLine(
        x="L", y="B_crit", center=0.0, slope=exponent, level=float(np.log(at_one)), draws=draws,
        scatter=1.0, x_range=(1.0, 3.0),
    )  # fmt: skip
    return BatchLaw(scans={}, line=line, targets=pd.DataFrame())


@pytest.fixture(scope="module")
def found() -> frontiers.Frontiers:
    """Frontiers of runs at one batch, whose loss is that of S_min steps at the critical batch."""
    rng = np.random.default_rng(0)
    rows = []
    for n in np.geomspace(1e3, 3e6, 11):
        for s_min in np.geomspace(100, 1e6, 14):
            loss = (N_C / n) ** K_N + (S_C / s_min) ** K_S
            critical = B_STAR / loss ** (1 / K_B)
            steps = s_min * (1 + critical / BATCH)
            d = steps * BATCH
            rows.append({
                "run": f"{n:.0f}-{s_min:.0f}", "N": n, "D": d, "C": 6 * n * d, "S": steps, "B": BATCH,
                "seed": 0, "loss": loss * np.exp(1e-3 * rng.standard_normal()),
            })  # fmt: skip
    runs = pd.DataFrame(rows)
    return frontiers.frontiers(runs, runs.head(3), Critical(law=batch_law()))


def test_the_frontier_at_the_critical_batch_has_the_planted_exponents(found: frontiers.Frontiers) -> None:
    fitted = found.get(frontiers.ENDS, "C_min")
    assert fitted.loss.exponent.value == pytest.approx(-ALPHA_C, rel=0.05)
    assert fitted.a.value == pytest.approx(ALPHA_C / K_N, rel=0.06)
    plain = found.get(frontiers.ENDS, "C")
    assert abs(plain.loss.exponent.value + ALPHA_C) > 0.01  # what leaving the batch out would give
    row = found.points[frontiers.ENDS].iloc[100]
    assert row["C_min"] == pytest.approx(6 * row["N"] * row["S_min"] * row["B_crit"], rel=0.02)


def test_the_constants_of_the_compute_laws_are_those_of_the_frontiers(found: frontiers.Frontiers) -> None:
    rows = {row.symbol: row for row in frontiers.loss_reading(found).constants}
    minimum = rows["α_C^min"]
    assert minimum.ours == pytest.approx(ALPHA_C, rel=0.05)
    assert 0 < minimum.low <= minimum.ours <= minimum.high
    assert rows["α_C"].ours == -found.get(frontiers.ENDS, "C").loss.exponent.value
    assert minimum.published["Kaplan 2020"] == 0.050


def test_compute_is_spent_as_the_theory_says(found: frontiers.Frontiers) -> None:
    reading = frontiers.spending(found)
    assert not reading.constants  # they follow from other rows
    assert sum(frontiers.PAPER.values()) == pytest.approx(1)
    exponents = reading.fits["exponents"]
    truth = {"p_N": ALPHA_C / K_N, "p_B": ALPHA_C / K_B, "p_S": ALPHA_C / K_S}
    assert sum(truth.values()) == pytest.approx(1)
    assert sum(value for value, *_ in exponents.values()) == pytest.approx(1)
    for name, value in truth.items():
        assert exponents[name][0] == pytest.approx(value, abs=0.04), name
        assert exponents[name][1] < exponents[name][0] < exponents[name][2]
    assert exponents["p_B"][0] == pytest.approx(4 * -found.get(frontiers.ENDS, "C_min").loss.exponent.value)


def test_the_theory_agrees_with_the_frontier_that_follows_it(found: frontiers.Frontiers) -> None:
    parameters = {"alpha_N": K_N, "alpha_S": K_S, "N_c": N_C, "S_c": S_C}
    samples = pd.DataFrame({name: np.full(50, value) for name, value in parameters.items()})
    law = SimpleNamespace(result=SimpleNamespace(parameters=parameters, samples=samples))
    measured, theory = frontiers.theory(found, {"planted": law}).fits["theory"]  # type: ignore[dict-item]
    for name, truth in (("α_C", ALPHA_C), ("p_N", ALPHA_C / K_N)):
        assert float(theory[name].split()[0]) == pytest.approx(truth, abs=1e-3)
        assert float(measured[name].split()[0]) == pytest.approx(truth, rel=0.06)


def test_excess_compute_of_models_of_the_wrong_size() -> None:
    """Parabolas in log N about a planted best size, one for each loss."""
    parts = []
    for loss, best, least in ((2.0, 3e4, 1e12), (1.8, 9e4, 5e12)):
        n = np.geomspace(1e4, 3e5, 9)
        compute = least * np.exp(0.3 * np.log(n / best) ** 2)
        parts.append(pd.DataFrame({"loss": loss, "N": n, "C_min": compute}))
    edge = pd.DataFrame({"loss": 2.5, "N": np.geomspace(1e4, 3e5, 9), "C_min": np.geomspace(1, 2, 9)})
    table = frontiers._excess(pd.concat([*parts, edge]), "C_min")
    assert set(table["loss"]) == {2.0, 1.8}  # the best size of the third may lie below all
    for loss, best in ((2.0, 3e4), (1.8, 9e4)):
        part = table[table["loss"] == loss]
        assert part["ratio"].to_numpy() == pytest.approx(part["N"].to_numpy() / best)
        assert part["excess"].to_numpy() == pytest.approx(np.exp(0.3 * np.log(part["N"] / best) ** 2))


def test_the_frontier_meets_what_its_data_allow_where_both_laws_give_one_loss(
    found: frontiers.Frontiers,
) -> None:
    fitted = found.get(frontiers.ENDS, "C_min")
    alpha, target = 0.02, fitted.loss.x_range[1] * 1e4
    tokens = 2 * target / (6 * float(fitted.N.predict(target)))  # eq. 6.7
    scale = tokens * float(fitted.loss.predict(target)) ** (1 / alpha)
    samples = pd.DataFrame({"alpha_D": np.full(40, alpha), "D_c": np.full(40, scale)})
    joint = SimpleNamespace(parameters={"alpha_D": alpha, "D_c": scale}, samples=samples)
    reading = compute.crossing(found, joint)
    point, draws = reading.fits["crossing"]
    assert np.log(point) == pytest.approx(np.log(target), abs=1e-6)
    assert np.nanmedian(np.log(draws)) == pytest.approx(np.log(target), abs=0.5)
    assert f"C = {point:.0e} FLOPs ({point / PF_DAY:.0e} PF-days)" in reading.section.text
    steep = SimpleNamespace(parameters={"alpha_D": 2.0, "D_c": scale}, samples=samples)
    assert "do not cross" in compute.crossing(found, steep).section.text


def test_without_a_critical_batch_nothing_is_said_of_the_adjusted_frontier(
    found: frontiers.Frontiers,
) -> None:
    runs = found.points[frontiers.ENDS]
    bare = frontiers.frontiers(runs, runs.head(3), Critical(law=None, reason="no scan"))
    assert set(bare.fits) == {(frontiers.ENDS, "C")}
    assert [problem.partition(":")[0] for problem in bare.problems] == [f"{frontiers.CURVES}, C"]
    with pytest.raises(
        AllometryError, match="no frontier of learning curves against C: learning curves, C: "
    ):
        bare.get(frontiers.CURVES, "C")
    with pytest.raises(AllometryError, match=r"could not be had: no scan"):
        frontiers.adjusted_frontier(bare)


# The ladder: each step's runs follow a law of their own, so that a step cannot read another's unnoticed.

STEEP = {"long": 0.70, "short curves": 0.62, "short": 0.55, "wsd": 0.48}
HEAD = 0.9
"""N_head ∝ N^0.9, and C_head in proportion."""


def ladder_evidence() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Runs and curves of the ladders; in the first tenth of the longest horizon curves say nothing true."""
    runs, curves = [], []
    horizons = np.geomspace(3e6, 1e8, 8)

    def loss(n: float, d: Any, beta: float) -> Any:
        return 1.0 + 0.05 * (6e4 / n) ** (0.4 * HEAD) + 0.05 * (1e7 / np.asarray(d)) ** beta

    for n in np.geomspace(2e3, 2e6, 16):
        size = {"N": n, "N_head": 3 * n**HEAD, "family": "transformer", "B": ladder.BATCH_TOKENS, "seed": 0}
        kinds = [("cosine", 500.0, horizons[-1:], STEEP["long"])]
        kinds += [("cosine", n**0.3, horizons, STEEP["short"]), ("wsd", n**0.3, horizons, STEEP["wsd"])]
        for schedule, warmup, ends, beta in kinds:
            for d in ends:
                run = f"{n:.0f}-{schedule}-{warmup:.0f}-{d:.0f}"
                last = float(loss(n, d, beta))
                counts = {"C": 6 * n * d, "C_head": 6 * size["N_head"] * d}
                runs.append(
                    {
                        "run": run,
                        **size,
                        **counts,
                        "D": d,
                        "schedule": schedule,
                        "warmup": warmup,
                        "loss": last,
                    }
                )
                if d == horizons[-1]:
                    tokens = np.geomspace(1e5, d, 60)
                    along = beta if schedule == "wsd" or warmup == 500.0 else STEEP["short curves"]
                    points = np.where(tokens < ladder.FROM * d, 0.01 * n**0.3, loss(n, tokens, along))
                    curves.append(
                        pd.DataFrame({"run": run, "step": tokens, "tokens": tokens, "loss": points})
                    )
    return pd.DataFrame(runs), pd.concat(curves, ignore_index=True)


def test_every_step_of_the_ladder_reads_its_own_runs_and_counts() -> None:
    found = {rung.name: rung for rung in ladder.rungs(*ladder_evidence(), noise=1e-4)}

    def truth(beta: float, counted: float) -> float:
        """The exponent of N_opt with sizes counted as N^counted: α of the counted size is 0.4·0.9/counted."""
        alpha = 0.4 * HEAD / counted
        return beta / (alpha + beta)

    expected = {
        "long warm-up, one rate, one long cosine; blocks only": truth(STEEP["long"], 1.0),
        "+ FLOPs and parameters of the output matrix": truth(STEEP["long"], HEAD),
        "+ warm-up in proportion to N": truth(STEEP["short curves"], HEAD),
        "+ decay matched to the budget": truth(STEEP["short"], HEAD),
        "+ rate by size (the recipe)": truth(STEEP["wsd"], HEAD),
        "the recipe, blocks only": truth(STEEP["wsd"], 1.0),
    }
    for name, value in expected.items():
        assert found[name].a is not None, found[name].problem
        assert found[name].a[0] == pytest.approx(value, abs=0.012), name
    rows = ladder.ladder(list(found.values()))
    assert [row.ours for row in rows.constants] == [found[name].a[0] for name in list(expected)[:5]]
    assert "none of the runs follows the recipe" in found["the recipe on the grid, blocks only"].problem


# The batch scan and the noise scale beside it.


@pytest.fixture(scope="module")
def scanned() -> tuple[pd.DataFrame, pd.DataFrame]:
    return synthetic()


def test_the_batch_study_answers_with_the_planted_law(scanned: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    runs, curves = scanned
    curves = curves.assign(train_loss=curves["loss"])
    evidence = StudyData(runs=runs, curves=curves, planned=tuple(runs["run"]), command="test")
    analysis = study("batch").analyse(evidence)
    (row,) = [row for row in analysis.constants if row.symbol == "α_B"]
    assert row.ours == pytest.approx(ALPHA, rel=0.1)
    assert row.low < row.ours < row.high
    assert row.published == {"Kaplan 2020": 0.21, "Shehper 2024": 0.235}
    law = batch.critical_batch(runs, curves)
    middle = float(np.exp(law.line.center))
    assert f"At {middle:.2f} nats the critical batch is {float(law(middle)):,.0f} tokens" in analysis.answer
    assert f"goes as L^{law.line.slope:.1f} [" in analysis.answer
    text = " ".join(section.text for section in analysis.sections)
    assert "the larger size (55k) has 1.00 times [1.00, 1.00] the critical batch of the smaller" in text
    assert "Read from the training loss instead, as the paper does, it is 0.99 times" in text
    assert set(law.scans) == set(SIZES)


@pytest.mark.parametrize(
    ("ratio", "rate", "verdict"),
    [(1.0, 0.0, "agrees"), (0.3, 0.0, "differs"), (4.0, 0.0, "differs"), (0.3, 1.0, "cannot tell")],
)
def test_a_planted_ratio_of_noise_scale_to_critical_batch(
    scanned: tuple[pd.DataFrame, pd.DataFrame], ratio: float, rate: float, verdict: str
) -> None:
    runs, curves = scanned
    law = batch.critical_batch(runs, curves)
    low, high = law.losses
    loss = np.geomspace(high * 1.2, low / 1.2, 400)
    near = 1.05  # evaluations are averaged with their neighbours
    within = (loss >= low / near) & (loss <= high * near)
    noisy = []
    for run, off in ((runs["run"].iloc[0], 1.1), (runs["run"].iloc[-1], 1 / 1.1)):
        scale = law(loss) * np.where(within, ratio * off, 50.0)  # what lies outside must not count
        step = np.arange(400) + 11  # after the warm-up of ten
        early = pd.DataFrame({"step": [5, 10], "loss": [2.0, 2.0], "noise_trace": 1e9, "noise_signal": 1.0})
        rest = {"step": step, "loss": loss, "noise_trace": scale / 64 * 0.5, "noise_signal": 0.5, "lr": rate}
        noisy.append(pd.concat([early, pd.DataFrame(rest)]).assign(run=run))
    reading = batch.noise_beside(law, runs, pd.concat([curves, *noisy], ignore_index=True))
    (row,) = reading.constants
    assert row.ours == pytest.approx(ratio, rel=0.04)
    assert row.low < ratio < row.high
    assert row.high / row.low < 1.6
    assert row.verdict == verdict
