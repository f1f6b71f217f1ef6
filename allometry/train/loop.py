"""The training loop: from a configuration to a run directory, through any number of kills.

Data, model, step, evaluation, checkpoint, result, in that order; what happens inside a step is the engine's
business. Same configuration, machine, engine and thread count: the same curve and parameters, bit for bit,
however often the run was killed and started again. Losses are nats per token.

Usually this process alone trains a run (`SingleProcess`). Where several do, all of them follow the same loop and
hold the same position. The one that leads writes the run's directory; the others write to a temporary one that
nobody reads. Whatever depends on a clock is decided by the leader.
"""

from __future__ import annotations

import json
import math
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allometry.core import env
from allometry.core.errors import AllometryError
from allometry.core.files import append_text, read_json, write_json, write_text, writing
from allometry.runs.measurements import milestones
from allometry.runs.record import record_text
from allometry.train import checkpoint, generate
from allometry.train.checkpoint import Position, inherited
from allometry.train.config import FORMAT, RunConfig, evaluation_steps, learning_rate
from allometry.train.engines import select
from allometry.train.engines.select import engine_for
from allometry.train.evaluate import final, measurements
from allometry.train.inputs import load_inputs
from allometry.train.texts import same_text, still_same

if TYPE_CHECKING:
    from pathlib import Path

    from allometry.train.config import RunConfig
    from allometry.train.engines.base import Engine, State


DIVERGED_NATS = 1.0
"""A run whose mean training loss lies this far above its first step's has diverged: it is worse than
knowing nothing."""

PROGRESS_SECONDS = 0.2
"""Least time between two reports of progress."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The argument of `on_progress`: how far the run is, its newest losses, its speed in tokens per second."""

    step: int
    steps: int
    tokens: int
    train_loss: float
    loss: float | None
    tokens_per_second: float
    seconds: float
    threads: int


class SingleProcess:
    """This process trains the run by itself."""

    leads = True

    def directory(self, home: Path) -> Path:
        """Return the folder in which this process writes the files of the run's directory."""
        return home

    def agree(self, decision: bool) -> bool:
        """Return the leader's decision."""
        return decision

    def engine(self, name: str, config: RunConfig, threads: int, device: str) -> Engine:
        """Return the engine of that name, or the fastest for "auto"; a run that began in a pack continues with
        "fast".
        """
        return select.engine("fast" if name == "packed" else name, config, threads=threads, device=device)

    def save(self, home: Path, config: RunConfig, engine: Engine, position: Position) -> None:
        """Write the run's newest checkpoint."""
        checkpoint.write_checkpoint(home, config, engine.state(), position)

    def clear(self, directory: Path) -> None:
        """Remove every checkpoint that only serves to continue the run."""
        checkpoint.clear_sharded(directory)
        checkpoint.drop_all(directory)

    def restore(
        self, home: Path, config: RunConfig, log: Callable[[str], None]
    ) -> tuple[Position, Callable[[Engine], None]] | None:
        """Return the position of the newest checkpoint, and a function that loads its state into an engine; None
        without one.
        """
        divided = checkpoint.newest_sharded(home, config, log)
        found = checkpoint.read_newest(home, config, log)
        if divided is not None and (found is None or divided[1].step > found[1].step):
            folder, position = divided
            return position, lambda engine: checkpoint.load_sharded(folder, engine)
        if found is None:
            return None
        state, position = found
        return position, lambda engine: engine.load_state(state)


def train(
    config: RunConfig,
    directory: Path,
    *,
    threads: int = 1,
    more_threads: Callable[[], int] | None = None,
    device: str = "cpu",
    branch_at: Sequence[int] = (),
    on_progress: Callable[[Progress], None] | None = None,
    checkpoint_every: float = 15.0,
    cache: Path | None = None,
    group: SingleProcess | None = None,
) -> dict[str, Any]:
    """Train a run in its directory, or finish it if it was begun there, and return the contents of result.json.

    `branch_at` names steps at which to leave a point from which runs with another horizon continue
    (`checkpoint.branch`). `checkpoint_every` is in seconds; a kill costs at most that. A run whose loss
    explodes is a result with status "diverged". `group`: the processes that train it together, all of which
    call this; without, this one does. `more_threads` is asked now and then how many threads may work on the
    run: an engine takes them if that changes no bit (`Engine.use_threads`), and starts with `threads`. Raises
    AllometryError for what the user can correct, after writing error.txt, and for a directory that holds a run
    of other text (`runs.record`).
    """
    group = group or SingleProcess()
    result = read_whole(directory / "result.json")
    if group.agree(result is not None):
        still_same(config, directory, cache)
        return result or {}
    home, directory = directory, group.directory(directory)
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "error.txt").unlink(missing_ok=True)
    try:
        identify(config, directory, device)
        run = _Run(config, directory, home, group, threads=threads, device=device, cache=cache)

        def report(progress: Progress) -> None:
            if on_progress:
                on_progress(progress)
            if more_threads and run.engine.use_threads(wanted := more_threads()):
                run.threads = wanted

        return run.finish(run.steps(sorted(set(branch_at)), report, checkpoint_every))
    except Exception as error:
        record_failure(directory, error)
        raise


class _Run:
    """A run in progress: the state of `train`."""

    def __init__(
        self,
        config: RunConfig,
        directory: Path,
        home: Path,
        group: SingleProcess,
        *,
        threads: int,
        device: str,
        cache: Path | None,
    ) -> None:
        """Load inputs and the newest checkpoint. `directory` is this process's, `home` the run's: the same
        unless several processes train the run.
        """
        self.config, self.directory, self.threads, self.device = config, directory, threads, device
        self.home, self.group = home, group
        self.inputs = load_inputs(config, cache)
        text = same_text(config, home, cache)
        record_text(directory, text)
        self.started = time.perf_counter()
        self.position = Position()
        found = group.restore(home, config, self.log)
        if found and found[0].text not in (None, text.digest):
            self.log(f"the checkpoint after step {found[0].step} is of other text: begins again")
            group.clear(directory)
            found = None
        if found:
            self.position = found[0]
        self.engine = engine_for(config, self.position.engine, self._engine, self.log, device)
        if found:
            found[1](self.engine)
            self.log(f"continues after step {self.position.step}")
        elif weights := inherited(config, home.parent):
            self.engine.load_state(self.engine.state() | weights)
            self.log(f"starts from the weights of {config.train.init_from}")
        self.position.engine, self.position.text = self.engine.name, text.digest
        self.position.started = self.position.started or clock()
        self.resumed_seconds = self.position.seconds
        lines = "".join(_line(row) for row in self.position.curve)
        write_text(directory / "curve.jsonl", lines)  # rows after the checkpoint are computed again
        if self.inputs.probes:
            self.inputs.probes.begin(directory, self.position.step)

    def _engine(self, name: str) -> Engine:
        return self.group.engine(name, self.config, self.threads, self.device)

    def steps(
        self,
        branch_at: Sequence[int],
        report: Callable[[Progress], None],
        checkpoint_every: float,
    ) -> tuple[str, str | None]:
        """Train from the position to the end, and return the status and its reason."""
        train, at = self.config.train, self.position
        evaluations = set(evaluation_steps(self.config))
        saved = told = time.perf_counter()
        while at.step < train.steps:
            step = at.step + 1
            lr = learning_rate(train, step)
            began = time.perf_counter()
            batch = self.inputs.order.batch(step)
            loss, norm = self.engine.step(batch, lr=lr, step=step, weights=self.inputs.weights_of(batch))
            now = time.perf_counter()
            at.advance(loss, norm, now - began)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                return "diverged", f"the training loss or its gradient is no longer finite at step {step}"
            if step in evaluations:
                stop = self._evaluate(lr)
                if stop:
                    return stop
            if step in branch_at:
                self._save(checkpoint.write_branch)
            if step < train.steps and self.group.agree(now - saved >= checkpoint_every):
                self._checkpoint()
                saved = time.perf_counter()
            if now - told >= PROGRESS_SECONDS or step == train.steps:
                self._tell(report, loss)
                told = now
        return "done", None

    def _checkpoint(self) -> None:
        self.group.save(self.home, self.config, self.engine, self._now())

    def _save(self, write: Callable[[Path, RunConfig, State, Position], None]) -> None:
        write(self.directory, self.config, self.engine.state(), self._now())

    def _now(self) -> Position:
        """Return the position, with its seconds up to date."""
        self.position.seconds = self.resumed_seconds + time.perf_counter() - self.started
        return self.position

    def _evaluate(self, lr: float) -> tuple[str, str | None] | None:
        """Append a row to the curve, and return a status and its reason if the run ends here, else None."""
        at = self.position
        train_loss, grad_norm = at.take_averages()
        tokens = at.step * self.config.train.batch_tokens
        row: dict[str, Any] = {"step": at.step, "tokens": tokens, "lr": lr}
        row |= {"train_loss": train_loss, "grad_norm": grad_norm}
        noise = self.config.train.noise_batches
        row |= measurements(self.engine, self.inputs, step=at.step, noise_batches=noise)
        if not all(math.isfinite(row[name]) for name in self.inputs.tests):
            return "diverged", f"the test loss is no longer finite at step {at.step}"
        at.curve.append(row)
        append_text(self.directory / "curve.jsonl", _line(row))
        if self.inputs.probes:
            self.inputs.probes.record(self.directory, self.engine, at.step)
        assert at.first_loss is not None
        if row["train_loss"] > at.first_loss + DIVERGED_NATS:
            rise = f"{row['train_loss']:.3g} at step {at.step} is far above its start, {at.first_loss:.3g}"
            return "diverged", f"the training loss {rise}"
        return self._stop_early(row)

    def _stop_early(self, row: dict[str, Any]) -> tuple[str, str | None] | None:
        at, patience, enough = self.position, self.config.train.early_stop, self.config.train.stop_accuracy
        if enough is not None and row["accuracy"] >= enough:
            return "done", f"stopped at step {at.step}: held-out accuracy {row['accuracy']:.3f}"
        if at.best_loss is None or row["loss"] < at.best_loss:
            at.best_loss, at.best_step, at.stale = row["loss"], at.step, 0
            return None
        at.stale += 1
        if patience is None or at.stale < patience:
            return None
        return "done", f"stopped at step {at.step}: no better test loss than at step {at.best_step}"

    def _tell(self, report: Callable[[Progress], None], loss: float) -> None:
        """Report progress; a KeyboardInterrupt raised by the callback stops the run, which can be continued from
        here.
        """
        try:
            report(self._progress(loss))
        except KeyboardInterrupt:
            if self.position.step < self.config.train.steps:
                self._checkpoint()
            raise

    def _progress(self, loss: float) -> Progress:
        at = self._now()
        tokens = at.step * self.config.train.batch_tokens
        return Progress(
            step=at.step,
            steps=self.config.train.steps,
            tokens=tokens,
            train_loss=loss,
            loss=at.curve[-1]["loss"] if at.curve else None,
            tokens_per_second=tokens / max(at.training_seconds, 1e-9),
            seconds=at.seconds,
            threads=self.threads,
        )

    def finish(self, ending: tuple[str, str | None]) -> dict[str, Any]:
        """Write the parameters and, last of all, the result."""
        status, reason = ending
        if status == "done" and self.config.data.novelty:
            generate.record(self.directory, self.config, self.inputs, self.engine.state(), self.position.step)
        at, train = self._now(), self.config.train
        self._save(checkpoint.write_final)
        self.group.clear(self.directory)
        result: dict[str, Any] = {
            "format": FORMAT,
            "run": self.config.id,
            "status": status,
            "shape": self.config.model.shape,
            "counts": self.config.model.counts().to_dict(),
            "step": at.step,
            "tokens": at.step * train.batch_tokens,
            "unique": self.inputs.unique,
            "bytes_per_token": self.inputs.bytes_per_token,
            "engine": self.engine.name,
            "threads": self.threads,
            "device": self.device,
            "seconds": at.seconds,
            "started": at.started,
            "finished": clock(),
            "tokens_per_second": at.step * train.batch_tokens / max(at.training_seconds, 1e-9),
            "notes": [reason] if reason else [],
        }
        if status == "done":
            result |= self._final_losses()
        write_json(self.directory / "result.json", result)
        self.log(f"{status} after step {at.step}" + (f": {reason}" if reason else ""))
        return result

    def _final_losses(self) -> dict[str, Any]:
        """Return the last row's losses and accuracies; with early stopping those of the best row."""
        rows = {row["step"]: row for row in self.position.curve}
        last = self.position.best_step if self.config.train.early_stop else self.position.step
        return {
            **final(rows[last], self.inputs),
            **milestones(self.position.curve),
            "best_step": self.position.best_step,
        }

    def log(self, text: str) -> None:
        """Append a line to log.txt, with the time."""
        append_text(self.directory / "log.txt", f"{clock()} {text}\n")


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"


def identify(config: RunConfig, directory: Path, device: str) -> None:
    """Write config.json and env.json; AllometryError if the directory is another run's."""
    from allometry.train.engines.reference import settle

    stored = read_whole(directory / "config.json")
    if stored is not None and stored.get("id") != config.id:
        raise AllometryError(
            f"{directory} holds another run ({stored.get('id')})", hint="give each run a directory of its own"
        )
    counts = config.model.counts().to_dict()
    description = {
        "format": FORMAT,
        "id": config.id,
        "config": config.model_dump(mode="json"),
        "counts": counts,
    }
    write_json(directory / "config.json", description)
    machine = env.snapshot()
    write_json(directory / "env.json", machine | {"arithmetic": settle(device)})


def record_failure(directory: Path, error: Exception) -> None:
    """Write error.txt, unless the disk is full or read-only."""
    text = "".join(traceback.format_exception(error))
    try:
        write_text(directory / "error.txt", f"{error}\n\n{text}")
    except AllometryError:  # the disk is full or read-only: the error itself still reaches the user
        return


def read_whole(path: Path) -> dict[str, Any] | None:
    """Read the object in a JSON file; None if it is missing or damaged: both cases are written again."""
    try:
        return read_json(path)
    except AllometryError:
        return None


def clock() -> str:
    """Return the time in UTC, as ISO 8601 has it: "2026-01-31T23:59:59Z"."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
