"""Saved results: what is read back is what was saved, to the last digit, and nothing of anybody's is lost."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from allometry.core.errors import AllometryError
from allometry.report.build import Analysis, Constant
from allometry.studies.core import results
from allometry.studies.core.study import STUDIES, Study, StudyData, register


class Tiny(Study):
    """Says how many runs there are."""

    name = "tiny"
    question = "How many?"
    expected = "A few."

    def analyse(self, evidence: StudyData) -> Analysis:
        constant = Constant(name="Runs | all", symbol="n", published={"Paper": 3.0}, ours=2.0, low=1.0,
                            high=4.0, level=0.95, verdict="agrees", why="counted")  # fmt: skip
        return Analysis(study=self.name, question=self.question, answer="Two.", command=evidence.command,
                        sections=(), constants=(constant,), runs=evidence.runs)  # fmt: skip


@pytest.fixture(autouse=True)
def _known() -> Iterator[None]:
    with STUDIES.temporary():
        register(Tiny)
        yield


@pytest.fixture
def evidence() -> StudyData:
    runs = pd.DataFrame({
        "run": ["a", "NA"], "loss": [1 / 3, np.nan], "seed": [0, 1],
        "limit": pd.Series([None, None], dtype=object),
        "finished": ["2026-05-01T10:00:00+00:00", None], "good": [True, False], "shape": ["2x8", "007"],
    })  # fmt: skip
    rng = np.random.default_rng(0)
    losses = [float(f"{loss:.5g}") for loss in rng.lognormal(0, 3, 500)]
    positions = pd.DataFrame({"run": "a", "step": 3, "position": np.sqrt(np.arange(500) + 1), "loss": losses})
    counts = {"prompt": [0, 1], "n": [4, 4], "duplicated": [7, 0], "grams": [125, 125]}
    novelty = pd.DataFrame({"run": "a", "step": 3, "source": "human", **counts})
    curves = pd.DataFrame({"run": ["a", "a"], "step": [1, 2], "loss": rng.normal(size=2)})
    return StudyData(
        runs=runs, curves=curves, positions=positions, novelty=novelty,
        planned=("a", "NA", "c"), parts={"tiny": ("a", "NA", "c")},
        command="allometry run tiny", prediction={"predictions": [], "digest": "0"},
        environment={"cpu": "some", "cores": 2, "allometry": "1"},
        ledger=pd.DataFrame({"study": ["tiny"], "error": [0.1], "inside": [True]}),
    )  # fmt: skip


def test_what_is_read_back_is_what_was_saved(evidence: StudyData, tmp_path: Path) -> None:
    results.save("tiny", evidence, tmp_path / "out")
    asked, back = results.load(tmp_path / "out")
    assert isinstance(asked, Tiny)
    for name in ("runs", "curves", "positions", "novelty", "ledger"):
        pd.testing.assert_frame_equal(getattr(evidence, name), getattr(back, name), check_exact=True)
    for name in ("planned", "parts", "command", "environment", "prediction"):
        assert repr(getattr(back, name)) == repr(getattr(evidence, name))  # in the same order


def test_the_report_is_the_same_when_it_is_made_again(evidence: StudyData, tmp_path: Path) -> None:
    _, path = results.save("tiny", evidence, tmp_path / "out")
    analysis, again = results.rebuild(tmp_path / "out", tmp_path / "again.html")
    assert again.read_bytes() == path.read_bytes()
    assert analysis.date == "2026-05-01T10:00:00+00:00"
    readme = (path.parent / "README.md").read_text()
    assert "| tiny | Runs \\| all (n) | 3 (Paper) | 2.0 [1.0, 4.0] | – | agrees |" in readme
    assert "allometry report --from out" in readme
    assert "on 2 cores of some; 2 runs, the last finished on 1 May 2026, 10:00 UTC" in readme


def test_saving_again_leaves_nothing_of_before(evidence: StudyData, tmp_path: Path) -> None:
    from dataclasses import replace

    results.save("tiny", evidence, tmp_path)
    empty: Any = evidence.positions.head(0) if evidence.positions is not None else None
    results.save(
        "tiny", replace(evidence, prediction=None, ledger=None, positions=empty, novelty=None), tmp_path
    )
    _, back = results.load(tmp_path)
    assert back.prediction is None
    assert back.ledger is None
    assert back.novelty is None
    assert back.positions is not None
    assert back.positions.empty


def test_what_is_not_ours_is_not_touched(evidence: StudyData, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(AllometryError, match="something else"):
        results.save("tiny", evidence, tmp_path)
    with pytest.raises(AllometryError, match="is a file"):
        results.save("tiny", evidence, tmp_path / "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_damaged_table_is_named(evidence: StudyData, tmp_path: Path) -> None:
    results.save("tiny", evidence, tmp_path)
    for damaged in (b"PAR1 cut off", lzma.compress(b"run,step\na,one\n"), lzma.compress(b"run" * 99)[:-20]):
        (tmp_path / "curves.csv.xz").write_bytes(damaged)
        with pytest.raises(AllometryError, match=r"cannot read .*curves\.csv\.xz"):
            results.load(tmp_path)


def test_a_table_that_swells_without_end_is_refused(
    evidence: StudyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results.save("tiny", evidence, tmp_path)
    monkeypatch.setattr(results, "_MOST_BYTES", 1000)
    with pytest.raises(AllometryError, match=r"positions\.csv\.xz: it holds more than 1,000 bytes"):
        results.load(tmp_path)


def as_format_1(folder: Path, evidence: StudyData) -> None:
    """Make results as version 0.1 wrote them: Parquet files, losses by position in single precision."""
    about = json.loads((folder / "study.json").read_text())
    about["format"] = 1
    about["types"] = {name: about["types"][name] for name in ("runs.csv", "ledger.csv")}
    (folder / "study.json").write_text(json.dumps(about))
    assert evidence.positions is not None
    assert evidence.novelty is not None
    narrow = evidence.positions.astype({"step": "int32", "loss": "float32"})
    narrow.to_parquet(folder / "positions.parquet", index=False, compression="zstd")
    evidence.curves.to_parquet(folder / "curves.parquet", index=False, compression="zstd")
    evidence.novelty.to_parquet(folder / "novelty.parquet", index=False, compression="zstd")
    for file in folder.glob("*.xz"):
        file.unlink()


def test_results_of_version_0_1_are_read_to_the_last_digit(evidence: StudyData, tmp_path: Path) -> None:
    results.save("tiny", evidence, tmp_path)
    as_format_1(tmp_path, evidence)
    _, back = results.load(tmp_path)
    for name in ("runs", "curves", "positions", "novelty", "ledger"):
        pd.testing.assert_frame_equal(getattr(evidence, name), getattr(back, name), check_exact=True)
    results.save("tiny", back, tmp_path)
    assert not list(tmp_path.glob("*.parquet"))
    _, again = results.load(tmp_path)
    pd.testing.assert_frame_equal(back.positions, again.positions, check_exact=True)


def test_results_of_version_0_1_name_the_extra_that_reads_them(
    evidence: StudyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results.save("tiny", evidence, tmp_path)
    as_format_1(tmp_path, evidence)
    monkeypatch.setattr("allometry.core.errors.find_spec", lambda module: None)
    with pytest.raises(AllometryError, match=r"curves\.parquet, a Parquet file, needs") as refused:
        results.load(tmp_path)
    assert refused.value.hint == "pip install 'allometry[parquet]'"


def test_results_of_a_newer_release_are_refused(evidence: StudyData, tmp_path: Path) -> None:
    results.save("tiny", evidence, tmp_path)
    about = json.loads((tmp_path / "study.json").read_text())
    (tmp_path / "study.json").write_text(json.dumps(about | {"format": results.FORMAT + 1}))
    with pytest.raises(AllometryError, match="format 3; this release reads formats up to 2") as refused:
        results.load(tmp_path)
    assert refused.value.hint == "pip install --upgrade allometry"
