"""A run on many devices, started by PyTorch's own launcher:

    torchrun --standalone --nproc-per-node 2 -m allometry.experimental.torchrun RUN.json --store runs

RUN.json holds a run's configuration, as `config.json` in a run directory does. On several machines give
torchrun its `--nnodes` and `--rdzv-endpoint`; the store must be a folder that all of them see. The same
command continues after any interruption, also with another number of devices. Never measured on GPUs, nor on
several machines.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from allometry.core.env import die_with
from allometry.core.errors import AllometryError
from allometry.core.files import is_full
from allometry.core.units import format_count, format_duration
from allometry.models.base import readable
from allometry.train.config import RunConfig

if TYPE_CHECKING:
    from allometry.train.loop import Progress


EXAMPLE = (
    '{"model": {"family": "transformer", "n_layer": 2, "d_model": 64}, "train": {"tokens": "5M", "lr": 0.01}}'
)
"""A configuration that `read_config` reads."""


def read_config(path: Path) -> RunConfig:
    """Return the configuration in a file: a RunConfig as JSON or TOML, or the config.json of a run directory.

    Raises AllometryError, naming the line or the field, if it is not one.
    """
    stored = _read(path)
    try:
        return RunConfig.model_validate(stored.get("config", stored))
    except (AllometryError, ValidationError) as error:
        told = readable(error, RunConfig) if isinstance(error, ValidationError) else error
        raise AllometryError(
            f"{path} is no run's configuration: {told.message}",
            hint=told.hint or f"write it like {EXAMPLE}",
        ) from error


def _read(path: Path) -> dict[str, Any]:
    """Read a configuration from the user's file, which is never written to, nor advised to be removed."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        stored = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except FileNotFoundError:
        raise AllometryError(f"there is no file {path}", hint=f"write it like {EXAMPLE}") from None
    except OSError as error:
        raise AllometryError(
            f"cannot read {path}: {error.strerror}", hint="name the file of a configuration"
        ) from None
    except (ValueError, RecursionError) as error:  # of JSON, TOML or UTF-8
        kind = "TOML" if path.suffix == ".toml" else "JSON"
        raise AllometryError(
            f"{path} is not {kind}: {error or 'nested too deeply'}", hint=f"write it like {EXAMPLE}"
        ) from None
    if not isinstance(stored, dict):
        raise AllometryError(f"{path} does not hold an object", hint=f"write it like {EXAMPLE}")
    return stored


def arguments(config: Path, store: Path, devices: int, options: list[str]) -> list[str]:
    """Return the command line that starts torchrun on this machine for `devices` processes."""
    return [
        sys.executable, "-m", "torch.distributed.run", *launch_arguments(config, store, devices, options)
    ]  # fmt: skip


def launch_arguments(config: Path, store: Path, devices: int, options: list[str]) -> list[str]:
    """Return the arguments with which torchrun starts `devices` processes on this machine."""
    own = ["--standalone", f"--nproc-per-node={devices}", "-m", "allometry.experimental.torchrun"]
    return [*own, str(config), "--store", str(store), *options]


def main() -> None:
    """Run one process of the group. Asked to end (SIGTERM, ctrl-C), all write a checkpoint together and end."""
    options = _parser().parse_args()
    if "RANK" not in os.environ:
        sys.exit("error: start this with torchrun (see python -m torch.distributed.run --help)")
    die_with(os.getppid())
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        _train(options, stop)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if options.report:
            _report("failed", **_described(error))
        elif not isinstance(error, AllometryError):
            raise
        elif os.environ["RANK"] == "0":
            print(f"error: {error.message}\n hint: {error.cli_hint}", file=sys.stderr)
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="torchrun -m allometry.experimental.torchrun")
    parser.add_argument("config", type=Path)
    parser.add_argument("--store", type=Path, default=Path("runs"))
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--sharded", choices=("auto", "yes", "no"), default="auto")
    parser.add_argument("--checkpoint-every", type=float, default=60.0, help="seconds")
    parser.add_argument("--branch-at", type=int, action="append", default=[], help="a step")
    parser.add_argument("--cache", type=Path, help="where the tokens lie")
    parser.add_argument("--report", action="store_true", help="progress as JSON on standard output")
    return parser


def _train(options: argparse.Namespace, stop: threading.Event) -> None:
    import torch

    from allometry.experimental.devices import Torchrun
    from allometry.train.loop import train

    config = read_config(options.config)
    cuda = options.device == "cuda" or (options.device == "auto" and torch.cuda.is_available())
    device = f"cuda:{os.environ['LOCAL_RANK']}" if cuda else "cpu"
    if cuda:
        torch.cuda.set_device(device)
    sharded = {"auto": None, "yes": True, "no": False}[options.sharded]
    with Torchrun(device=device, sharded=sharded, stopping=stop.is_set) as group:
        train(
            config,
            options.store / config.id,
            device=device,
            branch_at=options.branch_at,
            on_progress=(_report_progress if options.report else Printer()) if group.leads else None,
            checkpoint_every=options.checkpoint_every,
            cache=options.cache,
            group=group,
        )


class Printer:
    """Prints a run's progress, a line each: at each evaluation, at the end, and now and then between them."""

    def __init__(self, between: float = 10.0) -> None:
        """Set `between`: seconds without an evaluation after which a line is printed all the same."""
        self._between, self._told = between, time.monotonic()
        self._loss: float | None = None

    def __call__(self, at: Progress) -> None:
        """Print a line about the run, if one is due."""
        now = time.monotonic()
        if at.loss != self._loss or at.step == at.steps or now - self._told > self._between:
            self._loss, self._told = at.loss, now
            print(f"step {at.step:,}/{at.steps:,}  {measured(at)}", file=sys.stderr, flush=True)


def measured(at: Progress) -> str:
    """Return the newest losses of a run and its pace, as words."""
    test = "" if at.loss is None else f"loss {at.loss:.4f}  "
    pace = f"{format_count(at.tokens_per_second)} tok/s"
    return f"{test}training loss {at.train_loss:.4f}  {pace}  {format_duration(at.seconds)}"


def _report_progress(at: Progress) -> None:
    """Report progress to the process that started torchrun (`allometry.experimental.together`)."""
    loss = at.train_loss if at.loss is None else at.loss
    _report("progress", step=at.step, loss=loss, train_loss=at.train_loss, pace=at.tokens_per_second)


def _described(error: Exception) -> dict[str, Any]:
    known = isinstance(error, AllometryError)
    message = error.message if isinstance(error, AllometryError) else f"{type(error).__name__}: {error}"
    return {"error": message, "hint": getattr(error, "hint", None) if known else None, "full": is_full(error)}


def _report(kind: str, **fields: Any) -> None:
    sys.stdout.write(json.dumps({"is": kind, **fields}) + "\n")  # one write: lines must not mix
    sys.stdout.flush()


if __name__ == "__main__":
    main()
