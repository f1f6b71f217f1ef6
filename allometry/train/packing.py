"""K runs of one shape trained as a pack: each by the ordinary loop, into a directory of its own, their steps
taken together (`engines.packed`).

Each loop has a thread, and one thread runs at a time: it goes on until its run wants a step, and waits until
every run that is still under way wants one. So nothing is concurrent, and a pack repeats bit for bit.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from allometry.train.engines.packed import Pack
from allometry.train.group import SingleProcess
from allometry.train.loop import Progress, train

if TYPE_CHECKING:
    from allometry.train.config import RunConfig
    from allometry.train.engines.base import Engine, Step, StepResult

OnProgress = Callable[[Path, Progress], None]
"""Told the directory of a run and how far it is; a KeyboardInterrupt from it stops all of them."""

T = TypeVar("T")


class Broken(BaseException):
    """A step of the pack failed, through no error of the run: it continues alone from its last checkpoint.

    Its cause is the original error. It is no Exception, because the run would then be recorded as failed.
    """


def train_packed(
    runs: Mapping[Path, RunConfig],
    *,
    threads: int = 1,
    device: str = "cpu",
    on_progress: OnProgress | None = None,
    checkpoint_every: float = 15.0,
    cache: Path | None = None,
) -> dict[Path, dict[str, Any]]:
    """Train runs, given by their directories, as one pack, or finish those that were begun; return their results.

    What `train` says of directories, checkpoints and results holds for each run, so that runs of a pack may
    be continued alone, in another pack, at different steps, and the other way round; the last digits then
    differ. A run that fails leaves the others; the first failure is raised when they have ended.
    KeyboardInterrupt is raised after all have written checkpoints. AllometryError if the runs cannot be
    packed (`engines.packed.unsupported_reason`).
    """
    runner = PackRunner(Pack(list(runs.values()), threads=threads, device=device))

    def loop(directory: Path, config: RunConfig, group: SingleProcess) -> dict[str, Any]:
        return train(
            config,
            directory,
            threads=threads,
            device=device,
            on_progress=partial(runner.report, on_progress, directory),
            checkpoint_every=checkpoint_every,
            cache=cache,
            group=group,
        )

    outcomes = dict(zip(runs, runner.run([partial(loop, *each) for each in runs.items()]), strict=True))
    errors = [outcome for outcome in outcomes.values() if isinstance(outcome, BaseException)]
    for error in sorted(errors, key=lambda error: not isinstance(error, KeyboardInterrupt)):
        raise error.__cause__ if isinstance(error, Broken) and error.__cause__ else error
    return {directory: result for directory, result in outcomes.items() if isinstance(result, dict)}


class PackRunner:
    """The point where the loops of a pack wait for each other. One loop runs at a time, in the order of the
    rows, until it wants a step or has ended; when all want one, the step is taken.
    """

    def __init__(self, pack: Pack) -> None:
        self.pack = pack
        self.turn_locks = [threading.Lock() for _ in pack.members]  # quicker than semaphores
        self.turns = deque(range(len(pack.members)))
        self.asked: dict[int, Step] = {}
        self.answers: dict[int, StepResult | Exception] = {}
        self.stopped = False
        for lock in self.turn_locks:
            lock.acquire()

    def run(self, loops: Sequence[Callable[[SingleProcess], T]]) -> list[T | BaseException]:
        """Run the loops, each given its member of the pack as `group`, until all have ended; return what each did."""
        outcomes: dict[int, T | BaseException] = {}

        def follow(row: int, loop: Callable[[SingleProcess], T]) -> None:
            self.turn_locks[row].acquire()
            try:
                outcomes[row] = loop(_PackMember(self, row))
            except BaseException as error:
                outcomes[row] = error
            finally:
                self._pass_on()  # no longer wait for this one

        threads = [threading.Thread(target=follow, args=each) for each in enumerate(loops)]
        for thread in threads:
            thread.start()
        self._pass_on()
        for thread in threads:
            self._wait_for(thread)
        return [outcomes[row] for row in range(len(loops))]

    def step(self, row: int, step: Step) -> StepResult:
        """Take a member's step together with those of all that are present; raises Broken if that failed."""
        self.asked[row] = step
        self._pass_on()
        self.turn_locks[row].acquire()
        answer = self.answers.pop(row)
        if isinstance(answer, Exception):
            raise Broken from answer
        return answer

    def _pass_on(self) -> None:
        """Give the turn to the next loop; after the last, take the step and begin a new round."""
        if not self.turns and self.asked:
            self._take_step()
        if self.turns:
            self.turn_locks[self.turns.popleft()].release()

    def _take_step(self) -> None:
        asked, self.asked = self.asked, {}
        self.turns.extend(asked)
        try:
            results = self.pack.steps({row: [step] for row, step in asked.items()})
            self.answers = {row: found[0] for row, found in results.items()}
        except Exception as error:
            self.answers = dict.fromkeys(asked, error)

    def report(self, on_progress: OnProgress | None, directory: Path, progress: Progress) -> None:
        """Pass progress on to the caller; a KeyboardInterrupt raised by it reaches every loop."""
        try:
            if on_progress is not None:
                on_progress(directory, progress)
        except KeyboardInterrupt:
            self.stopped = True
        if self.stopped:
            raise KeyboardInterrupt

    def _wait_for(self, thread: threading.Thread) -> None:
        """Wait until the thread has ended; ctrl-C stops the run at its next report, with a checkpoint."""
        while thread.is_alive():
            try:
                thread.join()
            except KeyboardInterrupt:
                self.stopped = True


class _PackMember(SingleProcess):
    """The group of one run of a pack, as its loop sees it: an engine whose steps are taken together."""

    def __init__(self, runner: PackRunner, row: int) -> None:
        self.runner, self.row = runner, row

    def engine(self, name: str, config: RunConfig, threads: int, device: str) -> Engine:
        """Return the pack's member, for any name."""
        torch.set_num_threads(threads)  # each thread has a number of its own
        member = self.runner.pack.members[self.row]
        member.together = partial(self.runner.step, self.row)
        return member
