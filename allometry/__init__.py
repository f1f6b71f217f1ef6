"""Allometry: an open laboratory for the scaling laws of language models.

The public names load what they need on first use, so that `import allometry` is quick and never imports
torch.
"""

from __future__ import annotations

import importlib
from typing import Any

from allometry.core.errors import AllometryError
from allometry.version import __version__

_PUBLIC = {
    "fit": "allometry.laws.fit",
    "backtest": "allometry.laws.backtest",
    "plan": "allometry.planner",
    "Store": "allometry.runs.store",
    "RunConfig": "allometry.train.config",
    "DataConfig": "allometry.train.config",
    "TrainConfig": "allometry.train.config",
}

__all__ = ["AllometryError", "__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'allometry' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
