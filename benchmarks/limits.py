"""What one core multiplies at most, from registers alone: the limits that shares in docs/performance.md are of.

    python benchmarks/limits.py

Each loop (limits.cpp) is written in assembly, since a compiler merges sums that are equal, and a loop of such sums
shows a limit that is not there. A loop's rate is its best of twelve; rows are what the processor has.
"""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
from pathlib import Path

from allometry.core import env
from allometry.train.engines import bindings

SOURCE = Path(__file__).with_name("limits.cpp")


def main() -> None:
    """Compile the loops for this processor, run them, and print GF/s."""
    if platform.machine() not in ("x86_64", "AMD64") or platform.system() != "Linux":
        raise SystemExit("these loops are for x86 processors under Linux")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "limits")
        subprocess.run([bindings.compiler(), "-O2", "-march=native", "-o", program, SOURCE], check=True)
        found = subprocess.check_output([program], text=True)
    print(f"{env.cpu_model()}, load average {os.getloadavg()[0]:.1f}; one core, GF/s")
    for line in found.splitlines():
        name, value = line.split("\t")
        print(f"{name:<42}{value:>6}")


if __name__ == "__main__":
    main()
