"""Write and read a run's parameters: checkpoints to continue from, the weights that another run starts from
(`TrainConfig.init_from`), and the model of a finished run.

A checkpoint is a safetensors file with "params/…", "adam_m/…" and "adam_v/…" and, in its header, JSON: who
made it, a checksum, the step, the curve so far and the sums that the next row of the curve averages. It is
written aside and renamed, so it is there whole or not at all; the newest two are kept, so that one that a
full disk or a dying machine damaged costs an interval, not the run.

Many processes write PyTorch's distributed format together, and any number of them read it:
`checkpoints/step-000001234.dcp/` holds a part from each process and position.json, written last; it is
written aside and renamed, like every checkpoint, and the newest two are kept.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from allometry.core.errors import AllometryError
from allometry.core.files import parse_json, read_json, replacing, write_bytes, writing
from allometry.runs.record import RunRecord, is_curve_row, is_number, read_run
from allometry.train.config import RunConfig
from allometry.train.engines.base import State

if TYPE_CHECKING:
    from torch import nn

    from allometry.train.engines.base import Engine


FORMAT = 1
KEPT = 2
"""Checkpoints kept while a run goes on."""

_STEP = re.compile(r"step-(\d+)\.safetensors")


@dataclass
class Position:
    """The state of a run besides that of the engine: all that the loop remembers from one step to the next.

    `loss_sum`, `norm_sum` and `steps_since_row` average the training loss and the gradient norm since the
    last row of the `curve`; `best_loss`, `best_step` and `stale` are early stopping's; `seconds` and
    `training_seconds` count from the run's beginning through all its resumptions; `started` is when that was
    (for a run that branched off a trunk, when the trunk began), in UTC. `text` is the digest of what it reads
    (`runs.record`).
    """

    step: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)
    loss_sum: float = 0.0
    norm_sum: float = 0.0
    steps_since_row: int = 0
    first_loss: float | None = None
    best_loss: float | None = None
    best_step: int = 0
    stale: int = 0
    seconds: float = 0.0
    training_seconds: float = 0.0
    engine: str | None = None
    started: str | None = None
    text: str | None = None

    def advance(self, loss: float, norm: float, seconds: float) -> None:
        """Count one more step, with its training loss, gradient norm and duration."""
        self.step += 1
        self.first_loss = loss if self.first_loss is None else self.first_loss
        self.loss_sum += loss
        self.norm_sum += norm
        self.steps_since_row += 1
        self.training_seconds += seconds

    def take_averages(self) -> tuple[float, float]:
        """Return the mean training loss and gradient norm since the last call, and reset the sums."""
        means = self.loss_sum / self.steps_since_row, self.norm_sum / self.steps_since_row
        self.loss_sum, self.norm_sum, self.steps_since_row = 0.0, 0.0, 0
        return means


def folder(directory: Path) -> Path:
    """Return the folder of checkpoints in a run directory."""
    return directory / "checkpoints"


def branch_path(directory: Path, step: int) -> Path:
    """Return the file that a trunk leaves at a step from which other runs continue."""
    return folder(directory) / f"branch-{step}.safetensors"


def write_checkpoint(directory: Path, config: RunConfig, state: State, position: Position) -> None:
    """Save the run's newest checkpoint and remove those that are no longer needed."""
    _write(_step_path(directory, position.step), config, state, position)
    for old in _newest_first(directory)[KEPT:]:
        old.unlink(missing_ok=True)


def write_branch(directory: Path, config: RunConfig, state: State, position: Position) -> None:
    """Save a point of a trunk from which `branch` starts other runs; never dropped by `write_checkpoint`."""
    _write(branch_path(directory, position.step), config, state, position)


def write_final(directory: Path, config: RunConfig, state: State, position: Position) -> None:
    """Save only the trained parameters, as final.safetensors, and remove what is only needed to continue."""
    parameters = {name: tensor for name, tensor in state.items() if name.startswith("params/")}
    _write(folder(directory) / "final.safetensors", config, parameters, position)
    drop_all(directory)


def final_parameters(directory: Path) -> dict[str, NDArray[np.float32]]:
    """Read the trained parameters of a finished run, by their names in the module's state_dict.

    Raises AllometryError if the run is not finished or the file is damaged.
    """
    path = folder(directory) / "final.safetensors"
    if not path.exists():
        raise AllometryError(f"{directory} has no trained parameters", hint="finish the run first")
    state, _ = _read(path)
    return {name.removeprefix("params/"): tensor for name, tensor in state.items()}


def read_newest(
    directory: Path, config: RunConfig, log: Callable[[str], None]
) -> tuple[State, Position] | None:
    """Read the state and position of the newest intact checkpoint that belongs to `config`; None without one.

    `log` receives a line for each checkpoint that is skipped, with the reason.
    """
    for path in _newest_first(directory):
        try:
            state, header = _read(path)
            _require_same_run(path, header, config)
        except AllometryError as error:
            log(f"{error.message}; going back to the checkpoint before it, or to the start")
            path.unlink(missing_ok=True)
            continue
        return state, Position(**header["position"])
    return None


def drop_all(directory: Path) -> None:
    """Remove every checkpoint of a run that only serves to continue it."""
    for old in _newest_first(directory):
        old.unlink(missing_ok=True)


def branch(source: Path, step: int, target: Path) -> None:
    """Make the run in directory `target` continue from the trunk in `source` as it was after `step`.

    Training `target` then ends bit for bit as if it had been trained alone; `train` checks that the two
    configurations differ in their horizon only. Raises AllometryError if the trunk left no (whole) branch
    point there.
    """
    path = branch_path(source, step)
    if not path.exists():
        raise AllometryError(f"{source} left no branch point at step {step}", hint="train the run without it")
    _read(path)
    copy = _step_path(target, step)
    with writing(copy):
        copy.parent.mkdir(parents=True, exist_ok=True)
    with replacing(copy) as aside:
        shutil.copyfile(path, aside)


def _require_same_run(path: Path, header: dict[str, Any], config: RunConfig) -> None:
    """Raise AllometryError unless the checkpoint was written by this run, or by one that shares its trunk up to
    that step.
    """
    if header["run"] == config.id:
        return
    shared = config.trunk is not None and header["trunk"] == config.trunk
    if not shared or header["position"]["step"] > min(config.train.decay_start, header["decay_start"]):
        raise AllometryError(f"{path.name} belongs to another run ({header['run']})")


def _step_path(directory: Path, step: int) -> Path:
    return folder(directory) / f"step-{step:09d}.safetensors"


def _newest_first(directory: Path) -> list[Path]:
    def steps() -> Iterator[tuple[int, Path]]:
        for path in folder(directory).glob("step-*.safetensors"):
            if match := _STEP.fullmatch(path.name):
                yield int(match[1]), path

    return [path for _, path in sorted(steps(), reverse=True)]


def _write(path: Path, config: RunConfig, state: State, position: Position) -> None:
    header = {
        "format": FORMAT,
        "run": config.id,
        "trunk": config.trunk,
        "decay_start": config.train.decay_start,
        "checksum": _checksum(state),
        "position": asdict(position),
    }
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, save(state, metadata={"allometry": json.dumps(header)}))


def _read(path: Path) -> tuple[State, dict[str, Any]]:
    try:
        with safe_open(path, framework="numpy") as file:
            header: dict[str, Any] = parse_json(file.metadata()["allometry"])
            state: State = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise AllometryError(f"checkpoint {path.name} is damaged ({error})") from None
    if problem := _header_problem(header):
        raise AllometryError(f"checkpoint {path.name} is damaged ({problem})")
    if header["format"] > FORMAT:
        raise AllometryError(
            f"checkpoint {path.name} was written by a newer version", hint="upgrade allometry"
        )
    if header["checksum"] != _checksum(state):
        raise AllometryError(f"checkpoint {path.name} is damaged (its checksum differs)")
    return state, header


def _header_problem(header: Any) -> str | None:
    """Return what is wrong with the header of a checkpoint, or None."""
    if not isinstance(header, dict) or type(header.get("format")) is not int:
        return "its header is no object with a format"
    if header["format"] > FORMAT:
        return None  # what it holds is not known here
    types = {"run": str, "checksum": int, "position": dict, "decay_start": int}
    for key, kind in types.items():
        if type(header.get(key)) is not kind:
            return f"{key!r} in its header is missing or wrong"
    return position_problem(header["position"])


def position_problem(position: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a `Position` as it was read from a file, or None."""
    known = {each.name: each.default for each in fields(Position)}
    words = {each.name for each in fields(Position) if each.type == "str | None"}
    for key, value in position.items():
        if key not in known:
            return f"its position has an unknown {key!r}"
        if key == "curve":
            fine = isinstance(value, list) and all(map(is_curve_row, value))
        elif key in words:
            fine = value is None or isinstance(value, str)
        elif isinstance(known[key], int):
            fine = type(value) is int and value >= 0
        else:
            fine = (value is None and known[key] is None) or is_number(value)
        if not fine:
            return f"{key!r} in its position is wrong"
    return None


def _checksum(state: State) -> int:
    total = 0
    for name in sorted(state):
        total = zlib.crc32(np.ascontiguousarray(state[name]).data.cast("B"), zlib.crc32(name.encode(), total))
    return total


SHARDED_POSITION = "position.json"


def newest_sharded(home: Path, config: RunConfig, log: Callable[[str], None]) -> tuple[Path, Position] | None:
    """Return the newest distributed checkpoint of a run and its position; None without one. Those that are
    skipped are reported to `log`.
    """
    for path in sharded_newest_first(home):
        try:
            stored = read_json(path / SHARDED_POSITION)
        except AllometryError as error:
            log(f"{error.message}; going back to the checkpoint before it")
            continue
        if stored is None or stored.get("run") != config.id:
            continue
        position = stored.get("position")
        problem = position_problem(position) if isinstance(position, dict) else "it has no position"
        if problem:
            log(f"{path / SHARDED_POSITION} is damaged: {problem}; going back to the checkpoint before it")
            continue
        return path, Position(**stored["position"])
    return None


def load_sharded(path: Path, engine: Engine) -> None:
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


def clear_sharded(home: Path) -> None:
    """Remove what is only needed to continue a run that is finished."""
    for path in sharded_newest_first(home):
        shutil.rmtree(path, ignore_errors=True)


def sharded_newest_first(home: Path) -> list[Path]:
    """Return the folders of a run's distributed checkpoints."""
    return sorted(folder(home).glob("step-*.dcp"), reverse=True)


FREE = ("dropout", "init")
"""Settings of a model that may differ between a run and the one that it starts from."""


def inherited(config: RunConfig, store: Path) -> State:
    """Read the weights that a run starts from, as "params/<name>"; empty if it starts from its own.

    `store` is the directory that holds both runs' directories. AllometryError if the other run is not there,
    is not finished, diverged, or has another shape.
    """
    parent = config.train.init_from
    if parent is None:
        return {}
    if not (store / parent / "config.json").exists():
        raise AllometryError(
            f"{config.id} starts from {parent}, which is not in {store}",
            hint="train that run first, or add it to the same sweep",
        )
    record = read_run(store / parent)
    if reason := why_not(record) or mismatch(config, record.config.get("model", {})):
        raise AllometryError(
            f"{config.id} cannot start from {parent}: {reason}",
            hint="start from a finished run of the same shape, or leave init_from out",
        )
    return {f"params/{name}": tensor for name, tensor in final_parameters(store / parent).items()}


def why_not(record: RunRecord) -> str | None:
    """Return why a run has no weights to start from, or None if it has."""
    if record.status == "diverged":
        return "it diverged"
    if record.status == "failed":
        return f"it failed ({(record.error or '').strip().splitlines()[0]})" if record.error else "it failed"
    return None if record.status == "done" else "it is not finished"


def mismatch(config: RunConfig, model: Mapping[str, Any]) -> str | None:
    """Return how the model of another run (as plain JSON) differs from a run's own, or None if weights fit."""
    own = config.model.model_dump(mode="json")
    differ = [
        f"{key} {model.get(key)} instead of {own.get(key)}"
        for key in sorted({*own, *model} - set(FREE))
        if own.get(key) != model.get(key)
    ]
    return f"its model has {', '.join(differ)}" if differ else None


def trained_model(directory: Path) -> nn.Module:
    """Return the module of a finished run with its trained fp32 weights, in evaluation mode.

    Raises AllometryError if there is no run, it is not finished, or its files are damaged.
    """
    import torch

    stored = read_json(directory / "config.json")
    if stored is None:
        raise AllometryError(f"{directory} holds no run: it has no config.json", hint="allometry runs list")
    parameters = final_parameters(directory)
    model = RunConfig.model_validate(stored["config"]).model.build()
    model.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in parameters.items()})
    return model.eval()
