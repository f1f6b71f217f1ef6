"""The native engine's C interface: structures, functions, and the order in which it wants parameters."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Any, ClassVar

from allometry.core.errors import AllometryError
from allometry.train.engines import build

FAMILIES = {"transformer": 0, "universal": 0, "lstm": 1}
"""Families of models that the compiled step has, as it numbers them: a Universal Transformer is a transformer
whose layers share parameters."""

INSTEAD = "use engine fast or reference"

_TOP = ("embed.weight", "position.weight", "norm.weight", "norm.bias")
_BLOCK = (
    "norm_1.weight",
    "norm_1.bias",
    "attention.qkv.weight",
    "attention.qkv.bias",
    "attention.project.weight",
    "attention.project.bias",
    "norm_2.weight",
    "norm_2.bias",
    "mlp.expand.weight",
    "mlp.expand.bias",
    "mlp.contract.weight",
    "mlp.contract.bias",
)


_CELLS = ("input.weight", "recurrent.weight", "bias")


def parameter_names(model: Any) -> list[str]:
    """Return the parameters of a model of one of `FAMILIES` in the order of the C++ offsets, by layer; a
    parameter that several layers share is repeated for each.
    """
    layers = range(model.n_layer)
    if model.family == "lstm":
        return ["embed.weight", *(f"layers.{i}.{name}" for i in layers for name in _CELLS)]
    return [*_TOP, *(f"blocks.{i % stack_of(model)}.{name}" for i in layers for name in _BLOCK)]


def stack_of(model: Any) -> int:
    """Return the number of distinct blocks of a transformer, which are applied in turn."""
    return int(model.n_layer // getattr(model, "reuse", 1))


def unsuited(model: Any) -> str | None:
    """Return why the compiled step cannot train this model on any machine, or None."""
    kind = getattr(model, "family", "?")
    if kind not in FAMILIES:
        return f"the native engine trains {', '.join(FAMILIES)} models, not {kind}: {INSTEAD}"
    if getattr(model, "act", None) is not None:
        return f"the native engine applies every block to every position, without ACT's halting: {INSTEAD}"
    return None


class Shape(ctypes.Structure):
    """`Shape` of csrc/network.h."""

    _fields_: ClassVar = [
        *(
            (name, ctypes.c_int32)
            for name in ("layers", "width", "heads", "hidden", "vocab", "context", "threads", "stack", "bf16")
        ),
        ("dropout", ctypes.c_float),
        ("seed", ctypes.c_uint64),
    ]


class Adam(ctypes.Structure):
    """`Adam` of csrc/optimiser.h."""

    _fields_: ClassVar = [
        *(
            (name, ctypes.c_float)
            for name in ("lr", "beta1", "beta2", "epsilon", "decay", "clip", "clip_epsilon")
        ),
        ("step", ctypes.c_int64),
    ]


class Batch(ctypes.Structure):
    """`Batch` of csrc/network.h."""

    _fields_: ClassVar = [
        ("windows", ctypes.c_void_p),
        ("sequences", ctypes.c_int64),
        ("length", ctypes.c_int32),
        ("weights", ctypes.c_void_p),
        ("losses", ctypes.c_void_p),
    ]


def environment() -> tuple[str | None, ...]:
    """Return the environment variables that decide which compiler and cache are used."""
    return tuple(os.environ.get(name) for name in ("PATH", "CXX", "ALLOMETRY_CACHE"))


@cache
def library(_environment: tuple[str | None, ...]) -> ctypes.CDLL:
    """Load the compiled step, with the signatures of its functions; once for each `environment()`."""
    lib = ctypes.CDLL(str(build.library()))
    pointer, batch = ctypes.c_void_p, ctypes.POINTER(Batch)
    lib.allometry_has_bf16.restype = ctypes.c_int32
    lib.allometry_new.restype = pointer
    lib.allometry_new.argtypes = [
        ctypes.c_int32,
        ctypes.POINTER(Shape),
        pointer,
        pointer,
        pointer,
        ctypes.c_int32,
        *[pointer] * 4,
    ]
    lib.allometry_free.argtypes = [pointer]
    lib.allometry_changed.argtypes = [pointer]
    lib.allometry_use_threads.restype = ctypes.c_int32
    lib.allometry_use_threads.argtypes = [pointer, ctypes.c_int32]
    lib.allometry_gradients.restype = ctypes.c_double
    lib.allometry_gradients.argtypes = [pointer, batch, ctypes.c_int64]
    lib.allometry_step.restype = ctypes.c_double
    lib.allometry_step.argtypes = [pointer, batch, ctypes.POINTER(Adam), ctypes.POINTER(ctypes.c_double)]
    lib.allometry_sequence_norms.argtypes = [pointer, batch, ctypes.c_int64, pointer]
    lib.allometry_losses.argtypes = [pointer, batch]
    return lib


def native_build() -> str | None:
    """Return a name that identifies this machine's compiled step; None if there is none."""
    return None if no_library(environment()) else build.library().stem


@cache
def no_library(environment: tuple[str | None, ...]) -> str | None:
    """Return why the step cannot be compiled or loaded, or None; determined once for each environment."""
    if reason := build.missing_instructions():
        return f"{reason}: {INSTEAD}"
    try:
        library(environment)
    except AllometryError as error:
        return f"{error.message}: {error.hint}, or {INSTEAD}"
    except OSError as error:
        return f"the compiled native step cannot be loaded ({error}): empty the cache folder, or {INSTEAD}"
    return None
