"""Allometry: an open laboratory for the scaling laws of language models.

The public names load what they need on first use, so that `import allometry` is quick and never imports
torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from allometry.core import __version__
from allometry.core.errors import AllometryError

if TYPE_CHECKING:
    from allometry.api import corpus, load_plugins, register, run, sweep, train_run
    from allometry.laws.audit import Audit, audit
    from allometry.laws.backtest import Backtest, backtest
    from allometry.laws.fit import fit
    from allometry.laws.isoflop import IsoflopResult, isoflop
    from allometry.laws.law import Law
    from allometry.laws.predict import Prediction, predict
    from allometry.laws.result import FitResult
    from allometry.laws.versus import Versus, versus
    from allometry.models.own import family
    from allometry.planner.design import Design, next_runs
    from allometry.planner.planning import Plan, plan
    from allometry.runs.importers import read_table
    from allometry.runs.store import Store
    from allometry.sources.atlas import Atlas, atlas
    from allometry.studies.core.outcome import StudyResult, load
    from allometry.studies.core.study import Study, StudyData
    from allometry.sweeps import Sweep
    from allometry.train.config import DataConfig, RunConfig, TrainConfig

_PUBLIC = {
    "read_table": "allometry.runs.importers",
    "atlas": "allometry.sources.atlas",
    "audit": "allometry.laws.audit",
    "fit": "allometry.laws.fit",
    "backtest": "allometry.laws.backtest",
    "predict": "allometry.laws.predict",
    "isoflop": "allometry.laws.isoflop",
    "versus": "allometry.laws.versus",
    "plan": "allometry.planner.planning",
    "next_runs": "allometry.planner.design",
    "run": "allometry.api",
    "sweep": "allometry.api",
    "train_run": "allometry.api",
    "load": "allometry.studies.core.outcome",
    "family": "allometry.models.own",
    "corpus": "allometry.api",
    "register": "allometry.api",
    "load_plugins": "allometry.api",
    "Law": "allometry.laws.law",
    "Atlas": "allometry.sources.atlas",
    "Audit": "allometry.laws.audit",
    "FitResult": "allometry.laws.result",
    "Backtest": "allometry.laws.backtest",
    "IsoflopResult": "allometry.laws.isoflop",
    "Prediction": "allometry.laws.predict",
    "Versus": "allometry.laws.versus",
    "Plan": "allometry.planner.planning",
    "Design": "allometry.planner.design",
    "Store": "allometry.runs.store",
    "RunConfig": "allometry.train.config",
    "DataConfig": "allometry.train.config",
    "TrainConfig": "allometry.train.config",
    "Sweep": "allometry.sweeps",
    "Study": "allometry.studies.core.study",
    "StudyData": "allometry.studies.core.study",
    "StudyResult": "allometry.studies.core.outcome",
}
"""Public name -> the module that defines it, in the order of the page "Python API"."""

__all__ = [
    "AllometryError",
    "Atlas",
    "Audit",
    "Backtest",
    "DataConfig",
    "Design",
    "FitResult",
    "IsoflopResult",
    "Law",
    "Plan",
    "Prediction",
    "RunConfig",
    "Store",
    "Study",
    "StudyData",
    "StudyResult",
    "Sweep",
    "TrainConfig",
    "Versus",
    "__version__",
    "atlas",
    "audit",
    "backtest",
    "corpus",
    "family",
    "fit",
    "isoflop",
    "load",
    "load_plugins",
    "next_runs",
    "plan",
    "predict",
    "read_table",
    "register",
    "run",
    "sweep",
    "train_run",
    "versus",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'allometry' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
