"""The loop: what it writes, what it survives, and that runs repeat bit for bit."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from allometry.core.errors import AllometryError
from allometry.runs.record import read_run
from allometry.train import checkpoint
from allometry.train.checkpoint import trained_model
from allometry.train.config import RunConfig
from allometry.train.inputs import load_inputs
from allometry.train.loop import Progress, train

Make = Callable[..., RunConfig]
Files = Callable[[Path], tuple[bytes, bytes]]


class Stop(KeyboardInterrupt):
    pass


def stop_at(step: int) -> Callable[[Progress], None]:
    def listen(progress: Progress) -> None:
        if progress.step >= step:
            raise Stop

    return listen


@pytest.fixture(autouse=True)
def always_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("allometry.train.loop.PROGRESS_SECONDS", 0.0)


def test_a_run_leaves_what_the_store_reads(make_run: Make, tmp_path: Path, corpus: str) -> None:
    config = make_run(data={"eval_on": (corpus,)})
    heard: list[Progress] = []
    result = train(config, tmp_path / "run", on_progress=heard.append)
    assert json.loads((tmp_path / "run/result.json").read_text()) == result
    assert result["status"] == "done"
    assert result["step"] == config.train.steps == 60
    assert result["tokens"] == 60 * 128
    assert result["loss"] < math.log(256) - 1
    assert result[f"loss_{corpus}"] == result["loss"]
    assert result["bits_per_byte"] == pytest.approx(result["loss"] / math.log(2))
    rows = [json.loads(line) for line in (tmp_path / "run/curve.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [4, 6, 8, 11, 16, 23, 32, 45, 60]
    assert rows[-1]["loss"] == result["loss"]
    assert len(rows[-1]["by_position"]) == config.model.n_ctx
    assert sum(rows[-1]["by_position"]) / config.model.n_ctx == pytest.approx(result["loss"], rel=1e-4)
    assert heard[-1].step == 60
    stored = json.loads((tmp_path / "run/config.json").read_text())
    assert stored["id"] == config.id
    assert stored["counts"] == config.model.counts().to_dict()
    assert RunConfig.model_validate(stored["config"]) == config
    assert "cpu" in json.loads((tmp_path / "run/env.json").read_text())


def test_a_finished_run_is_not_trained_again(make_run: Make, tmp_path: Path) -> None:
    result = train(make_run(), tmp_path)
    assert train(make_run(), tmp_path, on_progress=stop_at(0)) == result


def test_times_are_utc_and_no_part_of_the_identity(make_run: Make, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train(make_run(), tmp_path, on_progress=stop_at(7))
    before = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    result = train(make_run(), tmp_path)
    assert result["started"] <= before <= result["finished"]
    assert read_run(tmp_path).row()["finished"] == result["finished"]


@pytest.mark.parametrize("engine", ["reference", "fast"])
def test_stopped_and_continued_is_bitwise_the_same(
    make_run: Make, run_files: Files, tmp_path: Path, engine: str
) -> None:
    config = make_run(engine=engine, noise_batches=1)
    train(config, tmp_path / "whole")
    for step in (7, 30):  # in the middle of the sums that a row averages
        with pytest.raises(Stop):
            train(config, tmp_path / "parts", on_progress=stop_at(step))
    with (tmp_path / "parts/curve.jsonl").open("a") as file:
        file.write('{"step": 31, "tok')  # what a kill leaves of a line
    train(config, tmp_path / "parts")
    assert run_files(tmp_path / "parts") == run_files(tmp_path / "whole")


def test_a_branch_is_bitwise_the_run_trained_alone(make_run: Make, run_files: Files, tmp_path: Path) -> None:
    long, short = make_run(), make_run(tokens=30 * 128)
    assert long.trunk == short.trunk
    assert long.trunk is not None
    start = short.train.decay_start
    train(long, tmp_path / "long", branch_at=(start,))
    checkpoint.branch(tmp_path / "long", start, tmp_path / "short")
    train(short, tmp_path / "short", on_progress=lambda at: None)
    train(short, tmp_path / "alone")
    train(long, tmp_path / "unbranched")
    assert run_files(tmp_path / "short") == run_files(tmp_path / "alone")
    assert run_files(tmp_path / "long") == run_files(tmp_path / "unbranched")
    assert "continues after step 24" in (tmp_path / "short/log.txt").read_text()


def test_a_foreign_branch_is_passed_over(make_run: Make, run_files: Files, tmp_path: Path) -> None:
    train(make_run(lr=0.02), tmp_path / "other", branch_at=(10,))
    checkpoint.branch(tmp_path / "other", 10, tmp_path / "run")
    train(make_run(), tmp_path / "run")
    train(make_run(), tmp_path / "alone")
    assert run_files(tmp_path / "run") == run_files(tmp_path / "alone")
    assert "belongs to another run" in (tmp_path / "run/log.txt").read_text()


def test_a_missing_branch_point_says_so(make_run: Make, tmp_path: Path) -> None:
    with pytest.raises(AllometryError, match="no branch point at step 10"):
        checkpoint.branch(tmp_path, 10, tmp_path / "target")


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_checkpoint_costs_an_interval(
    make_run: Make, run_files: Files, tmp_path: Path, damage: str
) -> None:
    config = make_run()
    train(config, tmp_path / "whole")
    with pytest.raises(Stop):
        train(config, tmp_path / "run", on_progress=stop_at(20), checkpoint_every=0.0)
    newest = sorted((tmp_path / "run/checkpoints").glob("step-*"))
    assert len(newest) == checkpoint.KEPT
    data = newest[-1].read_bytes()
    flipped = data[:-100] + bytes([data[-100] ^ 1]) + data[-99:]
    newest[-1].write_bytes({"truncated": data[:-9], "flipped": flipped, "empty": b""}[damage])
    train(config, tmp_path / "run")
    log = (tmp_path / "run/log.txt").read_text()
    assert "is damaged" in log
    assert "continues after step 19" in log
    assert run_files(tmp_path / "run") == run_files(tmp_path / "whole")


def test_divergence_is_a_result(make_run: Make, tmp_path: Path) -> None:
    result = train(make_run(lr=50.0, clip=None, warmup=0), tmp_path)
    assert result["status"] == "diverged"
    assert "loss" not in result
    assert result["step"] < 60
    assert "training loss" in result["notes"][0]


def test_early_stopping_reports_the_best_loss(make_run: Make, tmp_path: Path) -> None:
    config = make_run(data={"limit": 160}, tokens=600 * 128, early_stop=2, evals_per_octave=4)
    result = train(config, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert result["status"] == "done"
    assert result["step"] < 600
    assert result["loss"] == min(row["loss"] for row in rows)
    assert result["unique"] == 160
    assert result["best_step"] == rows[-3]["step"]


def test_user_errors_say_what_to_do(make_run: Make, tmp_path: Path) -> None:
    with pytest.raises(AllometryError, match="lower the limit"):
        train(make_run(data={"limit": 10**9}), tmp_path / "limit")
    assert "lower the limit" in (tmp_path / "limit/error.txt").read_text()
    small = make_run().model.replace(n_vocab=100)
    with pytest.raises(AllometryError, match="set n_vocab = 256"):
        train(make_run().replace(model=small), tmp_path / "vocabulary")
    train(make_run(tokens=128), tmp_path / "run")
    (tmp_path / "run/result.json").unlink()
    with pytest.raises(AllometryError, match="holds another run"):
        train(make_run(tokens=256), tmp_path / "run")


def test_a_retry_removes_the_error_of_the_last_attempt(make_run: Make, tmp_path: Path) -> None:
    (tmp_path / "error.txt").write_text("failed before")
    train(make_run(tokens=128), tmp_path)
    assert not (tmp_path / "error.txt").exists()


def test_a_damaged_result_is_made_again(make_run: Make, tmp_path: Path) -> None:
    result = train(make_run(tokens=256), tmp_path)
    (tmp_path / "result.json").write_text('{"format": 1, "sta')
    assert train(make_run(tokens=256), tmp_path)["loss"] == result["loss"]


def test_a_finished_run_gives_back_its_model(make_run: Make, tmp_path: Path) -> None:
    with pytest.raises(AllometryError, match="holds no run"):
        trained_model(tmp_path)
    config = make_run()
    result = train(config, tmp_path)
    model = trained_model(tmp_path)
    (windows,) = load_inputs(config).tests.values()
    ids = torch.from_numpy(windows)
    with torch.no_grad():
        losses = F.cross_entropy(model(ids[:, :-1]).transpose(1, 2), ids[:, 1:])
    assert float(losses) == pytest.approx(result["loss"], rel=1e-5)
