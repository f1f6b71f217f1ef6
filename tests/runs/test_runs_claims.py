"""Claims: one holder at a time, whoever dies."""

import queue
import threading
from pathlib import Path

import pytest

from allometry.runs.claims import Claim, Claims, LeaseMonitor
from allometry.runs.place import place

LEASE = 3600.0
"""Seconds, longer than any test: nothing here waits for one to pass."""


@pytest.fixture(params=["folder", "memory"])
def claims(request: pytest.FixtureRequest, tmp_path: Path) -> Claims:
    return Claims(place(tmp_path if request.param == "folder" else f"memory://{tmp_path.name}"), LEASE)


def halt(claim: Claim) -> None:
    """Stop the beats, as the death of its holder does."""
    claim._ended.set()
    claim._thread.join()


def test_a_run_is_held_by_one(claims: Claims):
    first = claims.take("run", "a")
    assert first is not None
    assert first.held
    assert claims.take("run", "b") is None
    assert claims.take("run-2", "b") is not None
    first.release(finished=False)
    second = claims.take("run", "b")
    assert second is not None
    second.release(finished=True)
    assert claims.newest("run") is None


def test_beats_keep_a_claim_alive(claims: Claims, monkeypatch: pytest.MonkeyPatch):
    pauses, beats = queue.SimpleQueue[float](), threading.Semaphore(0)

    class Event(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            if timeout is None:
                return super().wait()
            pauses.put(timeout)
            beats.acquire()
            return self.is_set()

    with monkeypatch.context() as patch:
        patch.setattr("allometry.runs.claims.threading.Event", Event)
        first = claims.take("run", "a")
    assert first is not None
    now = 0.0
    monitor = LeaseMonitor(claims, lambda: now)
    for _ in range(20):
        pause = pauses.get()  # the beat before, if there was one, is written
        assert monitor.state("run")[0] == "held"
        assert 0 < pause < LEASE / 2
        now += pause
        beats.release()
    assert now > 2 * LEASE
    pauses.get()
    assert first.held
    beats.release()
    first.release(finished=True)
    assert monitor.state("run")[0] == "free"


def test_a_claim_without_beats_is_taken_over_once(claims: Claims):
    dead = claims.take("run", "a")
    assert dead is not None
    halt(dead)
    now = [0.0]
    monitor = LeaseMonitor(claims, lambda: now[0])
    assert monitor.state("run")[0] == "held"
    now[0] = 2 * LEASE
    state, lease = monitor.state("run")
    assert state == "stale"
    heir = claims.take("run", "b", over=lease)
    assert heir is not None
    assert claims.take("run", "c", over=lease) is None
    heir.release(finished=False)


def test_who_was_halted_and_superseded_knows(claims: Claims):
    slept = claims.take("run", "a")
    assert slept is not None
    halt(slept)
    heir = claims.take("run", "b", over=claims.newest("run"))
    assert heir is not None
    slept._ended.clear()
    slept._ended.wait = lambda timeout=None: False  # type: ignore[method-assign]  # it wakes up, and beats
    slept._keep()
    assert slept.lost
    assert not slept.held
    heir.release(finished=True)


def test_the_next_attempt_of_the_same_owner_need_not_wait(claims: Claims):
    died = claims.take("run", "task")
    assert died is not None
    halt(died)
    again = claims.take("run", "task")
    assert again is not None
    again.release(finished=True)
