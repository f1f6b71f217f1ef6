"""Compiling the native engine: once per source, compiler and processor, kept in the cache."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path

from allometry.core import env
from allometry.core.errors import AllometryError
from allometry.core.files import replacing

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


def library() -> Path:
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
