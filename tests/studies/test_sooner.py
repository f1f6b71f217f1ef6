"""The factorial study: designs without confounded mains, and planted effects that the reading must find."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from allometry.core.errors import AllometryError
from allometry.laws.power_lines import censored_fit
from allometry.studies.core.study import StudyData, study
from allometry.studies.sooner import (
    ON_EQUATIONS,
    aliases,
    coded,
    confounded,
    dials,
    fractional,
    grokking_factors,
    ranked,
)
from allometry.train.config import DataConfig

PLANTED = {"weight decay": -0.9, "learning rate": -0.4, "wrong answers": 0.3}
"""Half of the change of log time from the low to the high setting."""


@pytest.mark.parametrize(("count", "runs"), [(2, 4), (4, 8), (5, 16), (7, 16), (8, 16)])
def test_designs_are_balanced_and_of_resolution_four(count: int, runs: int) -> None:
    levels = fractional([f"f{i}" for i in range(count)])
    assert len(levels.drop_duplicates()) == runs
    assert np.array_equal(levels.T @ levels, runs * np.eye(count))
    assert not confounded(levels)
    assert sum(len(group) for group in aliases(levels)) == count * (count - 1) // 2


def test_confounding_is_named() -> None:
    levels = fractional(["a", "b"]).assign(c=lambda t: -t["a"] * t["b"])
    assert ("c", ("a", "b")) in confounded(levels)
    assert aliases(levels) == []
    with pytest.raises(AllometryError, match="designs are for 1 to 8"):
        fractional([str(i) for i in range(9)])


def test_censored_times_are_not_taken_for_times() -> None:
    rng = np.random.default_rng(0)
    x = np.repeat([-1.0, 1.0], 30)
    time = np.exp(6 + 0.8 * x + 0.3 * rng.standard_normal(60))
    end = np.full(60, np.exp(6.75))
    seen = time <= end
    assert 0.2 < seen[x > 0].mean() < 0.6
    fitted = censored_fit({"1": np.ones(60), "x": x}, np.minimum(time, end), seen)
    value, low, high = fitted.estimate("x")
    assert low < 0.8 < high
    assert value == pytest.approx(0.8, abs=0.12)
    assert fitted.sigma == pytest.approx(0.3, abs=0.08)
    naive = np.polyfit(x, np.log(np.minimum(time, end)), 1)[0]
    assert naive < value - 0.05
    middle, shortest, longest = fitted.predict({"1": [1.0], "x": [-1.0]})
    assert shortest[0] < middle[0] < longest[0]
    with pytest.raises(AllometryError, match="too few"):
        censored_fit({"1": np.ones(60), "x": x}, time, np.zeros(60, dtype=bool))
    with pytest.raises(AllometryError, match="do not tell the effects apart"):
        censored_fit({"1": np.ones(60), "x": 2 * np.ones(60)}, time, seen)


@pytest.fixture(scope="module")
def evidence() -> StudyData:
    """The factorial on equations with planted effects and one interaction, and one on text."""
    rng = np.random.default_rng(2)
    configs = grokking_factors(2e13, DataConfig())
    levels = coded(ON_EQUATIONS).to_dict("records")
    rows, curves = [], []
    for place, config in enumerate(configs):
        row = levels[place // 2]
        log_time = np.log(500) + sum(PLANTED.get(str(name), 0.0) * level for name, level in row.items())
        log_time += 0.25 * row["weight decay"] * row["batch"] + 0.1 * rng.standard_normal()
        horizon = config.train.steps
        steps = np.unique(np.round(np.geomspace(8, horizon, 60)))
        held = 1 / (1 + (np.exp(log_time) / steps) ** 8 / 19)
        curves.append(pd.DataFrame({"run": config.id, "step": steps, "accuracy": held, "loss": 1.0}))
        model, train = config.model.model_dump(), config.train
        rows.append(
            {
                "run": config.id, "status": "done", "corpus": config.data.corpus, "tokenizer": "symbols",
                "S": steps[-1], "N": 49152, "loss": 1.0, "weight_decay": train.weight_decay, "lr": train.lr,
                "B": train.batch_tokens, "seed": train.seed, "generalised": np.nan, "memorised": 50.0,
                **{name: model[name] for name in ("dropout", "n_layer", "d_model", "init")},
            }
        )  # fmt: skip
    runs, every = pd.DataFrame(rows), pd.concat(curves, ignore_index=True)
    faster = runs["lr"] * runs["d_model"] > 0.2
    text = runs.assign(
        run="text-" + runs["run"], D=8e6, unique=1e6, corpus="sotu", d_model=64,
        tokenizer=np.where(runs["corpus"].str.endswith(":0.05"), "bpe:512", "bytes"),
        lr=0.16 / 64 * np.where(faster, 1.4, 0.7),
    )  # fmt: skip
    text["loss"] = np.exp(0.02 * rng.standard_normal(len(text)) + 0.1 * (text["init"] == "gpt2"))
    text["bits_per_byte"] = 2 * text["loss"]
    flat = pd.DataFrame({"run": text["run"], "step": 1.0, "loss": text["loss"]})
    both = pd.concat([runs, text], ignore_index=True)
    return StudyData(
        runs=both, curves=pd.concat([every, flat], ignore_index=True), planned=tuple(both["run"])
    )


def test_planted_effects_are_ranked(evidence: StudyData) -> None:
    analysis = study("sooner").analyse(evidence)
    odds, times, *_ = analysis.sections[0].evidence
    assert (odds.name, times.name) == ("effects-equations", "effects-equations-95")
    table = times.table.set_index("dial")  # type: ignore[union-attr]
    for dial, half in PLANTED.items():
        (row,) = (table.loc[name] for name in table.index if name.startswith(dial + " ("))
        truth = 100 * np.expm1(2 * half)
        assert row["low"] - 1 <= truth <= row["high"] + 1
    assert table.index[0].startswith("weight decay (0.1 to 1)")
    (pair,) = (table.loc[name] for name in table.index if "weight decay × batch" in name)
    assert pair["low"] < 100 * np.expm1(0.5) < pair["high"]
    assert "count as later" in analysis.sections[0].text
    assert odds.table.iloc[0]["dial"] == table.index[0]  # type: ignore[union-attr]
    assert "odds of a wrong answer to a held-out equation: weight decay (0.1 to 1) -" in analysis.answer
    assert "initialisation (fan_in to gpt2)" in analysis.sections[1].text


def test_few_runs_give_main_effects_alone_or_say_why(evidence: StudyData) -> None:
    runs = evidence.runs[evidence.runs["tokenizer"] == "symbols"].reset_index(drop=True)
    levels = dials(runs, {"weight decay": "weight_decay", "depth": "n_layer", "initialisation": "init"})
    one = runs["seed"] == 0
    times = pd.Series(np.exp(6 - 0.5 * levels["weight decay"]) * np.exp(0.05 * np.arange(len(runs)) % 0.2))
    table, _ = ranked(levels[one], times[one], pd.Series(True, index=runs.index)[one])
    assert table.iloc[0]["dial"] == "weight decay"
    alone = study("sooner").analyse(replace(evidence, runs=runs.iloc[:4]))
    assert "not be answered" in alone.sections[0].text
    assert "no run on text" in alone.sections[1].text
