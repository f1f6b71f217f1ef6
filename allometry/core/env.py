"""The machine and software that make a run: versions, cores, memory, threads; seeds, and the cache folder."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import signal
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allometry.core import __version__
from allometry.core.errors import AllometryError

if TYPE_CHECKING:
    import numpy as np


PACKAGES = ("torch", "numpy", "scipy", "pandas", "tokenizers", "tiktoken", "safetensors", "datasets")
"""Packages whose versions a run records."""

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def snapshot() -> dict[str, Any]:
    """Return the contents of a run's `env.json`: versions, CPU, cores, memory (bytes), threads, platform, commit.

    Nothing is imported for it: versions come from package metadata, so the reading half may call it too.
    """
    return {
        "allometry": __version__,
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := package_version(name))},
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cores": cores(),
        "memory": memory(),
        "threads": threads(),
        "git": _git_state(Path(__file__).parent),
    }


@cache  # a few milliseconds each, and every run of a worker asks
def package_version(name: str) -> str | None:
    """Return the installed version of a package, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@cache
def cpu_model() -> str:
    """Return the processor's name as the operating system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown"


@cache
def cpu_flags() -> frozenset[str]:
    """Return the instruction sets that the processor reports, such as "avx2" and "amx_bf16"; empty where unknown."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()


def cores() -> int:
    """Return how many cores this process may use: its affinity, and the quota of its container."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, min(affinity, math.ceil(quota)) if quota else affinity)


def _cgroup_quota() -> float | None:
    """Return how many cores' time the control group allows (version 2, then 1); None without a limit."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()[:2]
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        pass
    try:
        base = Path("/sys/fs/cgroup/cpu")
        limit, period = (base / "cpu.cfs_quota_us").read_text(), (base / "cpu.cfs_period_us").read_text()
        return int(limit) / int(period) if int(limit) > 0 else None
    except (OSError, ValueError):
        return None


def memory() -> int:
    """Return the bytes of memory that this process may use: the machine's, or its container's if that is lower."""
    import psutil

    total = int(psutil.virtual_memory().total)
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(name).read_text()))
        except (OSError, ValueError):
            continue
    return total


def threads() -> int:
    """Return the threads that numerical libraries use: torch's setting if loaded, else OMP_NUM_THREADS or the
    cores.
    """
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_num_threads"):
        return int(torch.get_num_threads())
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdigit() else cores()


def thread_variables(count: int) -> dict[str, str]:
    """Return environment variables that limit numerical libraries to `count` threads, for a new process.

    Waiting threads sleep instead of spinning: with one other busy process on the machine, spinning makes a
    two-thread step 10 to 30 times slower.
    """
    return {name: str(count) for name in _THREAD_VARIABLES} | {"OMP_WAIT_POLICY": "PASSIVE"}


def set_threads(count: int) -> None:
    """Limit this process to `count` threads. Complete only if called before numpy and torch are imported."""
    if count < 1:
        raise AllometryError(
            f"threads: {count} is less than 1", hint="use 1 thread per run; a sweep uses every core"
        )
    os.environ.update(thread_variables(count))
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)


def generator(seed: int, *stream: int) -> np.random.Generator:
    """Return random numbers for one purpose: a function of (seed, stream), independent of other streams."""
    import numpy as np

    return np.random.default_rng(np.random.SeedSequence([seed, *stream]))


def cache_root(cache: Path | None = None) -> Path:
    """Return the cache: `cache` if given, else the environment's ALLOMETRY_CACHE, else ~/.cache/allometry."""
    return Path(cache or os.environ.get("ALLOMETRY_CACHE") or "~/.cache/allometry").expanduser()


def cache_dir(*parts: str) -> Path:
    """Return a folder in `cache_root()` for what can be made again (corpora, compiled code, timings); created if
    need be.

    AllometryError if it cannot be made.
    """
    path = cache_root().joinpath(*parts)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AllometryError(
            f"cannot create the cache folder {path}: {error.strerror}",
            hint="set ALLOMETRY_CACHE to a folder that you can write to",
        ) from error
    return path


@cache
def _git_state(folder: Path) -> dict[str, Any] | None:
    """Return the commit and whether files differ from it, if the package runs from a checkout of its own; else
    None.
    """
    if not (folder.parent / ".git").exists():
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain", "--", "."))}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Make the kernel kill this process when its parent ends, also when the parent is killed (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)
