"""A training process killed outright, several times, ends as an undisturbed one does: bit for bit."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from allometry.train.config import RunConfig
from allometry.train.loop import train

PROGRAM = """
import json, sys
from pathlib import Path
from allometry.train.config import RunConfig
from allometry.train.loop import train
config = RunConfig.model_validate(json.loads(sys.argv[1]))
train(config, Path(sys.argv[2]), checkpoint_every=0.1)
"""


def attempt(config: RunConfig, directory: Path, kill_after: float | None) -> None:
    """Train in another process, and kill it `kill_after` seconds after it began to train."""
    arguments = [sys.executable, "-c", PROGRAM, json.dumps(config.model_dump(mode="json")), str(directory)]
    curve = directory / "curve.jsonl"
    before = curve.stat().st_mtime_ns if curve.exists() else 0
    process = subprocess.Popen(arguments)
    if kill_after is None:
        assert process.wait(timeout=600) == 0
        return
    while process.poll() is None and (not curve.exists() or curve.stat().st_mtime_ns == before):
        time.sleep(0.01)  # until the data are read and the first file of the run is written
    time.sleep(kill_after)
    process.kill()
    process.wait()


def test_killed_runs_end_bitwise_the_same(
    make_run: Callable[..., RunConfig], run_files: Callable[[Path], tuple[bytes, bytes]], tmp_path: Path
) -> None:
    parent = make_run(tokens=5 * 128)
    train(parent, tmp_path / parent.id)
    config = make_run(tokens=250 * 128, init_from=parent.id, noise_batches=1)
    train(config, tmp_path / "whole")
    random = np.random.default_rng(0)
    for _ in range(2):
        attempt(config, tmp_path / "killed", kill_after=float(random.uniform(0.3, 0.9)))
    attempt(config, tmp_path / "killed", kill_after=None)
    log = (tmp_path / "killed/log.txt").read_text()
    assert "continues after step" in log
    assert run_files(tmp_path / "killed") == run_files(tmp_path / "whole")
