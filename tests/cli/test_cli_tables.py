"""Commands on several tables, and the options that say how a table is read."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from allometry.cli import app, main

N, D = (a.ravel() for a in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(2e8, 2e10, 5)))
LOSS = 1.75 + 320 / N**0.33 + 900 / D**0.35


def write(path, rows, header="params,tokens,val_loss"):
    path.write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    return str(path)


ROWS = [f"{n:.0f},{d:.0f},{v:.6f}" for n, d, v in zip(N, D, LOSS, strict=True)]


def alpha(*args):
    done = CliRunner().invoke(app, ["fit", *args, "--bootstrap", "0", "--csv"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    cells = {line.split(",")[0]: line.split(",") for line in done.stdout.splitlines()}
    return float(cells["alpha"][1])


def test_several_tables_and_a_pattern_are_one(tmp_path):
    whole = alpha(write(tmp_path / "whole.csv", ROWS))
    parts = [write(tmp_path / f"part{i}.csv", ROWS[i::2]) for i in (0, 1)]
    assert alpha(*parts) == pytest.approx(whole, rel=1e-4)
    assert alpha(str(tmp_path / "part*.csv")) == pytest.approx(whole, rel=1e-4)
    assert whole == pytest.approx(0.33, abs=0.002)


def test_a_decimal_mark_and_an_encoding_are_named(tmp_path, capsys):
    rows = [f"{n:.0f}\t{d:.0f}\t{v:.3f}\tgröße".replace(".", ",") for n, d, v in zip(N, D, LOSS, strict=True)]
    path = tmp_path / "runs.tsv"
    path.write_bytes("\n".join(["params\ttokens\tval_loss\tnote", *rows]).encode("cp1252"))
    remedies = []
    for _ in range(3):
        try:
            main(["fit", str(path), "--bootstrap", "0", *remedies])
        except SystemExit as stop:
            said = capsys.readouterr().err
            if not stop.code:
                break
            hint = said.partition(" hint: ")[2].split(" or ")[0]
            wanted = "," if "--decimal" in hint else hint.split()[1]
            remedies += [hint.split()[0], wanted]
    assert remedies == ["--encoding", "cp1252", "--decimal", ","]
    assert alpha(str(path), *remedies) == pytest.approx(0.33, abs=0.01)


def test_plan_takes_several_tables(tmp_path):
    parts = [write(tmp_path / f"part{i}.csv", ROWS[i::2]) for i in (0, 1)]
    options = ["plan", "1e20", "--bootstrap", "0", "--json", "--from", parts[0], "--from", parts[1]]
    done = CliRunner().invoke(app, options, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["N"]["value"] > 1e8
