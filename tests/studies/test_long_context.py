"""The study of long contexts: pairs of one N, and planted differences late in the context found with their sign."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from allometry.studies.core.study import StudyData, study
from allometry.studies.long_context import CONTEXTS, LARGEST, binned, long_recurrent
from allometry.train.config import DataConfig, RunConfig


def planted(flat: bool) -> StudyData:
    """Losses that fall as a power of the position: those of LSTMs, if `flat`, only for the first hundred tokens."""
    rng = np.random.default_rng(1)
    rows, places = [], []
    for run in long_recurrent(1e14, DataConfig()):
        counts, n_ctx, family = run.model.counts(), run.model.n_ctx, run.model.family
        position = np.arange(1, n_ctx + 1)
        seen = np.minimum(position, 100) if family == "lstm" and flat else position
        loss = (2 * counts.N**-0.08 + 2 / seen**0.3) * np.exp(0.002 * rng.standard_normal(n_ctx))
        common = {"run": run.id, "step": run.train.steps}
        places.append(pd.DataFrame({**common, "position": position, "loss": loss}))
        rows.append(
            {
                **common,
                "status": "done",
                "family": family,
                "N": counts.N,
                "D": run.train.tokens,
                "S": run.train.steps,
                "C": 3.0 * counts.flops_blocks * run.train.tokens,
                "unique": 1e9,
                "n_layer": run.model.n_layer,
                "reuse": None,
                "n_ctx": n_ctx,
                "seed": run.train.seed,
                "loss": loss.mean(),
            }
        )
    runs = pd.DataFrame(rows)
    positions = pd.concat(places, ignore_index=True)
    return StudyData(runs=runs, curves=pd.DataFrame(), positions=positions, planned=tuple(runs["run"]))


def by_family(runs: tuple[RunConfig, ...], family: str) -> dict[tuple[int, int], list[int]]:
    """N of the runs of a family by context and seed, in their order."""
    found: dict[tuple[int, int], list[int]] = {}
    for run in runs:
        if run.model.family == family:
            found.setdefault((run.model.n_ctx, run.train.seed), []).append(run.model.counts().N)
    return found


@pytest.mark.parametrize("compute", [1e13, 2e16, 1e18])
def test_runs_are_pairs_of_equal_size_and_tokens_and_no_model_is_larger_than_it_may_be(
    compute: float,
) -> None:
    runs = long_recurrent(compute, DataConfig())
    assert len({run.train.tokens for run in runs}) == 1
    transformers, lstms = (by_family(runs, family) for family in ("transformer", "lstm"))
    assert {n_ctx for n_ctx, _ in transformers} == set(CONTEXTS)
    assert {key: len(sizes) for key, sizes in transformers.items()} == {
        (256, 0): 2,
        (1024, 0): 3,
        (1024, 1): 2,
    }
    for key, sizes in transformers.items():
        assert lstms[key] == pytest.approx(sizes, rel=0.15)
    largest = max(max(sizes) for sizes in transformers.values())
    assert largest < 1.1 * LARGEST
    assert largest > 0.9 * LARGEST or compute < 2e16


def test_finds_an_lstm_that_is_flat_after_a_hundred_tokens() -> None:
    analysis = study("long_context").analyse(planted(flat=True))
    verdicts = {row.name: row.verdict for row in analysis.constants}
    assert verdicts == {
        "LSTM over transformer late in a long context, %": "agrees",
        "the same, late less early, %": "agrees",
        "gain after 100 tokens, LSTM, 2 layers, %": "agrees",
        "gain after 100 tokens, transformer, %": "agrees",
    }


def test_finds_an_lstm_that_is_not() -> None:
    analysis = study("long_context").analyse(planted(flat=False))
    rows = {row.name: row for row in analysis.constants}
    assert rows["gain after 100 tokens, LSTM, 2 layers, %"].verdict == "differs"
    late = rows["LSTM over transformer late in a long context, %"]
    assert late.ours == pytest.approx(0, abs=1)


def test_without_positions_it_says_so() -> None:
    full = planted(flat=True)
    bare = StudyData(runs=full.runs, curves=full.curves, planned=full.planned)
    analysis = study("long_context").analyse(bare)
    assert not analysis.constants
    assert all("could not be answered" in section.text for section in analysis.sections)


def test_a_figure_has_means_over_neighbouring_positions() -> None:
    table = pd.DataFrame({"position": np.arange(1, 1025), "loss": np.arange(1, 1025) / 2})
    means = binned(table, "loss", pd.Series("a", index=table.index))
    assert (means["position"].iloc[0], len(means) < 25) == (1, True)
    assert means["loss"].to_numpy() == pytest.approx(means["position"].to_numpy() / 2)
    assert means["position"].is_monotonic_increasing
