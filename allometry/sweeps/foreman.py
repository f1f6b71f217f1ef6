"""What runs on a Ray cluster: one actor that hands orders to tasks, and the tasks, which train.

The foreman lives beside the cluster's head and is detached: if the driver dies, tasks under way go on to
their end, and the next driver finds their results or claims in the store. Once nobody asks for reports and no
task is left, it ends by itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from allometry.sweeps.pool import Report
from allometry.sweeps.service import Order, Service, ends

RETRIES = 3
"""How often Ray starts a task again whose worker or node was lost."""

_ALONE_SECONDS = 60.0
"""How long the foreman waits for a driver when it has nothing to do."""

_TOLD_EVERY = 0.5
"""Least seconds between two reports of progress of a run."""


class Foreman:
    """Hands out orders and gathers reports. Its methods are called by one driver and by the tasks."""

    def __init__(self) -> None:
        self._reports: list[tuple[int, Report]] = []
        self._news = asyncio.Event()
        self._under_way: dict[int, int] = {}
        self._begun: dict[int, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._heard = time.monotonic()
        self._orders = 0

    async def ready(self) -> bool:
        """Whether it has started: it has if it answers."""
        self._keep(asyncio.create_task(self._end_alone()))
        return True

    async def send(self, slot: int, order: Order, options: Mapping[str, Any]) -> None:
        """Start a task for an order with Ray's `options`; its reports carry the number of the slot."""
        self._orders += 1
        self._under_way[slot] = self._orders
        self._keep(asyncio.create_task(self._carry_out(slot, self._orders, order, options)))

    async def tell(self, slot: int, number: int, report: Report) -> bool:
        """A task reports; the answer is whether it is to stop. What a former order still says is dropped."""
        if self._under_way.get(slot) == number:
            if report["is"] == "begun":
                self._begun[number] = self._begun.get(number, 0) + 1
                if self._begun[number] > 1:
                    self._add(slot, {"is": "restarted", "times": self._begun[number] - 1})
            else:
                self._add(slot, report)
        return self._stopping

    async def take(self, timeout: float) -> list[tuple[int, Report]]:
        """All reports since the last call; waits at most `timeout` seconds for the first."""
        self._heard = time.monotonic()
        if not self._reports:
            try:
                await asyncio.wait_for(self._news.wait(), timeout)
            except TimeoutError:
                return []
        taken, self._reports = self._reports, []
        self._news.clear()
        return taken

    async def stop(self, grace: float) -> None:
        """Tell tasks to write their checkpoints and end; returns when they have, or after `grace` seconds."""
        self._stopping = True
        until = time.monotonic() + grace
        while self._under_way and time.monotonic() < until:
            await asyncio.sleep(0.05)

    async def _carry_out(self, slot: int, number: int, order: Order, options: Mapping[str, Any]) -> None:
        import ray

        me = ray.get_runtime_context().current_actor
        try:
            report = await _task(options).remote(me, slot, number, dict(order))
        except ray.exceptions.RayTaskError as error:  # it could not even begin
            report = {"is": "failed", "error": str(error.cause), "hint": None, "full": False}
        except ray.exceptions.RayError as error:
            report = {"is": "died", "signal": type(error).__name__, "certain": True}
        if self._under_way.get(slot) == number:
            del self._under_way[slot]
            self._add(slot, report)

    def _add(self, slot: int, report: Report) -> None:
        self._reports.append((slot, report))
        self._news.set()

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end_alone(self) -> None:
        """End this actor when it is idle and nobody has asked for reports for a while."""
        import ray

        while self._under_way or time.monotonic() - self._heard < _ALONE_SECONDS:
            await asyncio.sleep(1.0)
        ray.kill(ray.get_runtime_context().current_actor)


def _task(options: Mapping[str, Any]) -> Any:
    """The remote function with its resources, tied to a node as long as that lives."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    own = dict(options)
    where = NodeAffinitySchedulingStrategy(own.pop("node"), soft=True)
    return ray.remote(carry_out).options(max_retries=RETRIES, scheduling_strategy=where, **own)


def carry_out(foreman: Any, slot: int, number: int, order: Order) -> Report:
    """The task: carry out one order in this process, which Ray keeps for the next; the final report."""
    import torch

    torch.set_num_threads(1)
    line = _Line(foreman, slot, number)
    line("begun")
    Service(line, line.stopping).serve(order)
    return line.hang_up()


class _Line:
    """A task's line to the foreman. The last report is not sent: it is what the task returns."""

    def __init__(self, foreman: Any, slot: int, number: int) -> None:
        self.foreman, self.slot, self.number = foreman, slot, number
        self.last: Report = {}
        self._answers: list[Any] = []
        self._stop = False
        self._told: dict[Any, float] = {}

    def __call__(self, kind: str, /, **fields: Any) -> None:
        report = {"is": kind, **fields}
        if ends(report):
            self.last = report
            return
        run, now = fields.get("run"), time.monotonic()
        if kind == "progress" and now - self._told.get(run, 0.0) < _TOLD_EVERY:
            return
        self._told[run] = now
        self._answers.append(self.foreman.tell.remote(self.slot, self.number, report))

    def stopping(self) -> bool:
        """Whether the foreman has said so; answers that are still on their way are not waited for."""
        import ray

        while self._answers and ray.wait(self._answers[:1], timeout=0)[0]:
            self._stop |= self._answer(self._answers.pop(0))
        return self._stop

    def hang_up(self) -> Report:
        """Wait until every report has arrived, so that none comes after the last."""
        for answer in self._answers:
            self._answer(answer)
        return self.last

    def _answer(self, answer: Any) -> bool:
        import ray

        try:
            return bool(ray.get(answer))
        except ray.exceptions.RayError:  # the foreman is gone: train on, the store keeps the result
            return False
