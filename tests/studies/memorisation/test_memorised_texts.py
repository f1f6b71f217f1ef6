"""Text memorised beyond a reference: made-up losses of windows, in which what is stored is planted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from allometry.runs.measurements import PROBE_COLUMNS
from allometry.studies.core.study import StudyData, study
from allometry.studies.memorisation.texts import BLOCK, beside_reference, memorised, texts, texts_section
from allometry.train.config import DataConfig, RunConfig

WINDOW, KNOWN = 64, 2.5 * np.log(2)
"""Tokens of a window, and nats a token that the reference needs."""

Stored = Callable[[float, float], float]


def stored(per_parameter: float, fall: float) -> Stored:
    """Bits kept of a set of so many bits by a model of N: all, up to its capacity, less where it is past."""
    return lambda bits, n: min(bits, per_parameter * n) * min(1.0, (bits / (per_parameter * n)) ** -fall)


def evidence(kept: Stored, test: Callable[[float], float], noise: float = 0.02) -> StudyData:
    """The design's runs, with windows whose loss is the reference's less what is kept of each."""
    rng = np.random.default_rng(0)
    runs, rows = [], []
    for config in texts(1e13, DataConfig()):
        counts, data = config.model.counts(), config.data
        limit = data.limit or 0
        bits = limit * KNOWN / np.log(2)
        runs.append(
            {
                "run": config.id, "status": "done", "N": counts.N, "N_total": counts.N_total, "seed": 0,
                "S": config.train.steps, "D": config.train.tokens, "unique": limit or 1e7,
                "loss": test(bits / (3.64 * counts.N_total)) if limit else 1.4,
            }
        )  # fmt: skip
        share = kept(bits, counts.N_total) / bits if limit else 0.0
        for block in [0, 1, *(int(b) for k in range(1, 11) for b in np.linspace(2**k, 2 ** (k + 1) - 1, 6))]:
            for part in range(4):
                inside = block * BLOCK < limit
                spared = share * (1 + noise * rng.standard_normal()) if inside else -0.2
                loss = WINDOW * KNOWN * (1 - spared * bool(limit))
                rows.append(
                    {
                        "run": config.id, "step": 9, "probe": f"window {block}.{part}", "kind": "window",
                        "repeats": inside, "seen": inside, "tokens": WINDOW, "loss": loss,
                    }
                )  # fmt: skip
    table = pd.DataFrame(runs)
    probes = pd.DataFrame(rows).drop_duplicates(["run", "probe"]).reindex(columns=list(PROBE_COLUMNS))
    probes[["repeats", "loss", "tokens"]] = probes[["repeats", "loss", "tokens"]].astype(float)
    return StudyData(
        runs=table, curves=pd.DataFrame(), probes=probes, planned=tuple(table["run"]), command=""
    )


def test_what_is_stored_of_each_set_is_recovered() -> None:
    kept = stored(0.8, 0.5)
    found = evidence(kept, lambda ratio: 2.0)
    table, _ = memorised(beside_reference(found.runs, found.probes))
    for row in table.to_dict("records"):
        bits = row["set"] * KNOWN / np.log(2)
        assert row["bits"] == pytest.approx(bits)
        assert row["memorised"] == pytest.approx(kept(bits, row["N_total"]), rel=0.03)
        assert row["low"] < row["memorised"] < row["high"]
        assert row["chance"] == 0
        assert row["auc"] == pytest.approx(1)


def test_a_rise_and_fall_and_a_second_descent_are_seen_where_they_are() -> None:
    found = evidence(stored(0.8, 0.5), lambda ratio: 2.5 + 0.5 * np.exp(-4 * np.log(ratio / 0.25) ** 2))
    read = texts_section(found.runs, found)
    peaks = read.fits["peaks"]
    assert peaks["rises"].all()
    assert peaks["falls"].all()
    assert peaks["at"].between(0.1, 0.5).all()  # 0.8 / 3.64, on a grid of powers of two
    assert all(0.1 < line.at < 0.5 for line in read.fits["descents"].values())
    most, where = read.constants
    assert most.published == {"Morris 2025": 3.64}
    assert most.ours == pytest.approx(0.75, abs=0.15)
    assert (most.verdict, where.verdict) == ("differs", "differs")
    measured = pd.DataFrame({"bits per parameter": [0.8, 0.8], "still rising": [True, False]})
    beside = texts_section(found.runs, found, measured)
    assert beside.constants[0].published["random data, here"] == pytest.approx(0.8)
    assert beside.constants[1].verdict == "agrees"
    assert "a lower bound" in beside.section.text


def test_what_is_not_there_is_not_seen() -> None:
    found = evidence(stored(50.0, 0.0), lambda ratio: 3 - 0.1 * np.log(ratio))
    read = texts_section(found.runs, found)
    assert not read.fits["peaks"]["falls"].any()
    assert not read.constants
    assert "no fall is seen" in read.section.text
    assert "because every larger set lowers it" in read.section.text


def test_what_is_missing_is_said_and_the_rest_answered() -> None:
    found = evidence(stored(0.8, 0.5), lambda ratio: 2.0)
    without = found.runs[found.runs["unique"] < 1e7]
    said = study("memorisation").analyse(replace(found, runs=without)).sections[1].text
    assert "the reference model is not finished" in said
    few = found.runs[(found.runs["unique"] >= 1e7) | (found.runs["unique"] < 3000)]
    assert "sets of text" in study("memorisation").analyse(replace(found, runs=few)).sections[1].text
    none = study("memorisation").analyse(replace(found, probes=None)).sections[1].text
    assert "larger corpus" in none


def test_sets_are_nested_powers_and_the_reference_does_without_them() -> None:
    runs: tuple[RunConfig, ...] = texts(1e13, DataConfig())
    (reference,) = (run for run in runs if run.data.limit is None)
    limits = [run.data.limit for run in runs if run.data.limit]
    assert all((limit // BLOCK) & (limit // BLOCK - 1) == 0 for limit in limits)
    assert reference.data.skip >= 2 * max(limits)
    assert 2 * max(run.model.counts().N for run in runs if run.data.limit) < reference.model.counts().N
    assert all(run.data.probe == "windows" and run.train.early_stop is None for run in runs)


def test_a_small_corpus_gets_fewer_sets_and_a_tiny_one_none() -> None:
    small = DataConfig(
        corpus="synthetic:uniform,symbols=64,length=17,sequences=2000,seed=0", tokenizer="symbols"
    )
    limits = {run.data.limit for run in texts(1e13, small)}
    assert 2 < len(limits) < len({run.data.limit for run in texts(1e13, DataConfig())}) + 1
    tiny = small.replace(corpus=small.corpus.replace("2000", "200"))
    assert texts(1e13, tiny) == ()
