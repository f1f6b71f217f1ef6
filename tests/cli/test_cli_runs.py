import json
from pathlib import Path

import pandas as pd
import pytest

from allometry.cli import main
from allometry.cli.output import print_table
from allometry.runs.store import Store

DONE, PARTIAL = "transformer-2x16-sotu-512-s0-aaaaaaaa", "transformer-2x16-sotu-512-s1-bbbbbbbb"


def write_run(store: Store, run: str, seed: int, result: dict[str, object] | None) -> None:
    counts = dict.fromkeys(("embedding", "position", "blocks", "other", "head"), 100)
    flops = dict.fromkeys(("flops_blocks", "flops_attention", "flops_head"), 200)
    train = {"batch_tokens": 128, "lr": 0.01, "schedule": "wsd", "seed": seed, "tokens": 512}
    config = {"model": {"family": "transformer"}, "data": {"corpus": "sotu"}, "train": train}
    directory = store.directory(run)
    directory.mkdir()
    described = {"format": 1, "id": run, "config": config, "counts": counts | flops}
    (directory / "config.json").write_text(json.dumps(described))
    (directory / "curve.jsonl").write_text('{"step": 4, "tokens": 512, "loss": 1.5}\n')
    if result:
        (directory / "result.json").write_text(json.dumps({"format": 1, "status": "done", **result}))


@pytest.fixture
def at(tmp_path: Path) -> list[str]:
    store = Store(tmp_path / "runs", create=True)
    write_run(store, DONE, 0, {"step": 4, "tokens": 512, "loss": 1.5, "seconds": 61.0})
    write_run(store, PARTIAL, 1, None)
    return ["--store", str(store.path)]


@pytest.fixture
def allometry(capsys: pytest.CaptureFixture[str]):
    """Run the command line: exit status, output and errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


def test_runs_alone_lists(allometry, at):
    status, out, _ = allometry("runs", *at)
    assert status == 0
    assert DONE in out
    assert PARTIAL in out
    assert "1 min 01 s" in out


def test_filters_without_and_with_list(allometry, at):
    for command in ([], ["list"]):
        _, out, _ = allometry("runs", *command, "status=done", "N<1k", *at)
        assert DONE in out
        assert PARTIAL not in out
    assert "no run in" in allometry("runs", "N>1e9", *at)[1]


def test_tables_for_programs(allometry, at):
    rows = json.loads(allometry("runs", "list", "--json", "--sort", "-seed", *at)[1])
    assert [row["run"] for row in rows] == [PARTIAL, DONE]
    assert rows[0]["loss"] is None
    assert allometry("runs", "list", "--csv", *at)[1].startswith("run,status,family,")


def test_show_and_diff(allometry, at):
    _, out, _ = allometry("runs", "show", "aaaaaaaa", *at)
    assert "train.lr" in out
    assert json.loads(allometry("runs", "show", "aaaaaaaa", "--json", *at)[1])["status"] == "done"
    rows = json.loads(allometry("runs", "diff", "aaaaaaaa", "bbbbbbbb", "--json", *at)[1])
    assert rows[0] == {"part": "config", "key": "train.seed", "a": 0, "b": 1}
    assert "status" in {row["key"] for row in rows if row["part"] == "result"}


def test_export_rm_and_undo(allometry, at, tmp_path: Path):
    path = tmp_path / "curves.csv"
    assert allometry("runs", "export", str(path), "--curves", *at)[0] == 0
    assert len(pd.read_csv(path)) == 2
    _, out, _ = allometry("runs", "rm", "status=partial", *at)
    assert PARTIAL in out
    assert PARTIAL not in allometry("runs", *at)[1]
    allometry("runs", "undo", *at)
    assert PARTIAL in allometry("runs", *at)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lits"], "did you mean 'list'"),
        (["show", "zzz"], "unknown run"),
        (["list", "loos<1"], "did you mean 'loss'"),
        (["export", "runs.xlsx"], "unknown file ending"),
        (["undo"], "nothing was removed"),
    ],
)
def test_mistakes_name_the_remedy(allometry, at, arguments: list[str], message: str):
    status, _, error = allometry("runs", *arguments, *(at if arguments != ["lits"] else []))
    assert status == (2 if arguments == ["lits"] else 1)  # wrong usage, or a mistake
    assert message in error
    assert "Traceback" not in error


def test_a_foreign_folder_is_refused(allometry, tmp_path: Path):
    (tmp_path / "letter.txt").write_text("dear")
    status, _, error = allometry("runs", "--store", str(tmp_path))
    assert status == 1
    assert "not a run store" in error


def test_a_long_table_looks_like_a_short_one(capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.DataFrame({"run": ["a", "long-name"] * 300, "N": [1, 2000] * 300})
    print_table(frame.head(2))
    short = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    print_table(frame)
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()][:5] == short[:5]
