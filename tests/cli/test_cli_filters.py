"""Which rows every command that filters keeps: compared with a table of those rows alone."""

import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import allometry
from allometry.cli import app
from allometry.core.errors import AllometryError
from allometry.laws.isoflop import isoflop
from allometry.runs.query import mask, select

LAWS = {"c4": (1.75, 320.0, 900.0), "pile": (1.4, 260.0, 700.0)}


def table(corpora=("c4", "pile"), seed=0):
    rng = np.random.default_rng(seed)
    rows = [
        {
            "corpus": corpus,
            "N": n,
            "D": d,
            "loss": (e + a / n**0.33 + b / d**0.35) * (1 + 0.001 * rng.standard_normal()),
            "seconds": 6 * n * d / (1e12 if corpus == "c4" else 3e12),
        }
        for corpus, (e, a, b) in LAWS.items()
        for n in np.geomspace(1e7, 1e9, 6)
        for d in np.geomspace(2e8, 2e10, 6)
    ]
    frame = pd.DataFrame(rows)
    return frame[frame["corpus"].isin(corpora)]


def result(path, frame, *args):
    """The JSON of a command on a table."""
    frame.to_csv(path, index=False)
    command, *rest = args
    place = ["--from", str(path)] if command == "plan" else [str(path)]
    done = CliRunner().invoke(app, [command, *rest, *place, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


COMMANDS = {
    "fit": (("fit", "--bootstrap", "0"), lambda data: data["parameters"]),
    "compare": (
        ("compare", "--laws", "chinchilla", "--cuts", "0.6", "--bootstrap", "0"),
        lambda data: [row["mean_error"] for row in data["scores"]],
    ),
    "isoflop": (
        ("isoflop", "--method", "parabola", "--bootstrap", "20"),
        lambda data: data["N"]["exponent"]["value"],
    ),
    "plan": (("plan", "1e20", "--bootstrap", "0"), lambda data: [data["N"]["value"], data["loss"]["value"]]),
    "plan by hours": (("plan", "--hours", "10", "--bootstrap", "0"), lambda data: data["C"]["value"]),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_where_keeps_the_rows_that_it_names(tmp_path, name):
    args, value = COMMANDS[name]
    alone = {one: value(result(tmp_path / "alone.csv", table((one,)), *args)) for one in LAWS}
    assert alone["c4"] != alone["pile"]
    for condition, kept in (("corpus=c4", "c4"), ("corpus!=c4", "pile")):
        assert value(result(tmp_path / "both.csv", table(), *args, "--where", condition)) == alone[kept]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_highest_losses_left_out_are_those_of_the_chosen_rows(tmp_path, name):
    args, value = COMMANDS[name]
    frame = table()
    kept = frame[frame["corpus"] == "pile"]
    fewer = kept.drop(index=kept["loss"].nlargest(3).index)
    options = ("--where", "corpus=pile", "--drop-highest-loss", "3")
    shuffled = frame.sample(frac=1, random_state=1)  # neither in order nor beginning with those kept
    order = [label for label in shuffled.index if label in fewer.index]
    alone = value(result(tmp_path / "alone.csv", frame.loc[order], *args))
    assert value(result(tmp_path / "both.csv", shuffled, *args, *options)) == alone


def test_labels_of_a_table_play_no_part():
    frame = table(("pile",))
    plain = frame.reset_index(drop=True)
    same = plain.set_axis(np.repeat(np.arange(len(plain) // 2), 2)[::-1])
    first = allometry.fit(plain, law="chinchilla", bootstrap=0, exclude=[0, 1])
    again = allometry.fit(same, law="chinchilla", bootstrap=0, exclude=[17])
    assert again.parameters == first.parameters
    ranked = [
        allometry.backtest(each, laws=["chinchilla"], cuts=[0.6], bootstrap=0, exclude=out)
        for each, out in ((plain, [0, 1]), (same, [17]))
    ]
    assert ranked[0].scores["mean_error"].tolist() == ranked[1].scores["mean_error"].tolist()
    assert isoflop(same, bootstrap=10).a.value == isoflop(plain, bootstrap=10).a.value


def test_a_filter_keeps_labels_and_a_mask_counts_rows():
    frame = table(("pile",)).set_axis(["x"] * 36)
    assert select(frame, "N>1e8")["N"].tolist() == frame["N"][frame["N"] > 1e8].tolist()
    assert mask(frame, "N>1e8 D<1e9").tolist() == ((frame["N"] > 1e8) & (frame["D"] < 1e9)).tolist()


@pytest.mark.parametrize(
    ("text", "kept"),
    [("seed=1,3", "acd"), ("seed!=1,3", "be"), ("`Val Loss`<4", "ab"), ("seed>=2 `Val Loss`>3.2", "bc")],
)
def test_alternatives_of_numbers_and_names_with_spaces(text, kept):
    runs = pd.DataFrame({"run": list("abcde"), "seed": pd.array([1, 2, 3, 1, None], dtype="Int64")})
    runs["Val Loss"] = [3.1, 3.3, 4.5, 4.6, np.nan]
    assert "".join(select(runs, text)["run"]) == kept


def test_a_number_with_thousands_is_no_list_of_alternatives():
    with pytest.raises(AllometryError) as stop:
        select(pd.DataFrame({"N": [1000.0, 1.0]}), "N=1,000")
    assert "1000" in stop.value.hint
