"""The study of architectures: pairs of one N, and planted differences found with their sign."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from allometry.studies import architectures
from allometry.studies.architectures import LONG_CONTEXT, recurrent
from allometry.studies.core.sections import claim
from allometry.studies.core.study import StudyData, study
from allometry.train.config import DataConfig


def planted(late: float = 0.1, at_equal_n: float = -0.03) -> StudyData:
    """LSTMs that lose `late` of the loss towards the end of the context and nothing at its start; Universal
    Transformers `at_equal_n` off at equal N."""
    rng = np.random.default_rng(1)
    rows, places = [], []
    for run in recurrent(6e13, DataConfig()):
        counts, n_ctx = run.model.counts(), run.model.n_ctx
        family, N = run.model.family, counts.N
        position = np.arange(1, n_ctx + 1)
        factor = 1 + (late * np.minimum(1, position / n_ctx) if family == "lstm" else 0.0 * position)
        factor = factor * (1 + at_equal_n if family == "universal" else 1)
        loss = 3 * N**-0.08 * (1 + 0.5 / position) * factor * np.exp(0.002 * rng.standard_normal(n_ctx))
        common = {"run": run.id, "step": run.train.steps}
        places.append(pd.DataFrame({**common, "position": position, "loss": loss}))
        rows.append(
            {
                **common,
                "status": "done",
                "family": family,
                "N": N,
                "D": run.train.tokens,
                "S": run.train.steps,
                "C": 3.0 * counts.flops_blocks * run.train.tokens,
                "unique": 1e7,
                "n_layer": run.model.n_layer,
                "reuse": getattr(run.model, "reuse", None),
                "n_ctx": n_ctx,
                "seed": run.train.seed,
                "loss": loss.mean(),
            }
        )
    runs = pd.DataFrame(rows)
    positions = pd.concat(places, ignore_index=True)
    return StudyData(runs=runs, curves=pd.DataFrame(), positions=positions, planned=tuple(runs["run"]))


def test_runs_are_pairs_of_equal_size_and_tokens() -> None:
    runs = recurrent(6e13, DataConfig())
    assert len({run.train.tokens for run in runs}) == 1
    sizes = {
        family: [
            run.model.counts().N for run in runs if run.model.family == family and run.model.n_layer == 2
        ]
        for family in ("transformer", "lstm")
    }
    for N in sizes["lstm"]:
        assert min(abs(np.log(N / other)) for other in sizes["transformer"]) < np.log(1.25)
    assert {run.model.n_ctx for run in runs} == {64, LONG_CONTEXT}


def test_finds_what_was_planted() -> None:
    analysis = study("architectures").analyse(planted())
    verdicts = {row.name: row.verdict for row in analysis.constants}
    at_one_horizon = "LSTM over transformer at equal N, %", "Universal over plain at equal N, %"
    in_a_short_context = "LSTM over transformer late in the context, %", "the same, late less early, %"
    assert {verdicts[name] for name in (*at_one_horizon, *in_a_short_context)} == {"cannot tell"}
    assert verdicts["Universal over plain at equal compute, its sign, %"] == "agrees"
    rows = {row.name: row for row in analysis.constants}
    position = np.arange(1, 65)
    early = 1 + 0.5 / position
    everywhere = 100 * (np.mean(early * (1 + 0.1 * position / 64)) / early.mean() - 1)
    late = 100 * 0.1 * np.mean(np.arange(49, 65) / 64)
    for name, truth, widest in (
        ("LSTM over transformer at equal N, %", everywhere, 0.5),
        ("LSTM over transformer late in the context, %", late, 1.2),
        ("Universal over plain at equal N, %", -3.0, 0.2),
        ("Universal over plain at equal compute, its sign, %", 100 * (0.97 * 2**0.08 - 1), 8.0),
    ):
        assert rows[name].low < truth < rows[name].high, name
        assert rows[name].high - rows[name].low < widest, name


def test_finds_the_opposite_too() -> None:
    analysis = study("architectures").analyse(planted(late=-0.1, at_equal_n=0.03))
    rows = {row.name: row for row in analysis.constants}
    assert rows["LSTM over transformer late in the context, %"].high < 0
    assert rows["Universal over plain at equal N, %"].low > 0


def test_long_contexts_and_two_horizons_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "FLAT", 60)
    for late, verdict in ((0.1, "agrees"), (-0.1, "differs")):
        analysis = study("architectures").analyse(planted(late=late))
        found = {row.name: row.verdict for row in analysis.constants}
        assert found["LSTM over transformer late in the context, %"] == verdict
    row = claim("LSTM", "ΔL/L", (4.0, 3.0, 5.0), "why", above=True)
    for horizons, verdict in (([1e6, 1e6], "cannot tell"), ([1e6, 8e6], "agrees")):
        runs = pd.DataFrame({"D": horizons})
        assert architectures._at_one_horizon(row, runs, "more").verdict == verdict


def test_without_one_family_the_others_are_answered() -> None:
    full = planted()
    runs = full.runs[full.runs["family"] != "universal"].reset_index(drop=True)
    analysis = study("architectures").analyse(
        StudyData(runs=runs, curves=full.curves, positions=full.positions, planned=full.planned)
    )
    assert "Universal Transformer" in analysis.sections[2].text
    assert any("late in" in row.name for row in analysis.constants)
    assert analysis.excluded is not None
    assert (analysis.excluded["reason"] == "not trained yet").any()
