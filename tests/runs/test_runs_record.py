import json
import math
from pathlib import Path

import pytest

from allometry.core.errors import AllometryError
from allometry.models.base import Counts
from allometry.runs.record import COLUMNS, CURVE_COLUMNS, read_run, sizes


def test_a_row_has_the_columns_that_everything_else_reads(write_run):
    record = read_run(write_run("transformer-2x16-sotu-512-s0-aaaaaaaa", loss_stdlib=2.5))
    row = record.row()
    assert tuple(row)[: len(COLUMNS)] == COLUMNS
    assert row["loss_stdlib"] == 2.5
    assert (row["shape"], row["S"], row["D"], row["B"], row["engine"]) == ("2x16", 4, 512, 128, "native")
    assert row["C"] == 3 * 12288 * 512


def test_sizes_agree_with_the_counts_of_models():
    parts = dict(zip(Counts.__dataclass_fields__, (7, 11, 6144, 13, 17, 12288, 1024, 8192), strict=True))
    counts, found = Counts(**parts), sizes(parts, 10)
    for column, convention in (("N", "kaplan"), ("N_head", "head"), ("N_total", "total")):
        assert found[column] == counts.parameters(convention)
    for column, convention in (("C", "6ND"), ("C_head", "head"), ("C_attention", "attention")):
        assert found[column] == 10 * counts.flops_per_token(convention)
    assert all(math.isnan(value) for value in sizes({}, 10).values())


@pytest.mark.parametrize("status", ["done", "diverged", "failed", "partial"])
def test_status_is_what_the_files_say(write_run, status: str):
    assert read_run(write_run("a", status=status)).status == status


def test_the_curve_drops_a_line_that_a_kill_cut_off_and_says_so(write_run):
    directory = write_run("a", status="partial")
    whole = (directory / "curve.jsonl").read_text()
    (directory / "curve.jsonl").write_text(whole[:-9])
    record = read_run(directory)
    assert list(record.curve.frame["step"]) == [1, 2, 3]
    assert record.curve.notes == ("curve.jsonl: the last line was cut off and is left out",)
    assert record.step == 3
    assert record.row()["D"] == 3 * 128
    (directory / "curve.jsonl").write_text("garbage\n" + whole)
    assert read_run(directory).curve.notes == ("curve.jsonl: line 1 is damaged and is left out",)


def test_a_step_recorded_twice_counts_once(write_run):
    directory = write_run("a")
    with (directory / "curve.jsonl").open("a") as file:
        file.write(json.dumps({"step": 2, "tokens": 256, "loss": 9.0, "loss_stdlib": 1.0}) + "\n")
    curve = read_run(directory).curve
    assert list(curve.frame["step"]) == [1, 2, 3, 4]
    assert curve.frame["loss"][1] == 9.0
    assert list(curve.frame.columns) == [*CURVE_COLUMNS, "loss_stdlib"]
    assert list(curve.frame["C"]) == [3 * 12288 * 128 * step for step in (1, 2, 3, 4)]


def test_a_truncated_result_means_unfinished(write_run):
    directory = write_run("a")
    result = directory / "result.json"
    result.write_text(result.read_text()[:30])
    record = read_run(directory)
    assert record.status == "partial"
    assert "unfinished" in record.notes[0]


@pytest.mark.parametrize("name", ["config.json", "result.json"])
def test_a_newer_format_is_refused_with_the_remedy(write_run, name: str):
    path: Path = write_run("a") / name
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(AllometryError, match="format 2") as caught:
        read_run(path.parent)
    assert "pip install --upgrade" in str(caught.value)


def test_no_run_and_a_damaged_configuration_are_errors(write_run, tmp_path: Path):
    with pytest.raises(AllometryError, match="holds no run"):
        read_run(tmp_path)
    directory = write_run("a")
    (directory / "config.json").write_text("[1]")
    with pytest.raises(AllometryError, match="damaged"):
        read_run(directory)
