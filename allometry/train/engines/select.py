"""Choose the engine that runs a configuration on this machine."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from allometry.core import env, plugins
from allometry.core.errors import AllometryError
from allometry.core.files import create, read_json
from allometry.train.engines.base import ENGINES, Engine

if TYPE_CHECKING:
    from allometry.train.config import RunConfig

_AUTO = ("native", "fast")
"""Engines that may be taken unasked, the one that is usually the fastest first.

All are fp32 on CPUs, so that runs of one study can be compared whatever machine or shape they were trained with.
`native-bf16` rounds factors to bf16 and is taken only by name: that its losses are equal has not been shown on
real tiles.
"""

_TRIAL_SECONDS = 0.1
_TRIAL_TOKENS = 1024
_MARGIN = 1.1
"""How many times as fast as an earlier engine a later one must be to be taken: timings on busy machines
scatter."""


def engine(name: str, config: RunConfig, *, threads: int = 1, device: str = "cpu") -> Engine:
    """Return the engine called `name`, at step 0; "auto" takes the fastest that can run `config` here.

    AllometryError: an engine asked for by name that cannot run says what it lacks and the remedy; or a plugin that
    the run needs has changed since it was planned.
    """
    plugins.require(config.plugins)
    chosen = auto(config, threads=threads, device=device) if name == "auto" else engine_class(name)
    lack = chosen.unsupported_reason(config)
    if lack is not None:
        raise AllometryError(
            f"engine {name!r} cannot run this: {lack}",
            hint="engine auto, which runs have unless they name another, picks one that can",
        )
    return chosen(config, threads=threads, device=device)


def engine_class(name: str) -> type[Engine]:
    """Return the class of an engine by name; AllometryError for an unknown one."""
    if name not in ENGINES:
        raise ENGINES.unknown(name, also=["auto"])
    return ENGINES[name]


def auto(config: RunConfig, *, threads: int = 1, device: str = "cpu") -> type[Engine]:
    """Return the faster of native and fast that can run `config`, as timed once on this machine.

    The timing takes 0.1 s for each, for each shape and batch, and is kept in the cache folder, so that the
    choice stays the same. On GPUs it is fast.
    """
    if not device.startswith("cpu"):
        return engine_class("fast")
    able = [kind for name in _AUTO if (kind := engine_class(name)).unsupported_reason(config) is None]
    if len(able) == 1:
        return able[0]
    path = _record(config, threads)
    try:
        paces = read_json(path) or {}
    except AllometryError:  # damaged: timed again
        path.unlink(missing_ok=True)
        paces = {}
    if paces.keys() != {kind.name for kind in able}:
        path.unlink(missing_ok=True)
        paces = _remember(path, {kind.name: _pace(kind, config, threads) for kind in able})
    chosen = able[0]
    for kind in able[1:]:
        chosen = kind if paces[kind.name] > _MARGIN * paces[chosen.name] else chosen
    return chosen


def engine_for(
    config: RunConfig,
    before: str | None,
    make: Callable[[str], Engine],
    log: Callable[[str], None],
    device: str = "cpu",
) -> Engine:
    """Return the engine that a run began with (`before`; None for a new run), else the one that it asks for.

    `make` gives an engine by name; `log` is told, a line each, of what a reader of the run should know.
    """
    if config.engine == "auto" and before is not None:
        try:
            found = make(before)
        except AllometryError as error:
            log(f"goes on with another engine, so its last digits may differ ({error.message})")
            return make("auto")
    else:
        found = make(config.engine)
    if before not in (None, found.name):
        log(f"goes on with engine {found.name} after {before}, so its last digits may differ")
    elif config.engine == "auto" and found.name == "fast" and (reason := why_not_native(config, device)):
        log(f"engine fast trains: {reason}")
    return found


def why_not_native(config: RunConfig, device: str = "cpu") -> str | None:
    """Return why `auto` cannot use engine native for `config`, in a sentence. None where it can, for models that
    native cannot train on any machine, and on GPUs. Loads no PyTorch.
    """
    from allometry.train.engines.bindings import environment, no_library, unsuited

    if not device.startswith("cpu") or unsuited(config.model):
        return None  # nothing that the user could change
    reason = no_library(environment())
    return reason and f"engine native, usually the fastest, cannot be used: {reason}"


def _record(config: RunConfig, threads: int) -> Path:
    """Return the file of one timing: one for each CPU, thread count, model shape and batch size."""
    import torch

    trial = min(config.train.batch_tokens, _TRIAL_TOKENS)
    what = [env.cpu_model(), torch.__version__, threads, config.model.model_dump(mode="json"), trial]
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
    return env.cache_dir("engines") / f"pace-{digest}.json"


def _remember(path: Path, paces: dict[str, float]) -> dict[str, float]:
    """Keep the timing and return it, or the one that another process has kept meanwhile, so that all choose the
    same engine.
    """
    try:
        created = create(path, json.dumps(paces).encode())
        return paces if created else read_json(path) or paces
    except (AllometryError, OSError):  # a cache that cannot be written costs the timing again, nothing else
        return paces


def _pace(candidate: type[Engine], config: RunConfig, threads: int) -> float:
    """Return an engine's tokens per second, from its best step within a tenth of a second."""
    trial = candidate(config, threads=threads)
    sequences = max(1, min(config.train.batch_tokens, _TRIAL_TOKENS) // config.model.n_ctx)
    random = np.random.default_rng(0)
    batch = random.integers(0, config.model.n_vocab, (sequences, config.model.n_ctx + 1))
    trial.step(batch, lr=0.0, step=1)
    best, step, until = float("inf"), 2, time.perf_counter() + _TRIAL_SECONDS
    while step == 2 or time.perf_counter() < until:
        began = time.perf_counter()
        trial.step(batch, lr=0.0, step=step)
        best, step = min(best, time.perf_counter() - began), step + 1
    return sequences * config.model.n_ctx / best
