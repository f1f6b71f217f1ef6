import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from allometry.cli import main
from allometry.core.errors import AllometryError
from allometry.runs.importers import read_table
from allometry.runs.store import Store
from allometry.runs.sync import Synced, sync, tracker

Write = Callable[..., Path]
RUN = "transformer-2x16-sotu-512-s0-aaaaaaaa"


def grow(folder: Path) -> None:
    row = {"step": 5, "tokens": 640, "lr": 0.01, "train_loss": 1.0, "grad_norm": 1.0, "loss": 1.1}
    with (folder / "curve.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def test_tensorboard_gets_each_point_once(write_run: Write, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = write_run(RUN, "partial")
    store, target = Store(folder.parent), f"tensorboard:{tmp_path / 'tb'}"
    assert sync(store, tracker(target, store)) == Synced(new=1, continued=0, unchanged=0)
    assert sync(store, tracker(target, store)) == Synced(new=0, continued=0, unchanged=1)
    grow(folder)
    (folder / "result.json").write_text(json.dumps({"format": 1, "status": "done", "step": 5, "loss": 1.1}))
    assert sync(store, tracker(target, store)) == Synced(new=0, continued=1, unchanged=0)
    events = EventAccumulator(str(tmp_path / "tb" / RUN), size_guidance={"scalars": 0})
    events.Reload()
    assert [point.step for point in events.Scalars("loss")] == [1, 2, 3, 4, 5]
    assert events.Scalars("final/loss")[0].value == pytest.approx(1.1)
    assert "_hparams_/session_start_info" in events.summary_metadata
    assert "torch" not in sys.modules or "tensorflow" not in sys.modules


def test_what_was_mirrored_reads_back(
    write_run: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    folder = write_run(RUN)
    arguments = ["status=done", "--to", f"tensorboard:{tmp_path / 'tb'}", "--store", str(folder.parent)]
    with pytest.raises(SystemExit) as ended:
        main(["runs", "sync", *arguments])
    assert ended.value.code == 0
    assert "1 run new, 0 continued" in capsys.readouterr().out
    back = read_table(tmp_path / "tb")
    assert back.frame["run"].unique().tolist() == [RUN]


@pytest.mark.slow
def test_wandb_offline_and_trackio(write_run: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(RUN)
    store = Store(folder.parent)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for package, target, offline in (("wandb", "wandb:laws", True), ("trackio", "trackio:laws", False)):
        pytest.importorskip(package)
        assert sync(store, tracker(target, store, offline=offline)).new == 1
        assert sync(store, tracker(target, store, offline=offline)).unchanged == 1
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert list((tmp_path / "trackio").glob("laws*"))


@pytest.mark.parametrize(
    ("target", "says"),
    [("tensorbord:x", "did you mean 'tensorboard'"), ("tensorboard", "tensorboard:FOLDER")],
)
def test_unknown_targets(target: str, says: str, write_run: Write) -> None:
    store = Store(write_run(RUN).parent)
    with pytest.raises(AllometryError) as refused:
        tracker(target, store)
    assert says in (refused.value.hint or "")


def test_a_missing_package_is_named_with_its_extra(write_run: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(write_run(RUN).parent)
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(AllometryError) as refused:
        tracker("trackio", store)
    assert refused.value.hint == "pip install 'allometry[trackio]'"
