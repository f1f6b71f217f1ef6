"""Fits give way to training: the thread that makes them has a low priority."""

from __future__ import annotations

import contextlib
import os
import threading

_NICE = 15


def yield_to_training() -> None:
    """Lower the priority of the calling thread (Linux; elsewhere nothing happens)."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
