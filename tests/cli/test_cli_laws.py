import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from allometry.cli import app, main
from allometry.core.errors import AllometryError
from allometry.laws.zoo import get


@pytest.fixture
def table(tmp_path):
    grid = [(n, d) for n in np.logspace(6, 9, 6) for d in np.logspace(8, 11, 6)]
    frame = pd.DataFrame(grid, columns=["params", "tokens"])
    epoch = dict(get("chinchilla").published["besiroglu2024"].values)
    wobble = np.exp(0.002 * np.random.default_rng(0).standard_normal(len(frame)))
    frame["val_loss"] = get("chinchilla").predict(epoch, N=frame["params"], D=frame["tokens"]) * wobble
    frame["seconds"] = 6 * frame["params"] * frame["tokens"] / 1e12
    path = tmp_path / "runs.csv"
    frame.to_csv(path, index=False)
    return str(path)


def run(*args):
    result = CliRunner().invoke(app, list(args), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_fit_prints_a_report_and_what_it_guessed(table):
    result = run("fit", table, "--law", "chinchilla", "--bootstrap", "40")
    assert "alpha" in result.stdout
    assert "N is read from the column 'params'" in result.stderr


def test_fit_as_json_and_csv(table):
    data = json.loads(run("fit", table, "--bootstrap", "40", "--json").stdout)
    assert "N is read from the column 'params'" in data["read"]
    rows = run("fit", table, "--bootstrap", "40", "--csv").stdout.splitlines()
    assert rows[0].startswith("parameter,estimate")
    assert len(rows) == 6


def test_what_is_left_out_is_listed(table):
    options = ("--drop-highest-loss", "2", "--where", "N>2e6", "--bootstrap", "0")
    text = run("fit", table, *options).stdout
    assert "does not satisfy --where" in text
    assert "one of the 2 highest losses" in text


def test_fixed_and_tied_parameters(table):
    text = run("fit", table, "--fix", "E=1.8172", "--tie", "beta=alpha", "--bootstrap", "20", "--csv").stdout
    cells = {line.split(",")[0]: line.split(",") for line in text.splitlines()}
    assert float(cells["E"][1]) == pytest.approx(1.8172)
    assert cells["alpha"][1] == cells["beta"][1]


def test_let_and_saved_columns(table):
    let = ("--let", "N=params", "--let", "C=6*N*tokens", "--let", "D=C/(6*N)", "--let", "loss=val_loss")
    run("fit", table, *let, "--save-columns", "--bootstrap", "0")
    with open(f"{table}.columns.json") as file:
        assert json.load(file) == {"N": "params", "loss": "val_loss"}


def test_compare_ranks_and_forecasts(table):
    options = ("--laws", "chinchilla,chinchilla-tied", "--cuts", "0.6", "--bootstrap", "20")
    text = run("compare", table, *options, "--predict", "N=1e9", "--predict", "D=1e12").stdout
    assert "forecast: " in text
    data = json.loads(run("compare", table, *options, "--json").stdout)
    assert {row["law"] for row in data["scores"]} == {"chinchilla", "chinchilla-tied"}
    assert run("compare", table, *options, "--csv").stdout.startswith("law,mean_error")


def test_audit_in_every_form(table):
    assert "checked, nothing found" in run("audit", table).stdout
    data = json.loads(run("audit", table, "--json").stdout)
    assert {f["level"] for f in data["findings"]} <= {"fault", "caution", "note"}
    assert data["unchecked"]["repeated data"] == "no column of unique tokens U"
    assert run("audit", table, "--csv").stdout.startswith("level,name,what,rows,cure")


def test_isoflop_in_every_form(table, tmp_path):
    options = ("--method", "parabola", "--bootstrap", "50")
    figure = tmp_path / "slices.svg"
    assert "N_opt" in run("isoflop", table, *options, "--plot", str(figure)).stdout
    assert figure.read_text().startswith("<svg")
    data = json.loads(run("isoflop", table, *options, "--json").stdout)
    assert data["N"]["exponent"]["value"] == pytest.approx(0.513, abs=0.03)
    assert "N_opt" in run("isoflop", table, *options, "--csv").stdout


def test_plan_without_data_says_so():
    text = run("plan", "1e18", "--law", "kaplan").stdout
    assert "without uncertainty" in text
    data = json.loads(run("plan", "3 PF-days", "--json").stdout)
    assert data["C"]["value"] == pytest.approx(3 * 8.64e19)
    assert "quantity" in run("plan", "1e18", "--csv").stdout


def test_plan_from_runs_by_hours_with_their_speed(table):
    result = run("plan", "--hours", "10h", "--from", table, "--bootstrap", "20")
    assert "note: speed 1e+12 FLOPs/s" in result.stderr
    assert "95 % [" in result.stdout


@pytest.mark.parametrize("factor", [1.0, 3.0, 1 / 3])
def test_hours_are_counted_in_6nd_whatever_the_column_of_compute_counts(tmp_path, factor):
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(2e8, 2e10, 5)))
    runs = pd.DataFrame({"N": n, "D": d, "loss": 1.75 + 320 / n**0.33 + 900 / d**0.35})
    runs = runs.assign(C=factor * 6 * n * d, seconds=6 * n * d / 2e14)
    runs.to_csv(tmp_path / "runs.csv", index=False)
    options = ("plan", "--hours", "10", "--from", tmp_path / "runs.csv", "--bootstrap", "0", "--json")
    found = json.loads(run(*map(str, options)).stdout)
    assert found["C"]["value"] == pytest.approx(10 * 3600 * 2e14, rel=1e-6)
    assert 6 * found["N"]["value"] * found["D"]["value"] == pytest.approx(found["C"]["value"], rel=1e-6)
    assert found["seconds"] == pytest.approx(36000, rel=1e-6)


def test_plan_the_next_runs(table):
    options = ("plan", "1e18", "--from", table, "--bootstrap", "0", "--next", "loss@1e22", "--most", "3")
    assert "3 runs" in run(*options).stdout
    assert len(json.loads(run(*options, "--json").stdout)["runs"]) == 3


def test_laws_are_listed_and_shown():
    assert "chinchilla" in run("laws").stdout
    assert "besiroglu2024" in run("laws", "chinchilla").stdout
    assert json.loads(run("laws", "--json").stdout)[0]["formula"]
    shown = json.loads(run("laws", "kaplan", "--json").stdout)
    assert shown["published"]["kaplan2020-table2"]["N_c"] == 6.4e13
    assert run("laws", "kaplan", "--csv").stdout.startswith("set,alpha_N")


def test_a_figure_of_the_fit(table, tmp_path):
    figure = tmp_path / "fit.html"
    run("fit", table, "--bootstrap", "20", "--plot", str(figure))
    assert "vega" in figure.read_text()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("fit", "nothing.csv"), "there is no table"),
        (("laws", "chinchila"), "did you mean 'chinchilla'"),
        (("plan",), "nothing says how much to spend"),
        (("plan", "1e18", "--law", "power"), "no loss from N and D"),
        (("plan", "many"), "cannot read 'many'"),
        (("plan", "--loss", "2.5", "--next", "a"), "needs a budget"),
    ],
)
def test_mistakes_are_explained_without_a_traceback(args, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(list(args))
    assert stop.value.code == 1
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert "hint:" in said


GOOD = "N,D,loss\n" + "\n".join(
    f"{n:g},{d:g},{1.8 + 400 / n**0.35 + 2000 / d**0.37:.4f}"
    for n in (1e6, 1e7, 1e8)
    for d in (1e8, 1e9, 1e10)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("N,D,loss\n", "no rows"),
        ("N D loss\n1e6 1e8 4.0\n", "single column"),
        (GOOD.replace("loss", "perplexity"), "no column 'L'"),
        ("N,D,loss\n1e6,1e8,4.0\n", "cannot determine the 5 parameters"),
        ("N,D,loss\n" + "".join(f"1e6,1e8,4.{i}\n" for i in range(9)), "N takes 1 value"),
        ("N,D,loss\n" + "1e6,1e8,4.0\n" * 9, "1 usable row cannot determine"),
        ("N,D,loss\n" + "small,1e8,4.0\nlarge,1e9,3.0\n" * 5, "is not a column of numbers"),
    ],
)
def test_bad_tables_are_explained(text, message, capsys, tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(text)
    with pytest.raises(SystemExit) as stop:
        main(["fit", str(path), "--bootstrap", "0"])
    assert stop.value.code == 1
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_doubtful_rows_are_left_out_and_listed(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(f"{GOOD}\n1e6,1e8,oops\n1e6,1e8,-3\n1e6,1e8,\n" + "5e8,5e8,2.9\n" * 2)
    text = run("fit", str(path), "--bootstrap", "0").stdout
    assert "L (loss) is not positive" in text or "L is not positive" in text
    assert "repeats an earlier row" in " ".join(text.split())


def test_predict_reads_tables_saved_fits_and_printed_constants(table, tmp_path):
    at = ("--at", "N=2B,D=300B", "--at", "N=4B,D=300B", "--json")
    mixed = json.loads(run("predict", table, *at, "--bootstrap", "20").stdout)
    truth = get("chinchilla").predict(get("chinchilla").published["besiroglu2024"], N=[2e9, 4e9], D=3e11)
    assert [p["predicted"] for p in mixed["predictions"]] == pytest.approx(list(truth), rel=0.01)
    assert all(p["low95"] < p["low80"] < p["high80"] < p["high95"] for p in mixed["predictions"])
    assert set(mixed["predictions"][0]["by_law"]) == set(mixed["weights"])
    alone = json.loads(run("predict", table, *at, "--law", "chinchilla", "--bootstrap", "20").stdout)
    saved = tmp_path / "fit.json"
    assert f"saved {saved}" in run("fit", table, "--bootstrap", "20", "--save", str(saved)).stderr
    assert json.loads(run("predict", str(saved), *at).stdout)["predictions"] == alone["predictions"]
    rows = run("predict", "--law", "besiroglu2024", "--at", "N=2B,C=3.6e21", "--csv").stdout.splitlines()
    assert rows[0] == "N,C,predicted,low80,high80,low95,high95,beyond"
    assert float(rows[1].split(",")[2]) == pytest.approx(truth[0])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--at", "N=1B,D=2B"], "nothing to predict from"),
        (["--law", "chinchilla", "--at", "N=1,5B,D=2B"], "not SYMBOL=VALUE"),
        (["--law", "chinchilla", "--at", "N=1B,N=2B"], "gives N twice"),
        (["--law", "chinchilla", "--at", "N=1B,D=2B", "--at", "N=1B,C=1e20"], "different inputs"),
        (["--law", "chinchilla", "--at", "N=1B"], "needs D too"),
    ],
)
def test_predict_explains_bad_requests(words, message):
    with pytest.raises(AllometryError, match=message):
        CliRunner().invoke(app, ["predict", *words], catch_exceptions=False)
