"""A run on many devices, started by PyTorch's own launcher:

    torchrun --standalone --nproc-per-node 2 -m allometry.train.torchrun RUN.json --store runs

RUN.json holds a run's configuration, as `config.json` in a run directory does. On several machines give
torchrun its `--nnodes` and `--rdzv-endpoint`; the store must be a folder that all of them see. The same
command continues after any interruption, also with another number of devices.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from allometry.errors import AllometryError
from allometry.runs.files import read_json
from allometry.train.config import RunConfig


def read_config(path: Path) -> RunConfig:
    """The configuration in a file: a RunConfig as JSON, or the config.json of a run directory.

    Raises AllometryError, naming the field, if it is not one.
    """
    from pydantic import ValidationError

    from allometry.models.base import readable

    stored = read_json(path)
    if stored is None:
        raise AllometryError(
            f"there is no file {path}", hint="name a run's config.json, or write one like it"
        )
    try:
        return RunConfig.model_validate(stored.get("config", stored))
    except (AllometryError, ValidationError) as error:
        told = readable(error, RunConfig) if isinstance(error, ValidationError) else error
        raise AllometryError(
            f"{path} is no run's configuration: {told.message}",
            hint=told.hint or "see config.json in any run directory",
        ) from error


def arguments(config: Path, store: Path, devices: int, options: list[str]) -> list[str]:
    """The command line that starts torchrun on this machine for `devices` processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={devices}"]
    return [*launcher, "-m", "allometry.train.torchrun", str(config), "--store", str(store), *options]


def main() -> None:
    """What each process runs."""
    parser = argparse.ArgumentParser(prog="torchrun -m allometry.train.torchrun")
    parser.add_argument("config", type=Path)
    parser.add_argument("--store", type=Path, default=Path("runs"))
    parser.add_argument("--sharded", choices=("auto", "yes", "no"), default="auto")
    parser.add_argument("--checkpoint-every", type=float, default=60.0, help="seconds")
    options = parser.parse_args()
    if "RANK" not in os.environ:
        sys.exit("error: start this with torchrun (see python -m torch.distributed.run --help)")
    try:
        _train(options)
    except AllometryError as error:
        if os.environ["RANK"] == "0":
            print(f"error: {error.message}\n hint: {error.hint}", file=sys.stderr)
        sys.exit(1)


def _train(options: argparse.Namespace) -> None:
    import torch

    from allometry.train.group import Torchrun
    from allometry.train.loop import Progress, train

    config = read_config(options.config)
    device = f"cuda:{os.environ['LOCAL_RANK']}" if torch.cuda.is_available() else "cpu"
    if device != "cpu":
        torch.cuda.set_device(device)
    told = time.monotonic()

    def tell(at: Progress) -> None:
        nonlocal told
        if time.monotonic() - told > 10.0 or at.step == at.steps:
            told = time.monotonic()
            print(f"step {at.step:,}/{at.steps:,}  loss {at.train_loss:.4f}", file=sys.stderr, flush=True)

    sharded = {"auto": None, "yes": True, "no": False}[options.sharded]
    with Torchrun(device=device, sharded=sharded) as group:
        train(
            config,
            options.store / config.id,
            device=device,
            on_progress=tell if group.leads else None,
            checkpoint_every=options.checkpoint_every,
            group=group,
        )


if __name__ == "__main__":
    main()
