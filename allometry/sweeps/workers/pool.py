"""What an executor needs of a pool of workers, wherever they are: this machine's cores or a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self

from allometry.core.errors import AllometryError

if TYPE_CHECKING:
    from allometry.runs.store import Store
    from allometry.sweeps import Sweep
    from allometry.train.config import RunConfig

Message = dict[str, Any]
"""What a worker sends; `allometry.sweeps.workers.worker` lists the kinds."""

Task = Mapping[str, Any]
"""What a worker is sent; `allometry.sweeps.workers.worker` lists the kinds."""


class Pool(Protocol):
    """Slots that each train one run at a time; use it as a context manager.

    `device` is where they train. `shared` says that others may write to the same store at the same time, so
    that every run must be claimed. `paces` has the speed of each kind of machine relative to the first of
    `kinds`. `pack` is how many runs may be trained as a pack: None as many as were measured to pay, on GPUs
    alone; 1 none; a number up to so many, wherever it is. `lends` says that a slot without a run can work on
    another's (`allometry.sweeps.cost.makespan`): it understands {"do": "threads", "count"}.
    """

    device: str
    pack: int | None
    lends: bool
    shared: bool
    paces: dict[str, float]

    @property
    def device_memory(self) -> float | None:
        """How many bytes a slot's device has for its run; None where slots have none of their own, as
        cores.
        """

    @property
    def slots(self) -> Mapping[int, float]:
        """The slots there are now, by number, each with its speed relative to what the cost model predicts.

        On a cluster nodes come and go, and slots with them; a number is never used for another slot.
        """

    @property
    def kinds(self) -> Mapping[str, int]:
        """The kinds of machine (processor or GPU), the most frequent first, and how many slots one has."""

    def kind(self, slot: int) -> str:
        """Return the kind of machine that a slot is on."""

    def node(self, slot: int) -> str:
        """Return the machine that a slot is on: what several devices train takes slots of one."""

    def width(self, devices: int) -> int:
        """Return how many slots a run on so many devices takes."""

    @property
    def workers(self) -> int:
        """How many slots there are now."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def settle(self, sweep: Sweep, store: Store) -> dict[str, str]:
        """Make sure that every worker can train the sweep into the store, before the first run starts.

        Returns the names of the token sets for tasks (`allometry.data.tokens`), so that all runs of a sweep
        read the same ids. AllometryError, with the remedy, if a worker cannot.
        """

    def send(self, worker: int, task: Task) -> None:
        """Send a task to a slot (see `allometry.sweeps.workers.worker`)."""

    def messages(self, timeout: float) -> Iterator[tuple[int, Message]]:
        """Yield the workers' messages, waiting at most `timeout` seconds for the first.

        A worker that died sends {"is": "died", "signal": name or None}; its slot can be used again.
        """

    def stop(self, grace: float = 2.0) -> None:
        """Ask all workers to write their checkpoints and end; after `grace` seconds they are killed."""

    def close(self) -> None:
        """End the workers at once."""


def measure_all(pool: Pool, run: RunConfig, packs: int = 0) -> list[tuple[int, Message]]:
    """Time a configuration, and packs of up to `packs` runs, in all slots at once: (slot, message) of each
    (`allometry.sweeps.cost.measure`).

    AllometryError if it cannot be trained anywhere.
    """
    task = {"do": "measure", "config": run.model_dump(mode="json"), "packs": packs}
    waiting = set(pool.slots)
    for slot in waiting:
        pool.send(slot, task)
    found = []
    while waiting:
        for slot, message in pool.messages(1.0):
            if message["is"] == "measured":
                found.append((slot, message))
                waiting.discard(slot)
            elif message["is"] in ("failed", "died"):
                reason = message.get("error") or f"its worker was killed ({message['signal']})"
                raise AllometryError(f"cannot time {run.id}: {reason}", hint=message.get("hint"))
    return found
