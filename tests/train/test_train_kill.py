"""A training process killed outright, several times, ends as an undisturbed one does: bit for bit."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from killed import EVERY, Moment, attempt

from allometry.train.checkpoint import read_newest
from allometry.train.config import RunConfig
from allometry.train.loop import train

KILLS: tuple[tuple[Moment, int, int], ...] = (("step", 27, 21), ("checkpoint", 40, 33), ("row", 60, 55))
"""Moments, and the steps of the newest checkpoint that each leaves behind."""


@pytest.mark.parametrize("engine", ["reference", "fast"])
def test_killed_runs_end_bitwise_the_same(
    make_run: Callable[..., RunConfig],
    run_files: Callable[[Path], tuple[bytes, bytes]],
    tmp_path: Path,
    engine: str,
) -> None:
    parent = make_run(tokens=5 * 128, engine=engine)
    train(parent, tmp_path / parent.id)
    config = make_run(tokens=80 * 128, engine=engine, init_from=parent.id, noise_batches=1)
    train(config, tmp_path / "whole")
    killed = tmp_path / "killed"
    for moment, step, kept in KILLS:
        assert attempt(config, killed, moment, step) == -signal.SIGKILL
        newest = read_newest(killed, config, print)
        assert newest is not None
        assert newest[1].step == kept
        assert kept + EVERY >= step
    assert (killed / "curve.jsonl").read_text().endswith('{"step": ')
    assert attempt(config, killed) == 0
    log = (killed / "log.txt").read_text()
    assert [f"continues after step {kept}" in log for *_, kept in KILLS] == [True] * 3
    assert run_files(killed) == run_files(tmp_path / "whole")
