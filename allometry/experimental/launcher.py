"""PyTorch's launcher as a child process that ends with its parent and reports how its processes ended:

    python -P -m allometry.experimental.launcher PARENT TORCHRUN-ARGUMENTS…

Started by `allometry.experimental.together`. If a process failed, its last line on standard output is {"is":
"ended", "signals": […]}: the signals that processes were killed by. Never measured on GPUs.
"""

from __future__ import annotations

import json
import sys

from allometry.core.env import die_with


def main() -> None:
    """Run the launcher, as the entry point of the process."""
    die_with(int(sys.argv[1]))
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        run.main(sys.argv[2:])
    except ChildFailedError as error:
        failures = error.failures.values()
        signals = [failure.signal_name() for failure in failures if failure.exitcode < 0]
        print(json.dumps({"is": "ended", "signals": signals}), flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
