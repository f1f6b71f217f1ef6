"""Which runs share a trunk: from configurations, and from tables that were written before it was recorded."""

from __future__ import annotations

from typing import Any

import pandas as pd

from allometry.runs.trunks import TRUNK, trunk_of, trunks, with_trunks


def config(**train: Any) -> dict[str, Any]:
    data = train.pop("data", {})
    return {
        "model": {"family": "transformer", "n_layer": 2, "d_model": 16},
        "data": {"corpus": "sotu", **data},
        "train": {"tokens": 1000, "lr": 0.01, "schedule": "wsd", "seed": 0, "batch_tokens": 512, **train},
    }


def test_horizons_share_a_trunk_and_nothing_else_does() -> None:
    first = trunk_of("a", config())
    assert trunk_of("b", config(tokens=5000)) == first
    assert trunk_of("c", config(evals_per_octave=9, noise_batches=2, data={"eval_tokens": 5})) == first
    for other in ({"seed": 1}, {"lr": 0.02}, {"batch_tokens": 1024}, {"warmup": 7}, {"data": {"limit": 9}}):
        assert trunk_of("d", config(**other)) != first
    wider = config()
    wider["model"]["d_model"] = 32
    assert trunk_of("e", wider) != first


def test_a_setting_at_its_default_is_as_if_it_were_not_there() -> None:
    later = config(init_from=None, stop_accuracy=None, data={"spread": 0, "loss_on": "all", "half": None})
    assert trunk_of("a", later) == trunk_of("b", config())
    assert trunk_of("a", config(data={"half": 3})) != trunk_of("b", config())


def test_a_schedule_that_depends_on_the_horizon_shares_nothing() -> None:
    assert trunk_of("run", config(schedule="cosine")) == "run"
    assert trunk_of("run", config(data={"plant": {"repeats": [1]}})) == "run"


def frame(**columns: Any) -> pd.DataFrame:
    rows = {
        "run": ["a", "b", "c", "d"], "family": "transformer", "shape": "2x16", "N": 6144, "B": 512, "lr": 0.01,
        "schedule": ["wsd", "wsd", "wsd", "cosine"], "seed": [0, 0, 1, 0], "D": [1e6, 2e6, 1e6, 1e6],
        "corpus": "sotu", "tokenizer": "bytes",
    }  # fmt: skip
    return pd.DataFrame(rows | columns)


def test_trunks_of_a_table_without_them_are_worked_out() -> None:
    found = trunks(frame())
    assert found is not None
    assert found[0] == found[1] != found[2]
    assert found[3] == "d"
    assert trunks(frame(lr=[0.01, 0.02, 0.01, 0.01])).nunique() == 4  # type: ignore[union-attr]


def test_what_is_recorded_counts() -> None:
    recorded = trunks(frame(trunk=["t", "u", "t", "v"]))
    assert recorded is not None
    assert list(recorded) == ["t", "u", "t", "v"]
    mixed = trunks(frame(trunk=["t", None, None, None]))
    assert mixed is not None
    assert mixed[0] == "t"
    assert mixed[1:].notna().all()


def test_a_table_that_does_not_say_is_left_alone() -> None:
    bare = pd.DataFrame({"run": ["a", "b"], "N": [1, 2], "loss": [2.0, 1.0]})
    assert trunks(bare) is None
    assert list(with_trunks(bare)[TRUNK]) == ["a", "b"]
