"""Run the native engine's AVX-512 and AMX code on a processor without them: `emulate_x86.py FOLDER`.

Programs of tests/experimental run in Bochs (bochs.py says what it needs, and builds it in FOLDER), compiled for
AVX-512 with emulated tiles, and for AMX. AVX-512 is compared with this processor's numbers; real tiles with
emulated ones, digit by digit. The kernel is one of Debian's, the newest vmlinuz-* in FOLDER or /boot.
(`apt-get download` and `dpkg-deb -x` unpack a linux-image-*-cloud-amd64 without installing it.)
"""

import subprocess
import sys
from pathlib import Path

from bochs import AMX, boot, built

from allometry.train.engines import bindings

EMULATED = "-DALLOMETRY_EMULATE_AMX"
VARIANTS = {
    "here": ["-march=native", EMULATED],
    "avx512": ["-march=x86-64-v4", EMULATED],
    "amx": ["-march=sapphirerapids"],
}
TESTS = Path(__file__).resolve().parents[2] / "tests" / "experimental"
AROUND_TILES = [
    "before permission: signal 4",  # an illegal instruction
    "after a fork: 1",
    "after another's release: 1",
    "after another's configuration: 1",
    "in threads: 1",
    "under signals: 1",
]


def compiled(folder: Path, name: str, variant: str) -> Path:
    """Compile a program of tests/experimental with the engine's flags, for a processor of VARIANTS; return its path."""
    flags = [flag for flag in bindings.FLAGS if flag not in ("-march=native", "-shared", "-fPIC")]
    target = folder / f"{name}-{variant}"
    command = ["g++", *flags, *VARIANTS[variant], "-static", "-I", str(bindings.SOURCES)]
    subprocess.run([*command, str(TESTS / f"{name}.cpp"), "-o", str(target)], check=True)
    return target


def differences(found: list[str], expected: list[str]) -> dict[str, float]:
    """Return the largest relative difference of the numbers that follow each name."""
    worst: dict[str, float] = {}
    for one, other in zip(found, expected, strict=True):
        (name, *numbers), (same, *wanted) = one.split(), other.split()
        assert name == same, (one, other)
        off = [abs(float(x) / float(y) - 1) for x, y in zip(numbers, wanted, strict=True)]
        worst[name] = max(worst.get(name, 0.0), *off)
    return worst


def check(what: str, good: bool) -> bool:
    """Print a finding."""
    print(f"{'right' if good else 'WRONG'}  {what}")
    return good


def check_steps(found: dict[str, list[str]], here: list[str]) -> list[bool]:
    """Compare AVX-512 with this processor, and real tiles with emulated ones."""
    off = differences(found["whole_step-avx512"], here)
    bounds = {name: 1e-3 if "bf16" in name else 1e-5 for name in off}
    return [
        *(
            check(f"AVX-512, {name}: {off[name]:.1e} from this processor's", off[name] < bounds[name])
            for name in off
        ),
        check("AMX: digits of the emulated tiles", found["whole_step-amx"] == found["whole_step-avx512"]),
    ]


def check_products(name: str, printed: list[str]) -> bool:
    """Compare matrix products of random shapes with sums in double precision."""
    fp32, bf16, not_numbers = map(float, printed[0].split())
    return check(f"{name}: fp32 {fp32:.1e}, bf16 {bf16:.1e}", max(fp32, bf16) < 1e-6 and not_numbers == 4)


def main(folder: Path) -> None:
    """Boot twice, with tiles and without; print what was found, and exit with 1 if any of it is wrong."""
    kernels = [*folder.glob("vmlinuz-*"), *Path("/boot").glob("vmlinuz-*")]
    if not kernels:
        sys.exit(f"no vmlinuz-* in {folder} or /boot: put a kernel of Debian's there")
    kernel = max(kernels, key=lambda path: path.name)
    built(folder)
    here = subprocess.run(
        [compiled(folder, "whole_step", "here")], check=True, capture_output=True, text=True
    )
    programs = [compiled(folder, name, v) for name in ("products", "whole_step") for v in ("avx512", "amx")]
    print(f"booting {kernel.name} (minutes) ...", flush=True)
    found = boot(folder, kernel, [*programs, compiled(folder, "tiles", "amx")])
    refused = boot(folder, kernel, [folder / "whole_step-amx"], AMX)["whole_step-amx"]
    checks = [
        *check_steps(found, here.stdout.splitlines()),
        *(check_products(name, printed) for name, printed in found.items() if name.startswith("products")),
        *(check(line, line in AROUND_TILES) for line in found["tiles-amx"]),
        len(found["tiles-amx"]) == len(AROUND_TILES),
        check(f"without AMX: {refused[-1]}", refused[-1] == "bf16 refused"),
    ]
    sys.exit(0 if all(checks) else 1)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
