"""Open the pool of workers that the user asks for."""

from __future__ import annotations

from allometry.core.errors import AllometryError
from allometry.sweeps.workers.gpus import device_for
from allometry.sweeps.workers.local import LocalPool
from allometry.sweeps.workers.pool import Pool


def open_pool(
    on: str | None = None,
    workers: int | None = None,
    *,
    device: str | None = None,
    per_gpu: int = 1,
    pack: int | None = None,
) -> Pool:
    """Open the pool that a name stands for: None or "local", "ray" (a cluster of this machine, or the one that
    RAY_ADDRESS names), or "ray://host:port".

    `device` is "cuda", "cpu" or "auto", which is the GPUs if there are any; without, this machine's cores, or
    a cluster's GPUs if it has any. `per_gpu` workers share each GPU; `pack` is how many runs may be trained
    as a pack (`Pool`). Raises AllometryError for other names, for a cluster that cannot be used, and for GPUs
    that are not there.
    """
    if on is None or on == "local":
        where = device_for(device or "cpu")
        if per_gpu != 1 and where == "cpu":
            raise AllometryError(
                "--per-gpu is about GPUs, and here runs are trained on cores",
                hint="leave it out, or use a cluster: --on ray --per-gpu 4",
            )
        return LocalPool(workers, device=where, per_gpu=per_gpu, pack=pack)
    if on == "ray" or on.startswith("ray://"):
        from allometry.sweeps.workers.ray import RayPool

        return RayPool(on, workers=workers, device=device, per_gpu=per_gpu, pack=pack)
    raise AllometryError(f"cannot run on {on!r}", hint="say --on local, --on ray or --on ray://HOST:10001")
