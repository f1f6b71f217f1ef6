"""What a file is: dialects, lines that are no runs, other kinds of files, damage and size."""

import bz2
import gzip
import io
import json
import lzma
import zipfile

import numpy as np
import pandas as pd
import pytest
import zstandard

from allometry.core.errors import AllometryError
from allometry.runs.importers import read_table
from allometry.runs.tables import files

HEADER = "params,tokens,val_loss"
ROWS = [f"{n},{d},{2 + 30 / n**0.3 + 90 / d**0.3:.4f}" for n in (10**7, 10**8) for d in (10**9, 10**10)]
LOSSES = [float(row.rpartition(",")[2]) for row in ROWS]
PLAIN = "\n".join([HEADER, *ROWS, ""])


def read(tmp_path, data, name="runs.csv", **options):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return read_table(path, **options)


def statistic(how):
    frame = pd.read_csv(io.StringIO(PLAIN))
    return ",".join(f"{value:.10g}" for value in getattr(frame, how)())


LABELLED = "\n".join(["model," + HEADER, *(f"m{i},{row}" for i, row in enumerate(ROWS)), ""])

WHOLE = {
    "preamble": f"Scaling sweep,,\nexported by hand,,\n,,\n{PLAIN}",
    "preamble without commas": f"Scaling sweep 2026\n\n{PLAIN}",
    "comments": f"# git 1a2b3c\n# written by train.py\n{PLAIN}",
    "comments among the rows": PLAIN.replace(ROWS[2], f"# restarted here\n{ROWS[2]}"),
    "header as a comment": f"# {PLAIN}",
    "sep=": f"sep=,\n{PLAIN}",
    "repeated headers": PLAIN.replace(ROWS[2], f"{HEADER}\n{ROWS[2]}") + f"{HEADER}\n",
    "line of means": f"{LABELLED}mean,{statistic('mean')}\n",
    "lines of means and deviations": f"{LABELLED}Mean:,1,2,3\nstd,1,1,1\n",
    "total without a label": f"{LABELLED},{statistic('sum')}\n",
    "means without a column of names": f"{PLAIN}{statistic('mean')}\n",
    "trailing commas": "\n".join(line + ",," for line in PLAIN.split("\n")),
    "commas after the rows only": "\n".join([HEADER, *(row + "," for row in ROWS)]),
    "blank lines": PLAIN.replace("\n", "\n\n"),
    "blank first and last line": f"\n\n{PLAIN}\n\n",
    "old line ends": PLAIN.replace("\n", "\r"),
    "DOS line ends": PLAIN.replace("\n", "\r\n"),
    "cut last line": f"{PLAIN}10000000,2000",
    "row names": "\n".join([HEADER, *(f"{i},{row}" for i, row in enumerate(ROWS))]),
    "equal columns of one name": "\n".join(f"{line},{line.rpartition(',')[2]}" for line in PLAIN.split()),
    "a byte order mark": "\ufeff" + PLAIN,
    "UTF-16": PLAIN.encode("utf-16"),
    "UTF-16, big end first": b"\xfe\xff" + PLAIN.encode("utf-16-be"),
    "UTF-32": PLAIN.encode("utf-32"),
    "gzip": gzip.compress(PLAIN.encode()),
    "bzip2": bz2.compress(PLAIN.encode()),
    "xz": lzma.compress(PLAIN.encode()),
    "zstd": zstandard.compress(PLAIN.encode()),
    "a row of units": PLAIN.replace(HEADER, HEADER + "\n,,nats"),
    "two cells of title": f"Scaling sweep,spring 2026\n{PLAIN}",
    "two lines of two cells": f"by,hand\nexported,2026-01-31\n\n{PLAIN}",
    "a title over groups of columns": f"model,,held out\n{PLAIN}",
    "blanks": PLAIN.replace(",", " "),
    "many blanks": "\n".join("  " + line.replace(",", "    ") + "  " for line in PLAIN.split()),
    "R's write.table": "\n".join(
        [
            '"params" "tokens" "val_loss"',
            *(f'"{i}" {row.replace(",", " ")}' for i, row in enumerate(ROWS, 1)),
            "",
        ]
    ),
    "R's write.table with commas": "\n".join(
        [f'"{HEADER}"'.replace(",", '","'), *(f'"{i}",{row}' for i, row in enumerate(ROWS, 1)), ""]
    ),
    "R's write.table with decimal commas": "\n".join(
        [
            '"params" "tokens" "val_loss"',
            *(f'"{i}" {row.replace(",", " ").replace(".", ",")}' for i, row in enumerate(ROWS, 1)),
        ]
    ),
    "a printed frame of pandas": pd.read_csv(io.StringIO(PLAIN)).to_string() + "\n",
}


@pytest.mark.parametrize("name", WHOLE)
def test_the_runs_are_read_and_nothing_else(tmp_path, name):
    frame = read(tmp_path, WHOLE[name]).frame
    assert frame["loss"].tolist() == LOSSES
    assert frame["N"].tolist() == [1e7, 1e7, 1e8, 1e8]


def test_what_is_left_out_is_said(tmp_path):
    silent = {"trailing commas", "commas after the rows only", "blank lines", "comments among the rows",
              "blank first and last line", "header as a comment"}  # fmt: skip
    for name in list(WHOLE)[:13]:
        notices = read(tmp_path, WHOLE[name]).notices
        assert name in silent or any("left out" in notice for notice in notices), name


def test_a_row_of_units_scales(tmp_path):
    text = "params,tokens,val_loss\nM,B,nats\n10,1,3.5\n100,10,2.5\n"
    frame = read(tmp_path, text).frame
    assert frame["N"].tolist() == [1e7, 1e8]
    assert frame["D"].tolist() == [1e9, 1e10]


@pytest.mark.parametrize("word", ["mean", "max", "total"])
def test_a_run_called_like_a_statistic_in_the_middle_is_a_run(tmp_path, word):
    text = LABELLED.replace("m1,", f"{word},")
    assert read(tmp_path, text).frame["loss"].tolist() == LOSSES


def test_rows_that_only_resemble_a_sum_are_runs(tmp_path):
    text = "seed,N,D,loss\n1,1e6,1e8,3\n2,2e6,2e8,2.9\n3,3e6,3e8,2.8\n4,4e6,4e8,2.7\n"
    assert len(read(tmp_path, text).frame) == 4


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def zipped(names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "<x/>")
    return buffer.getvalue()


REFUSED = {
    "pointer": ("runs.csv", POINTER, "Git LFS pointer", "git lfs pull"),
    "pointer, Parquet": ("runs.parquet", POINTER, "Git LFS pointer", "git lfs pull"),
    "pointer, lines": ("runs.jsonl", POINTER, "Git LFS pointer", "git lfs pull"),
    "web page": ("runs.csv", "<!DOCTYPE html>\n<html><body>404</body></html>", "web page", "Raw"),
    "web page, lower": ("runs.json", "\n <html lang='en'><title>x</title>", "web page", "Raw"),
    "XML": ("runs.csv", "<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML", "CSV"),
    "PDF": ("runs.csv", b"%PDF-1.7\n", "PDF", "spreadsheet"),
    "pickle": ("runs.csv", b"\x80\x04\x95xx", "pickle", "Parquet"),
    "data base": ("runs.csv", b"SQLite format 3\x00xx", "SQLite", "CSV"),
    "old workbook": ("runs.xls", b"\xd0\xcf\x11\xe0\xa1\xb1", "workbook", "xlsx"),
    "zip": ("runs.csv", zipped(["runs.csv"]), "zip file", "unzip"),
    "OpenDocument": ("runs.ods", zipped(["content.xml"]), "OpenDocument", "CSV"),
    "empty": ("runs.csv", b"", "is empty", "export"),
    "blanks": ("runs.csv", b"\n \n\n", "nothing but blanks", "export"),
    "zeros": ("runs.csv", b"\x00" * 100, "nothing but blanks", "export"),
    "empty gzip": ("runs.csv.gz", gzip.compress(b""), "is empty", "export"),
    "conflict": (
        "runs.csv",
        f"{HEADER}\n<<<<<<< HEAD\n1,2,3\n=======\n",
        "line 2: a merge conflict",
        "editor",
    ),
    "text called Parquet": ("runs.parquet", "a,b\n1,2\n", "is no Parquet", "export"),
    "binary": ("runs.csv", b"a\x00,\x00b\x00\n\x00", "zero bytes", "encoding"),
    "wide row": ("runs.csv", PLAIN.replace(ROWS[2], ROWS[2] + ",restarted"), "line 4: 4 cells", "quotes"),
    "open quote": ("runs.csv", PLAIN + '"' + "x\n" * 100_000, "line", "quote"),
    "another header": (
        "runs.csv",
        PLAIN + "val_loss,tokens,params\n2.5,1e9,1e7\n",
        "another header",
        "split",
    ),
    "JSON cut": ("runs.json", '[{"N": 1e6, "loss": 3}, {"N"', "as JSON", "cut"),
    "JSON of nothing": ("runs.json", "[]", "does not hold a table", "list of runs"),
    "JSON of an error": ("runs.json", '{"message": "Not Found"}', "does not hold a table", "list of runs"),
    "deep JSON": ("runs.json", "[" * 100_000, "nested", "cut"),
    "deep JSON line": ("runs.jsonl", "[" * 100_000 + "\n{}", "nested", "line"),
    "damaged line": (
        "runs.jsonl",
        '{"N": 1, "loss": 2}\n{"N": \n{"N": 3, "loss": 1}',
        "line 2",
        "object a line",
    ),
    "numbers a line": ("runs.jsonl", "[1]\n[2]\n[3]", "line 1", "object a line"),
    "columns of two lengths": ("runs.json", '{"N": [1, 2], "loss": [3]}', "different lengths", "export"),
    "two tables": ("runs.json", '{"a": [{"N": 1}], "b": [{"N": 2}]}', "several tables", "file of its own"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_files_are_named_with_a_remedy(tmp_path, name):
    file, data, message, hint = REFUSED[name]
    with pytest.raises(AllometryError) as stop:
        read(tmp_path, data, file)
    assert message in stop.value.message
    assert hint in str(stop.value.hint)
    assert len(str(stop.value)) < 1000


@pytest.mark.parametrize("how", ["gzip", "bzip2", "xz", "zstd"])
@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_damaged_archives_are_said(tmp_path, how, damage):
    rng = np.random.default_rng(0)
    text = "N,D,loss\n" + "\n".join(f"{a},{b},{c}" for a, b, c in rng.random((2_000, 3)))
    pack = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "zstd": zstandard.compress}[
        how
    ]
    data = bytearray(pack(text.encode()))
    if damage == "cut":
        data = data[: len(data) // 2]
    else:
        data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    with pytest.raises(AllometryError):
        read(tmp_path, bytes(data), "runs.csv.x")


def test_an_encoding_is_not_guessed_and_the_remedy_works(tmp_path):
    text = "größe,params,tokens,val_loss\nµP,1e7,1e9,3.5\nµP,1e8,1e9,3.1\n"
    with pytest.raises(AllometryError, match="größe") as stop:
        read(tmp_path, text.encode("cp1252"))
    name = stop.value.cli_hint.split()[1]
    assert stop.value.cli_hint.startswith("--encoding")
    assert read(tmp_path, text.encode("cp1252"), encoding=name).frame["größe"].tolist() == ["µP", "µP"]
    assert read(tmp_path, text.encode("cp437"), encoding="cp437").frame["größe"].tolist() == ["µP", "µP"]
    with pytest.raises(AllometryError, match="no encoding"):
        read(tmp_path, text, encoding="klingon")


def test_namesakes_are_told_apart(tmp_path):
    text = "N,D,loss,loss\n1e6,1e8,3.1,4.1\n1e7,1e8,2.9,3.9\n"
    read_ = read(tmp_path, text)
    assert "loss" not in read_.frame
    assert read_.frame["loss (column 4)"].tolist() == [4.1, 3.9]
    assert any("several columns are called 'loss'" in notice for notice in read_.notices)
    chosen = read(tmp_path, text, columns={"loss": "loss (column 3)"})
    assert chosen.frame["loss"].tolist() == [3.1, 2.9]


def test_a_workbook_is_read_or_names_its_package(tmp_path):
    try:
        import openpyxl
    except ImportError:
        with pytest.raises(AllometryError, match="openpyxl") as stop:
            read(tmp_path, zipped(["xl/workbook.xml"]), "runs.xlsx")
        assert stop.value.hint == "pip install 'allometry[excel]'"
        return
    book = openpyxl.Workbook()
    book.active.append(["Sweep", None, None])
    for line in PLAIN.split():
        book.active.append([float(c) if c[0].isdigit() else c for c in line.split(",")])
    book.save(tmp_path / "good.xlsx")
    assert read_table(tmp_path / "good.xlsx").frame["loss"].tolist() == LOSSES
    with pytest.raises(AllometryError, match="damaged"):
        read(tmp_path, zipped(["xl/workbook.xml"]), "bad.xlsx")


def test_sizes_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MOST_TEXT", 1000)
    with pytest.raises(AllometryError, match="too much"):
        read(tmp_path, gzip.compress(b"a,b\n" + b"1,2\n" * 10_000), "bomb.csv.gz")
    monkeypatch.setattr(files, "MOST_TEXT", 10_000_000)
    monkeypatch.setattr(files, "LONGEST_LINE", 5000)
    with pytest.raises(AllometryError, match="a line of more than"):
        read(tmp_path, "a,b\n" + "1," * 5000)


def test_notes_do_not_grow_with_the_columns(tmp_path):
    names = [f"c{i}" for i in range(1000)]
    row = ",".join(["1.5M"] * 1000)
    notices = read(tmp_path, f"N,D,loss,{','.join(names)}\n1e6,1e8,3,{row}\n1e7,1e8,2,{row}\n").notices
    assert sum(map(len, notices)) < 1000


def test_lines_of_json_between_other_lines(tmp_path):
    lines = [json.dumps({"N": n, "D": 1e9, "loss": v}) for n, v in ((1e6, 3.0), (1e7, 2.5))]
    text = "\n".join(["Starting run, seed 1337", lines[0], "WARNING: slow", lines[1], '{"N": 1e8, "D'])
    read_ = read(tmp_path, text, "log.jsonl")
    assert read_.frame["loss"].tolist() == [3.0, 2.5]
    assert any("2 lines" in notice for notice in read_.notices)
    assert any("(5) is cut" in notice for notice in read_.notices)


def test_json_in_its_shapes(tmp_path):
    frame = pd.DataFrame({"N": [1e6, 1e7], "D": [1e8, 1e8], "loss": [3.5, 3.0]})
    shapes = {
        "records": frame.to_json(orient="records"),
        "columns": frame.to_json(orient="columns"),
        "lists": json.dumps(frame.to_dict("list")),
        "under a key": json.dumps({"version": 2, "runs": frame.to_dict("records")}),
        "by run": json.dumps({f"r{i}": row for i, row in enumerate(frame.to_dict("records"))}),
        "lines, called json": frame.to_json(orient="records", lines=True),
        "Python dictionaries": "\n".join(map(str, frame.to_dict("records"))),
    }
    for name, text in shapes.items():
        ending = "jsonl" if name.startswith("Python") else "json"
        assert read(tmp_path, text, f"runs.{ending}").frame["loss"].tolist() == [3.5, 3.0], name
