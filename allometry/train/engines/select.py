"""Which engine runs a configuration on this machine."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from allometry.errors import AllometryError, unknown
from allometry.train.engines.base import Engine

if TYPE_CHECKING:
    from allometry.train.config import RunConfig

_ENGINES = {
    "native": ("allometry.train.engines.native", "NativeEngine"),
    "fast": ("allometry.train.engines.fast", "FastEngine"),
    "reference": ("allometry.train.engines.reference", "ReferenceEngine"),
}
"""Engines by name, the quickest first."""


def engine(name: str, config: RunConfig, *, threads: int = 1, device: str = "cpu") -> Engine:
    """The engine called `name`, ready at step 0; "auto" takes the quickest that can run `config` here.

    AllometryError: an engine asked for by name that cannot run says what it lacks and the remedy.
    """
    if name == "auto":
        return auto(config, device)(config, threads=threads, device=device)
    chosen = engine_class(name)
    lack = chosen.lacks(config)
    if lack is not None:
        raise AllometryError(
            f"engine {name!r} cannot run this: {lack}", hint="engine = 'auto' picks one that can"
        )
    return chosen(config, threads=threads, device=device)


def engine_class(name: str) -> type[Engine]:
    """The class of an engine by name; AllometryError for an unknown or absent one."""
    if name not in _ENGINES:
        raise unknown("engine", name, ["auto", *_ENGINES])
    module, attribute = _ENGINES[name]
    try:
        found: type[Engine] = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise AllometryError(
            f"this build has no engine {name!r}", hint="engine = 'auto' picks one that it has"
        ) from None
    return found


def auto(config: RunConfig, device: str = "cpu") -> type[Engine]:
    """The first of native (on CPUs), fast and reference that can run `config`."""
    for name in _ENGINES:
        if name == "native" and not device.startswith("cpu"):
            continue
        try:
            candidate = engine_class(name)
        except AllometryError:
            continue
        if candidate.lacks(config) is None:
            return candidate
    raise AssertionError("the reference engine runs everything")
