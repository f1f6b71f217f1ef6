"""A registered prediction is written once, says what it was made from, and is scored without mercy."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from allometry.core.errors import AllometryError
from allometry.studies.core.predictions import digest, ledger, register_prediction, registered, score


@pytest.fixture
def made_from() -> pd.DataFrame:
    return pd.DataFrame({"run": ["a", "b"], "loss": [2.0, 1.5]})


def prediction(*rows: tuple[str, float, float, float]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["run", "loss", "low", "high"])
    return table.assign(N=1e6, D=1e7, seed=0, level=0.95, method="by hand")


def test_the_first_prediction_stays(tmp_path: Path, made_from: pd.DataFrame) -> None:
    first = register_prediction(tmp_path, made_from, prediction(("c", 1.2, 1.1, 1.3)), set())
    text = (tmp_path / "prediction.json").read_text()
    second = register_prediction(tmp_path, made_from, prediction(("c", 9.9, 9.8, 10.0)), set())
    assert second == first == registered(tmp_path)
    assert (tmp_path / "prediction.json").read_text() == text


def test_it_says_what_it_was_made_from(tmp_path: Path, made_from: pd.DataFrame) -> None:
    content = register_prediction(tmp_path, made_from, prediction(("c", 1.2, 1.1, 1.3)), set())
    assert content["made_from"] == ["a", "b"]
    assert content["digest"] == digest(made_from.iloc[::-1])
    assert content["digest"] != digest(made_from.assign(loss=[2.0, 1.5 + 1e-15]))


def test_a_hit_a_miss_and_one_known_before(tmp_path: Path, made_from: pd.DataFrame) -> None:
    rows = [
        ("hit", 1.2, 1.1, 1.3),
        ("miss", 1.0, 0.9, 1.1),
        ("known", 1.0, 0.5, 1.5),
        ("untrained", 1.0, 0.9, 1.1),
    ]
    content = register_prediction(tmp_path, made_from, prediction(*rows), {"known"})
    runs = pd.DataFrame({"run": ["hit", "miss", "known"], "loss": [1.25, 1.2, 1.0], "status": "done"})
    table = score(content, runs).set_index("run")
    assert list(table.index) == ["hit", "miss", "known"]
    assert table["inside"].to_dict() == {"hit": True, "miss": False, "known": True}
    assert table["scored"].to_dict() == {"hit": True, "miss": True, "known": False}
    assert table["error"]["miss"] == pytest.approx(0.2)


def test_the_ledger_holds_every_prediction(tmp_path: Path, made_from: pd.DataFrame) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        register_prediction(tmp_path / name, made_from, prediction((name, 1.2, 1.1, 1.3)), set())
    runs = pd.DataFrame({"run": ["one", "two"], "loss": [1.2, 1.4], "status": "done"})
    assert ledger(tmp_path, runs)["inside"].tolist() == [True, False]
    assert ledger(tmp_path / "nowhere", runs).empty


def test_a_damaged_prediction_is_not_replaced(tmp_path: Path, made_from: pd.DataFrame) -> None:
    (tmp_path / "prediction.json").write_text(json.dumps({"registered": "now"})[:-4])
    with pytest.raises(AllometryError, match="never rewritten"):
        register_prediction(tmp_path, made_from, prediction(("c", 1.2, 1.1, 1.3)), set())


@pytest.mark.parametrize("damage", [{}, {"run": None}, {"run": 3}, {"run": ["a"]}])
def test_predictions_without_a_run_are_not_scored(damage: dict[str, object]) -> None:
    runs = pd.DataFrame({"run": ["a", "b"], "status": ["done", "done"], "loss": [3.0, 2.0]})
    whole = {"run": "b", "loss": 2.5, "low": 2.0, "high": 3.0}
    bad = {"loss": 3.0, **damage}
    assert score({"predictions": [bad]}, runs).empty
    scored = score({"predictions": [bad, whole]}, runs)
    assert scored[["run", "measured", "error"]].to_dict("records") == [
        {"run": "b", "measured": 2.0, "error": pytest.approx(-0.2)}
    ]


def test_a_prediction_without_a_number_is_outside_and_the_table_keeps_its_types() -> None:
    runs = pd.DataFrame({"run": ["a"], "status": ["done"], "loss": [3.0]})
    row = {"run": "a", "loss": None, "low": None, "high": None, "already_known": False}
    scored = score({"predictions": [row]}, runs)
    assert scored[["predicted", "error"]].isna().all(axis=None)
    assert (scored["error"].dtype, scored["inside"].tolist()) == (float, [False])
