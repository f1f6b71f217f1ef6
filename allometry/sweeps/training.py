"""One order to train a run: its claim, its branch point, its scratch space, and the loop."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from allometry.runs.claims import Claim
    from allometry.runs.scratch import Scratch
    from allometry.train.config import RunConfig
    from allometry.train.group import Alone

Order = Mapping[str, Any]


class Tell(Protocol):
    """Where reports go: `tell("progress", step=3, …)`."""

    def __call__(self, kind: str, /, **fields: Any) -> None:
        """Send one report."""


class Stopped(KeyboardInterrupt):
    """The executor asked for a stop: training ends as it does on ctrl-C, with its checkpoint kept."""


class Elsewhere(KeyboardInterrupt):
    """Somebody else trains this run."""


class Training:
    """One order to train: in the store's folder, or on scratch space if the store is at a URL."""

    def __init__(
        self,
        order: Order,
        tell: Tell,
        stopping: Callable[[], bool],
        threads: Callable[[], int],
        group: Alone | None,
    ) -> None:
        """`threads` says how many may work on the run now. `group` is the run's seat in a pack; None if it is
        trained by itself.
        """
        from allometry.runs.place import place

        self.order, self.tell, self.stopping, self.group = order, tell, stopping, group
        self.threads = threads
        self.place = place(order["store"])
        self.directory = Path(order["store"]) / order["run"]
        self.leaves = sorted(order["branch_at"])
        self.claim: Claim | None = None
        self.scratch: Scratch | None = None

    def run(self) -> dict[str, Any]:
        """Train the run, or finish it; what its result.json holds."""
        if self.order["claim"] is None:
            return self._train()
        self.claim = self._take(self.order["claim"])
        finished = False
        try:
            result = self._train_where_it_may_be()
            finished = True
        finally:
            self.claim.release(finished=finished)
        return result

    def _take(self, wanted: Mapping[str, Any]) -> Claim:
        """The claim on the run; Elsewhere if another holds it."""
        from allometry.runs.claims import Claims, Sight

        over = None if wanted["over"] is None else Sight(*wanted["over"])
        claim = Claims(self.place, wanted["lease"]).take(self.order["run"], wanted["owner"], over)
        if claim is None:
            raise Elsewhere
        return claim

    def _train_where_it_may_be(self) -> dict[str, Any]:
        """Train in the store's folder; for a store at a URL in a scratch directory, which is sent there."""
        from allometry.runs.place import url_of
        from allometry.runs.scratch import Scratch

        claim = self.claim
        assert claim is not None
        if url_of(self.order["store"]) is None:
            return self._train()
        every = self.order["checkpoint_every"]
        with Scratch(self.place, self.order["run"], every=every, held=lambda: claim.held) as self.scratch:
            self.directory = self.scratch.path
            if self.order["config"]["train"].get("init_from"):
                self.scratch.fetch(self.order["config"]["train"]["init_from"])
            result = self._train()
        if not claim.held:
            raise Elsewhere
        return result

    def _train(self) -> dict[str, Any]:
        from allometry.data.placed import settle
        from allometry.train.config import RunConfig
        from allometry.train.loop import train

        order = self.order
        (self.directory / "error.txt").unlink(missing_ok=True)
        if order["source"] is not None and not (self.directory / "result.json").exists():
            self._branch(*order["source"])
        config = RunConfig.model_validate(order["config"])
        cache = settle(order["data"], self.place) if order["data"] else None
        if config.devices > 1:
            return self._train_together(config, cache)
        return train(
            config,
            self.directory,
            more_threads=self.threads,
            device=order["device"],
            branch_at=tuple(order["branch_at"]),
            on_progress=lambda at: self._progress(
                at.step, at.loss, train_loss=at.train_loss, pace=at.tokens_per_second, threads=at.threads
            ),
            checkpoint_every=order["checkpoint_every"],
            cache=cache,
            group=self.group,
        )

    def _train_together(self, config: RunConfig, cache: Path | None) -> dict[str, Any]:
        """Train on several devices, in processes of their own."""
        from allometry.runs.files import read_json
        from allometry.train.together import Together

        finished = read_json(self.directory / "result.json")
        if finished is not None:
            return finished
        with (
            _visible(self.order.get("gpus")),
            Together(
                config,
                self.directory,
                device=self.order["device"],
                branch_at=self.order["branch_at"],
                checkpoint_every=self.order["checkpoint_every"],
                cache=cache,
            ) as together,
        ):
            return together.result(self._hear)

    def _hear(self, report: dict[str, Any] | None) -> None:
        """Pass on what the processes report; in between, look whether to stop."""
        if report is None:
            self._go_on()
        else:
            self._progress(**{name: value for name, value in report.items() if name != "is"})

    def _branch(self, source: str, step: int) -> None:
        """Start from another run's trunk; if its branch point is damaged, from the beginning."""
        from allometry.errors import AllometryError
        from allometry.runs.files import is_full
        from allometry.train.checkpoint import branch

        try:
            scratch = self.scratch
            folder = scratch.fetch_branch(source, step) if scratch else Path(self.order["store"]) / source
            branch(folder, step, self.directory)
        except AllometryError as error:
            if is_full(error):
                raise
        self._tell_once_sent("branched")

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
            self._tell_once_sent("left", step=self.leaves.pop(0))
        newest = train_loss if loss is None else loss
        self.tell("progress", step=step, loss=newest, train_loss=train_loss, pace=pace, threads=threads)

    def _tell_once_sent(self, kind: str, **fields: Any) -> None:
        """Report something that others build on, after the store has it."""
        if self.scratch is not None:
            self.scratch.send()
        self.tell(kind, **fields)


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
