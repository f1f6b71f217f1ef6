"""A worker process: it imports torch once, then trains the runs that its parent names, one after the other.

Started as `python -m allometry.sweeps.worker PARENT`. Tasks arrive on standard input and messages leave on
standard output, one JSON object a line. The worker ends when its parent does, however that ends.

Tasks: {"do": "train", "store", "run", "config", "branch_at", "source", "device", "checkpoint_every", "claim",
"data"}; {"do": "pack", "tasks", "device"}: tasks to train that are carried out as a pack; and {"do": "measure",
"config", "packs", "device"}. On a cluster each names the files of the "plugins" that the driver has loaded. `source`
is (run, step) of a branch point; `data` names token sets (`allometry.data.tokens`); `claim`, where others write to
the same store, is {"owner", "lease", "over"} (`allometry.runs.claims`). {"do": "stop"} and {"do": "threads",
"count"}, how many may work on the run under way, belong to the pipe alone: on a cluster tasks come without one.

Messages: {"is": "progress", "step", "loss", "train_loss", "pace", "threads"}; {"is": "branched"} when the run
has its copy of the trunk that it starts from; {"is": "left", "step"} when it has left a branch point for
others; and at the end {"is": "done", "result"}, {"is": "measured", …}, {"is": "failed", "error", "hint",
"full"}, {"is": "stopped"}, {"is": "elsewhere"} if somebody else trains the run, or {"is": "died", "signal"}
if one of the processes that train a run on several devices was killed. In a pack each run has messages of its
own, which name it as "run"; its end may also be {"is": "unpacked", "error"}: it cannot go on in a pack.
{"is": "parted"} ends the pack. A worker behind a pipe begins with {"is": "ready"}.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from allometry.core import plugins
from allometry.core.env import die_with
from allometry.core.errors import AllometryError
from allometry.core.files import is_full, read_json, write_text
from allometry.data.tokens import settle
from allometry.runs.claims import Claims, LeaseState
from allometry.runs.mirror import Scratch
from allometry.runs.place import place, url_of
from allometry.sweeps.measure import measure
from allometry.sweeps.pool import Task
from allometry.train.config import RunConfig

if TYPE_CHECKING:
    from allometry.runs.claims import Claim
    from allometry.runs.mirror import Scratch
    from allometry.train.config import RunConfig
    from allometry.train.loop import SingleProcess


_ENDS = ("done", "measured", "failed", "stopped", "elsewhere", "died", "parted")


def ends(message: Mapping[str, Any]) -> bool:
    """Return whether this is the last message on a task: a pack goes on when one of its runs has ended."""
    return message["is"] in _ENDS and "run" not in message


class Service:
    """Carry out one task after the other in this process."""

    def __init__(
        self, send: Send, stopping: Callable[[], bool], threads: Callable[[], int] = lambda: 1
    ) -> None:
        """`stopping` is asked at every message of progress whether to stop, `threads` how many may work on the
        run (see `allometry.sweeps.schedule`).
        """
        self.send, self.stopping, self.threads = send, stopping, threads

    def serve(self, task: Task) -> None:
        """Do the task; failures are reported, never raised."""
        if task["do"] == "pack":
            self._serve_pack(task)
            self.send("parted")
        else:
            self._serve_one(task, self.send)

    def _serve_one(self, task: Task, send: Send, group: SingleProcess | None = None) -> None:
        from allometry.experimental.together import Killed

        try:
            plugins.use(task.get("plugins", ()))
            if task["do"] == "train":
                send("done", result=Training(task, send, self.stopping, self.threads, group).run())
            else:
                send("measured", **_measure(task))
        except Stopped:
            send("stopped")
        except Elsewhere:
            send("elsewhere")
        except Killed as killed:
            send("died", signal=killed.signal)
        except BaseException as error:
            if group is not None and _is_the_packs(error):
                send("unpacked", error=_sentence(error.__cause__ or error))
            else:
                _fail(task, error, send)

    def _serve_pack(self, task: Task) -> None:
        """Carry out several tasks to train in threads that take turns, their steps as those of one pack."""
        from allometry.experimental.packs import Pack, PackRunner

        tasks = [{**each, "device": task["device"]} for each in task["tasks"]]
        sends = [partial(self.send, run=each["run"]) for each in tasks]
        try:
            configs = [RunConfig.model_validate(each["config"]) for each in tasks]
            runner = PackRunner(Pack(configs, device=task["device"]))
        except Exception as error:
            for send in sends:
                send("unpacked", error=_sentence(error))
            return
        for outcome in runner.run(
            [partial(self._serve_one, *each) for each in zip(tasks, sends, strict=True)]
        ):
            if outcome is not None:  # a message could not be sent
                raise outcome


def _is_the_packs(error: BaseException) -> bool:
    """Whether a run might go on if it were not in a pack."""
    import torch

    from allometry.experimental.packs import Broken

    return isinstance(error, Broken | torch.OutOfMemoryError)


def _sentence(error: BaseException) -> str:

    return error.message if isinstance(error, AllometryError) else f"{type(error).__name__}: {error}"


def _fail(task: Task, error: BaseException, send: Send) -> None:
    """Keep the failure with the run, and send it in a sentence."""

    known = isinstance(error, AllometryError)
    hint = error.hint if isinstance(error, AllometryError) else None
    if task["do"] == "train" and url_of(task["store"]) is None:
        directory = Path(task["store"]) / task["run"]
        if not (directory / "error.txt").exists():
            text = str(error) if known else "".join(traceback.format_exception(error))
            with contextlib.suppress(OSError, AllometryError):
                keep_failure(directory, text)
    send("failed", error=_sentence(error), hint=hint, full=is_full(error))


def keep_failure(directory: Path, text: str) -> None:
    """Write down in a run's directory why it failed."""

    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / "error.txt", text.rstrip() + "\n")


def _measure(task: Task) -> dict[str, Any]:

    config, device = RunConfig.model_validate(task["config"]), task["device"]
    return measure(config, device=device, packs=task.get("packs", 0))


class Send(Protocol):
    """Where messages go: `send("progress", step=3, …)`."""

    def __call__(self, kind: str, /, **fields: Any) -> None:
        """Send one message."""


class Stopped(KeyboardInterrupt):
    """The executor asked for a stop: training ends as it does on ctrl-C, with its checkpoint kept."""


class Elsewhere(KeyboardInterrupt):
    """Somebody else trains this run."""


class Training:
    """Train one run: in the store's folder, or on scratch space if the store is at a URL."""

    def __init__(
        self,
        task: Task,
        send: Send,
        stopping: Callable[[], bool],
        threads: Callable[[], int],
        group: SingleProcess | None,
    ) -> None:
        """`threads` says how many may work on the run now. `group` is the run's member of a pack; None if it is
        trained by itself.
        """

        self.task, self.send, self.stopping, self.group = task, send, stopping, group
        self.threads = threads
        self.place = place(task["store"])
        self.directory = Path(task["store"]) / task["run"]
        self.leaves = sorted(task["branch_at"])
        self.claim: Claim | None = None
        self.scratch: Scratch | None = None

    def run(self) -> dict[str, Any]:
        """Train the run, or finish it; what its result.json holds."""
        if self.task["claim"] is None:
            return self._train()
        self.claim = self._take(self.task["claim"])
        finished = False
        try:
            result = self._train_where_it_may_be()
            finished = True
        finally:
            self.claim.release(finished=finished)
        return result

    def _take(self, wanted: Mapping[str, Any]) -> Claim:
        """The claim on the run; Elsewhere if another holds it."""

        over = None if wanted["over"] is None else LeaseState(*wanted["over"])
        claim = Claims(self.place, wanted["lease"]).take(self.task["run"], wanted["owner"], over)
        if claim is None:
            raise Elsewhere
        return claim

    def _train_where_it_may_be(self) -> dict[str, Any]:
        """Train in the store's folder; for a store at a URL in a scratch directory, which is sent there."""

        claim = self.claim
        assert claim is not None
        if url_of(self.task["store"]) is None:
            return self._train()
        every = self.task["checkpoint_every"]
        with Scratch(self.place, self.task["run"], every=every, held=lambda: claim.held) as self.scratch:
            self.directory = self.scratch.path
            if self.task["config"]["train"].get("init_from"):
                self.scratch.fetch(self.task["config"]["train"]["init_from"])
            result = self._train()
        if not claim.held:
            raise Elsewhere
        return result

    def _train(self) -> dict[str, Any]:
        from allometry.train.loop import train

        task = self.task
        (self.directory / "error.txt").unlink(missing_ok=True)
        if task["source"] is not None and not (self.directory / "result.json").exists():
            self._branch(*task["source"])
        config = RunConfig.model_validate(task["config"])
        cache = settle(task["data"], self.place) if task["data"] else None
        if config.devices > 1:
            return self._train_together(config, cache)
        return train(
            config,
            self.directory,
            more_threads=self.threads,
            device=task["device"],
            branch_at=tuple(task["branch_at"]),
            on_progress=lambda at: self._progress(
                at.step, at.loss, train_loss=at.train_loss, pace=at.tokens_per_second, threads=at.threads
            ),
            checkpoint_every=task["checkpoint_every"],
            cache=cache,
            group=self.group,
        )

    def _train_together(self, config: RunConfig, cache: Path | None) -> dict[str, Any]:
        """Train on several devices, in processes of their own."""
        from allometry.experimental.together import MultiProcess

        finished = read_json(self.directory / "result.json")
        if finished is not None:
            return finished
        with (
            _visible(self.task.get("gpus")),
            MultiProcess(
                config,
                self.directory,
                device=self.task["device"],
                branch_at=self.task["branch_at"],
                checkpoint_every=self.task["checkpoint_every"],
                cache=cache,
            ) as together,
        ):
            return together.result(self._on_message)

    def _on_message(self, message: dict[str, Any] | None) -> None:
        """Pass on the messages of the processes; in between, look whether to stop."""
        if message is None:
            self._go_on()
        else:
            self._progress(**{name: value for name, value in message.items() if name != "is"})

    def _branch(self, source: str, step: int) -> None:
        """Start from another run's trunk; if its branch point is damaged, from the beginning."""
        from allometry.train.checkpoint import branch

        try:
            scratch = self.scratch
            folder = scratch.fetch_branch(source, step) if scratch else Path(self.task["store"]) / source
            branch(folder, step, self.directory)
        except AllometryError as error:
            if is_full(error):
                raise
        self._send_after_store("branched")

    def _go_on(self) -> None:
        """Raise what ends the run here, if anything does."""
        if self.stopping():
            raise Stopped
        if self.claim is not None and not self.claim.held:
            raise Elsewhere

    def _progress(
        self, step: int, loss: float | None, *, train_loss: float, pace: float, threads: int = 1
    ) -> None:
        self._go_on()
        while self.leaves and self.leaves[0] <= step:
            self._send_after_store("left", step=self.leaves.pop(0))
        newest = train_loss if loss is None else loss
        self.send("progress", step=step, loss=newest, train_loss=train_loss, pace=pace, threads=threads)

    def _send_after_store(self, kind: str, **fields: Any) -> None:
        """Send a message that others build on, after the store has what it is about."""
        if self.scratch is not None:
            self.scratch.send()
        self.send(kind, **fields)


@contextlib.contextmanager
def _visible(gpus: str | None) -> Iterator[None]:
    """Processes that are started now see these GPUs, though this one may see only the first of them."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    try:
        yield
    finally:
        if gpus and before is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


class Worker:
    """The loop of a worker process."""

    def __init__(self, tasks: TextIO, messages: TextIO) -> None:
        self.tasks: queue.Queue[dict[str, Any]] = queue.Queue()
        self.stopping = threading.Event()
        self.threads = 1
        self._messages = messages
        threading.Thread(target=self._listen, args=(tasks,), daemon=True).start()

    def _listen(self, tasks: TextIO) -> None:
        for line in tasks:
            task = json.loads(line)
            if task["do"] == "threads":
                self.threads = task["count"]
                continue
            self.threads = 1
            if task["do"] == "stop":
                self.stopping.set()
            self.tasks.put(task)
        os._exit(1)  # the parent is gone: nobody is left to send to

    def send(self, kind: str, /, **fields: Any) -> None:
        """Send one message to the parent; if it is gone, so is the worker, and no run counts as failed."""
        try:
            self._messages.write(json.dumps({"is": kind, **fields}) + "\n")
            self._messages.flush()
        except OSError:
            os._exit(1)

    def run(self) -> None:
        """Carry out tasks until told to stop."""
        import torch

        torch.set_num_threads(1)
        self.send("ready")
        service = Service(self.send, self.stopping.is_set, lambda: self.threads)
        while True:
            task = self.tasks.get()
            if task["do"] == "stop":
                self.send("stopped")
                return
            service.serve(task)


def main() -> None:
    """Run the process: nothing but messages may reach the pipe, so prints go to standard error."""
    die_with(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    messages = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    Worker(sys.stdin, messages).run()


if __name__ == "__main__":
    main()
