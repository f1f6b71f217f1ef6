"""Stores that somebody else made: what is damaged is named, the rest is read, nothing outside is touched."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from allometry.cli import app
from allometry.core.errors import AllometryError
from allometry.core.files import MOST_DEEP, append_text, read_bytes, read_json, replacing, write_text
from allometry.core.locks import exclusive
from allometry.runs.place import Folder
from allometry.runs.store import Store
from allometry.studies.core.results import folder_of

GOOD, BAD = "transformer-2x16-sotu-512-s0-aaaaaaaa", "transformer-2x16-sotu-512-s1-bbbbbbbb"


@pytest.fixture
def store(write_run, tmp_path: Path) -> Store:
    write_run(GOOD)
    write_run(BAD, seed=1)
    return Store(tmp_path / "runs")


def change(store: Store, file: str, edit: Callable[[dict], object]) -> None:
    path = store.directory(BAD) / file
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


def put(file: str, text: str) -> Callable[[Store], object]:
    return lambda store: (store.directory(BAD) / file).write_text(text)


def within(file: str, edit: Callable[[dict], object]) -> Callable[[Store], object]:
    return lambda store: change(store, file, edit)


def linked(file: str, target: str) -> Callable[[Store], object]:
    def put_link(store: Store) -> None:
        (store.directory(BAD) / file).unlink(missing_ok=True)
        (store.directory(BAD) / file).symlink_to(target)

    return put_link


def piped(file: str) -> Callable[[Store], object]:
    def put_pipe(store: Store) -> None:
        (store.directory(BAD) / file).unlink(missing_ok=True)
        os.mkfifo(store.directory(BAD) / file)

    return put_pipe


DEEP = "[" * 5000 + "]" * 5000
LEFT_OUT = {
    "deep": put("config.json", '{"config": ' + DEEP + "}"),
    "rather deep": put("config.json", '{"config": ' + "[" * (MOST_DEEP + 1) + "]" * (MOST_DEEP + 1) + "}"),
    "long number": put("config.json", '{"config": {"train": {"lr": ' + "9" * 5000 + "}}}"),
    "large number": within("config.json", lambda c: c["config"]["train"].update(seed=10**4000)),
    "list": put("config.json", "[]"),
    "config is a list": within("config.json", lambda c: c.update(config=[])),
    "model is a text": within("config.json", lambda c: c["config"].update(model="m")),
    "text for a number": within("config.json", lambda c: c["config"]["train"].update(lr="fast")),
    "number for a text": within("config.json", lambda c: c["config"]["data"].update(corpus=7)),
    "truth for a number": within("config.json", lambda c: c["config"]["train"].update(lr=True)),
    "newer release": within("config.json", lambda c: c.update(format=99)),
    "format of text": within("config.json", lambda c: c.update(format="1")),
    "not UTF-8": lambda store: (store.directory(BAD) / "config.json").write_bytes(b'{"a": "\xff"}'),
    "pipe": piped("config.json"),
    "link": linked("config.json", "/etc/passwd"),
    "device": linked("config.json", "/dev/zero"),
    "folder": lambda store: [
        (store.directory(BAD) / "config.json").unlink(),
        (store.directory(BAD) / "config.json").mkdir(),
    ],
}
UNFINISHED = {
    "result is a list": put("result.json", "[]"),
    "steps of text": within("result.json", lambda r: r.update(step="four")),
    "steps are no number": put("result.json", '{"step": NaN, "tokens": 512}'),
    "steps without end": put("result.json", '{"step": Infinity, "tokens": 512}'),
    "loss of text": within("result.json", lambda r: r.update(loss="low")),
    "loss elsewhere of text": within("result.json", lambda r: r.update(loss_stdlib=[1])),
    "status unknown": within("result.json", lambda r: r.update(status=["done"])),
    "notes of numbers": within("result.json", lambda r: r.update(notes=[1])),
    "large tokens": within("result.json", lambda r: r.update(tokens=10**400)),
    "many losses": within("result.json", lambda r: r.update({f"loss_{k}": 1.0 for k in range(2000)})),
    "result is a pipe": piped("result.json"),
    "result is a link": linked("result.json", "/etc/passwd"),
}
NOTED = {
    "a count is missing": within("config.json", lambda c: c["counts"].pop("head")),
    "a count is text": within("config.json", lambda c: c["counts"].update(blocks="many")),
    "a count is huge": within("config.json", lambda c: c["counts"].update(blocks=10**30)),
    "a count is negative": within("config.json", lambda c: c["counts"].update(blocks=-1)),
    "counts are a list": within("config.json", lambda c: c.update(counts=[1])),
    "another run's id": within("config.json", lambda c: c.update(id="../victim")),
    "an id of numbers": within("config.json", lambda c: c.update(id=[7])),
    "error is a link": linked("error.txt", "/etc/passwd"),
    "error is a pipe": piped("error.txt"),
}


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_a_damaged_configuration_leaves_one_run_out(kind: str, store: Store):
    LEFT_OUT[kind](store)
    assert store.frame()["run"].tolist() == [GOOD]
    assert BAD in store.notes[0]
    assert [record.id for record in store.records()] == [GOOD]
    assert set(store.curves()["run"]) == {GOOD}


@pytest.mark.parametrize("kind", UNFINISHED)
def test_a_damaged_result_makes_a_run_unfinished(kind: str, store: Store):
    UNFINISHED[kind](store)
    table = store.frame().set_index("run")
    assert table["status"].to_dict() == {GOOD: "done", BAD: "partial"}
    assert "result.json" in store.notes[0]
    assert table.loc[GOOD, "loss"] == 1.275


@pytest.mark.parametrize("kind", NOTED)
def test_what_else_is_damaged_is_noted(kind: str, store: Store):
    NOTED[kind](store)
    table = store.frame().set_index("run")
    assert set(table.index) == {GOOD, BAD}
    assert table.loc[BAD, "loss"] == 1.275
    assert len(store.notes) == 1
    assert BAD in store.notes[0]
    if "count" in kind:
        assert table["N"].isna().to_dict() == {GOOD: False, BAD: True}


@pytest.mark.parametrize(
    "line",
    [
        '{"step": NaN, "loss": 1.0}',
        '{"step": "1"}',
        '{"loss": 1.0}',
        '{"step": 1, "loss": "x"}',
        '{"step": 1, "by_position": [[1]]}',
        '{"step": 1, "loss": {}}',
        '{"step": 1e400}',
        "[1]",
        DEEP,
        "9" * 5000,
    ],
)
def test_a_damaged_line_of_a_curve_is_left_out(line: str, store: Store):
    with (store.directory(BAD) / "curve.jsonl").open("a") as file:
        file.write(line + '\n{"step": 9, "tokens": 9, "loss": 1.0, "by_position": [1.0]}\n')
    assert store.curves([BAD])["step"].tolist() == [1, 2, 3, 4, 9]
    assert "damaged" in store.notes[0]
    assert store.positions([BAD])["step"].unique().tolist() == [9] or store.positions([BAD]).empty


def test_a_renamed_run_is_called_as_its_folder_is(store: Store):
    store.directory(BAD).rename(store.directory("mine"))
    assert store.frame()["run"].tolist() == ["mine", GOOD]
    assert BAD in store.notes[0]
    assert set(store.curves()["run"]) == {"mine", GOOD}
    assert store.remove(["mine"]) == ["mine"]
    assert store.undo() == ["mine"]
    assert len(store.frame()) == 2


def test_an_id_moves_nothing_outside_of_the_store(store: Store, tmp_path: Path):
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "letter.txt").write_text("dear")
    change(store, "config.json", lambda c: c.update(id="../victim"))
    assert store.remove([BAD]) == [BAD]
    assert (tmp_path / "victim" / "letter.txt").read_text() == "dear"
    assert store.undo() == [BAD]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs", "victim"]
    for name in ("../victim", "..", "", "/etc", str(tmp_path / "victim")):
        with pytest.raises(AllometryError):
            store.remove([name])


def test_links_in_a_store_are_not_followed(store: Store, tmp_path: Path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "config.json").write_text((store.directory(GOOD) / "config.json").read_text())
    (store.path / "linked").symlink_to(victim)
    assert store.frame()["run"].tolist() == [GOOD, BAD]
    assert "linked is a link" in store.notes[0]
    with pytest.raises(AllometryError):
        store.get("linked")
    (store.path / ".removed").symlink_to(victim)
    for move in (lambda: store.remove([BAD]), store.undo):
        with pytest.raises(AllometryError, match="is a link"):
            move()
    shutil.rmtree(store.path / "studies", ignore_errors=True)
    (store.path / "studies").symlink_to(victim)
    with pytest.raises(AllometryError, match="studies is a link"):
        store.enroll("mine", [GOOD])
    (store.path / "studies").unlink()
    (store.path / "studies").mkdir()
    (store.path / "studies" / "mine").symlink_to(victim)
    with pytest.raises(AllometryError, match="mine is a link"):
        store.enroll("mine", [GOOD])
    with pytest.raises(AllometryError, match="mine is a link"):
        folder_of(store, "mine")
    assert [path.name for path in victim.iterdir()] == ["config.json"]
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (store.path / ".lock").unlink(missing_ok=True)
    (store.path / ".lock").symlink_to(secret)
    with pytest.raises(AllometryError, match=r"\.lock"), exclusive(store.path):
        pass
    assert secret.read_text() == "secret"
    (store.directory(GOOD) / "log.txt").symlink_to(secret)
    with pytest.raises(AllometryError):
        append_text(store.directory(GOOD) / "log.txt", "more")
    assert secret.read_text() == "secret"
    place = Folder(store.path)
    assert f"{GOOD}/log.txt" not in place.names()
    for name in ("../secret", f"{GOOD}/../../secret"):
        for use in (place.read, place.remove, lambda name: place.write(name, b"")):
            with pytest.raises(AllometryError):
                use(name)
    assert secret.read_text() == "secret"


def test_what_lies_in_the_undo_folder_is_no_run(store: Store, tmp_path: Path):
    batch = store.path / ".removed" / "9"
    batch.mkdir(parents=True)
    (batch / "store.json").write_text("{}")
    with pytest.raises(AllometryError, match="nothing was removed"):
        store.undo()


@pytest.mark.parametrize(
    "forged",
    [
        "{}",
        "[]",
        DEEP,
        '{"made": 1, "runs": 3}',
        lambda made: {"made": made, "runs": 3},
        lambda made: {"made": made},
        lambda made: {"made": made, "runs": {GOOD: 1}},
        lambda made: {"made": made, "runs": {GOOD: {"stamp": [1], "row": {"run": "../victim"}, "notes": []}}},
        lambda made: {"made": made, "runs": {"../victim": {}}},
    ],
)
def test_a_forged_index_is_no_table(forged, store: Store):
    store.frame()
    path = store.path / ".index.json"
    made = json.loads(path.read_text())["made"]
    path.write_text(forged if isinstance(forged, str) else json.dumps(forged(made)))
    assert store.frame()["run"].tolist() == [GOOD, BAD]


def test_an_index_of_other_types_is_made_again(store: Store):
    store.frame()
    path = store.path / ".index.json"
    stored = json.loads(path.read_text())
    stored["runs"][GOOD]["row"]["loss"] = "\x1b[2J"
    path.write_text(json.dumps(stored))
    assert store.frame().set_index("run").loc[GOOD, "loss"] == 1.275


def test_a_damaged_study_is_left_out(store: Store):
    store.enroll("good", [GOOD])
    folder = store.path / "studies"
    (folder / "number.json").write_text('{"runs": 3}')
    (folder / "deep.json").write_text(DEEP)
    (folder / "newer.json").write_text('{"format": 9}')
    (folder / "link.json").symlink_to("/etc/passwd")
    (folder / "a b.json").write_text("{}")
    assert set(store.studies()) == {"good"}
    assert store.frame("study=good")["run"].tolist() == [GOOD]
    assert len(store.notes) == 5


def test_a_run_that_failed_before_its_configuration_is_seen(store: Store):
    early = store.directory("early")
    early.mkdir()
    (early / "error.txt").write_text("no such corpus")
    table = store.frame().set_index("run")
    assert table["status"].to_dict() == {GOOD: "done", BAD: "done", "early": "failed"}
    assert store.get("early").error == "no such corpus"
    assert store.status("early") == "failed"
    assert len(store.curves(["early"])) == 0


def lines(*arguments: str) -> str:
    """What a command prints; it may fail, but not by a defect."""
    done = CliRunner().invoke(app, list(arguments))
    if done.exception and not isinstance(done.exception, SystemExit | AllometryError):
        raise done.exception
    return done.output + str(done.exception or "")


def test_stores_without_a_finished_run(tmp_path: Path, write_run):
    where = ("--store", str(tmp_path / "runs"))
    empty = Store(tmp_path / "runs", create=True)
    assert "no runs yet" in lines("runs", "list", *where)
    assert lines("runs", "list", *where, "--json").split() == ["[", "]"]
    write_run(GOOD)
    assert "1 removed" in lines("runs", "rm", "status=done", *where)
    assert "no runs yet" in lines("runs", "list", *where)
    assert "no run in" in lines("runs", "list", "study=x", *where)
    early = empty.directory("early")
    early.mkdir()
    (early / "error.txt").write_text("no such corpus")
    assert "early" in lines("runs", "list", *where)
    assert "no such corpus" in lines("runs", "show", "early", *where)
    lines("report", *where)
    lines("fit", str(tmp_path / "runs"))
    assert "1 failed" in lines("doctor", *where)


def test_terminals_obey_nothing_that_a_store_says(store: Store):
    evil = "\x1b]0;owned\x07\x1b[2Jred\u202e"
    change(store, "config.json", lambda c: c["config"]["data"].update(corpus=evil))
    change(store, "config.json", lambda c: c["config"].update({evil: evil}))
    change(store, "result.json", lambda r: r.update({"notes": [evil], f"loss_{evil}": 1.0, "engine": evil}))
    (store.directory(BAD) / "error.txt").write_text(evil)
    (store.directory(BAD) / "env.json").write_text(json.dumps({evil: evil}))
    store.enroll("study", [BAD], question=evil, command=evil)
    where = ("--store", str(store.path))
    for command in (
        ("list",), ("list", "--csv"), ("list", "--json"), ("show", BAD), ("show", BAD, "--json"),
        ("diff", GOOD, BAD), ("list", f"corpus={evil}"),
    ):  # fmt: skip
        printed = lines("runs", *command, *where)
        assert not {"\x1b", "\x07", "\u202e"} & set(printed), command
        assert command[0] == "list" or "\\x1b" in printed or "\\u001b" in printed, command


def test_files_are_opened_with_care(tmp_path: Path):
    path = tmp_path / "x.json"
    path.write_text("{}")
    assert read_bytes(path, 2) == b"{}"
    with pytest.raises(AllometryError, match="more than 1 bytes"):
        read_bytes(path, 1)
    assert read_bytes(tmp_path / "nothing") is None
    path.write_text("{")
    hint = None
    try:
        read_json(tmp_path / "x.json")
    except AllometryError as error:
        hint = error.hint
    assert hint == f"move it away: mv {path} {path}.damaged"


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "x"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError), replacing(path) as aside:
        aside.write_text("half\ud800")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x"]
    secret = tmp_path / "secret"
    secret.write_text("secret")
    path.unlink()
    path.symlink_to(secret)
    write_text(path, "new")  # takes the link's place
    assert (path.read_text(), secret.read_text(), path.is_symlink()) == ("new", "secret", False)
