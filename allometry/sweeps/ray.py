"""A Ray cluster as a pool: a slot for every core (or share of a GPU) of every node, as nodes come and go.

Ray places the tasks, gives them their resources, and starts them again when a worker or node is lost; a run
continues from its checkpoint in the store. Which run goes where and when is the executor's business, as on
one machine.

On the cluster run one actor, the coordinator, which starts tasks, and the tasks, which train. The coordinator lives
beside the cluster's head and is detached: if the driver dies, tasks under way go on to their end, and the next driver
finds their results or claims in the store. Once nobody asks for messages and no task is left, it ends by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from allometry.cluster import NAMESPACE, connect
from allometry.core import __version__, plugins
from allometry.core.errors import AllometryError
from allometry.sweeps.pool import Message, Node, Task, describe, require_same_versions, settle
from allometry.sweeps.worker import Service, ends

if TYPE_CHECKING:
    from allometry.runs.store import Store
    from allometry.sweeps import Sweep


_LOOK_SECONDS = 2.0
"""How often the cluster is asked which nodes it has."""

_PATIENCE = 120.0
"""Seconds that the coordinator may take to start or answer."""


@dataclass
class _Slot:
    """A place for one run: the node it is on (Ray's id) and whether that is still there."""

    node: str
    alive: bool = True


class RayPool:
    """The workers of a Ray cluster; see `allometry.sweeps.pool.Pool`.

    On a cluster with GPUs a run gets 1/`per_gpu` of one, else a core; a run on n devices gets n of them on
    one node. `workers` limits how many runs are trained at the same time.
    """

    shared = True

    def __init__(
        self,
        on: str = "ray",
        *,
        workers: int | None = None,
        device: str | None = None,
        per_gpu: int = 1,
        pack: int | None = None,
    ) -> None:
        """Connect as `on` says (`allometry.cluster.connect`) and start a coordinator there.

        `device` and `pack`: see `allometry.sweeps.local.open_pool`. Raises AllometryError if the cluster
        cannot be used.
        """
        self._connection = connect(on, workers=workers)
        self._ray = self._connection.ray
        self._limit, self._per_gpu, self.pack = workers, per_gpu, pack
        self.lends = False  # a task has the cores that Ray has given it
        has_gpus = self._ray.cluster_resources().get("GPU", 0) >= 1
        self.device = ("cuda" if has_gpus else "cpu") if device in (None, "auto") else device
        self.paces: dict[str, float] = {}
        self._nodes: dict[str, Node] = {}
        self._seen: set[str] = set()
        self._slots: dict[int, _Slot] = {}
        self._looked = -math.inf
        self._memory = 0.0
        self._busy: set[int] = set()
        self._coordinator = self._start_coordinator()
        try:
            if self.device == "cuda" and not has_gpus:
                raise AllometryError(
                    "--device cuda: the cluster offers no GPU",
                    hint="--device cpu trains on its cores; for GPUs: ray start --num-gpus=N",
                )
            self._look()
            self._require_slots()
            if per_gpu > 1 and self.device != "cuda":
                raise AllometryError(
                    "--per-gpu: the cluster has no GPU that runs could share",
                    hint="leave it out, or start workers with GPUs: ray start --num-gpus=N",
                )
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def slots(self) -> dict[int, float]:
        """A slot for every core or share of a GPU that the cluster has now."""
        self._look()
        alive = [number for number, slot in self._slots.items() if slot.alive]
        return {number: self.paces.get(self.kind(number), 1.0) for number in alive[: self._limit]}

    @property
    def workers(self) -> int:
        """How many slots there are now."""
        return len(self.slots)

    @property
    def kinds(self) -> dict[str, int]:
        """See `Pool.kinds`."""
        slots = Counter(self.kind(slot) for slot in self.slots)
        nodes = Counter(self._nodes[node].kind for node in {self._slots[slot].node for slot in self.slots})
        return {kind: round(count / nodes[kind]) for kind, count in slots.most_common()}

    def kind(self, slot: int) -> str:
        """Return the processor or GPU that a slot has."""
        return self._nodes[self._slots[slot].node].kind

    def node(self, slot: int) -> str:
        """Return Ray's id of the node that a slot is on."""
        return self._slots[slot].node

    def width(self, devices: int) -> int:
        """Return the width as `Pool.width` does: several devices are whole ones, each of which has `per_gpu` slots."""
        return devices * self._per_gpu if devices > 1 else 1

    @property
    def device_memory(self) -> float | None:
        """See `Pool.device_memory`: that of the smallest GPU, or a run's share of it."""
        known = [node.device_memory for node in self._nodes.values() if node.device_memory]
        return min(known) / self._per_gpu if known else None

    def settle(self, sweep: Sweep, store: Store) -> dict[str, str]:
        """Ask every node to make its token sets (`allometry.sweeps.pool`): see `Pool.settle`."""
        alive = sorted({slot.node for slot in self._slots.values() if slot.alive})
        return settle(sweep, store, lambda function, arguments: self._each(alive, function, arguments))

    def send(self, worker: int, task: Task) -> None:
        """Send a task to a slot."""
        self._busy.add(worker)
        devices = task.get("config", {}).get("devices", 1)  # those of a pack have one
        gpus = devices if devices > 1 else 1 / self._per_gpu
        share = {"num_gpus": gpus} if self.device == "cuda" else {}
        memory = int(min(task.get("memory", 0), self._memory))
        options = {"num_cpus": devices, "memory": memory, "node": self._slots[worker].node, **share}
        own = {"device": self.device, "plugins": plugins.paths()}
        self._coordinator.send.remote(worker, {**own, **task}, options)

    def messages(self, timeout: float) -> Iterator[tuple[int, Message]]:
        """Yield the workers' messages, waiting at most `timeout` seconds for the first."""
        try:
            messages = self._ask(self._coordinator.take.remote(timeout), timeout + _PATIENCE)
        except self._ray.exceptions.RayActorError:
            yield from self._start_over()
            return
        for slot, message in messages:
            if ends(message):
                self._busy.discard(slot)
            yield slot, message

    def stop(self, grace: float = 5.0) -> None:
        """Ask all tasks to write their checkpoints and end; after `grace` seconds they are killed."""
        with contextlib.suppress(AllometryError, self._ray.exceptions.RayError):
            self._ask(self._coordinator.stop.remote(grace), grace + 5.0)
        self.close()

    def close(self) -> None:
        """End the tasks at once, and the cluster if it was started here."""
        with contextlib.suppress(Exception):  # whatever is wrong with the cluster, we are leaving
            self._ray.kill(self._coordinator)
        self._connection.close()

    def _start_coordinator(self) -> Any:
        """Start a coordinator beside the head, which is the node that must not be lost anyway."""
        actor = self._ray.remote(RayCoordinator).options(
            name=f"coordinator-{uuid.uuid4().hex[:12]}",
            namespace=NAMESPACE,
            lifetime="detached",
            num_cpus=0,
            resources={"node:__internal_head__": 0.001},
            max_concurrency=1000,
        )
        coordinator = actor.remote()
        self._ask(coordinator.ready.remote(), _PATIENCE)
        return coordinator

    def _start_over(self) -> Iterator[tuple[int, Message]]:
        """The coordinator was lost, and its tasks with it: a new one, and every task counts as died."""
        self._coordinator = self._start_coordinator()
        lost, self._busy = sorted(self._busy), set()
        for slot in lost:
            yield slot, {"is": "died", "signal": "the cluster lost its coordinator", "certain": False}

    def _ask(self, question: Any, timeout: float) -> Any:
        """The answer of an actor; AllometryError if the cluster does not answer any more."""
        try:
            return self._ray.get(question, timeout=timeout)
        except (self._ray.exceptions.GetTimeoutError, ConnectionError) as error:
            raise _silent() from error

    def _look(self) -> None:
        """Bring the slots up to date with the nodes there are."""
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        nodes = self._alive()
        self._memory = max((each.get("memory", 0.0) for each in nodes.values()), default=0.0)
        for slot in self._slots.values():
            slot.alive = slot.node in nodes
        new = [node for node, each in nodes.items() if node not in self._seen and self._places(each)]
        self._seen.update(new)
        if self._slots:  # a node that joins later and cannot be used is left alone, and nobody is stopped
            with contextlib.suppress(AllometryError, self._ray.exceptions.RayError):
                self._welcome(new, nodes)
        else:
            self._welcome(new, nodes)

    def _alive(self) -> dict[str, dict[str, float]]:
        """The resources of each node that is there now."""
        try:
            return {node["NodeID"]: node["Resources"] for node in self._ray.nodes() if node["Alive"]}
        except (ConnectionError, self._ray.exceptions.RayError) as error:
            raise _silent() from error

    def _require_slots(self) -> None:
        if not self._slots:
            raise AllometryError(
                "no node of the cluster offers a core or a GPU",
                hint="start workers: ray start --address=HEAD:6379 --num-cpus=N",
            )

    def _welcome(self, new: list[str], nodes: Mapping[str, Mapping[str, float]]) -> None:
        """Give slots to nodes that run the same versions; AllometryError if one does not."""
        found = [Node(**each) for each in self._each(new, describe, (self.device,))]
        require_same_versions(found)
        for node, description in zip(new, found, strict=True):
            self._nodes[node] = description
            for _ in range(self._places(nodes[node])):
                self._slots[len(self._slots)] = _Slot(node)

    def _each(self, nodes: list[str], function: Any, arguments: tuple[Any, ...]) -> list[dict[str, Any]]:
        """Run a function on each of the nodes, whatever else runs there; what it returned."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        def task(node: str) -> Any:
            where = NodeAffinitySchedulingStrategy(node, soft=False)
            return self._ray.remote(function).options(num_cpus=0, scheduling_strategy=where)

        answers = [task(node).remote(*arguments) for node in nodes]
        try:
            return list(self._ray.get(answers, timeout=_PATIENCE)) if answers else []
        except self._ray.exceptions.RayTaskError as error:
            raise AllometryError(
                f"a node of the cluster cannot run Allometry: {error.cause}",
                hint=f"pip install 'allometry[ray]=={__version__}' on every node",
            ) from error
        except self._ray.exceptions.GetTimeoutError as error:
            raise AllometryError(
                f"{len(nodes)} nodes of the cluster did not answer within {_PATIENCE:.0f} s",
                hint="look at `ray status` and at the nodes' logs",
            ) from error

    def _places(self, resources: Mapping[str, float]) -> int:
        """How many runs a node with these resources trains at the same time."""
        if self.device == "cuda":
            return int(resources.get("GPU", 0)) * self._per_gpu
        return int(resources.get("CPU", 0))


def _silent() -> AllometryError:
    return AllometryError(
        "the Ray cluster does not answer any more",
        hint="the same command continues; runs that are under way there go on",
    )


RETRIES = 3
"""How often Ray starts a task again whose worker or node was lost."""

_IDLE_SECONDS = 60.0
"""How long the coordinator waits for a driver when it has nothing to do."""

_SENT_EVERY = 0.5
"""Least seconds between two messages of progress of a run."""


class RayCoordinator:
    """Start tasks and collect their messages. Its methods are called by one driver and by the tasks."""

    def __init__(self) -> None:
        self._messages: list[tuple[int, Message]] = []
        self._arrived = asyncio.Event()
        self._under_way: dict[int, int] = {}
        self._begun: dict[int, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._heard = time.monotonic()
        self._sent = 0

    async def ready(self) -> bool:
        """Return whether it has started: it has if it answers."""
        self._keep(asyncio.create_task(self._end_idle()))
        return True

    async def send(self, slot: int, task: Task, options: Mapping[str, Any]) -> None:
        """Start a task with Ray's `options`; its messages carry the number of the slot."""
        self._sent += 1
        self._under_way[slot] = self._sent
        self._keep(asyncio.create_task(self._carry_out(slot, self._sent, task, options)))

    async def on_message(self, slot: int, number: int, message: Message) -> bool:
        """Take a task's message and return whether it is to stop; messages of a former task are dropped."""
        if self._under_way.get(slot) == number:
            if message["is"] == "begun":
                self._begun[number] = self._begun.get(number, 0) + 1
                if self._begun[number] > 1:
                    self._add(slot, {"is": "restarted", "times": self._begun[number] - 1})
            else:
                self._add(slot, message)
        return self._stopping

    async def take(self, timeout: float) -> list[tuple[int, Message]]:
        """Return all messages since the last call; waits at most `timeout` seconds for the first."""
        self._heard = time.monotonic()
        if not self._messages:
            try:
                await asyncio.wait_for(self._arrived.wait(), timeout)
            except TimeoutError:
                return []
        taken, self._messages = self._messages, []
        self._arrived.clear()
        return taken

    async def stop(self, grace: float) -> None:
        """Tell tasks to write their checkpoints and end; returns when they have, or after `grace` seconds."""
        self._stopping = True
        until = time.monotonic() + grace
        while self._under_way and time.monotonic() < until:
            await asyncio.sleep(0.05)

    async def _carry_out(self, slot: int, number: int, task: Task, options: Mapping[str, Any]) -> None:
        import ray

        me = ray.get_runtime_context().current_actor
        try:
            message = await _task(options).remote(me, slot, number, dict(task))
        except ray.exceptions.RayTaskError as error:  # it could not even begin
            message = {"is": "failed", "error": str(error.cause), "hint": None, "full": False}
        except ray.exceptions.RayError as error:
            message = {"is": "died", "signal": type(error).__name__, "certain": True}
        if self._under_way.get(slot) == number:
            del self._under_way[slot]
            self._add(slot, message)

    def _add(self, slot: int, message: Message) -> None:
        self._messages.append((slot, message))
        self._arrived.set()

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end_idle(self) -> None:
        """End this actor when it is idle and nobody has asked for messages for a while."""
        import ray

        while self._under_way or time.monotonic() - self._heard < _IDLE_SECONDS:
            await asyncio.sleep(1.0)
        ray.kill(ray.get_runtime_context().current_actor)


def _task(options: Mapping[str, Any]) -> Any:
    """The remote function with its resources, tied to a node as long as that lives."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    own = dict(options)
    where = NodeAffinitySchedulingStrategy(own.pop("node"), soft=True)
    return ray.remote(carry_out).options(max_retries=RETRIES, scheduling_strategy=where, **own)


def carry_out(coordinator: Any, slot: int, number: int, task: Task) -> Message:
    """Carry out one task in this process, which Ray keeps for the next; return the last message."""
    import torch

    torch.set_num_threads(1)
    channel = _Channel(coordinator, slot, number)
    channel("begun")
    Service(channel, channel.stopping).serve(task)
    return channel.flush()


class _Channel:
    """Send a task's messages to the coordinator. The last one is not sent: it is what the task returns."""

    def __init__(self, coordinator: Any, slot: int, number: int) -> None:
        self.coordinator, self.slot, self.number = coordinator, slot, number
        self.last: Message = {}
        self._answers: list[Any] = []
        self._stop = False
        self._sent_at: dict[Any, float] = {}

    def __call__(self, kind: str, /, **fields: Any) -> None:
        message = {"is": kind, **fields}
        if ends(message):
            self.last = message
            return
        if kind == "progress":
            run, now = fields.get("run"), time.monotonic()
            if now - self._sent_at.get(run, -math.inf) < _SENT_EVERY:
                return
            self._sent_at[run] = now
        self._answers.append(self.coordinator.on_message.remote(self.slot, self.number, message))

    def stopping(self) -> bool:
        """Return whether the coordinator has said so; answers that are still on their way are not waited for."""
        import ray

        while self._answers and ray.wait(self._answers[:1], timeout=0)[0]:
            self._stop |= self._answer(self._answers.pop(0))
        return self._stop

    def flush(self) -> Message:
        """Wait until every message has arrived, so that none comes after the last."""
        for answer in self._answers:
            self._answer(answer)
        return self.last

    def _answer(self, answer: Any) -> bool:
        import ray

        try:
            return bool(ray.get(answer))
        except ray.exceptions.RayError:  # the coordinator is gone: train on, the store keeps the result
            return False
