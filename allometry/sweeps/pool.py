"""What an executor needs of a pool of workers, wherever they are: this machine's cores or a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self

from allometry.errors import AllometryError

if TYPE_CHECKING:
    from allometry.runs.store import Store
    from allometry.sweeps.sweep import Sweep
    from allometry.train.config import RunConfig

Report = dict[str, Any]
"""What a worker says; `allometry.sweeps.service` lists the kinds."""


class Pool(Protocol):
    """Slots that each train one run at a time; use it as a context manager.

    `device` is where they train. `shared` says that others may write to the same store at the same time, so
    that every run must be claimed. `paces` has the speed of each kind of machine relative to the first of
    `kinds`. `pack` is how many runs may be trained as a pack: None as many as were measured to pay, on GPUs
    alone; 1 none; a number up to so many, wherever it is. `lends` says that a slot without a run can work on
    another's (`allometry.sweeps.lending`): it understands {"do": "threads", "count"}.
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
        """The kind of machine that a slot is on."""

    def node(self, slot: int) -> str:
        """The machine that a slot is on: what several devices train takes slots of one."""

    def width(self, devices: int) -> int:
        """How many slots a run on so many devices takes."""

    @property
    def workers(self) -> int:
        """How many slots there are now."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def settle(self, sweep: Sweep, store: Store) -> dict[str, str]:
        """Make sure that every worker can train the sweep into the store, before the first run starts.

        Returns the names of the token sets for orders (`allometry.data.placed`), so that all runs of a sweep
        read the same ids. AllometryError, with the remedy, if a worker cannot.
        """

    def send(self, worker: int, order: Mapping[str, Any]) -> None:
        """Give an order to a slot (see `allometry.sweeps.service`)."""

    def reports(self, timeout: float) -> Iterator[tuple[int, Report]]:
        """What the workers have to say, waiting at most `timeout` seconds for the first to speak.

        A worker that died reports {"is": "died", "signal": name or None}; its slot can be used again.
        """

    def stop(self, grace: float = 2.0) -> None:
        """Ask all workers to write their checkpoints and end; after `grace` seconds they are killed."""

    def close(self) -> None:
        """End the workers at once."""


def measure_all(pool: Pool, run: RunConfig, packs: int = 0) -> list[tuple[int, Report]]:
    """Time a configuration, and packs of up to `packs` runs, in all slots at once: (slot, report) of each
    (`allometry.sweeps.measure`).

    AllometryError if it cannot be trained anywhere.
    """
    order = {"do": "measure", "config": run.model_dump(mode="json"), "packs": packs}
    waiting = set(pool.slots)
    for slot in waiting:
        pool.send(slot, order)
    found = []
    while waiting:
        for slot, report in pool.reports(1.0):
            if report["is"] == "measured":
                found.append((slot, report))
                waiting.discard(slot)
            elif report["is"] in ("failed", "died"):
                reason = report.get("error") or f"its worker was killed ({report['signal']})"
                raise AllometryError(f"cannot time {run.id}: {reason}", hint=report.get("hint"))
    return found


def open_pool(
    on: str | None = None,
    workers: int | None = None,
    *,
    device: str | None = None,
    per_gpu: int = 1,
    pack: int | None = None,
) -> Pool:
    """The pool that a name stands for: None or "local", "ray" (a cluster of this machine, or the one that
    RAY_ADDRESS names), or "ray://host:port".

    `device` is "cuda", "cpu" or "auto", which is the GPUs if there are any; without, this machine's cores, or
    a cluster's GPUs if it has any. `per_gpu` workers share each GPU; `pack` is how many runs may be trained
    as a pack (`Pool`). Raises AllometryError for other names, for a cluster that cannot be used, and for GPUs
    that are not there.
    """
    if on is None or on == "local":
        from allometry.sweeps.gpus import device_for
        from allometry.sweeps.local import LocalPool

        where = device_for(device or "cpu")
        if per_gpu != 1 and where == "cpu":
            raise AllometryError(
                "--per-gpu is about GPUs, and here runs are trained on cores",
                hint="leave it out, or use a cluster: --on ray --per-gpu 4",
            )
        return LocalPool(workers, device=where, per_gpu=per_gpu, pack=pack)
    if on == "ray" or on.startswith("ray://"):
        from allometry.sweeps.ray import RayPool

        return RayPool(on, workers=workers, device=device, per_gpu=per_gpu, pack=pack)
    raise AllometryError(f"cannot run on {on!r}", hint="say --on local, --on ray or --on ray://HOST:10001")
