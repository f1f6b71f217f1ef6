"""Workers that kill or halt themselves at a step: what a run has done places the event, never a clock.

The pool is for tests; this file is also the program that its workers run:

    python -P mortal.py FOLDER STEP MOST ACT PARENT
"""

import errno
import math
import os
import signal
import sys
from pathlib import Path
from typing import Any, Literal

from allometry.sweeps.local import LocalPool, Process

Act = Literal["die", "halt", "full", "rank dies", "rank halts"]


class MortalPool(LocalPool):
    """Workers that report every step and act at the first report of `step`, or of one after it.

    "die": kill themselves, `most` times altogether; "halt": go no further until they are asked to stop; "full":
    find the disk full whenever they write a log. With
    "rank dies" and "rank halts" the processes that torchrun starts do so instead, having written `step`
    checkpoints. `folder` is new; it counts deaths.
    """

    def __init__(
        self, workers: int, folder: Path, *, step: int, most: int = 1, act: Act = "die", **pool: int
    ) -> None:
        folder.mkdir()
        self._folder = folder
        self._program = (str(Path(__file__).resolve()), str(folder), str(step), str(most), act)
        super().__init__(workers, **pool)

    def _start(self, number: int) -> Process:
        return Process(program=self._program)

    def stop(self, grace: float = math.inf) -> None:
        """Stop as a LocalPool does, however long a checkpoint takes on a busy machine."""
        super().stop(grace)

    @property
    def deaths(self) -> int:
        """Return how many processes have killed themselves."""
        return len(list(self._folder.iterdir()))


def _die(folder: str, most: int) -> None:
    """Kill this process, unless `most` others have done so before."""
    for number in range(most):
        try:
            (Path(folder) / str(number)).touch(exist_ok=False)
        except FileExistsError:
            continue
        os.kill(os.getpid(), signal.SIGKILL)


def _as_worker(folder: str, step: int, most: int, act: Act) -> None:
    from allometry.experimental import torchrun
    from allometry.sweeps import worker

    class Worker(worker.Worker):
        def send(self, kind: str, /, **fields: Any) -> None:
            reached = kind == "progress" and fields["step"] >= step
            if reached and act == "die":
                _die(folder, most)
            super().send(kind, **fields)
            if reached and act == "halt":
                self.stopping.wait()

    def launch_arguments(config: Path, store: Path, devices: int, options: list[str]) -> list[str]:
        own = ["--standalone", f"--nproc-per-node={devices}", sys.argv[0], "rank", folder, str(step), act]
        return [*own, str(config), "--store", str(store), *options]

    open_file = os.open

    def full(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path).endswith("log.txt"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return open_file(path, *arguments, **options)

    if act == "full":
        os.open = full
    worker.Worker = Worker  # type: ignore[misc]
    if act.startswith("rank"):
        torchrun.launch_arguments = launch_arguments
    worker.main()


def _as_rank(folder: str, step: int, act: Act) -> None:
    from waiting import until

    from allometry.experimental import devices, torchrun

    class Torchrun(devices.Torchrun):
        saved = 0

        def save(self, *arguments: Any) -> None:
            self.saved += 1
            if self.saved == step and act == "rank halts":
                until(self._stopping)
            super().save(*arguments)
            if self.saved == step and act == "rank dies" and not self.leads:
                _die(folder, 1)

    devices.Torchrun = Torchrun  # type: ignore[misc]
    torchrun.main()


def main() -> None:
    """Run as a worker, or as a process that torchrun started for one."""
    from allometry.train import loop

    loop.PROGRESS_SECONDS = 0.0
    if sys.argv[1] == "rank":
        _, _, folder, step, act, *rest = sys.argv
        sys.argv = [sys.argv[0], *rest]
        sys.path.append(str(Path(__file__).parents[1]))
        _as_rank(folder, int(step), act)  # type: ignore[arg-type]
        return
    program, folder, step, most, act, parent = sys.argv
    sys.argv = [program, parent]
    _as_worker(folder, int(step), int(most), act)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
