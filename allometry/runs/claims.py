"""Claims: many drivers and workers share a store, and no two of them train the same run at once.

A claim is a file `.claims/RUN.EPOCH.json`. To take a run is to create the next epoch, which only one of many
can do. Its holder renews it, counting beats; one whose beats stop for the length of a lease is stale, and may
be taken over. Clocks are never compared between machines: whoever waits for a claim watches its beats change
by a clock of its own. A holder that cannot renew its claim in time, or finds a later epoch, has lost it and
stops.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from allometry.core.errors import AllometryError
from allometry.core.files import parse_json
from allometry.runs.place import Place

FOLDER = ".claims"
LEASE = 30.0
"""Seconds without a beat after which a claim may be taken over."""

_BEATS_PER_LEASE = 5

State = Literal["free", "held", "stale"]


@dataclass(frozen=True)
class LeaseState:
    """A run's newest claim as last read: two sights differ if its holder was alive in between."""

    epoch: int
    owner: str
    beat: int
    released: bool


class Claims:
    """The claims of a store."""

    def __init__(self, place: Place, lease: float = LEASE) -> None:
        self.place, self.lease = place, lease

    def newest(self, run: str) -> LeaseState | None:
        """Return the newest claim on a run; None if there is none."""
        for name in reversed(self.names(run)):
            data = self.place.read(name)
            if data is not None:  # else it was removed meanwhile
                return _lease_state(_epoch(name), data)
        return None

    def names(self, run: str) -> list[str]:
        """Return the files of all claims on a run, oldest first."""
        form = re.compile(re.escape(f"{FOLDER}/{run}.") + r"[0-9]{1,9}\.json")
        return sorted(filter(form.fullmatch, self.place.names(FOLDER)), key=_epoch)

    def take(self, run: str, owner: str, over: LeaseState | None = None) -> Claim | None:
        """Return the claim on a run, kept alive by a thread until it is released; None if somebody else holds it.

        A claim of the same `owner` is taken over at once (its last attempt has died), and so is the claim
        `over` that the caller has seen go stale, if its holder has not come back.
        """
        seen = self.newest(run)
        if seen is not None and not (seen.released or seen.owner == owner or seen == over):
            return None
        claim = Claim(self, run, owner, epoch=1 if seen is None else seen.epoch + 1)
        return claim if claim.begin() else None


class Claim:
    """A run that this process has for itself, as long as it is not `lost`."""

    def __init__(self, claims: Claims, run: str, owner: str, epoch: int) -> None:
        self.claims, self.run, self.owner, self.epoch = claims, run, owner, epoch
        self.lost = False
        self._beat = 0
        self._renewed = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    @property
    def held(self) -> bool:
        """Whether nobody else can have taken the run: renewed within the lease, and not superseded."""
        return not self.lost and time.monotonic() - self._renewed < self.claims.lease

    def begin(self) -> bool:
        """Create the claim and keep it alive; False if another process was faster."""
        if not self.claims.place.create(self._name(self.epoch), self._content()):
            return False
        self._thread.start()
        return True

    def release(self, *, finished: bool) -> None:
        """Give the run back. Claims on a `finished` run are removed: its result keeps others away."""
        self._ended.set()
        self._thread.join()
        if not self.held:
            return
        place = self.claims.place
        if not finished:
            place.write(self._name(self.epoch), self._content(released=True))
            return
        for name in self.claims.names(self.run):
            place.remove(name)

    def _keep(self) -> None:
        while not self._ended.wait(self.claims.lease / _BEATS_PER_LEASE):
            if not self.held:  # this process was halted for too long
                self.lost = True
                return
            began = time.monotonic()
            with contextlib.suppress(AllometryError, OSError):  # tried again; too late means lost
                if self.claims.place.read(self._name(self.epoch + 1)) is not None:
                    self.lost = True
                    return
                self._beat += 1
                self.claims.place.write(self._name(self.epoch), self._content())
                self._renewed = began

    def _name(self, epoch: int) -> str:
        return f"{FOLDER}/{self.run}.{epoch}.json"

    def _content(self, *, released: bool = False) -> bytes:
        return json.dumps({"owner": self.owner, "beat": self._beat, "released": released}).encode()


def _lease_state(epoch: int, data: bytes) -> LeaseState:
    """Parse a claim. A damaged one has no owner, and becomes stale unless it changes."""
    try:
        stored = parse_json(data.decode("utf-8"))
        owner, beat, released = stored["owner"], stored["beat"], stored["released"]
        if isinstance(owner, str) and type(beat) is int and isinstance(released, bool):
            return LeaseState(epoch, owner, beat, released)
    except (ValueError, TypeError, KeyError):
        pass
    return LeaseState(epoch, "", zlib.crc32(data), released=False)


def _epoch(name: str) -> int:
    return int(name.removesuffix(".json").rpartition(".")[2])


class LeaseMonitor:
    """Watches claims of others until they are released or their holder is gone."""

    def __init__(self, claims: Claims, clock: Callable[[], float] = time.monotonic) -> None:
        self.claims, self.clock = claims, clock
        self._seen: dict[str, tuple[LeaseState, float]] = {}

    def state(self, run: str) -> tuple[State, LeaseState | None]:
        """Return the state of a claim: "stale" once it has not changed for a lease since it was first read."""
        lease, now = self.claims.newest(run), self.clock()
        if lease is None or lease.released:
            self._seen.pop(run, None)
            return "free", lease
        before = self._seen.get(run)
        if before is None or before[0] != lease:
            self._seen[run] = (lease, now)
            return "held", lease
        return ("stale" if now - before[1] > self.claims.lease else "held"), lease
