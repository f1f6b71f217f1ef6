"""The study of learning rates: its design, and planted optima that its reading must find."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from allometry.studies.core.study import StudyData, rule_rate, study
from allometry.studies.rates import FAMILIES, optima, rates
from allometry.train.config import DataConfig

BEST = {"transformer": 1.0, "lstm": 0.5, "universal": 1.8}


def synthetic(factors: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0), noise: float = 0.002) -> StudyData:
    """Parabolas about a best rate of BEST times the rule, at two widths of each family."""
    rng = np.random.default_rng(0)
    rows = []
    for family, best in BEST.items():
        for width in (24, 48):
            rule = rule_rate(family, width)
            for factor in factors:
                log_loss = 0.6 + 0.03 * np.log(factor / best) ** 2 + noise * rng.standard_normal()
                row = {"family": family, "d_model": width, "N": 24 * width**2, "lr": factor * rule}
                rows.append({**row, "run": f"{family}-{width}-{factor}", "loss": np.exp(log_loss)})
    runs = pd.DataFrame(rows).assign(status="done", schedule="wsd", B=512, D=1e6, S=2000, seed=0, unique=1e7)
    return StudyData(runs=runs, curves=pd.DataFrame(), planned=tuple(runs["run"]))


@pytest.mark.parametrize("compute", [1e11, 1.6e13])
def test_every_family_has_two_sizes_about_its_rule(compute: float) -> None:
    runs = rates(compute, DataConfig())
    for family in FAMILIES:
        own = [run for run in runs if run.model.family == family]  # type: ignore[attr-defined]
        assert len({run.model.counts().N for run in own}) == 2
        for shape in {run.model.shape for run in own}:
            tried = [run.train.lr for run in own if run.model.shape == shape]
            rule = rule_rate(family, own[0].model.d_model)  # type: ignore[attr-defined]
            assert min(tried) < rule < max(tried)
            assert len(set(tried)) >= 3
    assert len({run.train.tokens for run in runs}) == 1


def test_planted_optima_are_found_with_their_cost() -> None:
    found = optima(synthetic().runs)
    assert len(found) == 6
    hits = 0
    for each in found:
        planted = BEST[each.family] * each.rule
        low, high = each.best.interval(0.95)
        hits += low <= planted <= high
        assert each.best.value == pytest.approx(planted, rel=0.15)
        assert each.cost.value == pytest.approx(np.expm1(0.03 * np.log(BEST[each.family]) ** 2), abs=0.005)
        assert each.inside
    assert hits >= 5  # of six intervals of 95 %


def test_a_rule_that_costs_more_than_a_percent_is_warned_of() -> None:
    analysis = study("rates").analyse(synthetic())
    costly = [warning for warning in analysis.warnings if "costs" in warning]
    assert costly
    assert not any(warning.startswith("transformer") for warning in costly)
    assert not analysis.constants  # the rule is ours: no paper to compare with
    (table,) = (e for s in analysis.sections for e in s.evidence if e.name == "best-rate-against-width")
    assert set(table.frame["family"]) == set(FAMILIES)
    assert len(analysis.sections) == 2


def test_a_best_rate_at_the_edge_is_not_extrapolated() -> None:
    found = {each.family: each for each in optima(synthetic(factors=(0.25, 0.5, 1.0)).runs)}
    assert not found["universal"].inside
    assert found["universal"].best.value == pytest.approx(found["universal"].rule)


def test_families_without_rates_are_named() -> None:
    evidence = synthetic()
    runs = evidence.runs.assign(status=np.where(evidence.runs["family"] == "lstm", "diverged", "done"))
    analysis = study("rates").analyse(StudyData(runs=runs, curves=evidence.curves, planned=evidence.planned))
    assert any("lstm" in warning for warning in analysis.warnings)
    nothing = study("rates").analyse(StudyData(runs=runs[:2], curves=evidence.curves, planned=()))
    assert "nothing can be said" in nothing.answer
