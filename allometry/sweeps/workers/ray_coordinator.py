"""What runs on a Ray cluster: one actor that starts tasks, and the tasks, which train.

The coordinator lives beside the cluster's head and is detached: if the driver dies, tasks under way go on to
their end, and the next driver finds their results or claims in the store. Once nobody asks for messages and no
task is left, it ends by itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from allometry.sweeps.workers.pool import Message, Task
from allometry.sweeps.workers.service import Service, ends

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
        run, now = fields.get("run"), time.monotonic()
        if kind == "progress" and now - self._sent_at.get(run, 0.0) < _SENT_EVERY:
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
