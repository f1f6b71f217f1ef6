"""Numbers in tables, in every notation: the values that come out, or the refusal and both readings."""

import numpy as np
import pandas as pd
import pytest

import allometry
from allometry.core.errors import AllometryError
from allometry.core.units import LONGEST, parse_duration, parse_number, readings
from allometry.runs.importers import read_table
from allometry.runs.query import select

SIZES = [10_000_000, 25_120_000, 63_100_000, 158_500_000]
TOKENS = [200_000_000, 632_500_000, 2_000_000_000, 6_325_000_000]
LOSSES = [4.441, 3.6486, 3.0123, 2.5]


def grouped(mark):
    return lambda value: f"{value:,}".replace(",", mark)


def comma(value):
    return str(value).replace(".", ",")


def written(path, rows, header=("params", "tokens", "val_loss"), mark=","):
    lines = [mark.join(f'"{cell}"' if mark in str(cell) else str(cell) for cell in row) for row in rows]
    path.write_text("\n".join([mark.join(header), *lines, ""]), encoding="utf-8")
    return path


def rows(count, loss, tokens=None):
    return [(count(n), (tokens or count)(d), loss(v)) for n, d, v in zip(SIZES, TOKENS, LOSSES, strict=True)]


NOTATIONS = {
    "plain": (str, str, ","),
    "comma thousands": (grouped(","), str, ","),
    "space thousands": (grouped(" "), comma, ";"),
    "narrow space thousands": (grouped("\u202f"), comma, ";"),
    "no-break space thousands": (grouped("\u00a0"), str, "\t"),
    "apostrophe thousands": (grouped("'"), str, ";"),
    "curly apostrophe thousands": (grouped("’"), str, ";"),
    "point thousands": (grouped("."), comma, ";"),
    "point thousands, quoted": (grouped("."), comma, ","),
    "underscores": (grouped("_"), str, ","),
    "decimal comma with exponent": (lambda v: f"{v:.3e}".replace(".", ","), comma, "\t"),
    "upper exponent": (lambda v: f"{v:.3E}", str, ","),
    "M": (lambda v: f"{v / 1e6:.6g}M", str, ","),
    "lower m": (lambda v: f"{v / 1e6:.6g}m", str, ","),
    "million": (lambda v: f"{v / 1e6:.6g} million", str, ","),
    "M params": (lambda v: f"{v / 1e6:.6g}M params", str, ","),
    "million tokens": (lambda v: f"{v / 1e6:.6g} million tokens", str, ","),
    "bn": (lambda v: f"{v / 1e9:.6g}bn", str, ","),
    "BT": (lambda v: f"{v / 1e9:.6g}BT", str, ","),
    "B tokens": (lambda v: f"{v / 1e9:.6g}B tokens", str, ","),
    "Btok": (lambda v: f"{v / 1e9:.6g}Btok", str, ","),
    "about": (lambda v: f"~{v / 1e6:.6g}M", str, ","),
    "about, sign": (lambda v: f"≈{v / 1e9:.6g}B", str, ","),
    "times ten": (lambda v: f"{v / 1e7:.6g}x10^7", str, ","),
    "times ten, sign": (lambda v: f"{v / 1e8:.6g}×10^8", str, ","),
    "times ten, superscript": (lambda v: f"{v / 1e8:.6g}×10⁸", str, ","),
    "decimal comma with unit": (lambda v: comma(f"{v / 1e9:.6g}") + "B", comma, ";"),
}


@pytest.mark.parametrize("name", NOTATIONS)
def test_every_notation_gives_the_same_numbers(tmp_path, name):
    count, loss, mark = NOTATIONS[name]
    frame = read_table(written(tmp_path / "runs.csv", rows(count, loss), mark=mark)).frame
    assert frame["N"].tolist() == pytest.approx(SIZES, rel=1e-12)
    assert frame["D"].tolist() == pytest.approx(TOKENS, rel=1e-12)
    assert frame["loss"].tolist() == LOSSES


def test_a_model_name_with_a_point_decides_nothing(tmp_path):
    path = tmp_path / "runs.csv"
    lines = [
        f"gpt-{i}.01b;{n:.3e};{d:.3e};{v}".replace("e+", "e") for i, (n, d, v) in enumerate(rows(int, float))
    ]
    path.write_text(
        "model;N;D;loss\n" + "\n".join(line.replace(".", ",").replace(",01b", ".01b") for line in lines)
    )
    frame = read_table(path).frame
    assert frame["N"].tolist() == pytest.approx(SIZES, rel=1e-3)
    assert frame["loss"].tolist() == LOSSES
    assert frame["model"].iloc[0] == "gpt-0.01b"


def test_what_can_be_read_in_two_ways_is_refused_and_settled(tmp_path):
    path = written(tmp_path / "runs.csv", [(1, 2, "2,345"), (3, 4, "3,456"), (5, 6, "1,234")])
    with pytest.raises(AllometryError, match=r"2345 or 2\.345") as stop:
        read_table(path)
    assert "--decimal" in stop.value.cli_hint
    assert "decimal=" in stop.value.hint
    assert read_table(path, decimal=",").frame["loss"].tolist() == [2.345, 3.456, 1.234]
    assert read_table(path, decimal=".").frame["loss"].tolist() == [2345, 3456, 1234]


def test_another_column_settles_it(tmp_path):
    header = ("params", "tokens", "val_loss")
    points = written(tmp_path / "a.csv", [("1,234", 5, 3.4444), ("2,345", 6, 2.5)], header)
    assert read_table(points).frame["N"].tolist() == [1234, 2345]
    commas = written(tmp_path / "b.csv", [("1,234", 5, "3,4444"), ("2,345", 6, "2,5")], header)
    assert read_table(commas).frame["N"].tolist() == [1.234, 2.345]
    zero = written(tmp_path / "c.csv", [("1,234", 5, "0,344"), ("2,345", 6, "1,512")], header)
    assert read_table(zero).frame["N"].tolist() == [1.234, 2.345]


def test_a_column_with_both_marks_is_refused(tmp_path):
    path = written(tmp_path / "runs.csv", [(1e6, 1e8, "2,5"), (1e7, 1e9, "3.5"), (1e8, 1e9, "1.5")])
    with pytest.raises(AllometryError, match="decimal commas"):
        read_table(path)


def test_groups_that_are_not_of_three_are_no_numbers(tmp_path):
    path = written(tmp_path / "runs.csv", [("1,00,00,000", 1e8, 2.5), ("2,00,00,000", 1e9, 2.4)])
    with pytest.raises(AllometryError, match="not a column of numbers"):
        allometry.fit(read_table(path).frame, law="chinchilla")


@pytest.mark.parametrize(
    "cells", [["10M", "1.5B"], ["10,000,000", "1,500,000,000"], ["1e7", "1.5e9"], ["10 million", "1.5bn"]]
)
def test_python_reads_the_cells_of_a_frame_alike(cells):
    sizes = np.resize([1e7, 1.5e9], 30)
    tokens = np.geomspace(1e8, 1e11, 30)
    frame = pd.DataFrame({"params": np.resize(cells, 30), "tokens": tokens})
    frame["val_loss"] = 1.7 + 300 / sizes**0.3 + 900 / tokens**0.35
    law = allometry.laws.zoo.get("chinchilla") if hasattr(allometry, "laws") else None
    from allometry.laws.observations import observe
    from allometry.laws.zoo import get

    points = observe(frame, law or get("chinchilla"))
    assert points.inputs["N"].tolist() == pytest.approx(sizes.tolist(), rel=1e-12)


@pytest.mark.parametrize(
    ("text", "value"),
    [("10M", 1e7), ("1.2 billion", 1.2e9), ("12_288", 12288), ("3 PF-days", 3 * 8.64e19), ("2 ZFLOPs", 2e21),
     ("10,000,000", 1e7), ("1,234.5", 1234.5), ("0.1B", 100_000_000), ("7Bparams", 7e9), ("10^7", 1e7)],
)  # fmt: skip
def test_numbers_on_the_command_line(text, value):
    assert parse_number(text) == value


@pytest.mark.parametrize(
    "text", ["1,5B", "1,234", "1.2.3", "5e", "1e", "10MM", "", "ten", "nan", "1,2", "3%"]
)
def test_doubtful_numbers_are_refused(text):
    with pytest.raises(AllometryError) as stop:
        parse_number(text)
    assert stop.value.hint


def test_the_remedy_for_a_decimal_comma_is_the_number():
    with pytest.raises(AllometryError) as stop:
        parse_number("1,5B")
    assert parse_number(stop.value.hint.rpartition(" ")[2]) == 1.5e9


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10m", 600), ("10min", 600), ("10 minutes", 600), ("90 s", 90), ("1h30m", 5400), ("1.5 hours", 5400),
     ("2 days", 172800), ("250ms", 0.25), ("3e2", 300)],
)  # fmt: skip
def test_times(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["1,5h", "ms", "1h 30", "", "10 parsecs"])
def test_doubtful_times_are_refused(text):
    with pytest.raises(AllometryError):
        parse_duration(text)


def test_long_text_is_not_tried():
    digits = "9" * (LONGEST + 1)
    assert readings(digits) == {}
    for read in (parse_number, parse_duration):
        with pytest.raises(AllometryError) as stop:
            read(digits * 100 + "x")
        assert len(stop.value.message) < 100


def test_filters_read_numbers_alike():
    frame = pd.DataFrame({"N": [1e6, 1e7, 2e9]})
    assert select(frame, "N>=10M")["N"].tolist() == [1e7, 2e9]
    with pytest.raises(AllometryError, match="decimal comma"):
        select(frame, "N>1,5B")
