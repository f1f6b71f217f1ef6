"""The GPUs of this machine, as PyTorch sees them: found without loading it here, and only where there is a
sign of any.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from glob import glob

from allometry.core.env import package_version
from allometry.core.errors import AllometryError

_SIGNS = ("/dev/nvidia[0-9]*", "/proc/driver/nvidia/gpus/*", "/dev/kfd", "/dev/dxg")
"""Files that systems with GPUs have: NVIDIA's driver, AMD's, and Windows' under Linux."""

_ASK = """
import json, torch
devices = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
print(json.dumps([[each.name, each.total_memory] for each in devices]))
"""

_PATIENCE = 60.0


@dataclass(frozen=True)
class Gpu:
    """One GPU: what it is called, and bytes of memory. `visible` is its entry in CUDA_VISIBLE_DEVICES."""

    name: str
    memory: float
    visible: str


def gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that workers of this machine can use; none, quickly, where there is no sign of any."""
    return ask() if any(map(glob, _SIGNS)) else ()


@cache
def ask() -> tuple[Gpu, ...]:
    """Return the GPUs that PyTorch sees, in a process of its own: none if it was built without CUDA."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-W", "ignore", "-c", _ASK],
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=True,
        )
        found = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return ()
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = chosen.split(",") if chosen else [str(number) for number in range(len(found))]
    return tuple(Gpu(name, memory, names[number].strip()) for number, (name, memory) in enumerate(found))


def device_for(wanted: str) -> str:
    """Return what the option --device asks for, as "cuda" or "cpu": with "auto" the GPUs if there are any.

    AllometryError, with the remedy, if GPUs are asked for and PyTorch sees none.
    """
    if wanted == "auto":
        return "cuda" if gpus() else "cpu"
    if wanted == "cuda" and not ask():
        raise AllometryError(
            f"--device cuda: PyTorch sees no GPU here{_why()}",
            hint="--device cpu trains on the cores; for GPUs nvidia-smi must list them and PyTorch be built "
            "for CUDA: pip install torch --index-url https://download.pytorch.org/whl/cu128",
        )
    return wanted


def _why() -> str:

    version = package_version("torch") or "not installed"
    if version.endswith("+cpu"):
        return f" (it is torch {version}, built for CPUs only)"
    return f" (torch {version})" if any(map(glob, _SIGNS)) else ", and the system shows none"
