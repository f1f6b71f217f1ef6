"""What an executor needs of a pool of workers, wherever they are: this machine's cores or a Ray cluster.

Before the first run starts on a cluster, versions, the store and the data are checked on every node, and what is
wrong is said with the remedy."""

from __future__ import annotations

import contextlib
import platform
import socket
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

from allometry.core import __version__
from allometry.core.env import cpu_model, package_version
from allometry.core.errors import AllometryError
from allometry.data.tokens import key, missing, prepare, publish
from allometry.runs.place import place
from allometry.runs.store import Store
from allometry.sweeps import Sweep
from allometry.train.inputs import token_sets

if TYPE_CHECKING:
    from allometry.data.tokens import TokenSet
    from allometry.train.config import RunConfig

Message = dict[str, Any]
"""What a worker sends; `allometry.sweeps.worker` lists the kinds."""

Task = Mapping[str, Any]
"""What a worker is sent; `allometry.sweeps.worker` lists the kinds."""


class Pool(Protocol):
    """Slots that each train one run at a time; use it as a context manager.

    `device` is where they train. `shared` says that others may write to the same store at the same time, so
    that every run must be claimed. `paces` has the speed of each kind of machine relative to the first of
    `kinds`. `pack` is how many runs may be trained as a pack: None as many as were measured to pay, on GPUs
    alone; 1 none; a number up to so many, wherever it is. `lends` says that a slot without a run can work on
    another's (`allometry.sweeps.schedule`): it understands {"do": "threads", "count"}.
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
        """Send a task to a slot (see `allometry.sweeps.worker`)."""

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
    (`allometry.sweeps.measure`).

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


FOLDER = ".probe"


@dataclass(frozen=True, kw_only=True)
class Node:
    """What a node says of itself: its name, the versions it runs, the kind of processor or GPU it has, and
    the bytes of memory of a GPU."""

    host: str
    versions: Mapping[str, str | None]
    kind: str
    device_memory: float | None = None


def versions() -> dict[str, str | None]:
    """Return the versions that must agree on all nodes."""
    return {
        "allometry": __version__,
        "ray": package_version("ray"),
        "python": platform.python_version(),
    }


def describe(device: str) -> dict[str, Any]:
    """Return this node as JSON for `Node`; the task that every node runs first."""
    kind, memory = cpu_model(), None
    if device == "cuda":
        import torch

        if torch.cuda.is_available():
            kind = torch.cuda.get_device_name()
            memory = float(torch.cuda.get_device_properties(0).total_memory)
        else:
            kind = f"no GPU, {kind}"
    return {
        "host": socket.gethostname(),
        "versions": versions(),
        "kind": kind,
        "device_memory": memory,
    }


def require_same_versions(nodes: Iterable[Node]) -> None:
    """Raise AllometryError, naming node and versions, if any runs another Allometry, Ray or Python than this
    process.
    """
    ours = versions()
    for node in nodes:
        for name, version in node.versions.items():
            if version != ours[name]:
                pip = f"pip install {name}=={ours[name]}" if name != "python" else f"Python {ours[name]}"
                raise AllometryError(
                    f"node {node.host} runs {name} {version or '(none)'}, this machine {ours[name]}",
                    hint=f"make them the same: {pip} on the node, or the node's version here",
                )


def reach(location: str, nonce: str, names: list[str]) -> dict[str, Any]:
    """Return whether this node sees the store and can write to it, and which token sets it lacks; a task.

    The driver has written `nonce` there: a folder of the same name on another disk is another store.
    """

    found: dict[str, Any] = {"host": socket.gethostname(), "error": None, "missing": missing(names)}
    try:
        there = place(location)
        if there.read(f"{FOLDER}/{nonce}") is None:
            found["error"] = "does not see it"
        elif not there.create(f"{FOLDER}/{nonce}-{uuid.uuid4().hex}", b""):
            found["error"] = "cannot write to it"
    except AllometryError as error:
        found["error"] = f"cannot use it: {error.message}"
    return found


EachNode = Callable[[Any, tuple[Any, ...]], list[dict[str, Any]]]
"""Runs a function with arguments once on every node; what each returned."""


def settle(sweep: Sweep, store: Store, each_node: EachNode) -> dict[str, str]:
    """Make sure that every node can use the store and has the data: names of token sets, for tasks.

    Tokens are made here, once; if a node lacks them they are put into the store, where it finds them.
    AllometryError for a store that a node cannot use, or data that cannot be made here.
    """

    names, sets, refused = make_tokens(sweep)
    if refused:
        raise refused[0]
    nonce = uuid.uuid4().hex
    store.place.write(f"{FOLDER}/{nonce}", b"")
    try:
        found = each_node(reach, (store.place.location, nonce, list(names.values())))
    finally:
        with contextlib.suppress(AllometryError, OSError):
            for file in store.place.names(FOLDER):
                if file.startswith(f"{FOLDER}/{nonce}"):
                    store.place.remove(file)
    for node in found:
        if node["error"]:
            raise AllometryError(
                f"the store {store.place.location} cannot be used: node {node['host']} {node['error']}",
                hint="use a folder that every node mounts at the same path, or --store s3://BUCKET/PATH with "
                "its credentials on every node",
            )
    lacking = {name for node in found for name in node["missing"]}
    publish([tokens for tokens in sets.values() if tokens.path.name in lacking], store.place)
    return names


def make_tokens(sweep: Sweep) -> tuple[dict[str, str], dict[str, TokenSet], list[AllometryError]]:
    """Return the token sets that a sweep reads: names for tasks, the sets, and why others cannot be had."""

    sets, refused = {}, []
    for each in _required(sweep):
        try:
            sets[key(*each)] = prepare(*each)
        except AllometryError as error:
            refused.append(error)
    return {name: tokens.path.name for name, tokens in sets.items()}, sets, refused


def _required(sweep: Sweep) -> list[tuple[str, str]]:
    """(corpus, tokenizer) of every token set that the runs of a sweep read."""

    return sorted({each for run in sweep for each in token_sets(run.data)})
