"""Counts of which some have a unit, and headings whose unit was already applied."""

import numpy as np
import pytest

import allometry
from allometry.core.errors import AllometryError
from allometry.runs.importers import read_table

SIZES = [1e7, 3e7, 1e8, 3e8]


def written(folder, heading, cells):
    path = folder / "runs.csv"
    path.write_text(
        f"{heading},D,loss\n" + "".join(f"{cell},{10 + i}e9,{3 - i / 10}\n" for i, cell in enumerate(cells))
    )
    return path


@pytest.mark.parametrize("heading", ["N", "params", "Params (M)"])
def test_a_unit_in_some_cells_only_is_refused(tmp_path, heading):
    with pytest.raises(AllometryError, match=r"with a unit and without: '10M', '30'"):
        read_table(written(tmp_path, heading, ["10M", "30", "100M", "300"]))


def test_a_unit_in_some_cells_only_is_refused_in_a_frame():
    frame = {"N": ["10M", "30", "100M", "300"], "D": [1e9, 2e9, 4e9, 8e9], "loss": [3.0, 2.9, 2.8, 2.7]}
    with pytest.raises(AllometryError, match="with a unit and without"):
        allometry.fit(frame, law="power", columns={"X": "N"}, bootstrap=0)


def test_units_beside_full_counts_are_read(tmp_path):
    read = read_table(written(tmp_path, "N", ["10M", "30000000", "0.1B", "3e8"]))
    np.testing.assert_allclose(read.frame["N"], SIZES)


def test_a_heading_in_millions_over_full_counts_is_not_applied(tmp_path):
    full = read_table(written(tmp_path, "Params (M)", ["10000000", "30000000", "100000000", "300000000"]))
    np.testing.assert_allclose(full.frame["N"], SIZES)
    assert any("read as they are" in notice for notice in full.notices)
    millions = read_table(written(tmp_path, "Params (M)", ["10", "30", "100", "300"]))
    np.testing.assert_allclose(millions.frame["N"], SIZES)


def test_words_among_losses_are_not_said_to_be_numbers(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("N,D,loss\n1e7,1e9,3.0\n2e7,1e9,diverged\n3e7,1e9,2.8\n")
    read = read_table(path)
    assert np.isnan(read.frame["loss"][1])
    assert not any("was read as numbers" in notice for notice in read.notices)
