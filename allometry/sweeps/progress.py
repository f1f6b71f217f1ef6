"""Report on a sweep under way: events with a forecast of its end, what a terminal shows of them (a bar for each run and
one for the whole; plain lines elsewhere), and a summary of how it ended.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from allometry.core.units import format_count, format_duration
from allometry.sweeps.cost import CostModel
from allometry.sweeps.schedule import Job
from allometry.train.config import RunConfig

_PLAIN_EVERY = 30.0
"""Seconds between two lines about the whole sweep where there is no terminal."""


class Display:
    """Shows the events of one or more sweeps; give it to `execute` as `on_event`, inside a `with` block.

    On a terminal the lines about running runs and the whole are redrawn; elsewhere there is one line for each
    run that ends and one from time to time; `quiet` shows failures only. The bar of the whole is time: spent
    against left.
    """

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.quiet = quiet
        self._began = time.monotonic()
        self._told = self._began
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        if self.stream.isatty() and not self.quiet:
            console = Console(file=self.stream, highlight=False, markup=False, emoji=False)
            self._bars = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.percentage:>3.0f} %", markup=False),
                TextColumn("{task.fields[note]}", markup=False),
                console=console,
                refresh_per_second=5,
            )
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Remove the bars: what is printed next begins on a line of its own."""
        if self._bars is not None:
            for task in self._tasks.values():
                self._bars.remove_task(task)
            self._bars.stop()
            self._bars = None

    def calibrating(self, done: int, total: int) -> None:
        """Show how far the timing of shapes is (give it to `calibrate` as `on_shape`)."""
        if self._bars is None:
            if done == total:
                self._line(f"timed {total} shapes on this machine")
            return
        self._bar("calibrate", "timing this machine", done / total, f"{done}/{total} shapes")
        if done == total:
            self._drop("calibrate")

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if event.kind == "begin":
            self._line(f"{event.sweep}: {event.text}")
        elif event.kind in ("done", "failed", "retry"):
            self._line(_sentence(event))
        if event.run is not None:
            self._show_run(event, event.run)
        self._show_whole(event)

    def _show_run(self, event: Event, run: RunConfig) -> None:
        if self._bars is None:
            return
        if event.kind in ("done", "failed", "retry"):
            self._drop(run.id)
            return
        note = "" if event.loss is None else f"loss {event.loss:.3f}"
        if event.pace:
            note += f"  {format_count(event.pace)} tok/s"
        self._bar(run.id, _label(run), event.step / run.train.steps, note)

    def _show_whole(self, event: Event) -> None:
        spent = time.monotonic() - self._began
        left = f"{format_duration(event.eta)} left" if event.eta else "finished"
        note = f"{event.finished}/{event.total} runs  {left}"
        if self._bars is not None:
            self._bar("", event.sweep, spent / max(spent + event.eta, 1e-9), note)
        elif time.monotonic() - self._told > _PLAIN_EVERY:
            self._told = time.monotonic()
            self._line(f"{event.sweep}: {note}")

    def _bar(self, key: str, label: str, fraction: float, note: str) -> None:
        assert self._bars is not None
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task(label, total=1.0, note=note)
        self._bars.update(self._tasks[key], description=f"{label:<28}", completed=fraction, note=note)

    def _drop(self, key: str) -> None:
        if self._bars is not None and key in self._tasks:
            self._bars.remove_task(self._tasks.pop(key))

    def _line(self, text: str) -> None:
        if self.quiet and " failed: " not in text:
            return
        if self._bars is not None:
            self._bars.console.print(text)
        else:
            print(text, file=self.stream, flush=True)


def _label(run: RunConfig) -> str:
    """A run in few words: shape, tokens, learning rate where it matters, seed."""
    return f"{run.model.shape} {format_count(run.train.tokens)} tok s{run.train.seed}"


def _sentence(event: Event) -> str:
    assert event.run is not None
    count = f"[{event.finished}/{event.total}]"
    if event.kind == "failed":
        return f"{count} {event.run.id} failed: {event.text}"
    if event.kind == "retry":
        return f"{event.run.id}: {event.text}; it goes on from step {event.step:,}"
    loss = "diverged" if event.loss is None else f"loss {event.loss:.4f}"
    left = f"  ({format_duration(event.eta)} left)" if event.eta else ""
    return f"{count} {event.run.id}  {loss}{left}" + (f"  {event.text}" if event.text else "")


EventKind = Literal["begin", "start", "progress", "done", "failed", "retry", "elsewhere", "end"]


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened in a sweep, for whoever watches.

    `run`, `step`, `loss` and `pace` (tokens per second) concern one run; `finished` of `total` runs have
    ended; `fraction` of the sweep's predicted seconds are spent; `eta` is the seconds until the sweep and
    what comes `later` are done; `text` is for people.
    """

    kind: EventKind
    sweep: str
    finished: int
    total: int
    fraction: float
    eta: float
    run: RunConfig | None = None
    step: int = 0
    loss: float | None = None
    pace: float | None = None
    text: str = ""


OnEvent = Callable[[Event], None]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How a sweep ended: ids of runs by outcome, why some failed, and the seconds it took.

    `skipped` were finished before, `elsewhere` are those of the others that another process trained
    meanwhile. `busy` is the share of the workers' time that was spent in runs.
    """

    done: tuple[str, ...]
    diverged: tuple[str, ...]
    failed: dict[str, str]
    skipped: tuple[str, ...]
    seconds: float
    busy: float
    elsewhere: tuple[str, ...] = ()


_SHARE = 0.02
"""Most of the driver's time that may go into forecasts: with ten thousand runs they are made less often."""

Left = Callable[[], tuple[Sequence[Job], Collection[Collection[str]]]]
"""Jobs that are not finished, from where they are now, and the ids of those under way, slot by slot."""


class Forecast:
    """Seconds left and the share of the work that is done, for a sweep of `planned` predicted seconds."""

    def __init__(self, cost: CostModel, planned: float) -> None:
        self.cost, self.planned = cost, planned
        self._known = (0.0, 0.0)
        self._next = 0.0

    def now(self, left: Left, speeds: Collection[float], *, fresh: bool = False) -> tuple[float, float]:
        """Return the fraction of the work that is done and the seconds until the rest is.

        `fresh` asks for a forecast made now; else one that was made a moment ago will do.
        """
        began = time.monotonic()
        if fresh or began >= self._next:
            self._known = self._make(*left(), speeds)
            ended = time.monotonic()
            self._next = ended + (ended - began) / _SHARE
        return self._known

    def _make(
        self, left: Sequence[Job], under_way: Collection[Collection[str]], speeds: Collection[float]
    ) -> tuple[float, float]:
        work = sum(self.cost.between(job.config, job.start, job.config.train.steps) for job in left)
        seconds = self.cost.makespan(left, max(1, len(speeds)), under_way)
        typical = sum(speeds) / len(speeds) if speeds else 1.0
        fraction = 1 - work / self.planned if self.planned > 0 else 1.0
        return fraction, seconds / typical * self.cost.stretch
