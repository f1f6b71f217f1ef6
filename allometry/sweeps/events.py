"""What an executor tells whoever watches it, and how it ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from allometry.train.config import RunConfig

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
