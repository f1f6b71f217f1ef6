import json
import shutil
from pathlib import Path

import pytest

from allometry.core.errors import AllometryError
from allometry.core.locks import exclusive
from allometry.runs.record import COLUMNS, read_run
from allometry.runs.store import Store


@pytest.fixture
def store(write_run, tmp_path: Path) -> Store:
    write_run("transformer-2x16-sotu-512-s0-aaaaaaaa", loss_stdlib=2.5)
    write_run("transformer-2x16-sotu-512-s1-bbbbbbbb", seed=1, status="partial")
    write_run("transformer-2x16-sotu-1k-s0-cccccccc", steps=8, status="failed")
    return Store(tmp_path / "runs")


def test_the_table_has_a_row_a_run(store: Store):
    table = store.frame()
    assert list(table.columns) == [*COLUMNS, "loss_stdlib", "study"]
    assert set(table["status"]) == {"done", "partial", "failed"}
    assert list(store.frame("status=done")["run"]) == ["transformer-2x16-sotu-512-s0-aaaaaaaa"]
    assert len(store.records()) == 3
    assert [record.id for record in store.records("seed=1")] == ["transformer-2x16-sotu-512-s1-bbbbbbbb"]


def test_runs_recorded_before_there_were_times_have_none(store: Store, write_run):
    assert store.frame()["finished"].tolist() == [None, None, None]
    write_run("new", finished="2026-01-31T23:59:59Z")
    table = store.frame()
    assert table["finished"].tolist() == ["2026-01-31T23:59:59Z", None, None, None]
    assert store.frame("finished>=2026-01")["run"].tolist() == ["new"]


def test_the_table_notices_every_change(store: Store, write_run):
    store.frame()
    result = store.directory("transformer-2x16-sotu-512-s0-aaaaaaaa") / "result.json"
    result.write_text(json.dumps(json.loads(result.read_text()) | {"loss": 1.2345678}))
    shutil.rmtree(store.directory("transformer-2x16-sotu-512-s1-bbbbbbbb"))
    write_run("new")
    table = store.frame().set_index("run")
    assert table.loc["transformer-2x16-sotu-512-s0-aaaaaaaa", "loss"] == 1.2345678
    assert set(table.index) == {
        "new",
        "transformer-2x16-sotu-512-s0-aaaaaaaa",
        "transformer-2x16-sotu-1k-s0-cccccccc",
    }
    (store.path / ".index.json").write_text("{")
    assert len(store.frame()) == 3


def test_a_damaged_run_is_left_out_and_noted(store: Store):
    (store.directory("transformer-2x16-sotu-512-s1-bbbbbbbb") / "config.json").write_text("{")
    assert len(store.frame()) == 2
    assert "damaged" in store.notes[0]


def test_curves_of_all_or_some(store: Store):
    assert len(store.curves()) == 16
    some = store.curves(["aaaaaaaa"])
    assert list(some["step"]) == [1, 2, 3, 4]
    assert set(some["run"]) == {"transformer-2x16-sotu-512-s0-aaaaaaaa"}
    with (store.directory("transformer-2x16-sotu-512-s0-aaaaaaaa") / "curve.jsonl").open("a") as file:
        file.write('{"step": 5, ')
    assert len(store.curves(["aaaaaaaa"])) == 4
    assert "cut off" in store.notes[0]


def test_a_run_is_found_by_part_of_its_id(store: Store):
    assert store.get("bbbbbbbb").config["train"]["seed"] == 1
    assert store.get("transformer-2x16-sotu-1k").id.endswith("cccccccc")
    with pytest.raises(AllometryError, match="fits 2 runs"):
        store.get("transformer-2x16-sotu-512")
    with pytest.raises(AllometryError, match="did you mean 'transformer-2x16-sotu-1k-s0-cccccccc'"):
        store.get("transfomer-2x16-sotu-1k-s0-cccccccc")


def test_what_was_removed_can_be_brought_back(store: Store):
    removed = store.remove(["aaaaaaaa", "bbbbbbbb"])
    assert len(store.frame()) == 1
    assert store.remove([]) == []
    assert store.undo() == sorted(removed)
    assert len(store.frame()) == 3
    with pytest.raises(AllometryError, match="nothing was removed"):
        store.undo()


def test_undo_never_overwrites(store: Store, write_run):
    (run,) = store.remove(["aaaaaaaa"])
    write_run(run)
    with pytest.raises(AllometryError, match="exists again"):
        store.undo()


def test_removal_waits_for_no_sweep(store: Store):
    with exclusive(store.path), pytest.raises(AllometryError, match="is writing to the store"):
        store.remove(["aaaaaaaa"])


def test_runs_are_shared_between_studies(store: Store):
    first, *_ = store.frame()["run"]
    store.enroll("one", [first, first], question="What?", command="allometry run one")
    store.enroll("two", [first, "not-yet-trained"])
    assert store.studies()["one"].runs == (first,)
    assert store.studies()["one"].question == "What?"
    assert list(store.frame("study=two")["study"]) == ["one, two"]
    with pytest.raises(AllometryError, match="cannot name a study"):
        store.enroll("../evil", [])


def test_only_a_store_is_opened(tmp_path: Path, write_run):
    with pytest.raises(AllometryError, match="no run store"):
        Store(tmp_path / "nowhere")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    for create in (False, True):
        with pytest.raises(AllometryError, match="not a run store"):
            Store(tmp_path / "mine", create=create)
    with pytest.raises(AllometryError, match="is a file"):
        Store(tmp_path / "mine" / "letter.txt", create=True)
    with pytest.raises(AllometryError, match=r"may not write|could not write"):
        Store("/proc/store", create=True)
    write_run("a")
    (tmp_path / "runs" / "store.json").unlink()
    assert len(Store(tmp_path / "runs").frame()) == 1


def test_a_store_of_a_newer_release_is_refused(store: Store):
    (store.path / "store.json").write_text('{"format": 2}')
    with pytest.raises(AllometryError, match="format 2"):
        Store(store.path)


def test_a_listing_reads_only_the_runs_that_have_changed(
    tmp_path: Path, write_run, monkeypatch: pytest.MonkeyPatch
):
    first = write_run("run-0")
    for number in range(1, 1000):
        directory = first.with_name(f"run-{number}")
        directory.mkdir()
        for name in ("config.json", "result.json"):
            (directory / name).write_text((first / name).read_text().replace("run-0", directory.name))
    store = Store(tmp_path / "runs")
    assert len(store.frame()) == 1000
    read: list[str] = []
    monkeypatch.setattr(
        "allometry.runs.index.read_run", lambda directory: read.append(directory.name) or read_run(directory)
    )
    assert len(store.frame("N>1 status=done")) == 1000
    assert read == []
    result = store.directory("run-7") / "result.json"
    result.write_text(json.dumps(json.loads(result.read_text()) | {"loss": 1.2345678}))
    assert (store.frame()["loss"] == 1.2345678).sum() == 1
    assert read == ["run-7"]
