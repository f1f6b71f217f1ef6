import json
from pathlib import Path

import pytest
from halfway import STUDY, row, write

from allometry.runs.store import Store
from allometry.watch.page import Page
from allometry.watch.reader import Clock, Reader, progress, work_of


def parts(page: Page, study: str = STUDY) -> dict[str, dict[str, str]]:
    page.update(study)
    page.settle()
    return {name: json.loads(text) for name, text in page.update(study).items()}


def test_progress_counts_every_run_once_and_trunks_once(store: Store) -> None:
    reader = Reader(store)
    reader.refresh()
    runs = store.studies()[STUDY].runs
    work = work_of(reader, runs, reader.plan(STUDY))
    assert work["t-1000-80"] == pytest.approx(
        0.2 * work["t-1000-320"] / 4
    )  # its decay alone: the trunk is shared
    state = progress(reader, runs, work, 60.0, Clock(), 0.0)
    assert (state.planned, state.done, state.failed, state.waiting) == (12, 9, 1, 1)
    assert [(run.run, run.step, run.steps, run.running) for run in state.running] == [
        ("t-growing", 160, 320, True)
    ]
    left = work["t-growing"] / 2 + work["t-later"]
    assert state.share == pytest.approx(1 - left / sum(work.values()))
    assert state.eta == pytest.approx(60 * left / sum(work.values()))


def test_the_time_left_is_corrected_by_what_is_seen() -> None:
    clock = Clock()
    assert clock.eta(0.0, 100.0, prior=1.0) == pytest.approx(100.0)
    for second in range(1, 60):
        eta = clock.eta(float(second), 100.0 - second / 2, prior=1.0)  # half as fast as planned
    assert eta == pytest.approx(2 * (100 - 59 / 2), rel=0.15)
    assert Clock().eta(0.0, 100.0, prior=None) is None


def test_a_checkpoint_tells_progress_between_evaluations(store: Store) -> None:
    folder = store.directory("t-growing") / "checkpoints"
    folder.mkdir()
    (folder / "step-200.safetensors").touch()
    reader = Reader(store)
    reader.refresh()
    assert reader.underway(["t-growing"])[0].step == 200


def test_figures_and_laws_of_what_has_ended_with_everything_from_outside_escaped(store: Store) -> None:
    made = parts(Page(store))
    assert set(made) == {"studies", "progress", "curves", "ledger", "failures", "size", "joint", "laws"}
    assert "L(N, D), Chinchilla" in made["laws"]["html"]
    assert "9</strong> of 12 runs" in made["progress"]["html"]
    assert "the one that is being trained" in made["curves"]["caption"]
    html = "".join(part.get("html", "") for part in made.values())
    assert not any(text in html for text in ("<img", "<script", "<b>it"))
    assert "&lt;script&gt;no" in made["failures"]["html"]


def test_only_what_changed_is_read_and_made_again(store: Store) -> None:
    page = Page(store, fits=False)
    before = page.update(STUDY)
    again = page.update(STUDY)
    assert {name for name in again if again[name] != before[name]} <= {"progress"}  # the time left
    with (store.directory("t-growing") / "curve.jsonl").open("a") as file:
        file.write(json.dumps(row(64000, 200)) + "\n")
    kept = page.reader._curves["t-1000-80"]
    after = page.update(STUDY)
    assert {name for name in after if after[name] != before.get(name)} == {"progress", "curves"}
    assert page.reader._curves["t-1000-80"] is kept


def test_a_run_that_ends_has_the_laws_fitted_again(store: Store) -> None:
    page = Page(store)
    page.update(STUDY)
    page.settle()
    page.update(STUDY)
    assert page._views[STUDY].fitting is None
    write(store, "t-growing", n=64000, steps=320)
    page._views[STUDY].rest_until = 0.0
    page.update(STUDY)
    assert page._views[STUDY].fitting is not None
    page.close()


def test_a_prediction_is_shown_before_and_after_its_run(store: Store) -> None:
    prediction = {"run": "t-growing", "N": 64000, "D": 163840, "seed": 0, "loss": 3.2, "low": 2.0,
                  "high": 4.0, "level": 0.95, "method": "m", "already_known": False}  # fmt: skip
    path = store.path / "studies" / STUDY / "prediction.json"
    path.write_text(json.dumps({"registered": "2026-01-01T00:00:00+00:00", "predictions": [prediction]}))
    page = Page(store, fits=False)
    assert "1 predicted run has not ended yet" in parts(page)["ledger"]["html"]
    write(store, "t-growing", n=64000, steps=320)
    made = parts(page)
    assert "1 of 1 predictions hold" in made["ledger"]["html"]
    assert "predictions" in made


def test_an_empty_store_and_all_runs(store: Store, tmp_path: Path) -> None:
    empty = parts(Page(Store(tmp_path / "empty", create=True)), "")
    assert "0</strong> of 0 runs" in empty["progress"]["html"]
    assert "11 runs" not in empty["progress"]["html"]
    assert "9</strong> of 11 runs" in parts(Page(store, fits=False), "")["progress"]["html"]


def test_a_study_whose_runs_are_not_there_yet(tmp_path: Path) -> None:
    store = Store(tmp_path / "new", create=True)
    store.enroll("soon", ["a-run", "another-run"])
    made = parts(Page(store), "soon")
    assert "0</strong> of 2 runs" in made["progress"]["html"]
