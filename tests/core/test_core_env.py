import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from allometry.core import env
from allometry.core.errors import AllometryError


def test_a_snapshot_is_plain_json_and_loads_no_torch():
    code = (
        "import json, sys, allometry.core.env as e; print(json.dumps(e.snapshot()), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found, _, torch = done.stdout.strip().rpartition(" ")
    assert torch == "False"
    snapshot = json.loads(found)
    assert snapshot["packages"]["numpy"]
    assert snapshot["cores"] >= 1
    assert snapshot["memory"] > 1e8


def test_cores_respect_affinity(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    monkeypatch.setattr(env, "_cgroup_quota", lambda: None)
    assert env.cores() == 3
    monkeypatch.setattr(env, "_cgroup_quota", lambda: 1.5)
    assert env.cores() == 2


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("ALLOMETRY_CACHE", str(tmp_path / "here"))
    assert env.cache_dir("a", "b") == tmp_path / "here" / "a" / "b"
    assert (tmp_path / "here" / "a" / "b").is_dir()
    monkeypatch.setenv("ALLOMETRY_CACHE", "/proc/nowhere")
    with pytest.raises(AllometryError, match="ALLOMETRY_CACHE"):
        env.cache_dir()


def test_random_streams_are_functions_of_their_key():
    first = env.generator(1, 2).random(4)
    assert (env.generator(1, 2).random(4) == first).all()
    assert (env.generator(1, 3).random(4) != first).all()


def test_threads_for_a_new_process():
    variables = env.thread_variables(1)
    assert variables["OMP_NUM_THREADS"] == "1"
    with pytest.raises(AllometryError, match="threads"):
        env.set_threads(0)
