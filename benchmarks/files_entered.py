"""Count the files of the package whose code a command enters: what a reader of that command has to open.

    python benchmarks/files_entered.py run quickstart --compute 0 --store /tmp/runs
    python benchmarks/files_entered.py report --from results/kaplan -o /tmp/report.html

A file counts when one of its functions is called in this process or in a thread of it; the bodies of modules
and classes, which run on import, do not. Workers are processes of their own and are left out.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from inspect import CO_OPTIMIZED
from pathlib import Path
from types import FrameType
from typing import Any

import allometry

PACKAGE = Path(allometry.__file__).parent


def main() -> None:
    """Run the command under a profiler and print the files that it entered, by folder and in all."""
    calls: Counter[str] = Counter()

    def enter(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_flags & CO_OPTIMIZED:  # not the body of a module or a class
            calls[frame.f_code.co_filename] += 1

    from allometry.cli import main as command

    threading.setprofile(enter)
    sys.setprofile(enter)
    try:
        command(sys.argv[1:])
    except SystemExit as stop:
        code = stop.code
    finally:
        sys.setprofile(None)
    entered = sorted(Path(name) for name in calls if Path(name).is_relative_to(PACKAGE))
    for path in entered:
        print(f"{calls[str(path)]:>10}  {path.relative_to(PACKAGE)}")
    folders = Counter(path.relative_to(PACKAGE).parts[0] for path in entered)
    print(f"{len(entered)} files:", ", ".join(f"{name} {n}" for name, n in folders.most_common()))
    raise SystemExit(code)


if __name__ == "__main__":
    main()
