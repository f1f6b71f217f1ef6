"""Map a function over items with many processes: on this machine, or on a Ray cluster, through one interface.

Both keep the order of the items, bound how many are under way, and turn an item that takes too long or too
much memory, or kills its process, into a result that says so. The limit is processor time, kept by the
system's own timer, so that what comes out does not depend on how busy the machine is. Functions and items
must be importable and picklable; on a cluster, files named by items must be on storage that every machine
sees.
"""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, Protocol, TypeVar

from allometry.cluster import connect
from allometry.core.errors import AllometryError

Item = TypeVar("Item")
START_SECONDS = 180.0
"""Seconds that a worker may take to start (imports on a loaded machine) before that counts as an error."""

MOST_MEMORY = 4 * 2**30
"""Bytes of memory that a worker may take where items have a limit: a page that wants more fails alone."""

WAITING_FACTOR = 100.0
"""Wall-clock limit of an item, as a multiple of its limit of processor time: only an item that hangs exceeds it."""


class Outcome(NamedTuple):
    """The outcome of an item: its `value`, or in `error` "timeout", "crashed" or the exception as text."""

    value: Any
    error: str | None = None


class Pool(Protocol):
    """The interface of a pool of processes that maps functions over items. `limit` is the maximum of processor
    time, in seconds, for one item. A `with` block ends its processes.
    """

    def __enter__(self) -> Pool: ...

    def __exit__(self, *_: object) -> None: ...

    def map(
        self,
        function: Callable[[Item], Any],
        items: Iterable[Item],
        *,
        limit: float | None = None,
        chunk: int = 1,
    ) -> Iterator[Outcome]:
        """Yield the outcomes in the order of the items; `chunk` items travel together."""
        ...


def open_pool(on: str = "local", workers: int | None = None) -> Pool:
    """Return the pool that a name stands for: "local", "ray" or "ray://host:port". Raises AllometryError for
    others.
    """
    if on == "local":
        return LocalPool(workers or usable_cores())
    if on == "ray" or on.startswith("ray://"):
        return RayPool(on)
    raise AllometryError(f"cannot run on {on!r}", hint="say --on local, --on ray or --on ray://host:port")


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except AttributeError:  # not Linux
        return max(1, os.cpu_count() or 1)


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    ready: bool = False
    work: deque[tuple[int, Any]] = field(default_factory=deque)
    since: float = 0.0


class LocalPool:
    """Processes of this machine. One that exceeds the limit is killed and replaced. They stay for the next
    `map` of the same function, and end with the `with` block."""

    def __init__(self, workers: int) -> None:
        self._n = workers
        # Spawned, not forked: a fork of a process with threads (progress, arrow) can hang.
        self._context = mp.get_context("spawn")
        self._workers: list[_Worker] = []
        self._function: Callable[[Any], Any] | None = None
        self._limit: float | None = None

    def __enter__(self) -> LocalPool:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_workers(self._workers)

    def map(
        self,
        function: Callable[[Item], Any],
        items: Iterable[Item],
        *,
        limit: float | None = None,
        chunk: int = 1,
    ) -> Iterator[Outcome]:
        """Yield the outcomes in the order of the items: see Pool.map."""
        if (function, limit) != (self._function, self._limit):
            self._end_workers(self._workers)
            self._function, self._limit = function, limit
        numbered = enumerate(items)
        again: deque[tuple[int, Any]] = deque()
        finished: dict[int, Outcome] = {}
        turn = 0
        try:
            while True:
                self._hand_out(again, numbered, chunk, held=len(finished), needed=turn not in finished)
                if not any(worker.work for worker in self._workers):
                    break
                self._collect(finished, again, limit)
                while turn in finished:
                    yield finished.pop(turn)
                    turn += 1
            assert not finished
        finally:
            self._end_workers([worker for worker in self._workers if worker.work])

    def _hand_out(
        self,
        again: deque[tuple[int, Any]],
        numbered: Iterator[tuple[int, Any]],
        chunk: int,
        *,
        held: int,
        needed: bool,
    ) -> None:
        """Give idle workers their next items, unless too many results wait for an earlier one. Starts workers."""
        ahead = max(self._n * chunk * 8 - held, 1 if needed else 0)
        for slot in range(self._n):
            if slot < len(self._workers) and self._workers[slot].work:
                continue
            work = _take(again, numbered, min(chunk, ahead))
            if not work:
                return
            if slot >= len(self._workers):
                self._workers.append(self._start())
            worker = self._workers[slot]
            worker.work.extend(work)
            worker.since = time.monotonic()
            worker.pipe.send(work)

    def _start(self) -> _Worker:
        here, there = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(there, self._function, self._limit), daemon=True)
        process.start()
        there.close()
        return _Worker(process, here)

    def _end_workers(self, workers: list[_Worker]) -> None:
        for worker in list(workers):
            _end(worker)
            self._workers.remove(worker)

    def _collect(
        self, finished: dict[int, Outcome], again: deque[tuple[int, Any]], limit: float | None
    ) -> None:
        """Wait for the next results; remove workers that died or exceeded their time."""
        patience = (
            None
            if limit is None
            else max(0.01, min(_deadline(w, limit) for w in self._workers) - time.monotonic())
        )
        ready = set(wait([worker.pipe for worker in self._workers], timeout=patience))
        now = time.monotonic()
        for worker in list(self._workers):
            error = None
            if worker.pipe in ready:
                error = _receive(worker, finished)
                if error == "crashed" and _ended_by_timer(worker):
                    error = "timeout"
            elif worker.work and limit is not None and now > _deadline(worker, limit):
                error = "timeout"
            if error is not None:
                if not worker.ready:
                    raise AllometryError(
                        f"a worker process did not start ({error})", hint="run again with --workers 1"
                    )
                self._end_workers([worker])
                if worker.work:
                    finished[worker.work.popleft()[0]] = Outcome(None, error)
                again.extend(worker.work)


def _deadline(worker: _Worker, limit: float) -> float:
    patience = WAITING_FACTOR * max(limit, 1.0) if worker.ready else START_SECONDS
    return worker.since + patience if worker.work else float("inf")


def _take(
    again: deque[tuple[int, Any]], numbered: Iterator[tuple[int, Any]], n: int
) -> list[tuple[int, Any]]:
    taken = [again.popleft() for _ in range(min(n, len(again)))]
    return taken + list(islice(numbered, max(0, n - len(taken))))


def _receive(worker: _Worker, finished: dict[int, Outcome]) -> str | None:
    """Receive one message; "crashed" if the process is gone."""
    try:
        message = worker.pipe.recv()
    except (EOFError, OSError):
        return "crashed"
    worker.since = time.monotonic()
    if message is None:
        worker.ready = True
    else:
        number, outcome = message
        assert worker.work[0][0] == number
        worker.work.popleft()
        finished[number] = outcome
    return None


def _ended_by_timer(worker: _Worker) -> bool:
    """Return whether a process that is gone was ended by the timer of its processor time."""
    worker.process.join()
    return bool(worker.process.exitcode == -signal.SIGPROF)


def _end(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.pipe.close()


def _serve(pipe: Connection, function: Callable[[Any], Any], limit: float | None) -> None:
    """Serve as a worker: items in, an outcome for each out. `function.prepare()`, if there is one, runs
    first.

    The timer counts the processor time of this process and ends it, also inside a library's own loops.
    """
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    if limit is not None:
        _bound_memory(MOST_MEMORY)
    prepare = getattr(function, "prepare", None)
    if prepare is not None:
        prepare()
    try:
        pipe.send(None)
        while True:
            for number, item in pipe.recv():
                signal.setitimer(signal.ITIMER_PROF, limit or 0.0)
                outcome = run_one(function, item)
                signal.setitimer(signal.ITIMER_PROF, 0.0)
                pipe.send((number, outcome))
    except (EOFError, OSError, KeyboardInterrupt):
        return


def _bound_memory(size: int) -> None:
    """Set a hard limit of this process's memory, where the system keeps one (Linux does)."""
    with contextlib.suppress(ImportError, AttributeError, ValueError, OSError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        size = size if hard == resource.RLIM_INFINITY else min(size, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def run_one(function: Callable[[Any], Any], item: Any) -> Outcome:
    """Apply the function; an exception becomes an outcome, because one bad page must not end a stage."""
    try:
        return Outcome(function(item))
    except Exception as error:
        return Outcome(None, f"{type(error).__name__}: {error}"[:300])


class RayPool:
    """A Ray cluster: each chunk is a task, which runs its items in a process that can be killed."""

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def __init__(self, address: str) -> None:
        self._ray = connect(address).ray

    def map(
        self,
        function: Callable[[Item], Any],
        items: Iterable[Item],
        *,
        limit: float | None = None,
        chunk: int = 1,
    ) -> Iterator[Outcome]:
        """Yield the outcomes in the order of the items: see Pool.map."""
        task = self._ray.remote(_run_chunk)
        most = 2 * max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        pending: deque[Any] = deque()
        source = iter(items)
        while True:
            while len(pending) < most and (some := list(islice(source, chunk))):
                pending.append(task.remote(function, some, limit))
            if not pending:
                return
            yield from self._ray.get(pending.popleft())


def _run_chunk(function: Callable[[Any], Any], items: list[Any], limit: float | None) -> list[Outcome]:
    if limit is None:
        return [run_one(function, item) for item in items]
    with LocalPool(1) as pool:
        return list(pool.map(function, items, limit=limit, chunk=len(items)))
