"""Small files of a run's directory besides curve and parameters: its identity, its text, and why it failed."""

from __future__ import annotations

import time
import traceback
from typing import TYPE_CHECKING, Any

from allometry.core import env
from allometry.core.errors import AllometryError
from allometry.core.files import read_json, write_json, write_text
from allometry.train.config import FORMAT

if TYPE_CHECKING:
    from pathlib import Path

    from allometry.train.config import RunConfig


def identify(config: RunConfig, directory: Path, device: str) -> None:
    """Write config.json and env.json; AllometryError if the directory is another run's."""
    from allometry.train.arithmetic import settle  # loads torch

    stored = read_whole(directory / "config.json")
    if stored is not None and stored.get("id") != config.id:
        raise AllometryError(
            f"{directory} holds another run ({stored.get('id')})", hint="give each run a directory of its own"
        )
    counts = config.model.counts().to_dict()
    description = {
        "format": FORMAT,
        "id": config.id,
        "config": config.model_dump(mode="json"),
        "counts": counts,
    }
    write_json(directory / "config.json", description)
    machine = env.snapshot()
    write_json(directory / "env.json", machine | {"arithmetic": settle(device)})


def record_failure(directory: Path, error: Exception) -> None:
    """Write error.txt, unless the disk is full or read-only."""
    text = "".join(traceback.format_exception(error))
    try:
        write_text(directory / "error.txt", f"{error}\n\n{text}")
    except AllometryError:  # the disk is full or read-only: the error itself still reaches the user
        return


def read_whole(path: Path) -> dict[str, Any] | None:
    """Read the object in a JSON file; None if it is missing or damaged: both cases are written again."""
    try:
        return read_json(path)
    except AllometryError:
        return None


def clock() -> str:
    """Return the time in UTC, as ISO 8601 has it: "2026-01-31T23:59:59Z"."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
