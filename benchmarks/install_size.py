"""Install the base package into an empty environment; count its packages, its size and its time to import.

    python benchmarks/install_size.py [dist/allometry-….whl]

Without a wheel one is built from this repository. Prints the number of packages that come with it (pip apart),
the size of what was installed, whether `allometry fit` on a table of runs works there, whether PyTorch stayed
away, and how long `import allometry` takes over an empty Python (the least of many, in seconds of processor
time). Exit status 1 if a number is above its limit.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES, MEGABYTES, SECONDS = 35, 600, 0.1
"""Limits: packages with Allometry itself, size of them all, time to import."""


def build(folder: Path) -> Path:
    """Build a wheel of this repository in the folder; return its path."""
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT)]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("allometry-*.whl")
    return wheel


def install(wheel: Path, folder: Path) -> Path:
    """Make an environment in the folder, install the wheel there, and return its Python."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", str(wheel)], check=True)
    return python


def packages(python: Path) -> dict[str, str]:
    """Return name and version of every package of an environment, the installers apart."""
    done = subprocess.run([python, "-m", "pip", "list", "--format=json"], capture_output=True, check=True)
    found = {each["name"]: each["version"] for each in json.loads(done.stdout)}
    return {name: version for name, version in found.items() if name not in ("pip", "setuptools", "wheel")}


def megabytes(python: Path) -> float:
    """Return the size on disk of what an environment's site-packages hold, the installers apart."""
    (site,) = (python.parents[1] / "lib").glob("python*/site-packages")
    installers = ("pip", "setuptools", "_distutils_hack", "pkg_resources")
    total = 0
    for folder, _, names in os.walk(site):
        if Path(folder, "x").relative_to(site).parts[0].startswith(installers):
            continue
        total += sum(os.lstat(Path(folder, name)).st_blocks * 512 for name in names)
    return total / 1e6


def seconds(python: Path, code: str, cwd: Path, times: int = 15) -> float:
    """Return the least processor time of a Python that runs the code and ends."""
    least = float("inf")
    for _ in range(times):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([python, "-P", "-c", code], check=True, cwd=cwd)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        least = min(least, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return least


def main() -> None:
    """Install, measure and print; end with status 1 above a limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", nargs="?", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="install-size-") as name:
        folder = Path(name)
        wheel = options.wheel or build(folder)
        archive = wheel.stat().st_size
        python = install(wheel.resolve(), folder / "empty")
        found, size = packages(python), megabytes(python)
        table = ROOT / "examples" / "runs.csv"
        fit = [
            python.parent / "allometry",
            "fit",
            table,
            "--law",
            "chinchilla",
            "--bootstrap",
            "100",
            "--json",
        ]
        fitted = json.loads(subprocess.run(fit, capture_output=True, check=True, cwd=folder).stdout)
        least = seconds(python, "import allometry", folder) - seconds(python, "", folder)
    print(f"wheel          {wheel.name}, {archive / 1e6:.2f} MB")
    print(f"packages       {len(found)} (limit {PACKAGES}): {', '.join(sorted(found))}")
    print(f"installed      {size:.0f} MB (limit {MEGABYTES})")
    print(f"import         {least:.3f} s over an empty Python (limit {SECONDS})")
    print(f"PyTorch        {'installed' if 'torch' in found else 'not installed'}")
    print(
        f"allometry fit  {', '.join(f'{name} {value:.3f}' for name, value in fitted['parameters'].items())}"
    )
    too_much = len(found) > PACKAGES or size > MEGABYTES or least > SECONDS or "torch" in found
    sys.exit(int(too_much))


if __name__ == "__main__":
    main()
