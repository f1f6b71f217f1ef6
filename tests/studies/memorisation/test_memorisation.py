"""The study of memorisation: what is planted in made-up losses of single sequences is read out of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import skew, skewnorm

from allometry.runs.measurements import PROBE_COLUMNS
from allometry.studies.core.study import StudyData, study
from allometry.studies.memorisation.capacity import _growth, capacity, memorised, saturated
from allometry.studies.memorisation.documents import end_losses, halves, influence, memorisation, split_half
from allometry.studies.memorisation.forgetting import baselines, injected, injected_passages, retained
from allometry.studies.memorisation.planted import (
    _moments,
    by_distribution,
    by_rank,
    canaries,
    extracted,
    log_linear,
    shares,
)
from allometry.studies.memorisation.planted import planted as planted_design
from allometry.studies.memorisation.probed import at_end
from allometry.train.config import DataConfig, RunConfig

BITS = 3.64
Row = dict[str, Any]


def evidence(configs: Sequence[RunConfig], probe: Callable[[RunConfig], list[Row]]) -> StudyData:
    """Finished runs of these configurations, with the probes that `probe` makes up for each."""
    runs, rows = [], []
    for config in configs:
        counts = config.model.counts()
        runs.append(
            {
                "run": config.id, "status": "done", "N": counts.N, "N_total": counts.N_total, "loss": 2.0,
                "S": config.train.steps, "D": config.train.tokens, "seed": config.train.seed, "unique": 1e7,
                "decay": config.train.decay,
            }
        )  # fmt: skip
        rows += [{"run": config.id, **row} for row in probe(config)]
    frame = pd.DataFrame(rows).reindex(columns=list(PROBE_COLUMNS))
    numbers = ["prompt", "hits", "entropy", "loss", "seen", "repeats", "tokens"]
    frame[numbers] = frame[numbers].astype(float)
    table = pd.DataFrame(runs)
    return StudyData(
        runs=table, curves=pd.DataFrame(), probes=frame, planned=tuple(table["run"]), command="x"
    )


def stored(per_parameter: float, *, rising: bool = False) -> StudyData:
    """Models that come to hold `per_parameter` bits each, but for a per cent or two."""

    def probe(config: RunConfig) -> list[Row]:
        bits = int(config.data.corpus.split("sequences=")[1].split(",")[0]) * 64 * 9
        more = 0.01 * (-1) ** config.model.n_layer  # type: ignore[attr-defined]
        most = min(bits, per_parameter * config.model.counts().N_total * (1 + more))
        steps = config.train.steps
        most *= 1 + 0.03 * np.log2(steps / 1e4) if rising else 1
        early = 0.8 if rising else 0.995
        at = {steps // 8: 0.6 * most, steps // 4: early * most, steps // 2: most, steps: most}
        return [
            {
                "step": step, "probe": f"trained {half}", "kind": "trained", "tokens": bits / 12,
                "entropy": bits * np.log(2) / 2, "loss": (bits - known) * np.log(2) / 2, "seen": 1,
            }
            for step, known in at.items()
            for half in (0, 1)
        ]  # fmt: skip

    return evidence(capacity(1e13, DataConfig()), probe)


def test_the_planted_capacity_is_found_and_agrees() -> None:
    found = stored(BITS)
    sizes = saturated(memorised(found.runs, found.probes))
    assert sizes["past saturation"].all()
    assert not sizes["still rising"].any()
    analysis = study("memorisation").analyse(found)
    slope, each = analysis.constants
    assert slope.low < BITS < slope.high
    assert slope.high - slope.low < 0.15 * 2 * BITS
    assert (slope.verdict, slope.level) == ("agrees", 0.9)
    assert each.ours == pytest.approx(BITS, rel=0.03)
    assert len(analysis.sections) == 7
    assert "could not be answered" in analysis.sections[1].text


def test_a_lower_bound_contradicts_nothing() -> None:
    limited = study("memorisation").analyse(stored(2.0, rising=True))
    assert {row.verdict for row in limited.constants} == {"cannot tell"}
    assert "lower bound" in limited.constants[0].why
    assert "not the capacity" in limited.sections[0].text
    assert "with each doubling" in limited.sections[0].text
    other = study("memorisation").analyse(stored(2.0))
    assert {row.verdict for row in other.constants} == {"differs"}


def test_exposure_is_right_by_either_way() -> None:
    rng = np.random.default_rng(0)
    references = rng.normal(40, 3, 4000)
    assert by_rank(40.0, references) == pytest.approx(1, abs=0.1)
    assert by_rank(0.0, references) == np.log2(4000)
    never = [by_rank(loss, references) for loss in rng.normal(40, 3, 4000)]
    assert np.mean(never) == pytest.approx(1 / np.log(2), abs=0.08)
    middle, low, far = by_distribution([40, 31, 10], references)
    assert middle == pytest.approx(1, abs=0.1)
    assert low == pytest.approx(9.53, abs=0.6)  # three standard deviations
    assert far == pytest.approx(76.3, rel=0.1)  # ten


def inserted(bits_a_doubling: float) -> StudyData:
    """Canaries whose exposure rises with r, and passages of which more come back whole the larger r is."""

    def probe(config: RunConfig) -> list[Row]:
        plant = config.data.plant
        assert plant is not None
        rng = np.random.default_rng(plant.seed)
        rows: list[Row] = []
        base = {"step": config.train.steps, "seen": 0, "text": "a text"}
        for _ in range(400):
            rows.append({**base, "kind": "reference", "loss": rng.normal(14, 1), "tokens": 6, "repeats": 0})
        for r in plant.repeats:
            shift = 0.35 * bits_a_doubling * np.log2(1 + r)
            for _ in range(plant.canaries):
                loss = rng.normal(14, 1) - shift
                rows.append({**base, "kind": "canary", "loss": loss, "tokens": 6, "repeats": r})
            for number in range(40):
                whole = number < 4 * np.log2(r) if r else False
                for prompt in (16, 32, 48):
                    hits = 16 if whole else 5
                    rows.append(
                        {
                            **base,
                            "kind": "extract",
                            "prompt": prompt,
                            "hits": hits,
                            "tokens": 16,
                            "repeats": r,
                        }
                    )
        early = [{**row, "step": config.train.steps // 2} for row in rows]
        return [{"probe": f"{i}", **row} for i, row in enumerate(early + rows)]

    return evidence(planted_design(3e12, DataConfig()), probe)


def test_exposure_and_extraction_follow_what_was_planted() -> None:
    found = inserted(1.0)
    assert found.probes is not None
    analysis = study("memorisation").analyse(found)
    rows = {row.name: row for row in analysis.constants}
    assert rows["exposure against repeats"].verdict == "agrees"
    law = rows["passages given back whole, against repeats"]
    assert law.ours == pytest.approx(0.1, abs=0.01)
    assert "R² = 1.00" in law.why
    table = shares(
        extracted(at_end(found.probes.merge(found.runs[["run", "N"]], on="run").dropna(subset="prompt")))
    )
    assert (table.loc[table["repeats"] == 0, "share"] == 0).all()
    laws = log_linear(table).set_index(["dial", "what"])
    assert laws.loc[("N", "exact"), "slope"] == pytest.approx(0, abs=1e-9)
    names = [piece.name for section in analysis.sections for piece in section.evidence]
    assert {"exposure", "exposure-time", "extraction", "extraction-prompts"} <= set(names)


def test_canaries_that_nobody_learnt_are_at_chance() -> None:
    found = inserted(0.0)
    assert found.probes is not None
    table = canaries(found.probes[found.probes["kind"].isin(["canary", "reference"])], extrapolate=False)
    assert table["sampled"].mean() == pytest.approx(1.44, abs=0.4)
    rows = {row.name: row for row in study("memorisation").analyse(found).constants}
    assert rows["exposure against repeats"].verdict != "agrees"


def documents(noise: float, memory: float = 0.3) -> StudyData:
    """Models on halves: each document is memorised by its own amount; document 3 helps held-out 1."""
    planted = memory * np.random.default_rng(7).exponential(size=40)

    def probe(config: RunConfig) -> list[Row]:
        rng = np.random.default_rng(config.train.seed)
        inside = rng.permutation(40) < 20
        level = rng.normal(0, 0.05)
        base = {"step": config.train.steps, "tokens": 100, "seen": 0}
        rows = [
            {
                **base, "probe": f"document {i}", "kind": "document", "repeats": int(inside[i]),
                "loss": 100 * (2 + level - planted[i] * inside[i] + noise * rng.standard_normal()),
                "text": f"<b>{planted[i]}",
            }
            for i in range(40)
        ]  # fmt: skip
        rows += [
            {
                **base, "probe": f"held out {i}", "kind": "held out", "repeats": 0, "text": f"other {i}",
                "loss": 100 * (2 + level - 0.2 * (i == 1) * inside[3] + 0.02 * rng.standard_normal()),
            }
            for i in range(8)
        ]  # fmt: skip
        return rows

    return evidence(halves(1e13, DataConfig()), probe)


def test_documents_are_ranked_by_what_was_memorised_of_them() -> None:
    found = documents(noise=0.1)
    seen = end_losses(found.runs, found.probes)
    table = memorisation(seen)
    truth = table["text"].str.removeprefix("<b>").astype(float)
    covered = (table["low"] <= truth) & (truth <= table["high"])
    assert covered.mean() > 0.75
    assert np.corrcoef(truth, table["score"])[0, 1] > 0.9
    assert split_half(seen)[0] > 0.8
    pairs, chance = influence(seen)
    assert pairs["z"].iloc[0] > chance
    assert pairs["held-out document"].iloc[0] == "other 1"
    assert pairs["influence"].iloc[0] == pytest.approx(0.175, abs=0.05)  # 0.2, less the mean over documents
    assert pairs["training document"].iloc[0] == seen.texts[seen.names.index("document 3")]


def test_scores_that_are_noise_are_called_noise() -> None:
    analysis = study("memorisation").analyse(documents(noise=0.3, memory=0.0))
    assert any("mostly noise" in warning for warning in analysis.warnings)
    few = documents(noise=0.1)
    cut = study("memorisation").analyse(
        StudyData(
            runs=few.runs.head(5), curves=few.curves, probes=few.probes, planned=few.planned, command="x"
        )
    )
    assert "too few for memorisation by document" in cut.sections[4].text
    assert any("planned runs are missing" in warning for warning in cut.warnings)


def test_what_is_left_of_a_batch_is_found() -> None:
    def probe(config: RunConfig) -> list[Row]:
        plant = config.data.plant
        assert plant is not None
        assert plant.at is not None
        rng = np.random.default_rng([plant.seed, config.model.counts().N])
        kept = 0.05 * np.log10(config.model.counts().N)
        rows = []
        for number in range(16):
            hard = rng.normal(2.5, 0.5)
            for since in (-1, 0, 1, 4, 64):
                left = 0.0 if since < 0 or number < 8 else kept + 0.5 * np.exp(-since)
                loss = hard - left - 0.001 * since + 0.004 * rng.standard_normal()
                rows.append(
                    {
                        "step": plant.at + since, "probe": f"passage {number}", "kind": "passage",
                        "repeats": int(number >= 8), "seen": int(number >= 8 and since >= 0), "tokens": 64,
                        "loss": 64 * loss,
                    }
                )  # fmt: skip
        return rows

    found = evidence(injected(3e12, DataConfig()), probe)
    ends = baselines(retained(injected_passages(found.runs, found.probes)))
    assert len(ends) == 3
    truth = 0.05 * np.log10(ends["N"])
    assert ((ends["low"] < truth) & (truth < ends["high"])).sum() >= 2
    assert ends["gained"].to_numpy() == pytest.approx(truth.to_numpy() + 0.5, abs=0.05)
    text = study("memorisation").analyse(found).sections[5].text
    assert "rises with size" in text


@pytest.mark.parametrize("shape", [-3.0, 0.5, 2.0])
def test_the_fit_of_references_starts_from_their_moments(shape: float) -> None:
    values = skewnorm.rvs(shape, size=400, random_state=1)
    values = (values - values.mean()) / values.std()
    a, place, scale = _moments(values)
    mean, variance, skewness = skewnorm.stats(a, place, scale, moments="mvs")
    assert (mean, variance) == pytest.approx((0, 1), abs=1e-9)
    assert skewness == pytest.approx(skew(values), abs=1e-9)


def test_growth_counts_what_was_memorised_at_the_constant_rate_only() -> None:
    part = pd.DataFrame({"step": [1, 2, 3, 4, 5], "S": 5, "bits": [-3.0, 8.0, 10.0, -1.0, 40.0]})
    assert _growth(part, 0.8) == pytest.approx(10 / 8 - 1)
    assert _growth(part, 1.0) == pytest.approx(40 / 10 - 1)
    assert np.isnan(_growth(part, 0.4))
