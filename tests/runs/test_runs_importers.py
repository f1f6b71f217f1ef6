import json
from pathlib import Path

import pandas as pd
import pytest

from allometry.core.errors import AllometryError
from allometry.runs.importers import read_table, save_mapping

RUNS = pd.DataFrame({"params": [1e6, 1e7, 1e8], "tokens": [1e8, 1e9, 1e10], "val_loss": [4.0, 3.5, 3.0]})
PUBLISHED = Path(__file__).parents[3] / "shared" / "data"


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "json", "jsonl"])
def test_every_format_gives_the_same_table(tmp_path, ending):
    path = tmp_path / f"runs.{ending}"
    {
        "csv": lambda: RUNS.to_csv(path, index=False),
        "tsv": lambda: RUNS.to_csv(path, index=False, sep="\t"),
        "parquet": lambda: RUNS.to_parquet(path),
        "json": lambda: RUNS.to_json(path, orient="records"),
        "jsonl": lambda: RUNS.to_json(path, orient="records", lines=True),
    }[ending]()
    table = read_table(path)
    assert table.frame["N"].tolist() == [1e6, 1e7, 1e8]
    assert table.frame["loss"].tolist() == [4.0, 3.5, 3.0]
    assert table.columns == {"N": "params", "D": "tokens", "loss": "val_loss"}
    assert "N is read from the column 'params'" in table.notices


def test_marks_within_labels_are_no_separators(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(
        "config,N,D,loss\n" + "".join(f"rw|base|{i}|val,{1000 * i},2e6,{3 - i / 10}\n" for i in (1, 2, 3))
    )
    frame = read_table(path).frame
    assert list(frame.columns) == ["config", "N", "D", "loss"]
    assert frame["config"].tolist() == ["rw|base|1|val", "rw|base|2|val", "rw|base|3|val"]
    assert frame["loss"].tolist() == [2.9, 2.8, 2.7]


def test_units_semicolons_and_decimal_commas(tmp_path):
    path = write(tmp_path / "runs.csv", "Model size;Tokens;Test loss\n1.2B;3e9;3,5\n70M;1e9;4,25\n")
    table = read_table(path)
    assert table.frame["N"].tolist() == [1.2e9, 70e6]
    assert table.frame["loss"].tolist() == [3.5, 4.25]
    assert any("between the columns" in n for n in table.notices)
    assert any("'1.2B'" in n for n in table.notices)


def test_a_table_without_header_is_numbered(tmp_path):
    path = write(tmp_path / "points.csv", '7.28,4.69,"""400K"""\n7.54,4.40,"""3M"""\n')
    table = read_table(path)
    assert list(table.frame.columns) == ["column1", "column2", "column3"]
    assert table.frame["column3"].tolist() == [4e5, 3e6]
    assert any("column1" in n for n in table.notices)


def test_named_columns_win_over_guesses_and_can_be_saved(tmp_path):
    path = tmp_path / "runs.csv"
    RUNS.assign(size=[1.0, 2.0, 3.0]).to_csv(path, index=False)
    assert read_table(path, columns={"N": "size"}).frame["N"].tolist() == [1.0, 2.0, 3.0]
    save_mapping(path, {"N": "size"})
    assert read_table(path).columns["N"] == "size"


def test_two_candidates_are_said(tmp_path):
    path = tmp_path / "runs.csv"
    RUNS.assign(test_loss=1.0).to_csv(path, index=False)
    table = read_table(path)
    assert table.columns["loss"] == "test_loss"
    assert any("not 'val_loss'" in n for n in table.notices)


def test_wandb_charts_become_curves(tmp_path):
    path = write(
        tmp_path / "chart.csv",
        "Step,small - val_loss,small - val_loss__MIN,small - val_loss__MAX,big - val_loss\n"
        "1,5.0,5.0,5.0,6.0\n2,4.0,4.0,4.0,\n3,,,,4.5\n",
    )
    frame = read_table(path).frame
    assert frame[["run", "step", "loss"]].values.tolist() == [
        ["small", 1, 5.0],
        ["small", 2, 4.0],
        ["big", 1, 6.0],
        ["big", 3, 4.5],
    ]


def test_wandb_runs_with_dictionaries_are_spread(tmp_path):
    path = tmp_path / "runs.csv"
    rows = {"name": ["a", "b"], "config": ["{'n_params': 1000}", "{'n_params': 2000}"]}
    pd.DataFrame({**rows, "summary": [json.dumps({"val_loss": 3.0}), json.dumps({"val_loss": 2.0})]}).to_csv(
        path
    )
    frame = read_table(path).frame
    assert frame["N"].tolist() == [1000, 2000]
    assert frame["loss"].tolist() == [3.0, 2.0]
    assert frame["run"].tolist() == ["a", "b"]


def test_tensorboard_scalars_become_a_curve(tmp_path):
    path = write(tmp_path / "run-small_loss.csv", "Wall time,Step,Value\n1.0,1,5.0\n2.0,2,4.0\n")
    frame = read_table(path).frame
    assert frame["loss"].tolist() == [5.0, 4.0]
    assert set(frame["run"]) == {"small_loss"}


def test_event_files_name_the_package_they_need(tmp_path):
    (tmp_path / "events.out.tfevents.1").write_bytes(b"")
    with pytest.raises(AllometryError, match=r"tensorboard|no scalars"):
        read_table(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("empty.csv", "", "is empty"),
        ("header.csv", "N,D,loss\n", "no rows"),
        ("one.csv", "N D loss\n1 2 3\n", "single column"),
        ("table.xlsx", "x", "Excel"),
        ("broken.json", "{", "cannot read"),
        ("text.json", '"runs"', "does not hold a table"),
        ("broken.jsonl", '{"N": 1}\n{\n{"N": 2}', "line 2"),
        ("ragged.csv", "a,b\n1,2\n1,2,3,4\n", "line 3: 4 cells"),
    ],
)
def test_bad_files_are_explained(tmp_path, name, text, message):
    with pytest.raises(AllometryError) as error:
        read_table(write(tmp_path / name, text))
    assert message in str(error.value)


def test_a_missing_file_names_its_neighbours(tmp_path):
    write(tmp_path / "runs.csv", "a,b\n1,2\n")
    with pytest.raises(AllometryError, match="there is no table") as error:
        read_table(tmp_path / "run.csv")
    assert "runs.csv" in str(error.value)


def test_latin_text_is_explained(tmp_path):
    path = tmp_path / "latin.csv"
    path.write_bytes("größe,loss\n1,2\n".encode("latin-1"))
    with pytest.raises(AllometryError, match="UTF-8"):
        read_table(path)


def test_a_run_store_is_a_table(write_run, tmp_path):
    for number in range(3):
        write_run(f"run-{number}", seed=number, loss=4.0 - number)
    frame = read_table(tmp_path / "runs").frame
    assert {"run", "N", "D", "C", "seconds", "loss"} <= set(frame.columns)
    assert len(frame) == 3


def test_a_folder_that_is_no_store_is_explained(tmp_path):
    with pytest.raises(AllometryError, match="not a run store"):
        read_table(tmp_path)


@pytest.mark.skipif(not PUBLISHED.exists(), reason=f"published measurements are not at {PUBLISHED}")
def test_published_tables_are_read_without_help():
    for name, symbols in {
        "chinchilla/svg_extracted_data.csv": {"N", "C", "loss"},
        "datablations/datablations_fit182.csv": {"N", "D", "unique", "loss", "run"},
        "misfitting/scaling_results_last_ckpt_only.csv": {"N", "D", "C", "loss", "lr"},
    }.items():
        assert symbols <= set(read_table(PUBLISHED / name).frame.columns)
    points = read_table(PUBLISHED / "kaplan" / "loss_vs_model_and_param.csv").frame
    assert points.shape == (43, 3)
