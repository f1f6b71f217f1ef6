"""Tables as people have them, through the command line: each gives the numbers of the plain table, or a refusal."""

import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from allometry.cli import app

LAW = {"E": 1.75, "A": 320.0, "B": 900.0, "alpha": 0.33, "beta": 0.35}


def grid(noise=0.003, scale=1.0):
    n, d = (
        x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(2e8, 2e10, 5), indexing="ij")
    )
    wobble = np.exp(noise * np.random.default_rng(1).standard_normal(len(n)))
    loss = LAW["E"] + LAW["A"] / n ** LAW["alpha"] + LAW["B"] / d ** LAW["beta"]
    return pd.DataFrame({"N": n.round(), "D": d.round(), "loss": (scale * loss * wobble).round(6)})


def run(*arguments):
    result = CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def fitted(path, *options):
    return run("fit", path, "--bootstrap", "0", "--json", *options)["parameters"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    path = tmp_path_factory.mktemp("plain") / "runs.csv"
    grid().to_csv(path, index=False)
    return fitted(path)


def counts(write):
    return grid().assign(N=lambda f: f.N.map(write), D=lambda f: f.D.map(write)).to_csv(index=False)


def commas(separator, write="{:.0f}", loss="{:.6f}"):
    rows = [
        separator.join([write.format(n), write.format(d), loss.format(y)]).replace(".", ",")
        for n, d, y in grid().itertuples(index=False)
    ]
    return "\n".join([separator.join(("N", "D", "loss")), *rows, ""])


def crashed():
    frame = grid().assign(State="finished")
    bad = frame.iloc[[4, 11, 17]].assign(State=["crashed", "failed", "killed"], loss=9.0)
    return pd.concat([frame, bad]).to_csv(index=False)


def thousands(mark):
    rows = [
        ";".join([f"{n:,.0f}".replace(",", mark), f"{d:,.0f}".replace(",", mark), f"{y:.6f}"])
        for n, d, y in grid().itertuples(index=False)
    ]
    return "\n".join(["N;D;loss", *rows, ""])


def answered(column, reached):
    """A column of yes or no in place of words for how runs ended, and three runs that did not reach theirs."""
    other = {True: False, False: True, "no": "yes"}[reached]
    bad = grid().iloc[[4, 11, 17]].assign(**{column: other}, loss=9.0)
    return pd.concat([grid().assign(**{column: reached}), bad]).to_csv(index=False)


def renamed(**names):
    return grid().rename(columns=names)


def levels(*columns, index=False):
    return grid().set_axis(pd.MultiIndex.from_tuples(columns), axis=1).to_csv(index=index)


SAME = {
    "decimal commas after tabs": ("runs.tsv", commas("\t")),
    "decimal commas after semicolons": ("runs.csv", commas(";")),
    "decimal commas with exponents": ("runs.tsv", commas("\t", "{:.9e}")),
    "thousands by thin spaces": ("runs.csv", thousands("\u202f")),
    "thousands by apostrophes": ("runs.csv", thousands("'")),
    "counts in M": ("runs.csv", counts(lambda v: f"{v / 1e6!r}M")),
    "counts in words": ("runs.csv", counts(lambda v: f"{v / 1e6!r} million")),
    "counts with their noun": ("runs.csv", counts(lambda v: f"{v / 1e6!r}M params")),
    "counts in bn": ("runs.csv", counts(lambda v: f"{v / 1e9!r}bn")),
    "counts by powers of ten": ("runs.csv", counts(lambda v: f"{v / 1e7!r}x10^7")),
    "units in headings": (
        "runs.csv",
        grid()
        .assign(N=lambda f: f.N / 1e6, D=lambda f: f.D / 1e9)
        .rename(columns={"N": "Params (M)", "D": "Tokens (B)", "loss": "Val Loss"})
        .to_csv(index=False),
    ),
    "headings of a tracker": (
        "runs.csv",
        grid()
        .rename(columns={"N": "config/num_params", "D": "train/tokens_seen", "loss": "eval/loss"})
        .to_csv(index=False),
    ),
    "tokens_trained": (
        "runs.csv",
        grid()
        .rename(columns={"N": "num_params", "D": "tokens_trained", "loss": "val_loss"})
        .to_csv(index=False),
    ),
    "an index and a line of means": (
        "runs.csv",
        grid().assign(run=[f"r{i}" for i in range(30)]).to_csv() + ",1e8,2e9,3.0,mean\n",
    ),
    "a preamble": ("runs.csv", "Scaling sweep,\nby hand,\n\n" + grid().to_csv(index=False)),
    "repeated headers": ("runs.csv", grid().to_csv(index=False) + "N,D,loss\n"),
    "text among JSON lines": (
        "runs.jsonl",
        "Starting run, seed 1337\n" + grid().to_json(orient="records", lines=True),
    ),
    "one name for all runs": ("runs.csv", grid().assign(name="transformer").to_csv(index=False)),
    "crashed runs": ("runs.csv", crashed()),
    "sparse losses": (
        "runs.csv",
        pd.concat([grid(), grid().assign(loss=np.nan, train_loss=3.0)])
        .sample(frac=1, random_state=0)
        .to_csv(index=False),
    ),
    "yes or no: failed": ("runs.csv", answered("sys/failed", False)),
    "yes or no: done": ("runs.csv", answered("done", True)),
    "yes or no: diverged": ("runs.csv", answered("diverged", "no")),
    "MLflow's search": (
        "runs.csv",
        renamed(N="params.n_params", D="params.tokens", loss="metrics.val_loss")
        .assign(status="FINISHED", **{"metrics.train_loss": 2.0})
        .to_csv(index=False),
    ),
    "Neptune's table": (
        "runs.csv",
        renamed(N="parameters/n_params", D="metrics/tokens_seen (last)", loss="metrics/val/loss (last)")
        .assign(**{"sys/state": "inactive", "sys/id": [f"S-{i}" for i in range(30)]})
        .to_csv(index=False),
    ),
    "Comet's table": (
        "runs.csv",
        renamed(N="n_params", D="tokens_seen", loss="validate_loss").assign(Name="run").to_csv(index=False),
    ),
    "nouns in headings": (
        "runs.csv",
        renamed(N="Model size (params)", D="Tokens\n(tokens)", loss="Validation  loss [nats]").to_csv(
            index=False
        ),
    ),
    "another spelling of the loss beside it": (
        "runs.csv",
        grid().assign(Loss=lambda f: 0.9 * f.loss)[["Loss", "N", "D", "loss"]].to_csv(index=False),
    ),
    "a corpus called c": ("runs.csv", grid().assign(c="pile").to_csv(index=False)),
    "two lines of headings": ("runs.csv", levels(("model", "N"), ("data", "D"), ("eval", "loss"))),
    "two lines of headings and an index": (
        "runs.csv",
        levels(("model", "N"), ("data", "D"), ("eval", "loss"), index=True),
    ),
    "three lines of headings": (
        "runs.csv",
        levels(("model", "size", "N"), ("data", "seen", "D"), ("eval", "final", "val_loss")),
    ),
    "turned": ("runs.csv", grid().T.to_csv()),
    "turned, without a line above": ("runs.csv", grid().T.to_csv(header=False)),
    "turned, with runs above": (
        "runs.csv",
        renamed(N="params", D="tokens", loss="val_loss").set_axis([f"run{i}" for i in range(30)]).T.to_csv(),
    ),
    "columns, index and data": ("runs.json", grid().to_json(orient="split")),
    "semicolons, decimal commas and a byte order mark": ("runs.csv", "\ufeff" + commas(";")),
    "quotes about all cells": ("runs.csv", grid().to_csv(index=False, quoting=1)),
    "words for what is missing": (
        "runs.csv",
        grid().to_csv(index=False)
        + "".join(f"1e8,1e9,{word}\n" for word in ("diverged", "NaN", "OOM", "#N/A", "1.#QNAN", "inf")),
    ),
    "R's write.table": ("runs.txt", grid().to_csv(sep=" ", index_label=False)),
}


@pytest.mark.parametrize("kind", list(SAME))
def test_it_is_read_as_the_plain_table(plain, tmp_path, kind):
    name, text = SAME[kind]
    path = tmp_path / name
    path.write_text(text)
    assert fitted(path) == pytest.approx(plain, rel=2e-4)


def test_a_filter_keeps_the_rows_that_it_names(plain, tmp_path):
    path = tmp_path / "runs.csv"
    both = pd.concat([grid(scale=1.3).assign(corpus="c4"), grid().assign(corpus="pile")])
    both.to_csv(path, index=False)
    assert fitted(path, "--where", "corpus=pile") == pytest.approx(plain, rel=1e-6)
    used = run("fit", path, "--where", "corpus=pile", "--where", "N>1e8", "--bootstrap", "0", "--json")
    assert len(used["residuals"]) == 15


def test_perplexities_and_bits_are_converted(plain, tmp_path):
    path = tmp_path / "runs.csv"
    frame = grid().assign(val_ppl=lambda f: np.exp(f.loss), bits=lambda f: f.loss / np.log(2))
    frame.drop(columns="loss").to_csv(path, index=False)
    assert fitted(path, "--let", "loss=log(val_ppl)") == pytest.approx(plain, rel=1e-4)
    assert fitted(path, "--let", "loss=bits*log(2)") == pytest.approx(plain, rel=1e-4)


def test_exponents_do_not_depend_on_units(plain, tmp_path):
    path = tmp_path / "runs.csv"
    grid().assign(N=lambda f: f.N / 1e9, D=lambda f: f.D / 1e12).to_csv(path, index=False)
    found = fitted(path)
    assert [found[name] for name in ("E", "alpha", "beta")] == pytest.approx(
        [plain[name] for name in ("E", "alpha", "beta")], rel=1e-3
    )


def test_exact_data_give_the_law(tmp_path):
    path = tmp_path / "runs.csv"
    frame = grid(noise=0)
    frame["loss"] = LAW["E"] + LAW["A"] / frame.N ** LAW["alpha"] + LAW["B"] / frame.D ** LAW["beta"]
    frame.to_csv(path, index=False)
    assert fitted(path) == pytest.approx(LAW, rel=1e-6)


def test_two_points_give_the_slope_between_them(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("X,loss\n1e8,3.4\n1e9,2.9\n")
    assert fitted(path, "--law", "power")["alpha"] == pytest.approx(np.log10(3.4 / 2.9), rel=1e-6)


def test_runs_in_files_of_their_own_are_one_table(plain, tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    for i, row in grid().iterrows():
        steps = pd.DataFrame(
            {"step": [1, 2], "params": row.N, "tokens": [row.D / 2, row.D], "val_loss": [9.0, row.loss]}
        )
        steps.to_json(folder / f"run{i:02d}.jsonl", orient="records", lines=True)
    assert fitted(folder) == pytest.approx(plain, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "text", "message", "hint"),
    [
        (
            "runs.csv",
            "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n",
            "Git LFS",
            "git lfs pull",
        ),
        (
            "runs.csv",
            "<!DOCTYPE html><html><body>404</body></html>\n",
            "web page",
            "download the file itself",
        ),
        ("runs.csv", "N,D,loss\n1e6,1e8,3.1\n1e6,2e8,3.0,restarted, late\n", "line 3", "quotes"),
        (
            "runs.csv",
            "N,2e8,4e8,8e8\n1e6,3.4,3.3,3.2\n1e7,3.3,3.2,3.1\n",
            "column a value of another quantity",
            "frame.melt('N', var_name='D', value_name='loss')",
        ),
        (
            "runs.csv",
            "params,tokens,val_loss (min)\n1e6,1e8,3.1\n1e7,2e8,3.0\n",
            "no column 'L'",
            "--let 'loss=val_loss (min)'",
        ),
        ("runs.csv", "N,D,val_ppl\n1e6,1e8,31\n1e7,2e8,30\n", "no column 'L'", "loss=log(val_ppl)"),
    ],
)
def test_what_cannot_be_read_says_what_to_do(tmp_path, name, text, message, hint, monkeypatch, capsys):
    from allometry.cli import main

    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(SystemExit) as stop:
        main(["fit", str(path)])
    said = " ".join(capsys.readouterr().err.split())
    assert stop.value.code == 1
    assert message in said
    assert hint in said


def test_isoflop_takes_nominal_budgets(tmp_path):
    """Tokens rounded by some per cent, budgets by name, tokens under the name that a trainer gives them."""
    rows = []
    for c in (1e18, 2.15e18, 4.64e18, 1e19):
        for n in np.geomspace(3e7, 2e9, 9):
            d = c / (6 * n)
            rows.append((n, d * (1.02 if len(rows) % 2 else 0.98), c))
    frame = pd.DataFrame(rows, columns=["num_params", "tokens_trained", "flops_budget"])
    frame["val_loss"] = 1.75 + 320 / frame.num_params**0.33 + 900 / frame.tokens_trained**0.35
    path = tmp_path / "runs.csv"
    frame.to_csv(path, index=False)
    found = run("isoflop", path, "--bootstrap", "100", "--method", "parabola", "--json")
    assert len(found["budgets"]) == 4
    assert found["N"]["exponent"]["value"] == pytest.approx(0.35 / 0.68, abs=0.03)
