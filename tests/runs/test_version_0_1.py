"""What version 0.1 wrote is read as it was meant: a store of its smallest quickstart, and saved results.

`version-0.1.tar.xz` was written by that version (of 23 November 2026), training included; logs, reports and
all weights but those of one run are left out.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from allometry.cli import main
from allometry.core.errors import AllometryError
from allometry.runs.store import Store
from allometry.studies.core import results
from allometry.studies.core.plan import load
from allometry.studies.core.predictions import registered
from allometry.train.checkpoint import trained_model
from allometry.train.config import RunConfig

KEY = "quickstart-0-flops"
SMALLEST = "transformer-2x8-sotu-108k-s0-c203dad9"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with `store` and `results`. To be read only."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(Path(__file__).with_name("version-0.1.tar.xz")) as archive:
        archive.extractall(folder, filter="data")
    return folder


def answer(*argv: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(list(argv))
    assert not ended.value.code, capsys.readouterr().err
    return capsys.readouterr().out


def results_of(store: Path) -> dict[str, dict[str, Any]]:
    return {path.parent.name: json.loads(path.read_text()) for path in store.glob("*/result.json")}


def test_every_run_is_read_with_the_numbers_and_the_id_that_it_had(written: Path) -> None:
    store = Store(written / "store")
    frame, ended = store.frame().set_index("run"), results_of(written / "store")
    assert len(frame) == len(ended) == 52
    for run, result in ended.items():
        row = frame.loc[run]
        assert (row["loss"], row["D"], row["N"]) == (
            result["loss"], result["tokens"], result["counts"]["blocks"]
        )  # fmt: skip
        assert (row["status"], row["S"], row["study"]) == ("done", result["step"], KEY)
    assert (frame["C"] == 6 * frame["N"] * frame["D"]).all()
    for record in store.records():
        assert RunConfig.model_validate(record.config).id == record.path.name


def test_curves_end_at_the_losses_of_their_runs(written: Path) -> None:
    store = Store(written / "store")
    last = store.curves().dropna(subset=["loss"]).groupby("run")["loss"].last()
    assert last.to_dict() == pytest.approx({r: v["loss"] for r, v in results_of(written / "store").items()})


def test_a_plan_is_read_with_its_runs_and_what_it_held_back(written: Path) -> None:
    folder = written / "store" / "studies" / KEY
    plan, stored = load(folder), json.loads((folder / "plan.json").read_text())
    assert plan is not None
    assert sorted(plan.sweep.ids) == sorted(results_of(written / "store"))
    assert plan.compute == stored["compute"]
    assert sorted(run for run in plan.held_back) == sorted(stored["held_back"])
    (membership,) = Store(written / "store").studies().values()
    assert set(membership.runs) == set(plan.sweep.ids)


def test_weights_are_read_into_the_model_that_they_are_of(written: Path) -> None:
    model = trained_model(written / "store" / SMALLEST)
    counts = json.loads((written / "store" / SMALLEST / "config.json").read_text())["counts"]
    parts = ("embedding", "position", "blocks", "other", "head")
    assert sum(p.numel() for p in model.parameters()) == sum(counts[part] for part in parts)


@pytest.mark.parametrize(
    "line",
    [
        "runs list --store S N>1e3", f"runs show {SMALLEST} --store S", "runs size --store S",
        "runs export OUT.csv --store S", "runs export OUT.json --curves --store S",
        "fit S --bootstrap 0", "compare S --laws chinchilla,kaplan --cuts 0.7 --bootstrap 0",
        "plan 1e15 --from S --bootstrap 0",
    ],
)  # fmt: skip
def test_commands_that_read_a_store_read_it(
    line: str, written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.replace("OUT", str(tmp_path / "out")) for word in line.split()]
    said = answer(*(str(written / "store") if word == "S" else word for word in words), capsys=capsys)
    assert said.strip()
    assert "damaged" not in said
    for path in tmp_path.glob("out.csv"):
        assert len(pd.read_csv(path)) == 52


def test_saved_results_are_read_to_the_digits_that_were_recorded(written: Path) -> None:
    asked, evidence = results.load(written / "results")
    about = json.loads((written / "results" / "study.json").read_text())
    assert asked.name == "quickstart"
    assert list(evidence.planned) == about["planned"]
    assert evidence.runs["run"].nunique() == 52
    assert evidence.prediction == json.loads((written / "results" / "prediction.json").read_text())
    last = evidence.curves.dropna(subset=["loss"]).groupby("run")["loss"].last()
    assert last.to_dict() == pytest.approx(evidence.runs.set_index("run")["loss"].to_dict())
    assert evidence.positions is not None
    losses = evidence.positions["loss"]
    assert losses.dtype == float
    assert np.array_equal(losses, [float(f"{loss:.5g}") for loss in losses])


@pytest.mark.parametrize("file", ["study.json", "curves.parquet", "runs.csv"])
def test_results_that_lack_a_file_are_refused_with_its_name(file: str, written: Path, tmp_path: Path) -> None:
    shutil.copytree(written / "results", tmp_path / "results")
    (tmp_path / "results" / file).unlink()
    name = "curves.csv.xz" if file == "curves.parquet" else file
    with pytest.raises(AllometryError, match=name) as refused:
        results.load(tmp_path / "results")
    assert refused.value.hint


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("store.json", "store.json"),
        (f"studies/{KEY}/plan.json", "plan.json"),
        (f"studies/{KEY}/prediction.json", "prediction.json"),
    ],
)
def test_what_a_newer_release_wrote_is_refused(file: str, named: str, written: Path, tmp_path: Path) -> None:
    shutil.copytree(written / "store", tmp_path / "store")
    path = tmp_path / "store" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))

    def read_all() -> None:
        folder = Store(tmp_path / "store").path / "studies" / KEY
        load(folder)
        registered(folder)

    with pytest.raises(AllometryError, match=f"{named} has format 99") as refused:
        read_all()
    assert refused.value.hint == "pip install --upgrade allometry"


@pytest.mark.slow
def test_reports_of_the_store_and_of_the_results_are_written(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = tmp_path / "one.html", tmp_path / "two.html"
    answer("report", "--store", str(written / "store"), "-o", str(one), capsys=capsys)
    answer("report", "--from", str(written / "results"), "-o", str(two), capsys=capsys)
    for page in (one, two):
        assert "Predicted" in page.read_text()
