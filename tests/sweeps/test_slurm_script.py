"""The script for Slurm, with stand-ins for Slurm's own commands that run everything on this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from waiting import is_running

pytest.importorskip("ray")

SCRIPT = Path(__file__).parents[2] / "examples" / "ray_on_slurm.sh"

SCONTROL = "#!/bin/bash\necho one\necho two\n"
SRUN = '#!/bin/bash\nwhile [[ "$1" == -* ]]; do [ "$1" = -w ] && shift; shift; done\nexec "$@"\n'

COMMAND = """
import os, time
from allometry.cluster import connect
connection = connect("ray")
while connection.ray.cluster_resources().get("CPU") != 2:
    time.sleep(0.1)
print("CPUs", connection.ray.cluster_resources().get("CPU"), "token", len(os.environ["RAY_AUTH_TOKEN"]))
"""


@pytest.fixture
def allocation(tmp_path: Path) -> dict[str, str]:
    """The environment of a job on two nodes, each of which offers one core."""
    for name, text in (("scontrol", SCONTROL), ("srun", SRUN)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    job = {"SLURM_JOB_ID": "1", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "nodes"}
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**own, **job, "PATH": path, "PORT": str(port), "CPUS": "1"}


@pytest.mark.slow
def test_an_allocation_runs_the_command_on_all_of_its_nodes(allocation: dict[str, str]) -> None:
    process = subprocess.Popen(
        [str(SCRIPT), sys.executable, "-c", COMMAND],
        env=allocation, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert next(line for line in lines if line.startswith("CPUs")) == "CPUs 2.0 token 64\n"
    finally:
        begun = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGTERM)
        process.stdout.close()
        process.wait()
        for left in filter(is_running, begun):  # Slurm ends what a job leaves behind
            left.kill()


def test_a_head_that_does_not_start_ends_the_job(allocation: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "ray").write_text("#!/bin/bash\nexit 1\n")
    (tmp_path / "ray").chmod(0o755)
    done = subprocess.run([str(SCRIPT), "true"], env=allocation, capture_output=True, text=True)
    assert done.returncode == 1
    assert "ray did not start on one" in done.stderr


def test_without_a_command_it_says_how_to_use_it() -> None:
    done = subprocess.run([str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 2
    assert "sbatch examples/ray_on_slurm.sh" in done.stderr
    assert "RAY_AUTH_TOKEN" in done.stderr
