"""An emulated x86 machine with AVX-512 and AMX: Bochs 3.0, built from Debian's source with the repairs below,
in which Linux runs programs one after the other and switches itself off.

Needs `apt install g++ make xorriso isolinux syslinux-common bochsbios vgabios`.
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import urllib.request
from pathlib import Path

SOURCE = "http://deb.debian.org/debian/pool/main/b/bochs/bochs_3.0+dfsg.orig.tar.xz"
SHA256 = "78f6c73d4a6472d5130a87ab9dc306d02c7c71ed8e25b3a8ef642e2a7acd282b"
OPTIONS = "cpu-level=6 x86-64 avx evex amx all-optimizations cdrom pci"

# XFD, by which Linux keeps the tiles from processes that have not asked; without it, nobody gets them.
EXTERN = "\nextern Bit64u bx_xfd[2];"
READ = "\n  if (index - 0x1c4 < 2) { *msr = bx_xfd[index - 0x1c4]; return true; }"
WRITE = "\n  if (index - 0x1c4 < 2) { bx_xfd[index - 0x1c4] = val_64; return true; }"
TRAP = "\n  if (bx_xfd[0] >> 18 & 1) { bx_xfd[1] = 1 << 18; exception(BX_NM_EXCEPTION, 0); }"
ADDED = (
    ("msr.cc", '#include "msr.h"', EXTERN.replace("extern ", "")),
    ("msr.cc", "::rdmsr(Bit32u index, Bit64u *msr)\n{", READ),
    ("msr.cc", "::wrmsr(Bit32u index, Bit64u val_64)\n{", WRITE),
    ("cpuid.cc", "leaf->eax |= (1<<3);", " leaf->eax |= 1<<4;"),
    ("cpuid.cc", "ia32_xss_suppmask & (1 << subfunction)) != 0;", " if (subfunction == 18) leaf->ecx |= 4;"),
    ("xsave.cc", '#include "msr.h"', EXTERN),
    ("xsave.cc", "  return xinuse", " & ~(Bit32u) bx_xfd[0]"),
    ("avx/amx.cc", '#include "amx.h"', EXTERN),
    ("avx/amx.cc", "::TILEZERO_Tnnn(bxInstruction_c *i)\n{", TRAP),
    ("avx/amx.cc", "::check_tile(bxInstruction_c *i, unsigned tile_num)\n{", TRAP),
)
TILE = "BX_CPU_THIS_PTR amx->tilecfg[n]."
CHANGED = (
    # The tiles of a thread that waits: saved by half, only if not in use, with rows and columns exchanged.
    ("xsave.cc", "row < BX_TILE_REGISTERS", "row < BX_TILE_MAX_ROWS"),
    ("xsave.cc", "tile_use_tracker == 0", "tile_use_tracker != 0"),
    ("xsave.cc", f"8+n)    = {TILE}rows", f"8+n) = {TILE}bytes_per_row"),
    ("xsave.cc", f"48+n) = {TILE}bytes_per_row", f"48+n) = {TILE}rows"),
    # Overwritten code: with AMX on, what had been decoded of it lies where the search for it does not look.
    ("icache.h", "if (line_mask > mask) break;", ""),
    # The upper half of VCVTNE2PS2BF16's result came from beyond its register.
    ("avx/avx512_bf16.cc", "bfloat16(op1.vmm32u(n))", "bfloat16(op1.vmm32u(n - DWORD_ELEMENTS(len)))"),
)
KERNEL_OPTIONS = (
    "console=ttyS0 quiet mitigations=off no5lvl"  # no5lvl: Bochs loses such a processor's state in SMM
)
FSRM, AMX = (
    580,
    600,
)  # features' numbers; Linux copies wrongly with FSRM on a machine that says "no fast strings"
BOOT_FILES = ("/usr/lib/ISOLINUX/isolinux.bin", "/usr/lib/syslinux/modules/bios/ldlinux.c32")
MACHINE = """megs: 512
cpu: model=sapphire_rapids, ips=50000000
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/vgabios/vgabios.bin
ata0-master: type=cdrom, path={folder}/boot.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev={folder}/serial.txt
log: {folder}/bochs.log
panic: action=fatal
error: action=ignore
info: action=ignore
display_library: nogui
"""


def built(folder: Path) -> Path:
    """Return the emulator, compiled first if the folder does not have it (a few minutes)."""
    source = folder / "bochs-3.0"
    done = source / "done"
    if not done.exists():
        print(f"building Bochs in {source} ...", flush=True)
        archive, _ = urllib.request.urlretrieve(SOURCE)
        if hashlib.sha256(Path(archive).read_bytes()).hexdigest() != SHA256:
            sys.exit(f"{SOURCE} is not the file that was tested")
        shutil.rmtree(source, ignore_errors=True)
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
        for name, old, new in (*((name, at, at + more) for name, at, more in ADDED), *CHANGED):
            file = source / "cpu" / name
            text = file.read_text()
            assert old in text, f"{file} has no {old!r}"
            file.write_text(text.replace(old, new))
        options = [f"--enable-{option}" for option in OPTIONS.split()]
        with open(folder / "build.log", "w") as log:
            for command in (["./configure", *options, "--with-nogui", "--disable-docbook"], ["make"]):
                subprocess.run(command, cwd=source, stdout=log, stderr=log, check=True)
        done.touch()
    return source / "bochs"


def root_files(files: dict[str, bytes]) -> bytes:
    """Return the archive (cpio) that Linux unpacks at its start; a name that ends in a slash is a folder."""
    packed = b""
    for number, (name, content) in enumerate([*files.items(), ("TRAILER!!!", b"")]):
        path = name.removesuffix("/")
        mode = 0o100755 if path == name else 0o40755
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path) + 1, 0)
        for part in (
            b"070701" + b"".join(b"%08x" % field for field in fields) + path.encode() + b"\0",
            content,
        ):
            packed += part + bytes(-len(packed + part) % 4)
    return packed


def boot(folder: Path, kernel: Path, programs: list[Path], *without: int) -> dict[str, list[str]]:
    """Boot the emulator and return what each program (statically linked) printed, by file name; processor
    features can be left out.
    """
    disk = folder / "disk"
    disk.mkdir(exist_ok=True)
    init = Path(__file__).with_name("bochs_init.c")
    subprocess.run(["gcc", "-O1", "-static", init, "-o", folder / "init"], check=True)
    files = {"init": (folder / "init").read_bytes(), "programs/": b""}
    files |= {f"programs/{path.name}": path.read_bytes() for path in programs}
    (disk / "initrd").write_bytes(root_files(files))
    shutil.copy(kernel, disk / "linux")
    for file in BOOT_FILES:
        shutil.copy(file, disk)
    cleared = ",".join(map(str, (FSRM, *without)))
    (disk / "isolinux.cfg").write_text(f"default linux initrd=initrd {KERNEL_OPTIONS} clearcpuid={cleared}\n")
    image = [
        "-b",
        "isolinux.bin",
        "-c",
        "boot.cat",
        "-no-emul-boot",
        "-boot-load-size",
        "4",
        "-boot-info-table",
    ]
    subprocess.run(
        ["xorriso", "-as", "mkisofs", "-quiet", "-o", folder / "boot.iso", *image, disk], check=True
    )
    (folder / "bochsrc").write_text(MACHINE.format(folder=folder))
    emulator = [str(built(folder)), "-q", "-f", str(folder / "bochsrc")]
    with open(folder / "bochs.out", "w") as out:  # its exit status is that of a panic: the machine goes off
        subprocess.run(emulator, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False, timeout=1800)
    sections = (folder / "serial.txt").read_text(errors="replace").split("\n== ")[1:]
    return {name: lines for name, *lines in map(printed_lines, sections)}


def printed_lines(section: str) -> list[str]:
    """Return the lines of a program, without those of the kernel."""
    return [line for line in section.splitlines() if line and not line.startswith("[")]
