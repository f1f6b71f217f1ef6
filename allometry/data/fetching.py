"""Whether the network may be used: a plan that is only shown downloads nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from allometry.core.errors import AllometryError

_ALLOWED: ContextVar[bool] = ContextVar("downloads_allowed", default=True)


@contextmanager
def no_downloads() -> Iterator[None]:
    """Refuse every download within the context, with an AllometryError."""
    before = _ALLOWED.set(False)
    try:
        yield
    finally:
        _ALLOWED.reset(before)


def downloads_allowed() -> bool:
    """Return whether corpora may be downloaded now."""
    return _ALLOWED.get()


def require_downloads(what: str) -> None:
    """Raise AllometryError, naming what would be downloaded, within `no_downloads`."""
    if not downloads_allowed():
        raise AllometryError(
            f"{what} is not on this machine, and nothing is downloaded for a plan alone",
            hint="leave --dry-run out, or fetch it first: allometry data prepare CORPUS",
        )
