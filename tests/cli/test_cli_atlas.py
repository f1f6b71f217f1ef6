"""`allometry atlas`, and atlas:ID where a table is expected."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

import allometry
from allometry.cli import app, main
from allometry.core.errors import AllometryError
from allometry.laws.zoo import get
from allometry.sources.source import SOURCES, File

LAW = get("kaplan")
TRUTH = {"alpha_N": 0.08, "alpha_D": 0.1, "N_c": 6.4e13, "D_c": 1.8e13}
LABELS = {"400K": 393_216, "3M": 3_145_728, "25M": 25_165_824, "85M": 84_934_656, "708M": 707_788_800}


def figure():
    lines = []
    for label, size in LABELS.items():
        for tokens in np.geomspace(2e7, 2e10, 6):
            loss = float(LAW.predict(TRUTH, N=size, D=tokens))
            lines.append(f'{np.log10(tokens):.9f},{loss:.9f},"""{label}"""')
    return ("\n".join(lines) + "\n").encode()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A source whose files a folder holds: the layout of the published ones, of a planted law."""
    monkeypatch.setenv("ALLOMETRY_CACHE", str(tmp_path / "cache"))
    files = {"loss_vs_model_and_param.csv": figure(), "params_scale.csv": b"5.0,5.0\n6.0,4.0\n7.0,3.3\n"}
    place = tmp_path / "copy"
    place.mkdir()
    for path, data in files.items():
        (place / path).write_bytes(data)
    listed = tuple(
        File(path=path, sha256=hashlib.sha256(data).hexdigest(), size=len(data))
        for path, data in files.items()
    )
    with SOURCES.temporary():
        SOURCES._things["kaplan2020"] = replace(SOURCES["kaplan2020"], files=listed)
        yield str(place)


def run(*args):
    done = CliRunner().invoke(app, args, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def failure(capsys, *args):
    with pytest.raises(SystemExit) as caught:
        main(list(args))
    assert caught.value.code == 1
    return capsys.readouterr().err


def test_a_source_is_fetched_listed_shown_and_read_like_a_table(here):
    listed = {row["id"]: row for row in json.loads(run("atlas", "list", "--json"))}
    assert list(listed) == list(SOURCES)
    assert listed["kaplan2020"]["here"] == "no"
    assert "complete (2 files)" in run("atlas", "fetch", "kaplan2020", "--from", here)
    assert json.loads(run("atlas", "list", "--json"))[0]["here"] == "yes"
    shown = run("atlas", "show", "kaplan2020")
    assert "rows: size-and-data 30, size 3" in shown
    assert json.loads(run("atlas", "show", "kaplan2020", "--json"))["here"] is True
    assert run("atlas", "show", "kaplan2020/size", "--csv").splitlines()[0] == "N,loss,loss_unit"
    fitted = run("fit", "atlas:kaplan2020", "--law", "kaplan", "--bootstrap", "0", "--csv")
    cells = {line.split(",")[0]: line.split(",") for line in fitted.splitlines()}
    assert float(cells["alpha_N"][1]) == pytest.approx(0.08, rel=1e-3)
    ahead = json.loads(
        run(
            "predict",
            "atlas:kaplan2020",
            "--law",
            "kaplan",
            "--at",
            "N=1B,D=30B",
            "--bootstrap",
            "0",
            "--json",
        )
    )
    wanted = float(LAW.predict(TRUTH, N=1e9, D=3e10))
    assert ahead["predictions"][0]["predicted"] == pytest.approx(wanted, rel=1e-4)
    assert run("audit", "atlas:kaplan2020").startswith("audit of 30 rows")
    scores = run("compare", "atlas:kaplan2020", "--laws", "kaplan,chinchilla", "--bootstrap", "0", "--csv")
    assert scores.splitlines()[1].startswith("kaplan,")
    checked = run("atlas", "verify", "kaplan2020", "--csv").splitlines()
    assert len(checked) == 1 + len(SOURCES["kaplan2020"].constants)


def test_python_reads_the_same(here):
    allometry.atlas("kaplan2020").fetch(place=here)
    rows = allometry.atlas("kaplan2020").table("size-and-data")
    read = allometry.read_table("atlas:kaplan2020")
    assert read.frame[["N", "D", "loss"]].equals(rows[["N", "D", "loss"]])
    assert "nats per token" in read.notices[0]
    with pytest.raises(AllometryError, match="read alone"):
        allometry.read_table(["atlas:kaplan2020", "runs.csv"])


def test_what_is_not_here_or_unknown_is_said_with_the_command(here, capsys):
    said = failure(capsys, "fit", "atlas:kaplan2020", "--law", "kaplan")
    assert "not on this machine yet" in said
    assert "hint: allometry atlas fetch kaplan2020" in said
    assert "did you mean 'kaplan2020'" in failure(capsys, "fit", "atlas:kaplan2002", "--law", "kaplan")
    assert "unknown part of kaplan2020 'sizes'" in failure(capsys, "audit", "atlas:kaplan2020/sizes")
    assert "names no source" in failure(capsys, "audit", "atlas:")
    assert "no source is on this machine" in failure(capsys, "atlas", "verify")
    assert "are for one source" in failure(capsys, "atlas", "fetch", "--accept")
    assert "no constants are kept of bhagia2024" in failure(capsys, "atlas", "verify", "bhagia2024")
