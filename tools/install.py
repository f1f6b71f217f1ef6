"""Install Allometry into an environment: `python tools/install.py PYTHON TARGET`, TARGET being "." (which
reads runs), ".[train]" or ".[dev]".

Only the standard library is used, because nothing is installed yet. The one thing that plain pip gets wrong
is PyTorch: its default build on Linux carries CUDA. A machine without an NVIDIA driver gets the CPU build
first; the rest then finds torch already there.
"""

import shutil
import subprocess
import sys

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
QUIET = ["-qq", "--disable-pip-version-check"]  # errors only: no warnings about places and versions


def pip(python: str, *args: str, **options: object) -> bool:
    """Run pip in the environment of `python`; return whether it succeeded."""
    return subprocess.run([python, "-m", "pip", *args], check=False, **options).returncode == 0  # type: ignore[call-overload]


def has_torch(python: str) -> bool:
    """Return whether the environment has a torch already (whatever its build)."""
    return pip(python, "show", "--quiet", "torch", stderr=subprocess.DEVNULL)


def install_torch(python: str) -> None:
    """Install the pinned torch: a CPU build where there is no NVIDIA driver, if one can be had; else the default."""
    pinned = ["install", *QUIET, "-r", "constraints.txt"]
    if shutil.which("nvidia-smi") is None and sys.platform == "linux":
        print("installing PyTorch (CPU build) ...", flush=True)
        cpu_index = ["--index-url", CPU_INDEX, "--retries", "0", "--timeout", "15"]
        if pip(python, *pinned, *cpu_index, stderr=subprocess.DEVNULL):
            return
    print("installing PyTorch ...", flush=True)
    if not pip(python, *pinned):
        sys.exit("pip could not install PyTorch: see its message above")


def main(python: str, target: str) -> None:
    """Install torch first if an extra is asked for and it is missing, then the package (editable)."""
    if "[" in target and not has_torch(python):
        install_torch(python)
    print(f"installing allometry {target} ...", flush=True)
    if not pip(python, "install", *QUIET, "-c", "constraints.txt", "-e", target):
        sys.exit("pip could not install allometry: see its message above")


if __name__ == "__main__":
    main(*sys.argv[1:])
