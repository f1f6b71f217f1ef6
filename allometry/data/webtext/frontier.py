"""The queue of links: a bounded number at a time, few of one host, and none before its time.

The lists of links are read as a stream. Links whose host is busy are set aside as positions in the file (a
few bytes each), so one slow host with many pages holds up no other and memory stays flat.
"""

from __future__ import annotations

import heapq
import json
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from allometry.data.webtext.jsonl import Row
from allometry.data.webtext.urls import host_of

READ_AHEAD = 2_000
"""Lines read at a time while looking for a host that is free; then the crawl gets its turn."""

MAX_PARKED = 2_000_000
"""Links set aside at a time, some 100 MB; beyond it, reading waits for the slow hosts."""


MAX_MOVED = 50_000
"""Links that wait, in memory, for the host that they were redirected to; beyond it, reading waits."""


@dataclass
class Job:
    """A link in progress: its part, how often it was tried, where a redirect has led it.

    `host` is the host to ask next, and `meta` what Scrapy knows of the redirects so far.
    """

    link: Row
    part: int
    host: str
    attempt: int = 1
    moved_to: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """The address to ask for next."""
        return self.moved_to or str(self.link["url"])


class Frontier:
    """The links of some parts, in the order of their files, as fast as their hosts allow.

    `is_done(part, id)` says which links to pass over; `window` bounds the links in flight and `per_host`
    those of a host.
    """

    def __init__(
        self, files: dict[int, Path], *, is_done: Callable[[int, str], bool], window: int, per_host: int
    ) -> None:
        self._files = {part: path.open("rb") for part, path in files.items()}
        self._unread = deque(files)
        self._is_done, self._window, self._per_host = is_done, window, per_host
        self._in_flight: Counter[str] = Counter()
        self._total = 0
        self._delayed: list[tuple[float, int, Job]] = []
        self._serial = 0
        self._paused: dict[str, float] = {}
        self._parked: dict[str, deque[int | Job]] = {}
        self._n_parked = self._n_moved = 0
        self._free: deque[str] = deque()
        self.skipped = 0

    def next(self, now: float) -> Job | None:
        """Return a link to fetch now, or None if none may be. Count it as finished with `finish` or `retry`."""
        if self._total >= self._window:
            return None
        self._end_pauses(now)
        job = self._due(now) or self._from_parked() or self._from_files()
        if job is not None:
            self._in_flight[job.host] += 1
            self._total += 1
        return job

    @property
    def exhausted(self) -> bool:
        """Whether there is nothing left, neither waiting nor in flight."""
        return not (self._total or self._delayed or self._n_parked or self._unread)

    def finish(self, job: Job) -> None:
        """Count the link as finished."""
        self._total -= 1
        self._in_flight[job.host] -= 1
        if not self._in_flight[job.host]:
            del self._in_flight[job.host]
        if job.host in self._parked:
            self._free.append(job.host)

    def move(self, job: Job, url: str) -> None:
        """Queue a link at the host that it was redirected to, which has delays and limits of its own."""
        self.finish(job)
        job.moved_to, job.host = url, host_of(url)
        self._parked.setdefault(job.host, deque()).append(job)
        self._n_parked += 1
        self._n_moved += 1
        if not self._busy(job.host):
            self._free.append(job.host)

    def retry(self, job: Job, at: float, *, pause_host: bool = False, counts: bool = True) -> None:
        """Try the link again at a time, and its host (if `pause_host`) not before. `counts`: as an
        attempt."""
        if pause_host:
            self._paused[job.host] = max(at, self._paused.get(job.host, 0.0))
        self.finish(job)
        job.attempt += counts
        self._serial += 1
        heapq.heappush(self._delayed, (at, self._serial, job))

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()

    def _end_pauses(self, now: float) -> None:
        for host in [host for host, until in self._paused.items() if until <= now]:
            del self._paused[host]
            if host in self._parked:
                self._free.append(host)

    def _busy(self, host: str) -> bool:
        return self._in_flight[host] >= self._per_host or host in self._paused

    def _due(self, now: float) -> Job | None:
        if not self._delayed or self._delayed[0][0] > now:
            return None
        _at, serial, job = heapq.heappop(self._delayed)
        if self._busy(job.host):
            heapq.heappush(self._delayed, (max(now + 0.5, self._paused.get(job.host, 0.0)), serial, job))
            return None
        return job

    def _from_parked(self) -> Job | None:
        while self._free:
            host = self._free.popleft()
            waiting = self._parked.get(host)
            if not waiting or self._busy(host):
                continue
            position = waiting.popleft()
            self._n_parked -= 1
            if not waiting:
                del self._parked[host]
            else:
                self._free.append(host)
            if isinstance(position, Job):
                self._n_moved -= 1
                return position
            return self._reread(position, host)
        return None

    def _reread(self, position: int, host: str) -> Job:
        part, offset = position >> 48, position & ((1 << 48) - 1)
        file = self._files[part]
        here = file.tell()
        file.seek(offset)
        link = json.loads(file.readline())
        file.seek(here)
        return Job(link, part, host)

    def _from_files(self) -> Job | None:
        for _ in range(READ_AHEAD):
            if not self._unread or self._n_parked >= MAX_PARKED or self._n_moved >= MAX_MOVED:
                return None
            part = self._unread[0]
            offset = self._files[part].tell()
            line = self._files[part].readline()
            if not line:
                self._unread.popleft()
                continue
            link = json.loads(line)
            if self._is_done(part, link["id"]):
                self.skipped += 1
                continue
            host = host_of(link["url"])
            if not self._busy(host) and host not in self._parked:
                return Job(link, part, host)
            self._parked.setdefault(host, deque()).append(part << 48 | offset)
            self._n_parked += 1
        return None
