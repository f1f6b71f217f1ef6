"""The native engine's library: compiled once per source, compiler and processor and kept in the cache; its C
interface: structures, functions, and the order in which it wants parameters.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from allometry.core import env
from allometry.core.errors import AllometryError
from allometry.core.files import replacing

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
    lib = ctypes.CDLL(str(compiled_library()))
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
    return None if no_library(environment()) else compiled_library().stem


@cache
def no_library(environment: tuple[str | None, ...]) -> str | None:
    """Return why the step cannot be compiled or loaded, or None; determined once for each environment."""
    if reason := missing_instructions():
        return f"{reason}: {INSTEAD}"
    try:
        library(environment)
    except AllometryError as error:
        return f"{error.message}: {error.hint}, or {INSTEAD}"
    except OSError as error:
        return f"the compiled native step cannot be loaded ({error}): empty the cache folder, or {INSTEAD}"
    return None


SOURCES = Path(__file__).parent / "csrc"
COMPILERS = ("c++", "g++", "clang++")
FLAGS = (
    "-O3",
    "-march=native",
    "-std=c++17",
    "-ffp-contract=fast",  # multiply-add in one instruction, but no -ffast-math: NaN must be seen
    "-fno-math-errno",
    "-fno-trapping-math",
    "-shared",
    "-fPIC",
    "-pthread",
)
INSTRUCTIONS = ("avx2", "fma")
"""What an x86 processor must have; 64-bit ARM always has NEON."""


def missing_instructions() -> str | None:
    """Return why this processor cannot run the native step, or None."""
    machine = platform.machine().lower()
    if machine in ("arm64", "aarch64"):
        return None
    lacking = [name for name in INSTRUCTIONS if name not in env.cpu_flags()]
    if machine not in ("x86_64", "amd64") or lacking:
        return f"this processor ({machine}) has no AVX2 with FMA and no NEON"
    return None


def compiler() -> str:
    """Return the path of the C++ compiler: the one that CXX names, else the first of c++, g++ and clang++.

    AllometryError with the remedy if there is none.
    """
    named = os.environ.get("CXX")
    for name in (named,) if named else COMPILERS:
        if path := shutil.which(name):
            return path
    raise AllometryError(
        f"no C++ compiler ({named or ', '.join(COMPILERS)}) on the PATH",
        hint="install one (apt install g++, or xcode-select --install)",
    )


def compiled_library() -> Path:
    """Return the compiled step for this machine, built if the cache does not have it (a few seconds).

    Workers that build at the same time do not clash: each writes a file of its own and renames it.
    AllometryError without compiler or writable cache, or if the compiler fails.
    """
    path = compiler()
    target = env.cache_dir("native") / f"step-{_fingerprint(path)}.so"
    if not target.exists():
        _compile(path, target)
    return target


def _fingerprint(compiler_path: str) -> str:
    """Return the hash of all that the machine code depends on: sources, compiler, flags, processor."""
    digest = hashlib.sha256()
    for source in sorted(SOURCES.iterdir()):
        if source.suffix in (".h", ".cpp"):
            digest.update(source.read_bytes())
    for part in (compiler_path, _version(compiler_path), *FLAGS, env.cpu_model(), *sorted(env.cpu_flags())):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:16]


@cache
def _version(compiler_path: str) -> str:
    """Return the compiler's own description of its version."""
    done = subprocess.run([compiler_path, "--version"], capture_output=True, text=True, check=False)
    return done.stdout


def _compile(compiler_path: str, target: Path) -> None:
    try:
        with replacing(target) as aside:
            command = [compiler_path, *FLAGS, str(SOURCES / "step.cpp"), "-o", str(aside)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise AllometryError(
                    f"{compiler_path} cannot compile the native engine: {_first_error(done.stderr)}",
                    hint="install GCC 12 or Clang 15 or newer and name it in CXX",
                )
    except AllometryError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        raise AllometryError(
            f"cannot write compiled code to {target.parent}: {error.__cause__.strerror}",
            hint="set ALLOMETRY_CACHE to a folder that you can write to",
        ) from error


def _first_error(output: str) -> str:
    lines = [line for line in output.splitlines() if "error" in line] or output.splitlines() or ["no message"]
    return lines[0][:300]
