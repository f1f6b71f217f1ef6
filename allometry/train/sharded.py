"""Checkpoints that many processes write together and any number of them read: PyTorch's distributed format.

`checkpoints/step-000001234.dcp/` holds a part from each process and position.json, written last; it is
written aside and renamed, like every checkpoint, and the newest two are kept.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from allometry.core.errors import AllometryError
from allometry.core.files import read_json, write_json, writing
from allometry.train.checkpoint import KEPT, Position, folder, position_problem

if TYPE_CHECKING:
    from allometry.train.config import RunConfig
    from allometry.train.engines.base import Engine

_POSITION = "position.json"


def write(home: Path, config: RunConfig, engine: Engine, position: Position, *, leads: bool) -> None:
    """Save the newest checkpoint of a run; every process of the group must call this."""
    import torch.distributed as dist

    from allometry.train.engines.parallel import ParallelEngine

    assert isinstance(engine, ParallelEngine)
    path = folder(home) / f"step-{position.step:09d}.dcp"
    aside = path.with_suffix(".tmp")
    if leads:
        with writing(path):
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
    dist.barrier()
    engine.save(aside)
    if leads:
        write_json(aside / _POSITION, {"run": config.id, "position": asdict(position)})
        with writing(path):
            shutil.rmtree(path, ignore_errors=True)
            aside.rename(path)
        for old in _newest_first(home)[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)
    dist.barrier()


def newest(home: Path, config: RunConfig, log: Callable[[str], None]) -> tuple[Path, Position] | None:
    """Return the newest distributed checkpoint of a run and its position; None without one. Those that are
    skipped are reported to `log`.
    """
    for path in _newest_first(home):
        try:
            stored = read_json(path / _POSITION)
        except AllometryError as error:
            log(f"{error.message}; going back to the checkpoint before it")
            continue
        if stored is None or stored.get("run") != config.id:
            continue
        position = stored.get("position")
        problem = position_problem(position) if isinstance(position, dict) else "it has no position"
        if problem:
            log(f"{path / _POSITION} is damaged: {problem}; going back to the checkpoint before it")
            continue
        return path, Position(**stored["position"])
    return None


def load(path: Path, engine: Engine) -> None:
    """Load the state of a distributed checkpoint into an engine, of one process or of many."""
    import torch
    import torch.distributed.checkpoint as dcp

    load_own = getattr(engine, "load", None)
    if load_own is not None:
        load_own(path)
        return
    tensors = {name: torch.from_numpy(np.zeros_like(each)) for name, each in engine.state().items()}
    with warnings.catch_warnings():  # it warns that there is no process group: that is intended
        warnings.simplefilter("ignore", UserWarning)
        dcp.load(tensors, checkpoint_id=str(path), no_dist=True)
    engine.load_state({name: tensor.numpy() for name, tensor in tensors.items()})


def clear(home: Path) -> None:
    """Remove what is only needed to continue a run that is finished."""
    for path in _newest_first(home):
        shutil.rmtree(path, ignore_errors=True)


def _newest_first(home: Path) -> list[Path]:
    return sorted(folder(home).glob("step-*.dcp"), reverse=True)
