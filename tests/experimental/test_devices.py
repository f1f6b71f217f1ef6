"""One run on two processes: the same losses as on one, with the state copied (DDP) or divided (FSDP2)."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist
from waiting import until

from allometry.core.errors import AllometryError
from allometry.experimental import torchrun
from allometry.experimental.devices import ParallelEngine
from allometry.experimental.torchrun import read_config
from allometry.train.checkpoint import final_parameters
from allometry.train.engines.reference import ReferenceEngine
from allometry.train.loop import train

LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def on_two(config, store: Path, *options: str) -> None:
    """Train with torchrun on two processes."""
    file = store.with_suffix(".json")
    file.write_text(config.model_dump_json())
    command = [*LAUNCHER, "-m", "allometry.experimental.torchrun", str(file), "--store", str(store), *options]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


HALTED = """
from allometry.experimental import devices, torchrun
from allometry.train import loop

class Torchrun(devices.Torchrun):
    saved = 0

    def save(self, *arguments):
        self.saved += 1
        while self.saved > 2 and not self._stopping():
            time.sleep(0.01)
        super().save(*arguments)

import time
devices.Torchrun = Torchrun
torchrun.main()
"""
"""A process of torchrun's that goes no further than two checkpoints until it is asked to end."""


def ended_on_two(config, store: Path, *options: str) -> None:
    """Train as `on_two` does, but end it when it has written two checkpoints."""
    file, program = store.with_suffix(".json"), store.with_suffix(".py")
    file.write_text(config.model_dump_json())
    program.write_text(HALTED)
    command = [*LAUNCHER, str(program), str(file), "--store", str(store), "--checkpoint-every", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    checkpoints = store / config.id / "checkpoints"
    with subprocess.Popen([*command, *options], env=environment, stderr=subprocess.DEVNULL) as process:
        until(lambda: len(list(checkpoints.glob("*.dcp"))) >= 2, alive=process)
        process.terminate()


def curve(directory: Path) -> list[dict]:
    return [json.loads(line) for line in (directory / "curve.jsonl").read_text().splitlines()]


CALM = 128
"""Steps after which training has multiplied differences of rounding by more than a thousand."""


def assert_equal_within_rounding(first: Path, second: Path) -> None:
    points = list(zip(curve(first), curve(second), strict=True))
    for one, other in points:
        assert other["step"] == one["step"]
        for name in ("loss", "train_loss", "grad_norm"):
            if one["step"] <= CALM:
                assert other[name] == pytest.approx(one[name], rel=2e-5)
    one, other = points[-1]
    assert other["loss"] == pytest.approx(one["loss"], rel=2e-5 if one["step"] <= CALM else 0.01)
    parameters = final_parameters(first)
    for name, value in final_parameters(second).items():
        assert value.shape == parameters[name].shape
        if one["step"] <= CALM:
            assert value == pytest.approx(parameters[name], abs=2e-4), name


@pytest.fixture
def group() -> Iterator[None]:
    """A group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("sharded", [False, True])
def test_a_group_of_one_makes_the_steps_of_the_reference(make_run, sharded: bool, tmp_path: Path):
    config = make_run()
    alone, grouped = ReferenceEngine(config), ParallelEngine(config, sharded=sharded)
    batches = np.random.default_rng(0).integers(0, 256, (4, 4, 33))
    for step, batch in enumerate(batches[:2], 1):
        expected, found = alone.step(batch, lr=0.01, step=step), grouped.step(batch, lr=0.01, step=step)
        assert (found.loss, found.grad_norm) == pytest.approx((expected.loss, expected.grad_norm), rel=1e-5)
    assert grouped.losses(batches[2]) == pytest.approx(alone.losses(batches[2]), rel=1e-4)
    grouped.save(tmp_path / "step.dcp")
    kept = grouped.state()
    grouped.step(batches[3], lr=0.01, step=3)
    grouped.load(tmp_path / "step.dcp")
    state = alone.state()
    for name, value in grouped.state().items():
        assert np.array_equal(value, kept[name]), name
        assert value == pytest.approx(state[name], abs=1e-5), name


def test_the_program_of_torchrun_trains_what_one_process_does(
    make_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As the only process of its group, without the launcher."""
    config = make_run(tokens=8 * 128)
    train(config, tmp_path / "one")
    file, store = tmp_path / "run.json", tmp_path / "two"
    file.write_text(config.model_dump_json())
    group = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
    }
    for name, value in group.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torchrun, "die_with", lambda parent: None)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(sys, "argv", ["torchrun", str(file), "--store", str(store), "--sharded", "yes"])
    torchrun.main()
    assert_equal_within_rounding(tmp_path / "one", store / config.id)
    assert json.loads((store / config.id / "result.json").read_text())["engine"] == "parallel"


@pytest.mark.slow
def test_two_processes_lose_what_one_does(make_run, tmp_path: Path):
    config = make_run(tokens=24 * 128)
    train(config, tmp_path / "one")
    on_two(config, tmp_path / "two", "--sharded", "yes")
    assert_equal_within_rounding(tmp_path / "one", tmp_path / "two" / config.id)
    result = json.loads((tmp_path / "two" / config.id / "result.json").read_text())
    assert result["engine"] == "parallel"
    assert [p.name for p in (tmp_path / "two" / config.id / "checkpoints").iterdir()] == ["final.safetensors"]


@pytest.mark.slow
def test_copied_and_resumed_on_another_number_of_devices(make_run, tmp_path: Path):
    long, short = make_run(tokens=400 * 128), make_run(tokens=400 * 128).model_copy(update={"devices": 2})
    assert long.id == short.id
    train(long, tmp_path / "one")
    on_two(long, tmp_path / "copied", "--sharded", "no")
    assert_equal_within_rounding(tmp_path / "one", tmp_path / "copied" / long.id)
    for sharded in ("yes", "no"):
        store = tmp_path / f"resumed-{sharded}"
        ended_on_two(long, store, "--sharded", sharded)
        assert not (store / long.id / "result.json").exists()
        train(long, store / long.id)
        assert "continues after step" in (store / long.id / "log.txt").read_text()
        assert_equal_within_rounding(tmp_path / "one", store / long.id)


def test_configurations_that_cannot_be_read(make_run, tmp_path: Path):
    with pytest.raises(AllometryError, match="no file"):
        read_config(tmp_path / "nowhere.json")
    (tmp_path / "bad.json").write_text('{"model": {"family": "transformer", "n_layer": 2}}')
    with pytest.raises(AllometryError, match=r"bad.json is no run's configuration: .*d_model is missing"):
        read_config(tmp_path / "bad.json")
    config = make_run()
    (tmp_path / "good.json").write_text(
        json.dumps({"format": 1, "config": json.loads(config.model_dump_json())})
    )
    assert read_config(tmp_path / "good.json").id == config.id
