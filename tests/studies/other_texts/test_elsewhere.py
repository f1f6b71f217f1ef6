"""The study of other distributions: planted exponents of loss and of transfer are found again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from allometry.core.errors import AllometryError
from allometry.report.build import Analysis
from allometry.studies.core.study import StudyData, study
from allometry.studies.other_texts.effective_data import arms, data_needed, effective
from allometry.studies.other_texts.elsewhere import pairs
from allometry.studies.other_texts.transfers import ENOUGH, SEEDS, transfers
from allometry.train.config import DataConfig

K, ALPHA, BETA = 40.0, 0.2, 0.5
KAPPA = {
    "stdlib": 0.5,
    "shakespeare": 0.9,
    "web-bible": 1.0,
    "milton": 0.95,
    "synthetic:zipf,bytes=300k": 0.2,
}
SIZES = (6_000, 15_000, 40_000, 100_000)
HORIZON = 2.6e6
SETS = tuple(round(HORIZON / 2**k) for k in range(2, 9))


def _scratch(n: float, d: float) -> float:
    """Kaplan's L(N, D), the early-stopped loss from scratch."""
    return float(((2e7 / n) ** 0.5 + 2e5 / d) ** 0.2)


def _before(n: float, d: float) -> float:
    """The loss of the data that the planted law makes of d; too many data have ossified the smallest."""
    worse = 1.02 if n == SIZES[0] and d > max(SETS) else 1.0
    return worse * _scratch(n, d + K * d**ALPHA * n**BETA)


def _row(run: str, n: float, loss: float, **settings: object) -> dict[str, object]:
    usual = {"D": HORIZON, "unique": 1e7, "corpus": "sotu", "seed": 0, "limit": np.nan, "init_from": None}
    rest = {"early_stop": np.nan, "S": 5000, "B": 512, "warmup": 100, "status": "done"}
    return {"run": run, "N": n, "loss": loss, **usual, **rest, **settings}


def _tested(
    run: str, n: float, factor: float, rng: np.random.Generator, **settings: object
) -> dict[str, object]:
    here = 3 * n**-0.08 * factor * np.exp(0.001 * rng.standard_normal())
    there = {f"loss_{k}": 1.7 * here**v * np.exp(0.001 * rng.standard_normal()) for k, v in KAPPA.items()}
    return _row(run, n, here, **there, **settings)


def synthetic(noise: float = 0.0005, seed: int = 0) -> StudyData:
    """Runs of both designs: a ladder tested elsewhere with its curves, and the three arms of transfer."""
    rng = np.random.default_rng(seed)
    rows, curves = [], []
    for n in (4e3, 9e3, 2e4, 4e4, 9e4, 2e5):
        rows.append(_tested(f"ladder-{n:.0f}", n, 1.0, rng, D=4e6))
        for step in np.geomspace(210, 8000, 12).round():
            point = _tested(f"ladder-{n:.0f}", n, 1 + 40 / step, rng)
            curves.append({k: v for k, v in point.items() if k.startswith(("run", "loss"))} | {"step": step})
    for n in SIZES:
        for share in (0.25, 0.5, 1):
            rows.append(_tested(f"first-{n}-{share}", n, share**-0.05, rng, D=2 * HORIZON * share))
        for d in (*SETS, 1e7):
            for arm, law in (("scratch", _scratch), ("before", _before)):
                limit = np.nan if d > max(SETS) else d
                for again in range(3 if n == SIZES[0] and np.isnan(limit) else 1):
                    settings = {"limit": limit, "unique": d, "early_stop": 3, "corpus": "stdlib",
                                "seed": again, "init_from": None}  # fmt: skip
                    if arm == "before":
                        settings["init_from"] = f"first-{n}-1"
                    run = f"{arm}-{n}-{d:.0f}-{again}"
                    loss = law(n, d) * np.exp(noise * rng.standard_normal())
                    rows.append(_row(run, n, loss, **settings))
                    curves += [{"run": run, "step": s, "loss": loss * f, "train_loss": loss}
                               for s, f in ((32, 1.1), (64, 1.0), (91, 1.01), (128, 1.02))]  # fmt: skip
    runs = pd.DataFrame(rows)
    return StudyData(runs=runs, curves=pd.DataFrame(curves), planned=tuple(runs["run"]))


@pytest.fixture(scope="module")
def evidence() -> StudyData:
    return synthetic()


@pytest.fixture(scope="module")
def analysis(evidence: StudyData) -> Analysis:
    return study("elsewhere").analyse(evidence)


def test_a_planted_transfer_law_is_found(analysis: Analysis) -> None:
    rows = {row.symbol: row for row in analysis.constants if row.name.startswith("transfer")}
    assert rows["α"].low <= ALPHA <= rows["α"].high
    assert rows["β"].low <= BETA <= rows["β"].high
    assert rows["β"].ours == pytest.approx(BETA, abs=0.1)
    (methods,) = (t for s in analysis.sections for t in s.evidence if t.name == "transfer-exponents-stdlib")
    joint = methods.frame  # type: ignore[union-attr]
    k = joint[joint["parameter"] == "k"].iloc[0]
    assert k["low"] <= K <= k["high"]
    assert "D_T = k" in analysis.answer


def test_lines_elsewhere_have_their_exponents(analysis: Analysis) -> None:
    (figure,) = (f for s in analysis.sections for f in s.evidence if f.name == "exponents-elsewhere")
    table = figure.table[figure.table["kind"] == "point"]  # type: ignore[union-attr]
    assert set(table["series"]) == {"by size", "by data", "by training"}
    for _, row in table.iterrows():
        assert row["kappa"] == pytest.approx(KAPPA[row["distribution"]], abs=0.06)
    (lines,) = (t for s in analysis.sections for t in s.evidence if t.name == "lines-elsewhere")
    leaves = lines.frame.set_index("distribution")["leaves the line"]  # type: ignore[union-attr]
    assert "less than in proportion" in leaves["stdlib"]
    assert leaves["web-bible"] == "no"
    assert "rank correlation" in analysis.answer


def test_ossification_is_seen_where_it_was_planted(evidence: StudyData, analysis: Analysis) -> None:
    (row,) = (r for r in analysis.constants if "ossification" in r.name)
    assert row.verdict == "agrees"
    assert row.low <= 100 * np.log(1.02) <= row.high
    found = pairs(arms(evidence.runs, evidence.curves))
    low = found[found["D"] < 2e4]
    assert (low["percent"] < 0).all()


def test_what_has_no_place_on_the_curve_is_listed(evidence: StudyData, analysis: Analysis) -> None:
    points = effective(arms(evidence.runs, evidence.curves))
    assert (points.loc[points["use"] != "fitted", "use"] != "").all()
    better = points["use"] == "better than from scratch on the largest set"
    assert better.any()
    assert points.loc[better, "D_E"].isna().all()
    (lost,) = (t for s in analysis.sections for t in s.evidence if t.name == "not-placed-stdlib")
    assert len(lost.frame) == (points["use"] != "fitted").sum()  # type: ignore[union-attr]


def test_one_size_identifies_no_exponent_of_size(evidence: StudyData) -> None:
    runs = evidence.runs
    two = runs[(runs["corpus"] == "sotu") | (runs["N"] <= SIZES[1])]
    analysis = study("elsewhere").analyse(replace(evidence, runs=two))
    (row,) = (r for r in analysis.constants if r.symbol == "β")
    assert row.verdict == "cannot tell"
    assert "β is not identified" in analysis.answer
    one = runs[(runs["corpus"] == "sotu") | (runs["N"] == SIZES[0])]
    assert any("have a place" in w for w in study("elsewhere").analyse(replace(evidence, runs=one)).warnings)


def test_without_further_training_the_lines_are_still_read(evidence: StudyData) -> None:
    runs = evidence.runs.copy()
    runs.loc[runs["init_from"].notna(), "status"] = "diverged"
    analysis = study("elsewhere").analyse(replace(evidence, runs=runs))
    assert "leave the line" in analysis.answer
    assert any("starts from another" in warning for warning in analysis.warnings)
    assert analysis.excluded is not None
    assert set(analysis.excluded["reason"]) == {"diverged"}


def test_targets_that_could_not_be_had_are_named_with_their_command(analysis: Analysis) -> None:
    assert any("`allometry data prepare shakespeare` fetches it" in w for w in analysis.warnings)
    assert any("another language" in w and "allometry data prepare hf:" in w for w in analysis.warnings)


def test_a_curve_is_inverted_monotonously_and_nowhere_else() -> None:
    sets, losses = pd.Series([1e4, 2e4, 4e4, 8e4]), pd.Series([3.0, 2.5, 2.6, 2.0])
    found = data_needed(sets, losses, np.array([3.0, 2.5, 2.2, 2.0, 3.1, 1.9]))
    assert found[[0, 1, 3]] == pytest.approx([1e4, 2e4, 8e4])
    assert 2e4 < found[2] < 8e4
    assert np.isnan(found[4:]).all()
    with pytest.raises(AllometryError, match="losses fall"):
        data_needed(sets[:2], pd.Series([2.0, 2.1]), np.array([2.0]))


@pytest.mark.parametrize("compute", [2e11, 5e13])
def test_both_arms_see_nested_sets_and_parents_are_asked_for(compute: float) -> None:
    runs = transfers(compute, DataConfig())
    known = {run.id: run for run in runs}
    tuned = [run for run in runs if run.train.init_from]
    assert {run.train.init_from for run in tuned} <= set(known)
    assert all(known[run.train.init_from].model == run.model for run in tuned if run.train.init_from)
    for n in {run.model.counts().N for run in runs}:
        sets = {
            arm: {r.data.limit for r in runs if n == r.model.counts().N and r.train.early_stop
                  and bool(r.train.init_from) == arm}
            for arm in (True, False)
        }  # fmt: skip
        assert sets[True] < sets[False]
        assert None in sets[True]
    wanted = {run.data.corpus for run in tuned}
    assert wanted == {"stdlib"} if compute < ENOUGH else {"stdlib", "shakespeare"}
    assert {run.train.seed for run in tuned} == set(range(SEEDS if compute >= ENOUGH else 1))


def test_the_design_says_when_it_is_too_small() -> None:
    with pytest.raises(AllometryError, match="too few"):
        transfers(1e10, DataConfig())
