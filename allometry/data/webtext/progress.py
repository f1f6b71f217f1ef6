"""Progress of a stage: items done, rate, remaining time. A live line on a terminal, an occasional line elsewhere."""

from __future__ import annotations

import sys
import time
from typing import IO

QUIET_SECONDS = 15.0
LIVE_SECONDS = 0.2


class Progress:
    """Counts towards `total` items of a stage and says so on `stream`; `total` 0 means unknown.

    The rate is that of this run alone: `already` items that an earlier run did are in the count and not in
    the rate.
    """

    def __init__(
        self, stage: str, total: int, *, unit: str, already: int = 0, stream: IO[str] | None = None
    ) -> None:
        self._stage, self._unit, self._stream = stage, unit, stream
        self._start = self._last = time.monotonic()
        self.total, self._already, self.done = total, already, already
        self._live = bool(stream) and stream is not None and stream.isatty()

    def to(self, done: int, detail: str = "") -> None:
        """Set the number of items done, and report it if a report is due."""
        self.done = done
        now = time.monotonic()
        if self._stream is not None and now - self._last >= (LIVE_SECONDS if self._live else QUIET_SECONDS):
            self._last = now
            self._write(self._line(now, detail), end="" if self._live else "\n")

    def add(self, items: int = 1, detail: str = "") -> None:
        """Add to the number of items done."""
        self.to(self.done + items, detail)

    def finish(self, detail: str = "") -> None:
        """Write the last report."""
        if self._stream is not None:
            seconds = time.monotonic() - self._start
            text = f"{self._stage}: {self.done:,} {self._unit} in {duration(seconds)}"
            self._write(text + (f" ({detail})" if detail else ""), end="\n")

    def _line(self, now: float, detail: str) -> str:
        seconds = max(now - self._start, 1e-9)
        rate = (self.done - self._already) / seconds
        text = f"{self._stage}: {self.done:,}"
        if self.total:
            text += f"/{self.total:,} {self._unit} ({100 * self.done / self.total:.0f}%)"
        else:
            text += f" {self._unit}"
        text += f", {rate:,.1f}/s"
        if self.total and rate > 0:
            text += f", about {duration((self.total - self.done) / rate)} left"
        return text + (f", {detail}" if detail else "")

    def _write(self, text: str, end: str) -> None:
        assert self._stream is not None
        if self._live:
            text = f"\r\033[2K{text[:150]}"
        print(text, end=end, file=self._stream, flush=True)


def duration(seconds: float) -> str:
    """Format a time as people say it: "42 s", "3 min", "2.5 h", "1.6 days"."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= size * (2 if unit == "min" else 1.5):
            return f"{seconds / size:.1f} {unit}" if seconds / size < 10 else f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def to_terminal() -> IO[str]:
    """Return the stream that progress goes to: standard error, so that a command's output can be piped."""
    return sys.stderr
