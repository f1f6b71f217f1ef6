"""Loss by position: what a row of the curve holds, and what the store makes of it."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allometry.runs.measurements import POSITION_COLUMNS, SINGLE, bins, by_position, middles
from allometry.runs.store import Store


@settings(max_examples=50, derandomize=True, deadline=None)
@given(n_ctx=st.integers(1, 5000))
def test_bins_cover_every_position_once(n_ctx: int):
    covered = [position for first, last in bins(n_ctx) for position in range(first, last + 1)]
    assert covered == list(range(1, n_ctx + 1))
    assert all(np.diff(middles(n_ctx)) > 0)


def test_bins_are_single_up_to_64_and_few_beyond():
    assert bins(3) == [(1, 1), (2, 2), (3, 3)]
    assert all(first == last for first, last in bins(1024)[:SINGLE])
    assert len(bins(1024)) == 96
    assert bins(1024)[: len(bins(256))] == bins(256)  # contexts can be compared


def test_means_are_over_sequences_and_bins_with_five_digits():
    losses = np.random.default_rng(0).random((5, 100), dtype=np.float32) * 3
    found = by_position(losses)
    assert found[:64] == pytest.approx(losses.mean(axis=0)[:64], rel=1e-4)
    first, last = bins(100)[-1]
    assert last == 100
    assert found[-1] == pytest.approx(losses[:, first - 1 :].mean(), rel=1e-4)
    assert all(len(str(value)) <= 7 for value in found)


def test_the_store_has_a_long_frame_and_keeps_lists_out_of_curves(write_run, tmp_path):
    directory = write_run("a", steps=2)
    write_run("b", steps=1)  # recorded before there were positions
    config = json.loads((directory / "config.json").read_text())
    config["config"]["model"]["n_ctx"] = 3
    (directory / "config.json").write_text(json.dumps(config))
    rows = [json.loads(line) for line in (directory / "curve.jsonl").read_text().splitlines()]
    rows = [row | {"by_position": [9.0, 8.0, 7.0 / row["step"]]} for row in (rows[0], *rows)]
    (directory / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    store = Store(tmp_path / "runs")
    frame = store.positions()
    assert tuple(frame.columns) == POSITION_COLUMNS
    assert frame["step"].tolist() == [1, 1, 1, 2, 2, 2]
    assert frame["position"].tolist() == pytest.approx([1, 2, 3, 1, 2, 3])
    assert frame["loss"].tolist() == [9, 8, 7, 9, 8, 3.5]
    assert "by_position" not in store.curves().columns
    assert list(store.positions(["b"]).columns) == list(POSITION_COLUMNS)
    assert store.positions(["b"]).empty
